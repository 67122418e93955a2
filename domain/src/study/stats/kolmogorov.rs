//! The null distribution of the two-sample Kolmogorov–Smirnov statistic
//! [`kolmogorov_smirnov`](super::distance::kolmogorov_smirnov), for samples that are
//! independent draws from one continuous distribution. With ties the statistic tends
//! to be smaller.
//!
//! All orders of the `n + m` values are equally likely then, and each is a path of unit
//! steps from (0, 0) to (n, m) whose gap at (i, j) is |i/n − j/m| (Hodges 1958).
//! The share of paths that stay within a gap is exact up to rounding.

/// The probability that the statistic of samples of `n` and `m` values is at most `d`;
/// NaN if a sample is empty.
///
/// # Examples
/// ```
/// use domain::study::stats::kolmogorov::ks_probability;
/// // Of the six orders of two and two values, two part the samples.
/// assert!((ks_probability(2, 2, 0.5) - 4.0 / 6.0).abs() < 1e-12);
/// ```
pub fn ks_probability(n: usize, m: usize, d: f64) -> f64 {
    within(n, m, (d * units(n, m) + TOLERANCE).floor())
}

/// The probability that the statistic is below `d`; NaN if a sample is empty.
pub fn ks_probability_below(n: usize, m: usize, d: f64) -> f64 {
    within(n, m, (d * units(n, m) - TOLERANCE).ceil() - 1.0)
}

/// The smallest value that the statistic does not exceed with a probability of at least
/// `share` (0 to 1); NaN if a sample is empty.
pub fn ks_quantile(n: usize, m: usize, share: f64) -> f64 {
    if n == 0 || m == 0 {
        return f64::NAN;
    }
    // The statistic has no values between multiples of this.
    let step = gcd(n, m) as f64;
    let (mut low, mut high) = (0, n * m / gcd(n, m));
    while low < high {
        let middle = low + (high - low) / 2;
        if within(n, m, middle as f64 * step) >= share {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    high as f64 * step / units(n, m)
}

/// Gaps are whole multiples of 1/(n·m); a statistic comes within this of one, in these
/// units, for samples of up to ten thousand values.
const TOLERANCE: f64 = 1e-6;

fn units(n: usize, m: usize) -> f64 {
    n as f64 * m as f64
}

/// The share of paths whose gap is nowhere above `limit`, in units of 1/(n·m).
fn within(n: usize, m: usize, limit: f64) -> f64 {
    if n == 0 || m == 0 || limit.is_nan() {
        return f64::NAN;
    }
    if limit < 0.0 {
        return 0.0;
    }
    let limit = limit.min(units(n, m)) as usize;
    // Of all paths to (i, j), the share that stayed within the limit, for one i at a time:
    // shares instead of counts, which no number could hold.
    let mut share = vec![0.0; m + 1];
    let mut first = 0;
    for i in 0..=n {
        let lowest = (i * m).saturating_sub(limit).div_ceil(n);
        let highest = ((i * m + limit) / n).min(m);
        share[first..lowest].fill(0.0);
        first = lowest;
        for j in lowest..=highest {
            // The last step of a path was along i with probability i/(i + j).
            let (along_i, along_j) = (share[j], if j > 0 { share[j - 1] } else { 0.0 });
            share[j] = match i + j {
                0 => 1.0,
                steps => (along_i * i as f64 + along_j * j as f64) / steps as f64,
            };
        }
    }
    share[m]
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::stats::distance::kolmogorov_smirnov;

    fn close(value: f64, expected: f64, tolerance: f64) {
        assert!((value - expected).abs() <= tolerance, "{value} is not {expected}");
    }

    /// The statistic of every order of n and m values.
    fn of_all_orders(n: u32, m: u32) -> Vec<f64> {
        let orders = (0_u32..1 << (n + m)).filter(|order| order.count_ones() == n);
        orders
            .map(|order| {
                let (first, second): (Vec<u32>, Vec<u32>) = (0..n + m).partition(|place| order >> place & 1 == 1);
                let values = |places: &[u32]| places.iter().map(|place| f64::from(*place)).collect::<Vec<_>>();
                kolmogorov_smirnov(&values(&first), &values(&second))
            })
            .collect()
    }

    #[test]
    fn probabilities_are_shares_of_all_orders() {
        for (n, m) in [(1, 1), (1, 4), (3, 2), (4, 4), (5, 7), (6, 4)] {
            let all = of_all_orders(n, m);
            let share = |holds: &dyn Fn(f64) -> bool| {
                all.iter().filter(|value| holds(**value)).count() as f64 / all.len() as f64
            };
            let (n, m) = (n as usize, m as usize);
            for d in all.iter().copied().chain([-0.1, 0.0, 0.33, 0.999, 1.0, 2.0]) {
                close(ks_probability(n, m, d), share(&|value| value <= d + 1e-9), 1e-12);
                close(ks_probability_below(n, m, d), share(&|value| value < d - 1e-9), 1e-12);
            }
            for quantile in [0.05, 0.5, 0.95, 1.0] {
                let at = ks_quantile(n, m, quantile);
                assert!(ks_probability(n, m, at) >= quantile && ks_probability_below(n, m, at) < quantile);
            }
        }
    }

    /// For equal sizes there is a formula (Gnedenko and Korolyuk 1951).
    #[test]
    fn equal_sizes_give_the_closed_form() {
        let n = 20_usize;
        // C(2n, n − j) / C(2n, n)
        let ratio = |j: usize| (0..j).map(|i| (n - i) as f64 / (n + i + 1) as f64).product::<f64>();
        for k in 1..=n {
            let signed = |i: usize| if i % 2 == 1 { ratio(i * k) } else { -ratio(i * k) };
            let at_least: f64 = 2.0 * (1..=n / k).map(signed).sum::<f64>();
            close(1.0 - ks_probability_below(n, n, k as f64 / n as f64), at_least, 1e-10);
        }
    }

    /// ALGORITHM 4.1, simulated there.
    #[test]
    fn the_table_of_the_specification() {
        let table = [
            (48, 150, [0.132, 0.080, 0.219], 0.91, 0.0024, 0.0006),
            (209, 150, [0.086, 0.054, 0.142], 0.999, 0.12, 0.065),
            (157, 150, [0.091, 0.057, 0.152], 0.996, 0.08, 0.043),
        ];
        for (n, m, quantiles, below, sixty, fifty_five) in table {
            for (share, expected) in [0.5, 0.05, 0.95].into_iter().zip(quantiles) {
                close(ks_quantile(n, m, share), expected, 0.0021);
            }
            close(ks_probability_below(n, m, 0.2), below, 0.004);
            close(ks_probability(n, m, 0.060), sixty, 0.07 * sixty);
            close(ks_probability(n, m, 0.055), fifty_five, 0.07 * fifty_five);
        }
    }

    /// Kolmogorov's distribution is at 0.95 for 1.3581.
    #[test]
    fn large_samples_come_near_the_limit_distribution() {
        close(ks_probability(3000, 2000, 1.3581 * (1.0 / 3000.0 + 1.0 / 2000.0_f64).sqrt()), 0.95, 0.003);
        close(ks_quantile(3000, 2000, 0.95), 1.3581 * (1.0 / 3000.0 + 1.0 / 2000.0_f64).sqrt(), 3e-4);
    }

    #[test]
    fn empty_samples_have_no_distribution() {
        assert!(ks_probability(0, 3, 0.5).is_nan() && ks_quantile(3, 0, 0.5).is_nan());
        assert!(ks_probability(3, 3, f64::NAN).is_nan());
    }
}
