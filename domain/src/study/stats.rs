//! Means, spreads, tests and intervals of samples. All functions are pure, and each is
//! checked against scipy or scikit-learn where they have the same function.
//!
//! | module | what it holds |
//! |---|---|
//! | [`estimate`] | a mean with its error: intervals, t tests, equivalence |
//! | [`power`] | how likely t tests find what is there, and with how many values |
//! | [`joint`] | whether one of two methods is better, from the cases that each gets right |
//! | [`ranks`] | Wilcoxon's signed-rank test |
//! | [`multiple`] | p-values of a family of tests |
//! | [`classification`] | scores of a confusion matrix |
//! | [`distance`] | distances between the distributions of two samples |
//! | [`kolmogorov`] | what one of these distances is by chance |

pub mod classification;
pub mod distance;
pub mod estimate;
pub mod joint;
pub mod kolmogorov;
pub mod multiple;
pub mod power;
pub mod ranks;

/// The mean of a sample; absent if the sample is empty.
pub fn mean(values: &[f64]) -> Option<f64> {
    match values.len() {
        0 => None,
        n => Some(values.iter().sum::<f64>() / n as f64),
    }
}

/// The sample standard deviation, which divides by n − 1; absent below two values.
pub fn sample_std(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The quantile at `share` (0 to 1) of a sorted sample, with linear
/// interpolation between neighbours; NaN if the sample is empty.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    let position = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, high) = (position.floor() as usize, position.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
}

/// The percentile interval of a mean: the middle `level` (0 to 1) of the means of
/// resamples drawn with replacement. `below(n)` draws an index below n. Absent if the
/// sample is empty.
pub fn bootstrap(
    values: &[f64],
    resamples: u32,
    level: f64,
    mut below: impl FnMut(usize) -> usize,
) -> Option<[f64; 2]> {
    if values.is_empty() || resamples == 0 {
        return None;
    }
    let n = values.len();
    let mut again = || (0..n).map(|_| values[below(n)]).sum::<f64>() / n as f64;
    let mut means: Vec<f64> = (0..resamples).map(|_| again()).collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    Some([quantile(&means, tail), quantile(&means, 1.0 - tail)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_divides_by_one_less_than_the_count() {
        assert_eq!(mean(&[2.0, 4.0, 9.0]), Some(5.0));
        assert_eq!(sample_std(&[2.0, 4.0, 9.0]), Some(13.0_f64.sqrt()));
    }

    #[test]
    fn too_few_values_have_no_number() {
        assert_eq!(mean(&[]), None);
        assert_eq!(sample_std(&[3.0]), None);
        assert!(quantile(&[], 0.5).is_nan());
        assert_eq!(bootstrap(&[], 10, 0.95, |_| 0), None);
    }

    #[test]
    fn quantiles_interpolate() {
        assert!((quantile(&[1.0, 2.0, 4.0], 0.75) - 3.0).abs() < 1e-12);
        assert_eq!(quantile(&[7.0], 0.3), 7.0);
    }

    #[test]
    fn a_bootstrap_draws_with_replacement_and_keeps_the_middle() {
        // Of two values, drawn in turn as (0,0), (0,1), (1,0), (1,1).
        let mut turn = 0;
        let draw = |n: usize| {
            let index = [0, 0, 0, 1, 1, 0, 1, 1][turn % 8];
            turn += 1;
            index.min(n - 1)
        };
        assert_eq!(bootstrap(&[0.0, 1.0], 4000, 0.9, draw), Some([0.0, 1.0]));
        assert_eq!(bootstrap(&[5.0; 3], 10, 0.95, |n| n - 1), Some([5.0, 5.0]));
    }
}
