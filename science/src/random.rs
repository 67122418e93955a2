//! Generators keyed by (seed, purpose, step).

use domain::seed::Seed;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator of one named stream. Equal arguments give equal numbers on any
/// machine.
pub fn stream(seed: Seed, purpose: &str, step: u64) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(seed.bytes(purpose, step))
}
