//! The coordinator's reactor in a world of its own: a clock that is set, a network
//! that loses, repeats, delays and swaps, workers that crash and freeze, a
//! coordinator that crashes around its writes, a disk that loses the end of what was
//! written. One seed makes the whole world; after the faults everything has to come to
//! its end.

mod disk;
mod invariants;
mod worker;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use world::{Fault, World};

/// Worlds in one run of the tests, or `LITHOGEN_SIM_SEEDS`. `LITHOGEN_SIM_SEED` runs one
/// of them alone.
const SEEDS: u64 = 10_000;

/// The number in an environment variable, if it is set.
fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().expect("a number"))
}

#[test]
fn whatever_fails_nothing_is_lost_or_done_twice_and_everything_ends() {
    if let Some(seed) = number_of("LITHOGEN_SIM_SEED") {
        World::new(seed).live();
        return;
    }
    let seeds = number_of("LITHOGEN_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
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

/// Worlds in which a planted fault has to show at the latest.
const FAULTY: u64 = 50;

/// What a world with a fault breaks with, if one does.
fn breaks(fault: Fault) -> Option<String> {
    (0..FAULTY).find_map(|seed| {
        let broken = std::panic::catch_unwind(|| World::with(fault, seed).live()).err()?;
        let words = broken.downcast_ref::<String>().cloned();
        words.or_else(|| broken.downcast_ref::<&str>().map(|words| (*words).to_owned()))
    })
}

/// Otherwise that ten thousand worlds hold would say nothing.
#[test]
fn planted_faults_are_found() {
    for (fault, words) in [
        (Fault::TakesOldLeases, "result"),
        (Fault::LosesBatches, ""),
        (Fault::NamesMissingFiles, "a result whose files are missing"),
        (Fault::KeepsLostLeases, "not everything came to its end"),
        (Fault::ServesShorter, "a history shorter than what was acknowledged is served"),
        (Fault::ForgetsLostGrants, "fences grow"),
    ] {
        let broken = breaks(fault);
        assert!(broken.as_ref().is_some_and(|told| told.contains(words)), "{fault:?}: {broken:?}");
        println!("{fault:?}: {}", broken.unwrap());
    }
}
