//! What becomes of a run that is handed in, also in parts, paused, cancelled or pruned.

use std::sync::Arc;

use super::*;
use crate::runner::registry::IdentityId;
use crate::study::stage::Stage;

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
