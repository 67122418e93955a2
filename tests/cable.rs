//! A coordinator and a worker in networks of their own, and a cable between them
//! that somebody pulls.

use std::time::Duration;

use proto::v1;

use crate::faults::{a_worker_leaves_and_comes_back, held, runs};
use crate::harness::cable::{Cable, NEAR};
use crate::harness::command::submit;
use crate::harness::site::Site;

fn site(cable: &Cable) -> Site {
    Site::start_under(&cable.near(), &format!("{NEAR}:0"), &[])
}

/// A worker that joins with a token: between machines nothing is plaintext.
fn joining(token: &str) -> [&str; 2] {
    ["--join-token-file", token]
}

/// A second is less than a worker may be silent, whenever it beat last.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(netns), ignore = "needs LITHOGEN_TEST_NETNS: leave to make network namespaces, and `ip`")]
async fn a_cable_that_is_plugged_in_soon_enough_costs_nothing() {
    let cable = Cable::lay();
    let site = site(&cable);
    let cluster = site.client();
    let gate = site.path("gate");
    submit(&cluster, vec![held("long", &gate)]).await;
    let token = site.token();
    let worker = site.worker_under(&cable.far(), "far", &joining(token.to_str().unwrap()));
    runs(&gate, "far");
    cable.pull();
    // What it runs ends meanwhile.
    std::fs::write(&gate, "").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.status().await.committed, 0, "the cable is pulled");
    cable.plug_in();
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let states: Vec<String> = cluster.changes().await.into_iter().map(|change| change.state).collect();
    assert_eq!(states, ["running", "succeeded"]);
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(netns), ignore = "needs LITHOGEN_TEST_NETNS: leave to make network namespaces, and `ip`")]
async fn a_worker_whose_cable_was_pulled_for_long_is_fenced_and_works_on() {
    let cable = Cable::lay();
    let site = site(&cable);
    let token = site.token();
    let start = |site: &Site, name: &str| {
        let network = if name == "away" { cable.far() } else { cable.near() };
        site.worker_under(&network, name, &joining(token.to_str().unwrap()))
    };
    let leave = |_: &_| {
        cable.pull();
        || cable.plug_in()
    };
    a_worker_leaves_and_comes_back(site, start, leave, false).await;
}
