//! Machines whose clocks are wrong. Leases count on clocks that people cannot set;
//! what is told to people, and certificates, do not.

use std::path::PathBuf;

use proto::v1;

use crate::faults::{held, runs};
use crate::harness::command::{shell, submit};
use crate::harness::site::Site;

/// What starts a program whose clock is off by that much.
fn off_by(offset: &str) -> [String; 4] {
    let library = std::fs::read_dir("/usr/lib").unwrap().find_map(|folder| {
        let path: PathBuf = folder.ok()?.path().join("faketime/libfaketime.so.1");
        path.exists().then_some(path)
    });
    let library = library.expect("libfaketime, of Debian's package faketime");
    let preload = format!("LD_PRELOAD={}", library.display());
    ["env".to_owned(), preload, format!("FAKETIME={offset}"), "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned()]
}

fn words(words: &[String; 4]) -> [&str; 4] {
    words.each_ref().map(String::as_str)
}

/// Its clock is hours off from the beginning, or from a restart on: what runs goes
/// on, and nothing runs again.
async fn a_coordinator_restarts_with_its_clock(offset: &str) {
    let mut site = Site::start();
    let cluster = site.client();
    let gate = site.path("gate");
    submit(&cluster, vec![held("long", &gate), shell("fails", "exit 1")]).await;
    let _worker = site.worker_under(&words(&off_by("-7h")), "one", &["--slots", "2"]);
    runs(&gate, "one");
    cluster.until("the other has failed", |status| status.failed == 1).await;
    site.kill_coordinator(Some(&words(&off_by(offset))));
    cluster.until("the worker is back", |status| (status.workers, status.running) == (1, 1)).await;
    std::fs::write(&gate, "").unwrap();
    cluster.until("it is done", |status| status.committed == 1).await;
    let leased = cluster.count("running").await;
    assert!(leased.len() == 2 && leased.values().all(|times| *times == 1), "{leased:?}");
    submit(&cluster, vec![shell("next", "true")]).await;
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(faketime), ignore = "needs LITHOGEN_TEST_FAKETIME: libfaketime")]
async fn a_clock_that_is_put_back_by_hours_costs_nothing() {
    a_coordinator_restarts_with_its_clock("-5h").await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(faketime), ignore = "needs LITHOGEN_TEST_FAKETIME: libfaketime")]
async fn a_clock_that_is_put_on_by_hours_costs_nothing() {
    a_coordinator_restarts_with_its_clock("+5h").await;
}

/// A coordinator with certificates, and what a worker whose clock is off needs to join.
fn secure(offset: &str) -> (Site, [String; 4], String) {
    let site = Site::start_under(&[], "127.0.0.1:0", &["--tls"]);
    let token = site.token().to_str().unwrap().to_owned();
    (site, off_by(offset), token)
}

/// As far as certificates reach into the past and the future, a worker joins and works.
async fn a_worker_joins_with_its_clock(offset: &str) {
    let (site, clock, token) = secure(offset);
    let cluster = site.client();
    submit(&cluster, vec![shell("any", "true")]).await;
    let _worker = site.worker_under(&words(&clock), "one", &["--join-token-file", &token]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let check = ["worker", "check", site.url(), "--join-token-file", &token];
    let check = site.run_under(&words(&clock), &check);
    assert_eq!(check.code, Some(1), "{check}");
    let clock = check.out.lines().find(|line| line.contains("clock")).unwrap();
    assert!(clock.starts_with("✗ clock") && clock.ends_with("have both set by NTP"), "{check}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(faketime), ignore = "needs LITHOGEN_TEST_FAKETIME: libfaketime")]
async fn a_worker_whose_clock_is_hours_behind_works_and_a_check_says_so() {
    a_worker_joins_with_its_clock("-5h").await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(faketime), ignore = "needs LITHOGEN_TEST_FAKETIME: libfaketime")]
async fn a_worker_whose_clock_is_weeks_ahead_works_and_a_check_says_so() {
    a_worker_joins_with_its_clock("+40d").await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(faketime), ignore = "needs LITHOGEN_TEST_FAKETIME: libfaketime")]
async fn a_worker_whose_clock_is_before_all_certificates_is_told_to_look_at_it() {
    let (site, clock, token) = secure("-40d");
    let ended = site.worker_under(&words(&clock), "one", &["--join-token-file", &token]).end();
    ended.says(1, &["certificate is not valid at this time", "is this machine's clock right?"]);
}
