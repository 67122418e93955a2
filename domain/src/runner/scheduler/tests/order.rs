//! Who gets which task, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::resources::Gpu;

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
