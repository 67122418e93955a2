//! Results that are computed again, and what was made from them.

use super::*;

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
