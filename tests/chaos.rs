//! A tiny study while everything that belongs to it is killed again and again.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::id::{ArtifactId, TaskKey};
use domain::runner::event::Event;
use proto::v1::RunState;

use crate::harness::dice::Dice;
use crate::harness::program::{Running, children, processes_about, results, run_in, signal, turn};
use crate::harness::site::{Site, journal};
use crate::harness::{PATIENCE, eventually, soon};

/// The study. Each of its trainings is started once and goes on from checkpoints.
const STUDY: &str = "--scale tiny --set tl.repeats=1";

const KILLS: u32 = 200;

/// Pauses between kills, in milliseconds: shorter ones leave a training no time
/// to get from one checkpoint to the next.
const PAUSE_MS: std::ops::Range<u64> = 200..1_000;

/// The pause if the study gets on faster than the killing, in milliseconds.
const HASTE_MS: u64 = 50;

/// What is added to the pause if the killing gets on faster than the study.
const REST_MS: u64 = 500;

const WORKERS: [&str; 2] = ["one", "two"];

/// What comes of a study.
pub(crate) struct Outcome {
    /// As `lithogen results --json` prints them.
    pub(crate) results: String,
    /// What each task made.
    commits: BTreeMap<TaskKey, ArtifactId>,
}

impl Outcome {
    fn of(state: &std::path::Path) -> Self {
        Self { results: results(state), commits: commits(&journal(state)) }
    }
}

/// What comes of the study if nobody disturbs it.
pub(crate) fn undisturbed() -> &'static Outcome {
    static OUTCOME: OnceLock<Outcome> = OnceLock::new();
    OUTCOME.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let _turn = turn();
        run_in(folder.path(), &format!("reproduce {STUDY} -q")).is_done();
        Outcome::of(folder.path())
    })
}

/// What each task made, none twice and none worked on once it was done.
fn commits(events: &[Event]) -> BTreeMap<TaskKey, ArtifactId> {
    let mut commits = BTreeMap::new();
    for event in events {
        match event {
            Event::TaskCommitted { task, artifact, .. } => {
                assert_eq!(commits.insert(*task, *artifact), None, "task {task} was committed twice");
            }
            Event::LeaseGranted { task, .. } => assert!(!commits.contains_key(task), "task {task} was done"),
            _ => {}
        }
    }
    commits
}

/// How many attempts were given a checkpoint of one before.
fn continued(events: &[Event]) -> usize {
    let mut checkpoints = BTreeSet::new();
    let mut continued = 0;
    for event in events {
        match event {
            Event::CheckpointSaved { task, .. } => drop(checkpoints.insert(*task)),
            Event::LeaseGranted { task, .. } => continued += usize::from(checkpoints.contains(task)),
            _ => {}
        }
    }
    continued
}

/// Hands the study in, for the first time or again: what was given up since its
/// attempts were killed too often gets another chance.
fn submit(site: &Site) {
    let words = format!("submit {STUDY} --coordinator {}", site.url());
    run_in(&site.path("client"), &words).is_done();
}

fn start(site: &Site, name: &str) -> Running {
    site.worker_under(&[], name, &["--checkpoint-every", "1s"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_whose_processes_are_killed_two_hundred_times_gives_what_an_undisturbed_one_gives() {
    let seed = match std::env::var("LITHOGEN_CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
    };
    eprintln!("the same kills in the same order: LITHOGEN_CHAOS_SEED={seed}");
    let expected = undisturbed();
    let mut dice = Dice::new(seed);
    let _turn = turn();
    let mut site = Site::start();
    let cluster = site.client();
    submit(&site);
    let mut workers = WORKERS.map(|name| start(&site, name));
    let (mut coordinators, mut of_workers, mut of_children, mut committed) = (0, 0, 0, 0);
    while coordinators + of_workers + of_children < KILLS {
        let kills = coordinators + of_workers + of_children;
        let pause = PAUSE_MS.start + dice.below(PAUSE_MS.end - PAUSE_MS.start);
        // All have to be killed while there is something left to do.
        let in_step = KILLS * committed * 5 / 4 / expected.commits.len() as u32;
        let pause = match kills.cmp(&in_step) {
            Ordering::Less => HASTE_MS,
            Ordering::Equal => pause,
            Ordering::Greater => pause + REST_MS,
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let place = dice.below(WORKERS.len() as u64) as usize;
        match dice.below(10) {
            0 => {
                site.kill_coordinator(None);
                coordinators += 1;
            }
            1..=3 => {
                workers[place].kill();
                workers[place] = start(&site, WORKERS[place]);
                of_workers += 1;
            }
            _ => {
                // It may be between two attempts.
                let killed = children(workers[place].id()).into_iter().filter(|child| signal(*child, "KILL"));
                of_children += killed.count() as u32;
            }
        }
        if let Some(status) = cluster.try_status().await {
            committed = status.committed;
            assert_ne!(status.state(), RunState::Succeeded, "over after {kills} kills: not enough");
            if !status.failures.is_empty() {
                submit(&site);
            }
        }
    }
    println!("killed {coordinators} coordinators, {of_workers} workers, {of_children} attempts at {committed} tasks");
    while (committed as usize) < expected.commits.len() {
        let further = || async {
            let status = cluster.try_status().await?;
            if !status.failures.is_empty() {
                submit(&site);
            }
            Some(status.committed).filter(|now| *now > committed)
        };
        committed = soon("another task is done", further).await;
    }
    for worker in workers {
        worker.signal("INT");
        worker.end().says(0, &["drain"]);
    }
    let state = site.state();
    let (folder, events) = site.end();
    assert_eq!(commits(&events), expected.commits);
    assert_eq!(results(&state), expected.results);
    assert!(continued(&events) > 0, "no training went on from a checkpoint");
    println!("{} attempts went on from a checkpoint", continued(&events));
    eventually("no process is left", PATIENCE, || processes_about(folder.path()).is_empty());
}
