use proptest::prelude::*;

use super::*;
use crate::plan::{self, Plan};
use crate::stage::Stage;

/// A scheduler that journals, so that replay can be compared with life.
struct World {
    scheduler: Scheduler,
    journal: Vec<Event>,
    requests: u64,
}

impl World {
    fn new() -> Self {
        Self { scheduler: Scheduler::default(), journal: vec![], requests: 0 }
    }

    fn small_study() -> Plan {
        let mut experiment = Experiment::default();
        experiment.tl.repeats = 1;
        plan::plan(&experiment, &Data::of_the_paper()).unwrap()
    }

    fn request(&mut self, request: Request) -> Result<usize, Reject> {
        let events = self.scheduler.decide(request)?;
        for event in &events {
            self.scheduler.apply(event);
        }
        self.journal.extend(events.iter().cloned());
        self.scheduler.check();
        Ok(events.len())
    }

    fn submit(&mut self) -> Digest {
        let plan = Self::small_study();
        let run = plan.digest();
        let (experiment, data) = (Box::default(), Data::of_the_paper());
        self.request(Request::Submit { experiment, data, run, tasks: plan.tasks }).unwrap();
        run
    }

    fn acquire(&mut self, worker: &str) -> Option<(Digest, FencingToken)> {
        self.requests += 1;
        self.acquire_again(worker, self.requests)
    }

    fn acquire_again(&mut self, worker: &str, request: u64) -> Option<(Digest, FencingToken)> {
        let worker = WorkerId(worker.to_owned());
        let stages = Stage::CATALOGUE.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect();
        self.request(Request::Acquire { worker: worker.clone(), request, stages }).unwrap();
        self.scheduler.lease_for(&worker, request).map(|(task, lease)| (task.spec.key, lease.token))
    }

    fn commit(&mut self, (task, token): (Digest, FencingToken)) -> Result<usize, Reject> {
        self.request(Request::Commit { task, token, artifact: Digest::of(b"result") })
    }

    fn fail(&mut self, (task, token): (Digest, FencingToken), code: FailureCode) -> Result<usize, Reject> {
        self.request(Request::Fail { task, token, failure: Failure::new(code, "no") })
    }

    fn release(&mut self, (task, token): (Digest, FencingToken), why: Released) -> Result<usize, Reject> {
        self.request(Request::Release { task, token, why })
    }

    fn finish(&mut self) {
        while let Some(lease) = self.acquire("finisher") {
            self.commit(lease).unwrap();
        }
    }
}

#[test]
fn a_study_runs_to_its_end() {
    let mut world = World::new();
    let run = world.submit();
    world.finish();
    let counts = world.scheduler.counts(world.scheduler.run(run).unwrap());
    assert!(counts.is_complete());
}

#[test]
fn commit_with_an_old_token_is_fenced() {
    let mut world = World::new();
    world.submit();
    let old = world.acquire("a").unwrap();
    world.release(old, Released::Lost).unwrap();
    let new = world.acquire("b").unwrap();
    assert_eq!(old.0, new.0);
    assert_eq!(world.commit(old), Err(Reject::Fenced { task: old.0, token: old.1 }));
    assert_eq!(world.commit(new), Ok(1));
    assert_eq!(world.commit(old), Err(Reject::Fenced { task: old.0, token: old.1 }));
}

#[test]
fn repeated_calls_change_nothing_more() {
    let mut world = World::new();
    world.submit();
    let lease = world.acquire("a").unwrap();
    assert_eq!(world.acquire_again("a", world.requests), Some(lease));
    assert_eq!(world.commit(lease), Ok(1));
    assert_eq!(world.commit(lease), Ok(0));
    let lease = world.acquire("a").unwrap();
    assert_eq!(world.fail(lease, FailureCode::Crashed), Ok(1));
    assert_eq!(world.fail(lease, FailureCode::Crashed), Ok(0));
}

#[test]
fn bad_data_are_not_tried_again_and_a_new_submission_gives_another_chance() {
    let mut world = World::new();
    let run = world.submit();
    let lease = world.acquire("a").unwrap();
    world.fail(lease, FailureCode::InvalidInput).unwrap();
    assert!(matches!(world.scheduler.task(lease.0).unwrap().state, State::Failed(_)));
    world.finish();
    let counts = world.scheduler.counts(world.scheduler.run(run).unwrap());
    assert!(counts.is_over() && !counts.is_complete() && counts.waiting > 0);
    world.submit();
    world.finish();
    assert!(world.scheduler.counts(world.scheduler.run(run).unwrap()).is_complete());
}

#[test]
fn a_crash_is_tried_again_a_bounded_number_of_times() {
    let mut world = World::new();
    world.submit();
    let first = world.acquire("a").unwrap();
    world.fail(first, FailureCode::Crashed).unwrap();
    for _ in 1..FAILURES_MAX {
        let lease = world.acquire("a").unwrap();
        assert_eq!(lease.0, first.0);
        world.fail(lease, FailureCode::Crashed).unwrap();
    }
    assert!(matches!(world.scheduler.task(first.0).unwrap().state, State::Failed(_)));
}

#[test]
fn preemption_costs_nothing_and_a_task_that_kills_workers_is_given_up() {
    let mut world = World::new();
    world.submit();
    for _ in 0..2 * FAILURES_MAX {
        let lease = world.acquire("a").unwrap();
        world.release(lease, Released::Preempted).unwrap();
    }
    let mut last = None;
    for _ in 0..LOSSES_MAX {
        let lease = world.acquire("a").unwrap();
        world.release(lease, Released::Lost).unwrap();
        last = Some(lease.0);
    }
    match &world.scheduler.task(last.unwrap()).unwrap().state {
        State::Failed(failure) => assert!(failure.message.contains("vanished")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cancelled_run_frees_its_tasks_and_its_late_results_are_fenced() {
    let mut world = World::new();
    let run = world.submit();
    let lease = world.acquire("a").unwrap();
    world.request(Request::Cancel { run }).unwrap();
    assert_eq!(world.acquire("a"), None);
    assert_eq!(world.commit(lease), Err(Reject::Fenced { task: lease.0, token: lease.1 }));
}

#[test]
fn a_worker_gets_only_stages_that_it_lists() {
    let mut world = World::new();
    world.submit();
    let worker = WorkerId("old".to_owned());
    let stages = BTreeSet::from([("ingest".to_owned(), 0), ("pad".to_owned(), 1)]);
    assert_eq!(world.request(Request::Acquire { worker, request: 99, stages }), Ok(0));
}

#[test]
fn a_plan_that_was_altered_is_refused() {
    let mut world = World::new();
    let mut plan = World::small_study();
    plan.tasks[3].seed.0 ^= 1;
    let run = plan.digest();
    let submit = Request::Submit { experiment: Box::default(), data: Data::of_the_paper(), run, tasks: plan.tasks };
    assert!(matches!(world.request(submit), Err(Reject::InvalidPlan { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever workers do, invariants hold at each step, replaying the journal
    /// gives the same state, and once they behave every run ends.
    #[test]
    fn any_history_replays_and_heals(actions in prop::collection::vec((0..8u8, 0..4usize), 1..200)) {
        let mut world = World::new();
        let run = world.submit();
        let mut held: Vec<(Digest, FencingToken)> = vec![];
        for (action, pick) in actions {
            let some = (!held.is_empty()).then(|| held[pick % held.len()]);
            match (action, some) {
                (0..=2, _) => held.extend(world.acquire(["a", "b", "c", "d"][pick])),
                (3, Some(lease)) => drop(world.commit(lease)),
                (4, Some(lease)) => drop(world.fail(lease, FailureCode::Crashed)),
                (5, Some(lease)) => drop(world.release(lease, Released::Lost)),
                (6, Some(lease)) => drop(world.release(lease, Released::Preempted)),
                (7, Some(lease)) => held.retain(|other| *other != lease),
                _ => {}
            }
        }
        let mut replayed = Scheduler::default();
        for event in &world.journal {
            let stored = serde_json::to_string(event).unwrap();
            replayed.apply(&serde_json::from_str(&stored).unwrap());
        }
        replayed.check();
        prop_assert_eq!(format!("{:?}", replayed), format!("{:?}", world.scheduler));

        let leases: Vec<_> = world.scheduler.leases().map(|(task, lease)| (task.spec.key, lease.token)).collect();
        for lease in leases {
            world.release(lease, Released::Preempted).unwrap();
        }
        world.submit();
        world.finish();
        prop_assert!(world.scheduler.counts(world.scheduler.run(run).unwrap()).is_complete());
    }
}
