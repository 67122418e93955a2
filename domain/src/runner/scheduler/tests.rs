use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::id::{ArtifactId, RunId, TaskKey};
use crate::resources::{Gpu, Offer, Resources};
use crate::runner::command::{self, CommandSpec, Commands};
use crate::runner::event::Event;
use crate::runner::registry::IdentityId;
use crate::runner::scheduler::snapshot::Snapshot;
use crate::runner::task::{Released, State};
use crate::runner::work::Work;
use crate::study::experiment::Experiment;
use crate::study::plan::{self, Data, Plan};
use crate::study::stage::{Failure, FailureCode, Stage, StageKind};

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

#[test]
fn commit_with_an_old_token_is_fenced() {
    let mut world = World::with(&["a", "b"], 1);
    world.submit();
    let old = world.acquire("a").unwrap();
    world.release(old, Released::Lost).unwrap();
    let new = world.acquire("b").unwrap();
    assert_eq!(old.0, new.0);
    let fenced = Err(Reject::Fenced { task: old.0, token: old.1 });
    assert_eq!(world.commit(old), fenced);
    let (task, token) = old;
    let checkpoint = Request::Checkpoint { task, token, artifact: ArtifactId(Digest::of(b"old")), step: 9 };
    assert_eq!(world.request(checkpoint), fenced);
    assert_eq!(world.commit(new), Ok(1));
    assert_eq!(world.commit(old), fenced);
}

#[test]
fn repeated_calls_change_nothing_more() {
    let mut world = World::with(&["a"], 1);
    world.submit();
    let lease = world.acquire("a").unwrap();
    assert_eq!(world.acquire_again("a", world.requests), Some(lease));
    assert_eq!(world.commit(lease), Ok(1));
    assert_eq!(world.commit(lease), Ok(0));
    assert_eq!(world.acquire_again("a", world.requests), None, "a late repeat gets nothing new");
    let lease = world.acquire("a").unwrap();
    assert_eq!(world.fail(lease, FailureCode::Crashed), Ok(1));
    assert_eq!(world.fail(lease, FailureCode::Crashed), Ok(0));
}

#[test]
fn one_call_gets_as_many_leases_as_fit() {
    let mut world = World::with(&["a"], 3);
    world.submit_plan(plain(5, Resources::default()), 0);
    let acquire = |call| Request::Acquire { worker: id("a"), call, max: 8 };
    assert_eq!(world.request(acquire(1)), Ok(3));
    assert_eq!(world.request(acquire(1)), Ok(0));
    assert_eq!(world.scheduler.leases_for(&id("a"), 1).count(), 3);
    assert_eq!(world.request(acquire(2)), Ok(0));
}

#[test]
fn bad_data_are_not_tried_again_and_a_new_submission_gives_another_chance() {
    let mut world = World::with(&["a"], 1);
    let run = world.submit();
    for code in [FailureCode::InvalidInput, FailureCode::OutOfMemory] {
        let lease = world.acquire("a").unwrap();
        world.fail(lease, code).unwrap();
        assert!(matches!(world.state(lease), State::Failed(_)), "{code:?}");
    }
    world.finish();
    let counts = world.counts(run);
    assert!(counts.is_over() && !counts.is_complete() && counts.waiting > 0);
    world.submit();
    world.finish();
    assert!(world.counts(run).is_complete());
}

#[test]
fn what_ended_without_a_result_is_computed_as_the_newest_submission_asks() {
    let study = |micro_batch| {
        let mut experiment = Experiment::default();
        experiment.sinddm.micro_batch = micro_batch;
        plan::plan(&experiment, &Data::of_the_paper()).unwrap()
    };
    let (wide, narrow) = (study(None), study(Some(4)));
    // How many pictures go through the network at once is no part of a key.
    assert_eq!(wide.id(), narrow.id());
    let mut world = World::with(&["a"], 1);
    world.submit_plan(wide, 0);
    let is_training = |world: &World, lease: Held| match &world.scheduler.task(lease.0).unwrap().spec.stage {
        Stage::SinddmTrain { sinddm } => Some(sinddm.micro_batch),
        _ => None,
    };
    let lease = loop {
        let lease = world.acquire("a").unwrap();
        match is_training(&world, lease) {
            Some(_) => break lease,
            None => world.commit(lease).unwrap(),
        };
    };
    world.fail(lease, FailureCode::OutOfMemory).unwrap();
    world.submit_plan(narrow, 0);
    assert_eq!(is_training(&world, lease), Some(Some(4)));
    world.finish();
}

#[test]
fn a_crash_is_tried_again_a_bounded_number_of_times() {
    let mut world = World::with(&["a"], 1);
    world.submit();
    let first = world.acquire("a").unwrap();
    world.fail(first, FailureCode::Crashed).unwrap();
    for _ in 1..FAILURES_MAX {
        let lease = world.acquire("a").unwrap();
        assert_eq!(lease.0, first.0);
        world.fail(lease, FailureCode::Crashed).unwrap();
    }
    assert!(matches!(world.state(first), State::Failed(_)));
}

#[test]
fn what_failed_on_one_worker_is_tried_on_another_first() {
    let mut world = World::with(&["a", "b"], 1);
    world.submit_plan(plain(2, Resources::default()), 0);
    let first = world.acquire("a").unwrap();
    world.fail(first, FailureCode::Crashed).unwrap();
    let second = world.acquire("a").unwrap();
    assert_ne!(second.0, first.0);
    world.commit(second).unwrap();
    assert_eq!(world.acquire("a"), None);
    world.request(Request::Leave { worker: id("b") }).unwrap();
    assert_eq!(world.acquire("a").unwrap().0, first.0, "nobody else is left");
}

#[test]
fn preemption_costs_nothing_and_a_task_that_kills_workers_is_given_up() {
    let mut world = World::with(&["a"], 1);
    world.submit();
    for _ in 0..2 * FAILURES_MAX {
        let lease = world.acquire("a").unwrap();
        world.release(lease, Released::Preempted).unwrap();
    }
    let mut last = None;
    for _ in 0..LOSSES_MAX {
        let lease = world.acquire("a").unwrap();
        world.request(Request::Leave { worker: id("a") }).unwrap();
        world.join("a", offer(1));
        world.requests = 0;
        last = Some(lease);
    }
    match world.state(last.unwrap()) {
        State::Failed(failure) => assert_eq!(failure.code, FailureCode::Quarantined, "{failure:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_task_that_gets_further_does_not_kill_its_workers() {
    let mut world = World::with(&["a"], 1);
    world.submit();
    for step in 0..3 * u64::from(LOSSES_MAX) {
        let lease = world.acquire("a").unwrap();
        let (task, token) = lease;
        let artifact = ArtifactId(Digest::of(&step.to_le_bytes()));
        world.request(Request::Checkpoint { task, token, artifact, step }).unwrap();
        assert_eq!(world.scheduler.task(task).unwrap().checkpoint.as_ref().unwrap().artifact, artifact);
        world.release(lease, Released::Lost).unwrap();
    }
    let lease = world.acquire("a").unwrap();
    assert_eq!(world.scheduler.task(lease.0).unwrap().checkpoint.as_ref().unwrap().step, 14);
    world.commit(lease).unwrap();
    assert_eq!(world.scheduler.task(lease.0).unwrap().checkpoint, None);
}

#[test]
fn a_worker_that_fails_several_tasks_fast_is_quarantined_unless_it_is_the_last() {
    let fail_some = |world: &mut World, pause_ms: i64| {
        for _ in 0..FAST_FAILURES_MAX {
            let lease = world.acquire("bad").unwrap();
            world.now_ms += pause_ms;
            world.fail(lease, FailureCode::Crashed).unwrap();
        }
    };
    let mut world = World::with(&["bad", "good"], 1);
    world.submit();
    fail_some(&mut world, 1);
    let worker = world.scheduler.worker(&id("bad")).unwrap();
    assert!(worker.quarantined.as_ref().unwrap().contains("no"));
    assert_eq!(world.acquire("bad"), None);
    assert!(world.acquire("good").is_some());
    world.request(Request::Readmit { worker: id("bad") }).unwrap();
    assert!(world.acquire("bad").is_some());

    let mut slowly = World::with(&["bad", "good"], 1);
    slowly.submit();
    fail_some(&mut slowly, FAST_MS);
    assert_eq!(slowly.scheduler.worker(&id("bad")).unwrap().quarantined, None);
    let mut alone = World::with(&["bad"], 1);
    alone.submit();
    fail_some(&mut alone, 1);
    assert_eq!(alone.scheduler.worker(&id("bad")).unwrap().quarantined, None);
}

#[test]
fn a_cancelled_run_frees_its_tasks_and_its_late_results_are_fenced() {
    let mut world = World::with(&["a"], 1);
    let run = world.submit();
    let lease = world.acquire("a").unwrap();
    world.request(Request::Cancel { run }).unwrap();
    assert_eq!(world.acquire("a"), None);
    assert_eq!(world.commit(lease), Err(Reject::Fenced { task: lease.0, token: lease.1 }));
}

#[test]
fn a_paused_run_waits_and_what_it_shares_goes_on() {
    let mut world = World::with(&["a"], 1);
    let run = world.submit_plan(plain(3, Resources::default()), 0);
    let lease = world.acquire("a").unwrap();
    assert!(world.scheduler.is_awaited(lease.1));
    world.request(Request::Pause { run }).unwrap();
    assert!(!world.scheduler.is_awaited(lease.1));
    world.release(lease, Released::Preempted).unwrap();
    assert_eq!(world.acquire("a"), None);
    let mut part = plain(3, Resources::default());
    part.tasks.truncate(1);
    let sharing = world.submit_plan(part, 0);
    let shared = world.acquire("a").unwrap();
    world.commit(shared).unwrap();
    assert!(world.counts(sharing).is_complete());
    assert_eq!(world.acquire("a"), None);
    world.request(Request::Resume { run }).unwrap();
    assert!(world.acquire("a").is_some());
}

#[test]
fn what_a_search_drops_is_pruned_unless_another_run_needs_it() {
    let mut world = World::with(&["a"], 1);
    let plan = plain(3, Resources::default());
    let keys: Vec<TaskKey> = plan.tasks.iter().map(|task| task.key).collect();
    let run = world.submit_plan(plan.clone(), 0);
    let mut part = plan;
    part.tasks.truncate(1);
    world.submit_plan(part, 0);
    let lease = world.acquire("a").unwrap();
    assert_eq!(lease.0, keys[0]);
    assert_eq!(world.request(Request::Prune { run, tasks: keys.clone() }), Ok(1));
    assert_eq!(world.counts(run).pruned, 2);
    world.commit(lease).unwrap();
    assert!(world.counts(run).is_complete());
    assert_eq!(world.request(Request::Prune { run, tasks: keys }), Ok(0));
}

#[test]
fn higher_priority_goes_first_and_equals_share() {
    let mut world = World::with(&["a"], 8);
    world.submit_plan(named("slow", 9, Resources::default()), 0);
    world.submit_plan(named("other", 9, Resources::default()), 0);
    world.submit_plan(named("urgent", 2, Resources::default()), 5);
    let mut got: BTreeMap<String, usize> = BTreeMap::new();
    for place in 0..8 {
        let lease = world.acquire("a").unwrap();
        let name = world.label(lease).split('.').next().unwrap().to_owned();
        assert_eq!(name == "urgent", place < 2);
        *got.entry(name).or_default() += 1;
    }
    assert_eq!((got["slow"], got["other"]), (3, 3));
}

#[test]
fn what_has_the_longest_chain_behind_it_goes_first() {
    let mut world = World::with(&["a"], 64);
    world.submit();
    let mut trainings = 0;
    loop {
        let lease = world.acquire("a").unwrap();
        let stage = world.scheduler.task(lease.0).unwrap().spec.stage.kind().name();
        match stage {
            "sinddm.train" => trainings += 1,
            "patches" => break,
            _ => world.commit(lease).map(drop).unwrap(),
        }
    }
    assert_eq!(trainings, 12, "the twelve long trainings begin before the short work");
}

#[test]
fn a_task_goes_to_the_worker_that_has_its_inputs() {
    let mut world = World::with(&["a", "b"], 2);
    let command = |name: &str, input: &str| CommandSpec {
        name: name.to_owned(),
        argv: vec!["true".to_owned()],
        array: Some([1, 2]),
        inputs: if input.is_empty() { BTreeMap::new() } else { BTreeMap::from([("in".to_owned(), input.to_owned())]) },
        ..CommandSpec::default()
    };
    let commands = vec![command("make", ""), command("use", "task:make")];
    world.submit_plan(command::plan(&Commands { id: String::new(), command: commands }).unwrap(), 0);
    let on_b = world.acquire("b").unwrap();
    let on_a = world.acquire("a").unwrap();
    world.commit(on_a).unwrap();
    world.commit(on_b).unwrap();
    let next = world.acquire("a").unwrap();
    assert_eq!(world.label(next), world.label(on_a).replace("make", "use"));
}

#[test]
fn a_worker_gets_only_stages_that_it_lists_and_resources_that_it_has() {
    let mut world = World::new();
    let stages = BTreeSet::from([("ingest".to_owned(), 0), ("pad".to_owned(), 1)]);
    world.join("old", Offer { stages, ..offer(1) });
    world.submit();
    assert_eq!(world.acquire("old"), None);
    let gpus = vec![Gpu { name: "G".to_owned(), memory_mib: 1000 }];
    world.join("gpu", Offer { gpus, ..offer(4) });
    world.join("cpu", offer(4));
    let half = Resources { gpu_milli: Some(500), ..Resources::default() };
    let run = world.submit_plan(named("half", 3, half), 1);
    assert_ne!(world.acquire("cpu").map(|lease| world.label(lease).contains("half")), Some(true));
    let parts = [world.acquire("gpu").unwrap(), world.acquire("gpu").unwrap()];
    assert!(parts.iter().all(|lease| world.label(*lease).contains("half")));
    let none = Resources { gpu_milli: Some(0), ..Resources::default() };
    world.submit_plan(named("none", 1, none), 0);
    let third = world.acquire("gpu").unwrap();
    assert!(!world.label(third).contains("half"), "the GPU is full, what needs none of it goes on");
    assert_eq!(world.counts(run).leased, 2);
}

#[test]
fn a_wide_task_is_not_kept_waiting_by_narrow_ones() {
    let mut world = World::with(&["a"], 2);
    world.submit_plan(named("narrow", 20, Resources::default()), 0);
    let narrow = world.acquire("a").unwrap();
    let wide = Resources { slots: 2, ..Resources::default() };
    world.submit_plan(named("wide", 1, wide), 1);
    assert_eq!(world.acquire("a"), None, "the slot is kept free for it");
    world.commit(narrow).unwrap();
    let next = world.acquire("a").unwrap();
    assert_eq!(world.label(next), "wide.1");
}

#[test]
fn a_draining_worker_gets_nothing_and_one_that_left_loses_its_leases() {
    let mut world = World::with(&["a", "b"], 2);
    world.submit_plan(plain(3, Resources::default()), 0);
    let lease = world.acquire("a").unwrap();
    world.request(Request::Drain { worker: id("a") }).unwrap();
    assert_eq!(world.acquire("a"), None);
    world.request(Request::Leave { worker: id("a") }).unwrap();
    assert_eq!(world.commit(lease), Err(Reject::Fenced { task: lease.0, token: lease.1 }));
    assert_eq!(world.acquire("b").unwrap().0, lease.0);
}

#[test]
fn a_plan_that_was_altered_is_refused() {
    let mut world = World::new();
    let mut plan = World::small_study();
    plan.tasks[3].seed.0 ^= 1;
    let work = Work::Study { experiment: Box::default(), data: Data::of_the_paper() };
    let mut parts = Request::submission(work, plan, 0, None);
    assert!(matches!(world.request(parts.next().unwrap()), Err(Reject::InvalidPlan { .. })));
}

#[test]
fn a_run_that_is_asked_for_again_is_the_one_submitted_last() {
    let mut world = World::with(&["a"], 1);
    let ask = |world: &mut World, name| world.submit_plan(named(name, 2, Resources::default()), 0);
    let [first, second, third] = ["first", "second", "third"].map(|name| ask(&mut world, name));
    let order = |scheduler: &Scheduler| scheduler.runs().map(|run| run.id).collect::<Vec<_>>();
    world.finish();
    assert_eq!(order(&world.scheduler), [first, second, third]);
    ask(&mut world, "first");
    assert_eq!(order(&world.scheduler), [second, third, first]);
    assert_eq!(world.scheduler.run(first).unwrap().cached, 2);
    let before = world.journal.len();
    ask(&mut world, "first");
    assert_eq!(world.journal.len(), before, "a repeated call changes nothing more");
    // Another that goes on, then one of the others between.
    let fourth = ask(&mut world, "fourth");
    ask(&mut world, "second");
    ask(&mut world, "fourth");
    assert_eq!(order(&world.scheduler), [third, first, second, fourth]);
    let mut replayed = Scheduler::default();
    world.journal.iter().for_each(|event| replayed.apply(event));
    assert_eq!(order(&replayed), order(&world.scheduler));
    let restored = Scheduler::try_from(Snapshot::from(&world.scheduler)).unwrap();
    assert_eq!(order(&restored), order(&world.scheduler));
}

#[test]
fn a_result_is_committed_again_only_with_the_same_files() {
    let mut world = World::with(&["a"], 1);
    world.submit_plan(plain(1, Resources::default()), 0);
    let (task, token) = world.acquire("a").unwrap();
    world.commit((task, token)).unwrap();
    let State::Committed { artifact, .. } = world.scheduler.task(task).unwrap().state else { panic!("no result") };
    let mut commit = |artifact| world.request(Request::Commit { task, token, artifact });
    assert_eq!(commit(artifact), Ok(0));
    assert_eq!(commit(ArtifactId(Digest::of(b"other files"))), Err(Reject::Fenced { task, token }));
}

#[test]
fn holders_of_attempts_that_ended_are_remembered_up_to_a_number() {
    let mut world = World::with(&["a", "b"], 1);
    world.submit_plan(plain(1, Resources::default()), 0);
    let (task, first) = world.acquire("a").unwrap();
    assert_eq!(world.scheduler.holder(first), Some((task, &id("a"))));
    world.release((task, first), Released::Preempted).unwrap();
    let (_, second) = world.acquire("b").unwrap();
    assert_eq!(world.scheduler.holder(first), Some((task, &id("a"))), "while another has it");
    world.release((task, second), Released::Preempted).unwrap();
    world.request(Request::Leave { worker: id("a") }).unwrap();
    assert_eq!(world.scheduler.holder(first), Some((task, &id("a"))), "also when it is gone");
    for _ in 1..ENDED_MAX {
        let held = world.acquire("b").unwrap();
        world.release(held, Released::Preempted).unwrap();
    }
    assert_eq!(world.scheduler.holder(first), None);
    assert_eq!(world.scheduler.holder(second), Some((task, &id("b"))));
}

#[test]
fn a_call_for_work_is_given_no_more_than_fits_a_message() {
    let mut world = World::with(&["a"], 100);
    let argv = vec!["true".to_owned(), "x".repeat(400_000)];
    let spec = CommandSpec { name: "wide".to_owned(), argv, array: Some([1, 10]), ..CommandSpec::default() };
    world.submit_plan(command::plan(&Commands { id: String::new(), command: vec![spec] }).unwrap(), 0);
    world.request(Request::Acquire { worker: id("a"), call: 1, max: 100 }).unwrap();
    assert_eq!(world.scheduler.leases_of(&id("a")).count(), 3);
    world.request(Request::Acquire { worker: id("a"), call: 2, max: 100 }).unwrap();
    assert_eq!(world.scheduler.leases_of(&id("a")).count(), 6);
}

/// A run of five tasks in parts of two.
fn in_parts() -> (RunId, Vec<Request>) {
    let plan = plain(5, Resources::default());
    let run = plan.id();
    let mut parts = plan
        .tasks
        .chunks(2)
        .map(|tasks| Request::AddTasks { run, tasks: tasks.to_vec(), by: None })
        .collect::<Vec<_>>();
    let work = Work::Commands { commands: Arc::default() };
    parts[0] = Request::Submit { work, run, tasks: plan.tasks[..2].to_vec(), more: 3, priority: 0, by: None };
    (run, parts)
}

#[test]
fn a_large_submission_has_many_parts() {
    let mut world = World::new();
    let run = world.submit_plan(plain(2500, Resources::default()), 0);
    assert_eq!(world.journal.len(), 3);
    assert_eq!(world.counts(run).ready, 2500);
    let argv = vec!["true".to_owned(), "x".repeat(400_000)];
    let spec = CommandSpec { name: "wide".to_owned(), argv, array: Some([1, 10]), ..CommandSpec::default() };
    let wide = command::plan(&Commands { id: String::new(), command: vec![spec] }).unwrap();
    let work = Work::Commands { commands: Arc::default() };
    assert_eq!(Request::submission(work, wide, 0, None).count(), 4, "three tasks have more than a MiB");
}

#[test]
fn a_submission_that_was_cut_off_is_not_over_and_goes_on_when_it_is_handed_in_again() {
    let mut world = World::with(&["a"], 1);
    let (run, parts) = in_parts();
    world.request(parts[0].clone()).unwrap();
    world.request(parts[1].clone()).unwrap();
    world.finish();
    let counts = world.counts(run);
    assert_eq!((counts.total, counts.committed, counts.missing), (5, 4, 1));
    let stage = &world.scheduler.stages()[&StageKind::Command];
    assert_eq!((stage.total, stage.committed, stage.missing), (4, 4, 0), "what is to come is no task yet");
    assert!(!counts.is_over() && !counts.is_complete());
    let known = world.scheduler.run(run).unwrap();
    let line = "1 of 5 tasks are still to come; if its submission was cut off, hand it in again or cancel it";
    assert_eq!(world.scheduler.attention(known), [line]);
    for part in &parts {
        world.request(part.clone()).unwrap();
    }
    assert_eq!(world.scheduler.run(run).unwrap().cached, 4);
    world.finish();
    assert!(world.counts(run).is_complete());
    let before = world.journal.len();
    for part in parts {
        world.request(part).unwrap();
    }
    assert_eq!(world.journal.len(), before, "repeated calls change nothing more");
}

#[test]
fn all_that_somebody_hands_in_is_kept_for_them_also_again_and_in_parts() {
    let mut world = World::new();
    let submit = |world: &mut World, plan: Plan, priority, by: &str| {
        let by = Some(IdentityId(by.to_owned()));
        for part in Request::submission(Work::Commands { commands: Arc::default() }, plan, priority, by) {
            world.request(part).unwrap();
        }
    };
    let kept = |world: &World, by: &str| world.scheduler.kept_for(&IdentityId(by.to_owned()));
    submit(&mut world, plain(1500, Resources::default()), 0, "one");
    assert_eq!((kept(&world, "one"), kept(&world, "other")), (1501, 0));
    submit(&mut world, plain(1500, Resources::default()), 0, "one");
    assert_eq!(kept(&world, "one"), 1501, "nothing was written");
    submit(&mut world, plain(1500, Resources::default()), 7, "other");
    assert_eq!((kept(&world, "one"), kept(&world, "other")), (1501, 1001), "what the first part changes");
    let label = |number: usize| (format!("{number:0200}"), "y".repeat(200));
    let labels = (0..64).map(label).collect();
    submit(&mut world, named("labels", 1, Resources { labels, ..Resources::default() }), 0, "other");
    assert_eq!(kept(&world, "other"), 1001 + 1 + 26);
}

#[test]
fn what_needs_a_dropped_task_is_dropped_too() {
    let mut world = World::with(&["a"], 1);
    let plan = chain();
    let keys: Vec<TaskKey> = plan.tasks.iter().map(|task| task.key).collect();
    let run = world.submit_plan(plan, 0);
    world.request(Request::Prune { run, tasks: vec![keys[1], keys[1]] }).unwrap();
    assert_eq!((world.counts(run).pruned, world.counts(run).ready), (2, 1));
    world.finish();
    assert!(world.counts(run).is_complete());
}

#[test]
fn a_run_that_two_hand_in_at_once_has_its_tasks_once() {
    let mut world = World::with(&["a"], 1);
    let (run, parts) = in_parts();
    world.request(parts[0].clone()).unwrap();
    world.finish();
    for part in [0, 1, 1, 2, 2] {
        world.request(parts[part].clone()).unwrap();
    }
    let counts = world.counts(run);
    assert_eq!((counts.total, counts.missing, counts.committed, counts.ready), (5, 0, 2, 3));
    assert_eq!(world.scheduler.run(run).unwrap().cached, 2);
}

#[test]
fn a_run_that_is_cancelled_while_it_is_handed_in_gets_no_more_tasks() {
    let mut world = World::with(&["a"], 1);
    let (run, parts) = in_parts();
    world.request(parts[0].clone()).unwrap();
    world.request(Request::Cancel { run }).unwrap();
    assert_eq!(world.request(parts[1].clone()), Err(Reject::Cancelled(run)));
    assert!(world.counts(run).ready == 0 && world.acquire("a").is_none());
    for part in parts {
        world.request(part).unwrap();
    }
    world.finish();
    assert!(world.counts(run).is_complete());
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

#[test]
fn a_result_that_is_gone_is_computed_again_and_what_was_made_from_it_stays() {
    let mut world = World::with(&["a"], 1);
    let run = world.submit_plan(chain(), 0);
    let [first, second] = std::array::from_fn(|_| {
        let lease = world.acquire("a").unwrap();
        world.commit(lease).unwrap();
        lease
    });
    let third = world.acquire("a").unwrap();
    assert_eq!(world.invalidate(first.0), Ok(1));
    assert_eq!(world.invalidate(first.0), Ok(0), "it has none any more");
    assert_eq!((world.counts(run).committed, world.counts(run).leased), (1, 1), "the third reads the second only");
    world.commit(third).unwrap();
    let again = world.acquire("a").unwrap();
    assert_eq!(again.0, first.0);
    assert_eq!(world.commit(first), Err(Reject::Fenced { task: first.0, token: first.1 }));
    assert_eq!(world.commit(again), Ok(1), "the same bytes");
    assert!(world.counts(run).is_complete());
    assert!(matches!(world.state(second), State::Committed { token, .. } if *token == second.1));
}

#[test]
fn another_result_than_before_takes_back_what_was_made_from_that() {
    let mut world = World::with(&["a"], 1);
    let run = world.submit_plan(chain(), 0);
    let leases: [Held; 3] = std::array::from_fn(|_| {
        let lease = world.acquire("a").unwrap();
        world.commit(lease).unwrap();
        lease
    });
    world.invalidate(leases[0].0).unwrap();
    let first = world.acquire("a").unwrap();
    assert_eq!(world.commit_other(first, b"other"), Ok(2));
    let second = world.acquire("a").unwrap();
    assert_eq!(second.0, leases[1].0);
    assert_eq!(world.counts(run).committed, 2, "whether the third still holds is not known yet");
    assert_eq!(world.commit_other(second, b"other"), Ok(2));
    let third = world.acquire("a").unwrap();
    assert_eq!(third.0, leases[2].0);
    assert_eq!(world.commit_other(third, b"other"), Ok(1));
    assert!(world.counts(run).is_complete());
    assert_eq!(world.scheduler.task(third.0).unwrap().had, None);
}

#[test]
fn what_reads_a_result_that_is_taken_back_waits_for_it() {
    let mut world = World::with(&["a"], 1);
    let run = world.submit_plan(chain(), 0);
    let first = world.acquire("a").unwrap();
    world.commit(first).unwrap();
    let second = world.acquire("a").unwrap();
    world.invalidate(first.0).unwrap();
    assert_eq!(world.commit(second), Err(Reject::Fenced { task: second.0, token: second.1 }));
    assert_eq!(*world.state(second), State::Waiting { unmet: 1 });
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
