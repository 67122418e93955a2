//! Somebody's own programs on the cluster.

use std::collections::{BTreeMap, BTreeSet};

use proto::channel::call;
use proto::v1;

use crate::harness::cluster::Cluster;
use crate::harness::command::{log, result, shell, submit};
use crate::harness::program::processes_about;
use crate::harness::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn an_array_reads_what_another_made_and_what_it_prints_is_its_result() {
    let cluster = Cluster::start().await;
    let mut make = shell("make", "echo $((LITHOGEN_INDEX * LITHOGEN_INDEX)) > $LITHOGEN_OUTPUTS/square");
    make.array = Some([3, 5]);
    let mut add = shell("add", "cat $LITHOGEN_INPUTS/of.*/square | paste -sd+ - ; echo $WHO");
    add.inputs = BTreeMap::from([("of".to_owned(), "task:make".to_owned())]);
    add.environment = BTreeMap::from([("WHO".to_owned(), "me".to_owned())]);
    submit(&cluster, vec![make, add]).await;
    let _worker = cluster.worker("one", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert_eq!(result(&cluster, "command add", "stdout.txt").await, "9+16+25\nme\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_says_how_and_is_not_tried_again() {
    let cluster = Cluster::start().await;
    submit(&cluster, vec![shell("wrong", "echo epoch 1; echo no such stone >&2; exit 3")]).await;
    let _worker = cluster.worker("one", &[]);
    let status = cluster.end().await;
    assert_eq!(status.state(), v1::RunState::Failed);
    let failure = &status.failures[0];
    assert_eq!((failure.code.as_str(), failure.attempts), ("exited", 1));
    assert!(failure.message.contains('3') && failure.message.contains("no such stone"), "{}", failure.message);
    // Two streams: which line of which comes first is not known to the last moment.
    let log = log(&cluster, "command wrong", true).await;
    assert_eq!(log.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["epoch 1", "no such stone"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_prints_is_seen_while_it_runs() {
    let cluster = Cluster::start().await;
    let go = cluster.path("go");
    let script = format!("echo epoch 1; while [ ! -e {} ]; do sleep 0.05; done; echo epoch 2", go.display());
    submit(&cluster, vec![shell("long", &script)]).await;
    let _worker = cluster.worker("one", &[]);
    cluster.until("it runs", |status| status.running == 1).await;
    let follow = log(&cluster, "command long", true);
    let seen = async {
        while log(&cluster, "command long", false).await.is_empty() {
            tokio::task::yield_now().await;
        }
        std::fs::write(&go, "").unwrap();
    };
    let (followed, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(follow, seen) }).await.unwrap();
    assert_eq!(followed, "epoch 1\nepoch 2\n");
    assert_eq!(result(&cluster, "command long", "stdout.txt").await, "epoch 1\nepoch 2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_its_group_does_not_hold_its_command_up() {
    let cluster = Cluster::start().await;
    // It goes with the cluster's folder.
    let here = cluster.path("here");
    std::fs::write(&here, "").unwrap();
    let script = format!("setsid sh -c 'while [ -e {} ]; do sleep 0.05; done' & echo left", here.display());
    submit(&cluster, vec![shell("daemon", &script)]).await;
    let _worker = cluster.worker("one", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert_eq!(result(&cluster, "command daemon", "stdout.txt").await, "left\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_for_workers_that_allow_them() {
    let cluster = Cluster::start().await;
    submit(&cluster, vec![shell("any", "true")]).await;
    let _careful = cluster.worker_with("careful", &[], |config| config.stages.retain(|(name, _)| name != "command"));
    cluster.until("it has joined", |status| status.workers == 1).await;
    assert_eq!(cluster.status().await.running, 0);
    let _willing = cluster.worker("willing", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert!(cluster.changes().await.iter().all(|change| change.worker == "willing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_command_ends_with_all_that_it_started() {
    let cluster = Cluster::start().await;
    let mark = cluster.path("mark");
    let script = format!("sh -c 'sleep 1000; : {0}' & sh -c 'sleep 1000; : {0}'", mark.display());
    submit(&cluster, vec![shell("long", &script)]).await;
    let _worker = cluster.worker("one", &[]);
    eventually("both are there", PATIENCE, || processes_about(&mark).len() >= 2);
    let request = call(v1::CancelRunRequest::default());
    cluster.runs().cancel_run(request).await.unwrap();
    eventually("none is left", PATIENCE, || processes_about(&mark).is_empty());
}

/// What it keeps, it need not send again; but this coordinator never saw it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_from_another_coordinator_sends_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let cluster = Cluster::start().await;
        submit(&cluster, vec![shell("same", "echo stones")]).await;
        let worker = cluster.worker_with("one", &[], |config| config.state = folder.path().to_owned());
        assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
        assert_eq!(result(&cluster, "command same", "stdout.txt").await, "stones\n");
        assert!(cluster.count("running").await.values().all(|times| *times == 1));
        worker.drain().await;
    }
}
