//! The coordinator's reactor in a world of its own: a clock that is set, a network
//! that loses, repeats, delays and swaps, workers that crash and freeze, a
//! coordinator that crashes around its writes. One seed makes the whole world;
//! after the faults everything has to come to its end.

mod invariants;
mod worker;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

/// Worlds in one run of the tests. `LITHOGEN_SIM_SEED` runs one of them alone.
const SEEDS: u64 = 10_000;

#[test]
fn whatever_fails_nothing_is_lost_or_done_twice_and_everything_ends() {
    if let Ok(seed) = std::env::var("LITHOGEN_SIM_SEED") {
        World::new(seed.parse().expect("a number")).live();
        return;
    }
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let lived = std::panic::catch_unwind(|| World::new(seed).live());
                    if let Err(broken) = lived {
                        eprintln!("the world of seed {seed} broke: run it alone with LITHOGEN_SIM_SEED={seed}");
                        std::panic::resume_unwind(broken);
                    }
                }
            });
        }
    });
}
