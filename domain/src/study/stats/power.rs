//! The power of t tests, which is how likely they find a difference that exists, by the
//! noncentral t distribution.

use statrs::function::erf::erfc;

use super::estimate::{Estimate, quantile};

/// The power that a test is asked to have (Cohen 1988).
pub const POWER: f64 = 0.8;

/// The largest sample size that is tried.
const N_MAX: u32 = 1_000_000;

/// The number of nodes of the integration over the spread of a sample.
const NODES: u32 = 2000;

/// The power of the two-sided t test at `alpha` if the truth lies `noncentrality`
/// standard errors away: P(|T| > t) of the noncentral t distribution.
pub fn of_difference(noncentrality: f64, freedom: f64, alpha: f64) -> f64 {
    let t = quantile(alpha / 2.0, freedom);
    over_spreads(freedom, |spread| normal(noncentrality - t * spread) + normal(-noncentrality - t * spread))
}

/// The power of the two one-sided tests at `alpha` if there is no difference, for a margin
/// in standard errors.
pub fn of_equivalence(margin: f64, freedom: f64, alpha: f64) -> f64 {
    let t = quantile(alpha, freedom);
    over_spreads(freedom, |spread| (2.0 * normal(margin - t * spread) - 1.0).max(0.0))
}

/// The smallest true difference, in standard errors, that the two-sided t test at
/// `alpha` finds with this power.
pub fn detectable(freedom: f64, alpha: f64, power: f64) -> f64 {
    let finds = |noncentrality: f64| of_difference(noncentrality, freedom, alpha) >= power;
    let (mut low, mut high) = (0.0, 1.0);
    while !finds(high) && high < f64::from(N_MAX) {
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..30 {
        let middle = (low + high) / 2.0;
        if finds(middle) { high = middle } else { low = middle }
    }
    high
}

/// The smallest sample size, from two values on, for which `holds` is true, provided that it
/// is true for every larger size too; absent if not even a million values are enough.
pub fn smallest_sample(holds: impl Fn(u32) -> bool) -> Option<u32> {
    let (mut low, mut high) = (1, N_MAX);
    if !holds(high) {
        return None;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// The number of samples per arm from which on two printed means differ at `alpha`,
/// two-sided, given the mean and sample standard deviation of each. At this size another
/// such experiment would find the difference only about every other time.
pub fn samples_for_significance(a: [f64; 2], b: [f64; 2], alpha: f64) -> Option<u32> {
    smallest_sample(|n| welch(a, b, n).is_some_and(|difference| difference.p(0.0) < alpha))
}

/// The number of samples per arm from which on Welch's test at `alpha` finds the difference
/// with this power, if the given means and standard deviations are the true ones.
pub fn samples_for_power(a: [f64; 2], b: [f64; 2], alpha: f64, power: f64) -> Option<u32> {
    smallest_sample(|n| {
        welch(a, b, n).is_some_and(|found| of_difference(found.t(0.0).abs(), found.freedom, alpha) >= power)
    })
}

/// The difference of two means of `n` values each.
fn welch(a: [f64; 2], b: [f64; 2], n: u32) -> Option<Estimate> {
    let of = |[mean, std]: [f64; 2]| Estimate::of_summary(mean, std, n, 0.0);
    Some(of(a)?.minus(of(b)?))
}

/// The mean of `value` over the distribution of a sample's standard deviation as a multiple
/// of the true one, √(χ²/freedom), by the midpoint rule, normalised by its own weights.
fn over_spreads(freedom: f64, value: impl Fn(f64) -> f64) -> f64 {
    // Farther than ten of its own standard deviations from 1 nothing is left.
    let reach = 10.0 / (2.0 * freedom).sqrt();
    let (low, high) = ((1.0 - reach).max(0.0), 1.0 + reach);
    let step = (high - low) / f64::from(NODES);
    let (mut sum, mut weights) = (0.0, 0.0);
    for node in 0..NODES {
        let spread = low + step * (f64::from(node) + 0.5);
        let weight = ((freedom - 1.0) * spread.ln() - freedom * (spread * spread - 1.0) / 2.0).exp();
        sum += weight * value(spread);
        weights += weight;
    }
    sum / weights
}

/// P(Z ≤ z) of the standard normal distribution.
fn normal(z: f64) -> f64 {
    erfc(-z / std::f64::consts::SQRT_2) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(value: f64, expected: f64, within: f64) {
        assert!((value - expected).abs() < within, "{value} is not {expected}");
    }

    #[test]
    fn powers_are_those_of_tables() {
        // Two samples of 64, half a standard deviation apart (Cohen 1988; G*Power: 0.8014596).
        close(of_difference(0.5 * 32.0_f64.sqrt(), 126.0, 0.05), 0.801_459_6, 1e-6);
        // 34 pairs (G*Power: 0.8077775).
        close(of_difference(0.5 * 34.0_f64.sqrt(), 33.0, 0.05), 0.807_777_5, 1e-6);
        for freedom in [1.0, 1.5, 2.0, 9.0, 1e6] {
            close(of_difference(0.0, freedom, 0.05), 0.05, 2e-4);
        }
        // Of many values the normal distribution's: z = 1.96 + 0.8416.
        close(detectable(1e6, 0.05, POWER), 1.959_964 + 0.841_621, 1e-4);
    }

    #[test]
    fn what_is_detectable_has_the_power_asked_for() {
        for (freedom, alpha) in [(1.0, 0.05), (1.0, 0.05 / 18.0), (4.0, 0.05), (9.0, 0.01)] {
            close(of_difference(detectable(freedom, alpha, POWER), freedom, alpha), POWER, 1e-6);
        }
    }

    #[test]
    fn equivalence_needs_a_margin_of_some_standard_errors() {
        // z = 1.645 + 1.2816: both sides have to hold, so each is missed in 10 %.
        close(of_equivalence(1.644_854 + 1.281_552, 1e6, 0.05), 0.8, 1e-4);
        assert_eq!(of_equivalence(0.0, 9.0, 0.05), 0.0);
    }

    /// What the paper printed for A → C and A+B → C.
    const SUR: ([f64; 2], [f64; 2]) = ([86.19, 6.12], [87.82, 3.65]);
    const SEC: ([f64; 2], [f64; 2]) = ([78.27, 4.27], [80.76, 4.91]);

    #[test]
    fn significance_takes_half_of_the_runs_that_power_takes() {
        assert_eq!(samples_for_significance(SUR.0, SUR.1, 0.05), Some(75));
        assert_eq!(samples_for_significance(SEC.0, SEC.1, 0.05), Some(28));
        assert_eq!(samples_for_power(SUR.0, SUR.1, 0.05, POWER), Some(152));
        assert_eq!(samples_for_power(SEC.0, SEC.1, 0.05, POWER), Some(55));
        let found = welch(SUR.0, SUR.1, 75).unwrap();
        close(of_difference(found.t(0.0).abs(), found.freedom, 0.05), 0.5, 0.01);
        assert_eq!(samples_for_significance(SUR.0, SUR.0, 0.05), None);
        assert_eq!(samples_for_power(SUR.0, SUR.0, 0.05, POWER), None);
    }
}
