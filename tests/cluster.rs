//! A coordinator and workers: who runs what, and what is left when one of them
//! goes away.

use std::path::Path;
use std::time::Duration;

use proto::channel::call;
use proto::v1;

use crate::harness::cluster::{Cluster, tasks};
use crate::harness::program::{processes_about, run};
use crate::harness::{PATIENCE, eventually};

/// Opens a gate that stages wait at.
fn open(gate: &Path) {
    std::fs::write(gate, "").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_task_of_a_study_is_committed_exactly_once() {
    let cluster = Cluster::start().await;
    let submitted = cluster.submit().await;
    assert_eq!(submitted.tasks as usize, tasks());
    let _worker = cluster.worker("one", &[]);
    let status = cluster.end().await;
    assert_eq!(status.state(), v1::RunState::Succeeded, "{:?}", status.failures);
    let committed = cluster.count("succeeded").await;
    assert_eq!(committed.len(), tasks());
    assert!(committed.values().all(|times| *times == 1), "{committed:?}");
    assert_eq!(cluster.count("running").await, committed, "no attempt was in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_work() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let gate = cluster.path("gate");
    let _one = cluster.worker("one", &[("FAKE_GATE", &gate)]);
    let _two = cluster.worker("two", &[("FAKE_GATE", &gate)]);
    let status = cluster.until("both have all hands full", |status| status.running == 4).await;
    let of = |name: &str| status.attempts.iter().filter(|attempt| attempt.worker == name).count();
    assert_eq!((of("one"), of("two")), (2, 2));
    open(&gate);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vanished_worker_ran_another_runs() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let never = cluster.path("never");
    let lost = cluster.worker("lost", &[("FAKE_GATE", &never)]);
    let held = cluster.until("it holds two leases", |status| status.running == 2).await;
    lost.vanish();
    let _other = cluster.worker("other", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let lost: Vec<String> = cluster.count("lost").await.into_keys().collect();
    let mut held: Vec<String> = held.attempts.into_iter().map(|attempt| attempt.task_key).collect();
    held.sort();
    assert_eq!(lost, held);
    assert!(cluster.count("succeeded").await.values().all(|times| *times == 1));
}

/// The worker outlives the coordinator: what it ran meanwhile is committed under
/// the lease of before, and nothing is done twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_coordinator_runs_nothing_again() {
    let mut cluster = Cluster::start_with(PATIENCE).await;
    cluster.submit().await;
    let gate = cluster.path("gate");
    let _worker = cluster.worker("one", &[("FAKE_ONLY", Path::new("pad")), ("FAKE_GATE", &gate)]);
    let before = cluster
        .until("data are looked at and two pads wait", |status| status.committed == 4 && status.running == 2)
        .await;
    cluster.stop().await;
    assert!(cluster.try_status().await.is_none(), "the coordinator is away");
    open(&gate);
    cluster.start_again().await;
    let after = cluster.until("the coordinator answers", |_| true).await;
    assert!(after.committed >= before.committed);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let leased = cluster.count("running").await;
    assert_eq!(leased.len(), tasks());
    assert!(leased.values().all(|times| *times == 1), "{leased:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_study_is_still_finished_after_a_restart() {
    let mut cluster = Cluster::start().await;
    cluster.submit().await;
    let worker = cluster.worker("one", &[]);
    let before = cluster.end().await;
    worker.vanish();
    cluster.stop().await;
    cluster.start_again().await;
    let after = cluster.until("the coordinator answers", |_| true).await;
    assert_eq!(after.state(), v1::RunState::Succeeded);
    assert_eq!((after.run_id, after.report_artifact), (before.run_id, before.report_artifact));
    let again = cluster.submit().await;
    assert_eq!(again.state(), v1::RunState::Succeeded, "handed in again, it is the same study");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_crashes_is_tried_three_times_and_named_with_its_last_words() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let fake = [("FAKE_ONLY", Path::new("aggregate")), ("FAKE_CRASH", Path::new("the stone is gone"))];
    let _worker = cluster.worker("one", &fake);
    let status = cluster.end().await;
    assert_eq!(status.state(), v1::RunState::Failed);
    assert_eq!(status.committed as usize, tasks() - 2, "all but it and the report, which needs it");
    let [failure] = status.failures.as_slice() else { panic!("{:?}", status.failures) };
    assert_eq!((failure.label.as_str(), failure.code.as_str(), failure.attempts), ("aggregate", "crashed", 3));
    assert!(failure.message.ends_with("it said last: the stone is gone"), "{}", failure.message);
    assert_eq!(cluster.count("retrying").await.get(&failure.task_key), Some(&2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_gets_a_new_chance_when_the_study_is_handed_in_again() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let fake = [("FAKE_ONLY", Path::new("report")), ("FAKE_CRASH", Path::new("out of paper"))];
    let worker = cluster.worker("one", &fake);
    assert_eq!(cluster.end().await.state(), v1::RunState::Failed);
    worker.vanish();
    let again = cluster.submit().await;
    assert_eq!((again.state(), again.cached as usize), (v1::RunState::Running, tasks() - 1));
    let _mended = cluster.worker("two", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_stops_its_children() {
    let cluster = Cluster::start().await;
    let run_id = cluster.submit().await.run_id;
    let (never, stopped) = (cluster.path("never"), cluster.path("stopped"));
    std::fs::create_dir(&stopped).unwrap();
    let _worker = cluster.worker("one", &[("FAKE_GATE", &never), ("FAKE_STOPPED", &stopped)]);
    // At the gate, a child has said so: it listens.
    let at_the_gate = |status: &v1::RunStatus| status.attempts.iter().filter(|attempt| attempt.done == 1).count() == 2;
    cluster.until("two children are at the gate", at_the_gate).await;
    let cancelled =
        cluster.runs().cancel_run(call(v1::CancelRunRequest { run_id, ..Default::default() })).await.unwrap();
    let status = cancelled.into_inner().status.unwrap();
    assert_eq!((status.state(), status.running), (v1::RunState::Cancelled, 0));
    eventually("both children are told", PATIENCE, || std::fs::read_dir(&stopped).unwrap().count() == 2);
}

/// Its talking must not put off its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_does_not_listen_is_killed() {
    let cluster = Cluster::start().await;
    let run_id = cluster.submit().await.run_id;
    let never = cluster.path("never");
    let _worker = cluster.worker("one", &[("FAKE_GATE", &never), ("FAKE_DEAF", Path::new("yes"))]);
    let talks = |status: &v1::RunStatus| status.attempts.iter().any(|attempt| attempt.note == "still talking");
    cluster.until("a child talks", talks).await;
    let children = || processes_about(never.parent().unwrap());
    assert!(!children().is_empty());
    cluster.runs().cancel_run(call(v1::CancelRunRequest { run_id, ..Default::default() })).await.unwrap();
    eventually("no child is left", PATIENCE, || children().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_that_a_child_tells_are_shown_while_it_runs() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let never = cluster.path("never");
    let line = r#"{"done":1,"total":4,"note":"quarter","values":{"lr":1e-3,"loss":0.5,"not plain":1}}"#;
    let _worker = cluster.worker("one", &[("FAKE_GATE", &never), ("FAKE_SAYS", Path::new(line))]);
    let told = |status: &v1::RunStatus| status.attempts.iter().filter(|attempt| attempt.note == "quarter").count() == 2;
    let status = cluster.until("both children have told their numbers", told).await;
    let values = [("lr", 1e-3), ("loss", 0.5)].map(|(name, value)| (name.to_owned(), value));
    assert!(status.attempts.iter().all(|attempt| attempt.values == values.clone().into()), "{status:?}");
    let status = run(["status", "--json", "--coordinator", cluster.url()]).json();
    for attempt in status["workers"][0]["attempts"].as_array().unwrap() {
        assert_eq!(attempt["values"], serde_json::json!({ "loss": 0.5, "lr": 1e-3 }), "{status}");
        assert_eq!((&attempt["done"], &attempt["total"], &attempt["note"]), (&1.into(), &4.into(), &"quarter".into()));
    }
    assert_eq!(status["workers"][0]["attempts"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_hands_back_what_does_not_end_in_time() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let never = cluster.path("never");
    let hasty = |config: &mut worker::Config| config.grace = Duration::from_millis(50);
    let worker = cluster.worker_with("one", &[("FAKE_GATE", &never)], hasty);
    cluster.until("two children are under way", |status| status.running == 2).await;
    worker.drain().await;
    let status = cluster.status().await;
    assert_eq!((status.running, status.failed), (0, 0));
    assert_eq!(cluster.count("preempted").await.len(), 2);
    let _other = cluster.worker("other", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
}

/// It has results that it cannot hand in, and must not wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_drained_while_the_coordinator_is_away_ends() {
    let mut cluster = Cluster::start().await;
    cluster.submit().await;
    let gate = cluster.path("gate");
    // Longer than the longest pause between two tries: trying again must not put off the end.
    let patient = |config: &mut worker::Config| config.grace = Duration::from_secs(6);
    let worker = cluster.worker_with("one", &[("FAKE_GATE", &gate)], patient);
    cluster.until("two children are under way", |status| status.running == 2).await;
    cluster.stop().await;
    open(&gate);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_its_stages_leaves_them_to_others() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let _old = cluster.worker_with("old", &[], |config| {
        for (name, version) in &mut config.stages {
            if name == "aggregate" {
                *version += 1;
            }
        }
    });
    let all_others = u32::try_from(tasks() - 2).unwrap();
    let status = cluster.until("all others are done", |status| status.committed == all_others).await;
    assert_eq!(status.running, 0);
    let _new = cluster.worker("new", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let by: Vec<(String, String)> = cluster
        .changes()
        .await
        .into_iter()
        .filter(|change| change.label == "aggregate" && change.state == "succeeded")
        .map(|change| (change.label, change.worker))
        .collect();
    assert_eq!(by, [("aggregate".to_owned(), "new".to_owned())]);
}
