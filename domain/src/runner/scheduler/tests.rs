//! A world to ask the scheduler in, and whole histories; the rest is sorted by what it is about.

mod attempts;
mod order;
mod recompute;
mod runs;

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::id::{ArtifactId, RunId, TaskKey};
use crate::resources::{Offer, Resources};
use crate::runner::command::{self, CommandSpec, Commands};
use crate::runner::event::Event;
use crate::runner::scheduler::snapshot::Snapshot;
use crate::runner::task::{Released, State};
use crate::runner::work::Work;
use crate::study::experiment::Experiment;
use crate::study::plan::{self, Data, Plan};
use crate::study::stage::{Failure, FailureCode, StageKind};

/// A scheduler with a journal, so that replay can be compared with the live state.
struct World {
    scheduler: Scheduler,
    journal: Vec<Event>,
    requests: u64,
    now_ms: i64,
}

type Held = (TaskKey, FencingToken);

fn id(worker: &str) -> WorkerId {
    WorkerId(worker.to_owned())
}

fn offer(slots: u32) -> Offer {
    let stages = StageKind::ALL.iter().map(|kind| kind.offered()).collect();
    Offer { stages, slots, ..Offer::default() }
}

/// Commands without inputs, one task each.
fn plain(count: u64, resources: Resources) -> Plan {
    named("plain", count, resources)
}

fn named(name: &str, count: u64, resources: Resources) -> Plan {
    let argv = vec!["true".to_owned()];
    let array = Some([1, count]);
    let spec = CommandSpec { name: name.to_owned(), argv, array, resources, ..CommandSpec::default() };
    command::plan(&Commands { id: name.to_owned(), command: vec![spec] }).unwrap()
}

/// A chain of three tasks, each of which reads the one before.
fn chain() -> Plan {
    let spec = |name: &str, input: Option<&str>| CommandSpec {
        name: name.to_owned(),
        argv: vec!["true".to_owned()],
        inputs: input.map(|input| ("i".to_owned(), format!("task:{input}"))).into_iter().collect(),
        ..CommandSpec::default()
    };
    let command = vec![spec("first", None), spec("second", Some("first")), spec("third", Some("second"))];
    command::plan(&Commands { id: String::new(), command }).unwrap()
}

impl World {
    fn new() -> Self {
        Self { scheduler: Scheduler::default(), journal: vec![], requests: 0, now_ms: 0 }
    }

    /// A world with these workers of `slots` slots each and enough of everything else.
    fn with(workers: &[&str], slots: u32) -> Self {
        let mut world = Self::new();
        for worker in workers {
            world.join(worker, offer(slots));
        }
        world
    }

    fn small_study() -> Plan {
        let mut experiment = Experiment::default();
        experiment.tl.repeats = 1;
        plan::plan(&experiment, &Data::of_the_paper()).unwrap()
    }

    fn request(&mut self, request: Request) -> Result<usize, Reject> {
        let events = self.scheduler.decide(self.now_ms, request)?;
        for event in &events {
            self.scheduler.apply(event);
        }
        self.journal.extend(events.iter().cloned());
        self.scheduler.check();
        Ok(events.len())
    }

    fn join(&mut self, worker: &str, offer: Offer) {
        self.request(Request::Join { worker: id(worker), name: worker.to_owned(), offer }).unwrap();
    }

    fn submit(&mut self) -> RunId {
        self.submit_plan(Self::small_study(), 0)
    }

    fn submit_plan(&mut self, plan: Plan, priority: i32) -> RunId {
        let run = plan.id();
        let work = Work::Study { experiment: Box::default(), data: Data::of_the_paper() };
        for part in Request::submission(work, plan, priority, None) {
            self.request(part).unwrap();
        }
        run
    }

    fn acquire(&mut self, worker: &str) -> Option<Held> {
        self.requests += 1;
        self.acquire_again(worker, self.requests)
    }

    fn acquire_again(&mut self, worker: &str, call: u64) -> Option<Held> {
        let worker = id(worker);
        self.request(Request::Acquire { worker: worker.clone(), call, max: 1 }).unwrap();
        self.scheduler.leases_for(&worker, call).map(|(task, lease)| (task.spec.key, lease.token)).next()
    }

    fn label(&self, held: Held) -> String {
        self.scheduler.task(held.0).unwrap().spec.subject.clone()
    }

    fn commit(&mut self, held: Held) -> Result<usize, Reject> {
        self.commit_other(held, b"result")
    }

    fn commit_other(&mut self, (task, token): Held, result: &[u8]) -> Result<usize, Reject> {
        self.request(Request::Commit { task, token, artifact: ArtifactId(Digest::of(result)) })
    }

    fn invalidate(&mut self, task: TaskKey) -> Result<usize, Reject> {
        self.request(Request::Invalidate { tasks: vec![task] })
    }

    fn fail(&mut self, (task, token): Held, code: FailureCode) -> Result<usize, Reject> {
        self.request(Request::Fail { task, token, failure: Failure::new(code, "no") })
    }

    fn release(&mut self, (task, token): Held, why: Released) -> Result<usize, Reject> {
        self.request(Request::Release { task, token, why })
    }

    fn counts(&self, run: RunId) -> Counts {
        self.scheduler.run(run).unwrap().counts
    }

    fn finish(&mut self) {
        self.join("finisher", offer(1));
        while let Some(lease) = self.acquire("finisher") {
            self.commit(lease).unwrap();
        }
    }

    fn state(&self, held: Held) -> &State {
        &self.scheduler.task(held.0).unwrap().state
    }
}

#[test]
fn a_study_runs_to_its_end() {
    let mut world = World::new();
    let run = world.submit();
    world.finish();
    assert!(world.counts(run).is_complete());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever workers do, invariants hold at each step, replaying the journal or loading a
    /// snapshot gives the same state, and once workers behave every run ends.
    #[test]
    fn any_history_replays_and_heals(actions in prop::collection::vec((0..15u8, 0..4usize), 1..200)) {
        let names = ["a", "b", "c", "d"];
        let mut world = World::with(&names, 3);
        let run = world.submit();
        let other = world.submit_plan(plain(20, Resources::default()), 1);
        let mut held: Vec<Held> = vec![];
        for (action, pick) in actions {
            let some = (!held.is_empty()).then(|| held[pick % held.len()]);
            match (action, some) {
                (0..=2, _) if world.scheduler.worker(&id(names[pick])).is_ok() => held.extend(world.acquire(names[pick])),
                (3, Some(lease)) => drop(world.commit_other(lease, &[pick as u8])),
                (4, Some(lease)) => drop(world.fail(lease, FailureCode::Crashed)),
                (5, Some(lease)) => drop(world.release(lease, Released::Lost)),
                (6, Some(lease)) => drop(world.release(lease, Released::Preempted)),
                (7, Some(lease)) => held.retain(|other| *other != lease),
                (8, Some((task, token))) => {
                    let artifact = ArtifactId(Digest::of(&[pick as u8]));
                    drop(world.request(Request::Checkpoint { task, token, artifact, step: pick as u64 }));
                }
                (9, _) => drop(world.request(Request::Leave { worker: id(names[pick]) })),
                (10, _) => world.join(names[pick], offer(1 + pick as u32)),
                (11, _) => drop(world.request(Request::Drain { worker: id(names[pick]) })),
                (12, _) => drop(world.request(match pick {
                    0 => Request::Pause { run },
                    1 => Request::Resume { run },
                    2 => Request::Cancel { run: other },
                    _ => Request::Readmit { worker: id("a") },
                })),
                (13, Some((task, _))) => drop(world.request(Request::Prune { run: other, tasks: vec![task] })),
                (14, Some((task, _))) => drop(world.request(Request::Invalidate { tasks: vec![task] })),
                _ => {}
            }
        }
        let mut replayed = Scheduler::default();
        for event in &world.journal {
            let stored = serde_json::to_string(event).unwrap();
            replayed.apply(&serde_json::from_str(&stored).unwrap());
        }
        prop_assert_eq!(&replayed, &world.scheduler);
        let stored = serde_json::to_string(&Snapshot::from(&world.scheduler)).unwrap();
        let loaded: Snapshot = serde_json::from_str(&stored).unwrap();
        prop_assert_eq!(&Scheduler::try_from(loaded).unwrap(), &world.scheduler);

        for name in names {
            world.request(Request::Leave { worker: id(name) }).unwrap();
        }
        world.submit();
        world.finish();
        prop_assert!(world.counts(run).is_complete());
    }
}
