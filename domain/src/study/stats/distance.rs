//! Distances between the distributions of two samples (ALGORITHM 4.1).

use super::{mean, quantile};

/// The smallest size of either sample for which a distance is scored, as in deepchecks.
pub const VALUES_MIN: usize = 10;

/// The Kolmogorov–Smirnov statistic: the largest gap between the empirical
/// distribution functions of two samples, 0 to 1 (ALGORITHM 4.1). NaN if a sample is
/// empty.
pub fn kolmogorov_smirnov(first: &[f64], second: &[f64]) -> f64 {
    if first.is_empty() || second.is_empty() {
        return f64::NAN;
    }
    steps(&sorted(first), &sorted(second)).into_iter().map(|step| step.gap.abs()).fold(0.0, f64::max)
}

/// Values that a statistic of two samples might have with other samples of the same sizes,
/// in rising order. Each is the statistic of two resamples drawn with replacement. As a
/// resample adds chance to the statistic just as the sample did, all values are moved so
/// that their mean is the statistic itself. `below(n)` draws an index below n.
pub fn resampled(
    [first, second]: [&[f64]; 2],
    resamples: u32,
    statistic: impl Fn(&[f64], &[f64]) -> f64,
    mut below: impl FnMut(usize) -> usize,
) -> Vec<f64> {
    let mut again = |sample: &[f64]| sample.iter().map(|_| sample[below(sample.len())]).collect::<Vec<f64>>();
    let mut scores: Vec<f64> = (0..resamples).map(|_| statistic(&again(first), &again(second))).collect();
    let shift = statistic(first, second) - mean(&scores).unwrap_or(0.0);
    scores.iter_mut().for_each(|score| *score += shift);
    scores.sort_by(f64::total_cmp);
    scores
}

/// The earth mover's distance, 0 to 1 (ALGORITHM 4.1): the share `margin` is cut from each
/// end of both samples, the rest is brought to a common scale from 0 to 1, and the area
/// between the two distribution functions is taken. 0 if all values are equal; absent if
/// nothing of a sample is left, for instance of two values whose ends are cut.
pub fn earth_movers(first: &[f64], second: &[f64], margin: f64) -> Option<f64> {
    let trim = |values: &[f64]| {
        let values = sorted(values);
        let (low, high) = (quantile(&values, margin), quantile(&values, 1.0 - margin));
        values.into_iter().filter(|value| (low..=high).contains(value)).collect::<Vec<f64>>()
    };
    let (first, second) = (trim(first), trim(second));
    let (low, high) = (first.first()?.min(*second.first()?), first.last()?.max(*second.last()?));
    if high <= low {
        return Some(0.0);
    }
    let steps = steps(&first, &second);
    let area: f64 = steps.windows(2).map(|pair| pair[0].gap.abs() * (pair[1].at - pair[0].at)).sum();
    Some(area / (high - low))
}

/// A value of either sample, and the difference of the first and the second distribution
/// function at that value.
struct Step {
    at: f64,
    gap: f64,
}

/// The steps of two sorted, non-empty samples at their distinct values.
fn steps(first: &[f64], second: &[f64]) -> Vec<Step> {
    let (mut i, mut j) = (0, 0);
    let mut steps = Vec::with_capacity(first.len() + second.len());
    while i < first.len() || j < second.len() {
        let next = |values: &[f64], i: usize| values.get(i).copied().unwrap_or(f64::INFINITY);
        let at = next(first, i).min(next(second, j));
        while i < first.len() && first[i] <= at {
            i += 1;
        }
        while j < second.len() && second[j] <= at {
            j += 1;
        }
        steps.push(Step { at, gap: i as f64 / first.len() as f64 - j as f64 / second.len() as f64 });
    }
    steps
}

/// The values in rising order, without those that are not a number.
fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
    }

    #[test]
    fn distances_of_the_specification() {
        let ones: Vec<f64> = (1..=10).map(f64::from).collect();
        let twos: Vec<f64> = (1..=10).map(|i| f64::from(2 * i)).collect();
        close(kolmogorov_smirnov(&ones, &twos), 0.5);
        close(earth_movers(&ones, &twos, 0.025).unwrap(), 0.34375);
        let a: Vec<f64> = (0..48).map(|i| f64::from(i * i % 37)).collect();
        let b: Vec<f64> = (0..150).map(|i| f64::from(7 * i % 41)).collect();
        close(kolmogorov_smirnov(&a, &b), 0.1525);
        close(earth_movers(&a, &b, 0.025).unwrap(), 0.053115649);
    }

    #[test]
    fn distances_of_equal_constant_and_disjoint_samples() {
        close(kolmogorov_smirnov(&[1.0, 2.0], &[2.0, 1.0]), 0.0);
        close(kolmogorov_smirnov(&[1.0], &[3.0, 4.0]), 1.0);
        close(earth_movers(&[5.0; 4], &[5.0; 9], 0.025).unwrap(), 0.0);
        close(earth_movers(&[0.0; 4], &[5.0; 9], 0.0).unwrap(), 1.0);
        assert!(kolmogorov_smirnov(&[], &[1.0]).is_nan());
    }

    #[test]
    fn too_few_values_have_no_earth_movers_distance() {
        assert_eq!(earth_movers(&[], &[1.0], 0.0), None);
        // Nothing lies between the 2.5th and the 97.5th percentile of two values.
        assert_eq!(earth_movers(&[1.0, 2.0], &[1.0, 3.0], 0.025), None);
    }

    #[test]
    fn resampled_scores_lie_about_the_score() {
        let mut turn: usize = 0;
        let draw = |n: usize| {
            turn = (turn * 1_103_515_245 + 12_345) % (1 << 31);
            (turn >> 8) % n
        };
        let (a, b): (Vec<f64>, Vec<f64>) = (0..30).map(|i| (f64::from(i), f64::from(i) + 12.0)).unzip();
        let scores = resampled([&a, &b], 500, kolmogorov_smirnov, draw);
        close(mean(&scores).unwrap(), 0.4);
        assert!(scores.is_sorted() && scores[12] > 0.15 && scores[487] < 0.65 && scores[487] - scores[12] > 0.2);
    }
}
