//! How attempts end, and what follows from that.

use super::*;

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
