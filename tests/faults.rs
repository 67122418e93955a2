//! Processes that freeze, die and come back: who runs what then, and what counts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::digest::Digest;
use domain::runner::command::CommandSpec;
use domain::runner::event::Event;
use proto::channel::call;
use proto::v1;

use crate::harness::cluster::Cluster;
use crate::harness::command::{result, shell, submit};
use crate::harness::program::{Running, children, run, run_in, signal, turn};
use crate::harness::site::Site;
use crate::harness::{PATIENCE, eventually, soon};

/// A command that says in a file that somebody runs it, waits until it may end,
/// and then says who it was.
pub(crate) fn held(name: &str, gate: &Path) -> CommandSpec {
    let gate = gate.display();
    shell(name, &format!(": > {gate}.$WHO; while [ ! -e {gate} ]; do sleep 0.01; done; echo $WHO"))
}

/// That somebody runs what is held at a gate.
pub(crate) fn runs(gate: &Path, who: &str) {
    let mark = PathBuf::from(format!("{}.{who}", gate.display()));
    eventually(&format!("{who} runs it"), PATIENCE, || mark.exists());
}

/// Stops a process and, if wanted, all that it has started; returns which.
fn freeze(process: u32, with_children: bool) -> Vec<u32> {
    // One that is stopped starts no more; what it has started may have ended.
    if !signal(process, "STOP") {
        return vec![];
    }
    let children = if with_children { children(process) } else { vec![] };
    let below = children.into_iter().flat_map(|child| freeze(child, true));
    std::iter::once(process).chain(below).collect()
}

async fn is_stored(cluster: &Cluster, digest: Digest) -> Option<()> {
    let request = call(v1::FindMissingRequest { digests: vec![digest.to_string()] });
    cluster.artifacts().find_missing(request).await.unwrap().into_inner().digests.is_empty().then_some(())
}

/// A worker goes away while it holds a task, for longer than it may: another runs
/// the task, and that one's result counts. Back again, it works on. `start` starts
/// a worker, `leave` takes one away and returns what brings it back.
pub(crate) async fn a_worker_leaves_and_comes_back<B: FnOnce()>(
    site: Site,
    start: impl Fn(&Site, &str) -> Running,
    leave: impl FnOnce(&Running) -> B,
    offers_late: bool,
) {
    let cluster = site.client();
    let gate = site.path("gate");
    submit(&cluster, vec![held("long", &gate)]).await;
    let away = start(&site, "away");
    runs(&gate, "away");
    let come_back = leave(&away);
    let other = start(&site, "other");
    runs(&gate, "other");
    std::fs::write(&gate, "").unwrap();
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let changes = cluster.changes().await;
    let came_to = |state: &str| -> Vec<String> {
        changes.iter().filter(|change| change.state == state).map(|change| change.worker.clone()).collect()
    };
    assert_eq!((came_to("running"), came_to("lost")), (vec!["away".into(), "other".into()], vec!["away".into()]));
    assert_eq!(result(&cluster, "command long", "stdout.txt").await, "other\n");
    other.signal("INT");
    other.end().says(0, &["drain"]);

    come_back();
    if offers_late {
        // Files come before the result that names them.
        soon("the late result is offered", || is_stored(&cluster, Digest::of(b"away\n"))).await;
    }
    submit(&cluster, vec![shell("next", "echo $WHO")]).await;
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    // It has one slot, so that what it held is over.
    assert_eq!(result(&cluster, "command next", "stdout.txt").await, "away\n");
    away.signal("INT");
    away.end().says(0, &["drain"]);
    let (_folder, events) = site.end();
    let commits = events.into_iter().filter(|event| matches!(event, Event::TaskCommitted { .. }));
    assert_eq!(commits.count(), 2, "one result each");
}

/// A worker freezes, with what it runs or without.
async fn a_worker_freezes(with_what_it_runs: bool) {
    let start = |site: &Site, name: &str| site.worker(name);
    let leave = |worker: &Running| {
        let frozen = freeze(worker.id(), with_what_it_runs);
        // Those started last come first: what ended just before it was stopped is
        // there until the one that started it goes on.
        move || frozen.into_iter().rev().for_each(|process| assert!(signal(process, "CONT")))
    };
    // What runs on while it is frozen has ended when it wakes.
    a_worker_leaves_and_comes_back(Site::start(), start, leave, !with_what_it_runs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_late_result_of_a_worker_that_froze_is_fenced() {
    a_worker_freezes(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_froze_with_what_it_ran_works_on() {
    a_worker_freezes(true).await;
}

/// Every task notes that it runs, so that what ran twice shows however it came.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_with_a_third_of_the_tasks_done_runs_nothing_again() {
    let mut site = Site::start();
    let cluster = site.client();
    let (notes, gate) = (site.path("notes"), site.path("gate"));
    std::fs::create_dir(&notes).unwrap();
    let script = format!(
        "echo >> {}/$LITHOGEN_INDEX; [ $LITHOGEN_INDEX -le 10 ] || while [ ! -e {} ]; do sleep 0.01; done",
        notes.display(),
        gate.display()
    );
    let many = CommandSpec { array: Some([1, 30]), ..shell("many", &script) };
    submit(&cluster, vec![many]).await;
    let _workers = ["one", "two"].map(|name| site.worker(name));
    cluster.until("a third is done and two wait", |status| (status.committed, status.running) == (10, 2)).await;
    eventually("both have begun", PATIENCE, || std::fs::read_dir(&notes).unwrap().count() == 12);
    site.kill_coordinator(None);
    std::fs::write(&gate, "").unwrap();
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert_eq!(cluster.status().await.workers, 2);
    for index in 1..=30 {
        let ran = std::fs::read_to_string(notes.join(index.to_string())).unwrap().lines().count();
        assert_eq!(ran, 1, "times that task {index} ran");
    }
    assert!(cluster.count("running").await.values().all(|times| *times == 1));
}

/// Longer than a worker may be silent: for all that it knows they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_froze_loses_no_result_and_no_worker() {
    let site = Site::start();
    let cluster = site.client();
    let gate = site.path("gate");
    submit(&cluster, vec![held("long", &gate)]).await;
    let _worker = site.worker("one");
    runs(&gate, "one");
    assert!(signal(site.process(), "STOP"));
    std::fs::write(&gate, "").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(signal(site.process(), "CONT"));
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert_eq!(cluster.count("succeeded").await.into_values().collect::<Vec<_>>(), [1]);
    let leased = cluster.count("running").await;
    assert_eq!(leased.into_values().collect::<Vec<_>>(), [1], "the time during which it could not hear does not count");
    submit(&cluster, vec![shell("next", "echo $WHO")]).await;
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
}

/// The task of an attempt under way that a checkpoint is kept of.
async fn checkpointed(cluster: &Cluster) -> Option<String> {
    for attempt in cluster.status().await.attempts {
        let request = call(v1::ExplainTaskRequest { task_key: attempt.task_key.clone() });
        let told = cluster.tasks().explain_task(request).await.ok()?.into_inner();
        if told.reasons.iter().any(|reason| reason.starts_with("the next attempt goes on from step")) {
            return Some(attempt.task_key);
        }
    }
    None
}

/// The training is long enough for a checkpoint a second, and is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_training_whose_worker_is_killed_goes_on_elsewhere_from_its_checkpoint() {
    let site = Site::start();
    let cluster = site.client();
    let _turn = turn();
    let study = format!("submit --scale smoke --set sinddm.steps=100000 --coordinator {}", site.url());
    run_in(&site.path("client"), &study).is_done();
    let mut killed = site.worker_under(&[], "killed", &["--checkpoint-every", "1s"]);
    let task = soon("a checkpoint is kept", || checkpointed(&cluster)).await;
    killed.kill();
    // It has room for all trainings, so that it takes this one too.
    let _other = site.worker_under(&[], "other", &["--slots", "16"]);
    let log = || run(["task", "logs", &task, "--coordinator", site.url()]);
    eventually("another goes on", PATIENCE, || log().out.contains("going on from the checkpoint of step"));
    let attempts = cluster.changes().await.into_iter().filter(|change| change.task_key == task);
    let attempts: Vec<(String, String)> = attempts.map(|change| (change.state, change.worker)).collect();
    let expected = [("running", "killed"), ("lost", "killed"), ("running", "other")];
    assert_eq!(attempts, expected.map(|(state, worker)| (state.to_owned(), worker.to_owned())));
}
