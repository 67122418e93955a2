//! Generators keyed by (seed, purpose, step), and what is drawn from them.
//!
//! The distributions are spelt out here, so that the numbers depend on nothing
//! but the stream.

use domain::seed::Seed;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The generator of one named stream. Equal arguments give equal numbers on any
/// machine.
pub fn stream(seed: Seed, purpose: &str, step: u64) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(seed.bytes(purpose, step))
}

/// A number in 0 (included) to 1 (excluded), in steps of 2⁻⁵³.
pub fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// An index in `0..n`; `n` is at least 1.
pub fn below(rng: &mut impl Rng, n: usize) -> usize {
    // The product is below n exactly, but may round up to it.
    ((uniform(rng) * n as f64) as usize).min(n.saturating_sub(1))
}

/// Independent standard normal numbers (Box–Muller).
pub fn normals(rng: &mut impl Rng, n: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt(); // 1 − u is never 0
        let (sin, cos) = (std::f64::consts::TAU * uniform(rng)).sin_cos();
        values.push((radius * cos) as f32);
        values.push((radius * sin) as f32);
    }
    values.truncate(n);
    values
}

/// Brings the items into random order, each order equally likely.
pub fn shuffle<T>(rng: &mut impl Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let values = normals(&mut stream(Seed(1), "test", 0), 40_001);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 40_001.0;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 40_001.0;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..100).collect();
        shuffle(&mut stream(Seed(1), "test", 0), &mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
