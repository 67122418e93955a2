//! A mean with its error, and what follows from both by Student's t.

use statrs::distribution::{Continuous, ContinuousCDF, StudentsT};
use statrs::function::beta::checked_beta_reg;

use super::{mean, sample_std};

/// A value that is known up to an error with a t distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// The standard error, above 0.
    pub std_error: f64,
    /// The degrees of freedom, above 0.
    pub freedom: f64,
}

/// The spread of percentages that rounding alone may leave.
const SMALLEST_STD: f64 = 1e-9;

impl Estimate {
    /// The mean of independent values. Absent below two values, if one of them is
    /// not finite, and if all are the same: a few equal counts do not show that
    /// there is no error.
    pub fn of(values: &[f64]) -> Option<Self> {
        Self::corrected(values, 0.0)
    }

    /// The mean of values from splits that share training data: the variance is
    /// multiplied by 1/n + n_test/n_train instead of 1/n (Nadeau and Bengio,
    /// "Inference for the generalization error", 2003). For paired tests, the values are
    /// differences. Absent where [`Estimate::of`] is, and unless the ratio is finite and at
    /// least 0.
    pub fn corrected(values: &[f64], test_over_train: f64) -> Option<Self> {
        Self::of_summary(mean(values)?, sample_std(values)?, values.len() as u32, test_over_train)
    }

    /// The estimate of [`Estimate::corrected`] for a sample of which only the mean, the
    /// sample standard deviation and the size are known.
    pub fn of_summary(mean: f64, std: f64, n: u32, test_over_train: f64) -> Option<Self> {
        let variance = std * std * (1.0 / f64::from(n) + test_over_train);
        let is_known =
            n >= 2 && mean.is_finite() && variance.is_finite() && std > SMALLEST_STD && test_over_train >= 0.0;
        is_known.then(|| Self { value: mean, std_error: variance.sqrt(), freedom: f64::from(n - 1) })
    }

    /// The difference of two independent estimates by Welch, which does not assume that
    /// both have the same variance.
    pub fn minus(self, other: Self) -> Self {
        let (a, b) = (self.std_error.powi(2), other.std_error.powi(2));
        let freedom = (a + b).powi(2) / (a * a / self.freedom + b * b / other.freedom);
        Self { value: self.value - other.value, std_error: (a + b).sqrt(), freedom }
    }

    /// The distance of the estimate above `against`, in standard errors.
    pub fn t(self, against: f64) -> f64 {
        (self.value - against) / self.std_error
    }

    /// The probability of a value at least as far from `against` on either side, if
    /// `against` were the truth.
    pub fn p(self, against: f64) -> f64 {
        (2.0 * upper_tail(self.t(against).abs(), self.freedom)).min(1.0)
    }

    /// The probability of a value at least as large if `against` were the truth.
    pub fn p_greater(self, against: f64) -> f64 {
        upper_tail(self.t(against), self.freedom)
    }

    /// The probability of a value at least as small if `against` were the truth.
    pub fn p_less(self, against: f64) -> f64 {
        upper_tail(-self.t(against), self.freedom)
    }

    /// The larger p-value of the two one-sided tests against a distance of `margin` or more
    /// from `against` (TOST; Schuirmann 1987). Below 0.05, the truth is nearer than `margin`.
    pub fn p_equivalent(self, against: f64, margin: f64) -> f64 {
        self.p_greater(against - margin).max(self.p_less(against + margin))
    }

    /// The interval that holds the truth with probability `level`, 0 to 1
    /// exclusive.
    pub fn interval(self, level: f64) -> [f64; 2] {
        let reach = quantile((1.0 - level) / 2.0, self.freedom) * self.std_error;
        [self.value - reach, self.value + reach]
    }

    /// The interval of [`Estimate::interval`], cut to where the truth can lie: between
    /// `least` and `most`.
    pub fn interval_within(self, level: f64, [least, most]: [f64; 2]) -> [f64; 2] {
        self.interval(level).map(|end| end.clamp(least, most))
    }

    /// The largest standard error with which the two one-sided tests at `1 - level` can show
    /// a difference of less than `margin` if the means are the same.
    pub fn error_for_equivalence(self, level: f64, margin: f64) -> f64 {
        margin / quantile(1.0 - level, self.freedom)
    }
}

/// P(T > t) of Student's t.
fn upper_tail(t: f64, freedom: f64) -> f64 {
    if t.is_infinite() {
        return if t > 0.0 { 0.0 } else { 1.0 };
    }
    // The smaller tail directly: 1 − cdf would leave no digits of a small one.
    let tail = checked_beta_reg(freedom / 2.0, 0.5, freedom / (freedom + t * t)).map_or(f64::NAN, |both| both / 2.0);
    if t < 0.0 { 1.0 - tail } else { tail }
}

/// The t above which lies the share `tail`, 0 to 0.5 exclusive.
pub(super) fn quantile(tail: f64, freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom).map_or(f64::NAN, |student| {
        // The library's inverse has four digits at a million degrees of freedom; a step
        // of Newton's doubles them.
        let t = -student.inverse_cdf(tail);
        t + (upper_tail(t, freedom) - tail) / student.pdf(t)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the paper printed for A → C and A+B → C.
    const SUR: ([f64; 2], [f64; 2]) = ([86.19, 6.12], [87.82, 3.65]);

    #[test]
    fn the_papers_gain_is_significant_only_with_many_runs() {
        let p = |n| {
            let of = |[mean, std]: [f64; 2]| Estimate::of_summary(mean, std, n, 0.0).unwrap();
            (of(SUR.1).minus(of(SUR.0)).p(0.0) * 100.0).round() / 100.0
        };
        assert_eq!([3, 5, 10, 30].map(p), [0.72, 0.63, 0.48, 0.22]);
    }

    #[test]
    fn quantiles_have_their_digits_at_any_size() {
        for (freedom, expected) in [(1.0, 12.706_204_736), (4.0, 2.776_445_105), (1e6, 1.959_966_357)] {
            assert!((quantile(0.025, freedom) - expected).abs() < 1e-7, "{}", quantile(0.025, freedom));
        }
    }

    #[test]
    fn what_cannot_be_estimated_is_absent() {
        assert_eq!(Estimate::of(&[]), None);
        assert_eq!(Estimate::of(&[1.0]), None);
        assert_eq!(Estimate::of(&[1.0, f64::NAN]), None);
        assert_eq!(Estimate::corrected(&[1.0, 2.0], f64::NAN), None);
        assert_eq!(Estimate::of_summary(1.0, -1.0, 3, 0.0), None);
        // The same third, but for rounding.
        assert_eq!(Estimate::of(&[100.0 / 3.0, 100.0 / 3.0, 33.3 + 1.0 / 30.0]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn tests_and_intervals_agree(value in -50.0..50.0f64, error in 0.01..20.0f64, n in 1u32..60, at in -50.0..50.0f64) {
            let estimate = Estimate { value, std_error: error, freedom: f64::from(n) };
            let [low, high] = estimate.interval(0.95);
            prop_assert!((estimate.p(low) - 0.05).abs() < 1e-9 && (estimate.p(high) - 0.05).abs() < 1e-9);
            prop_assert!((estimate.p_greater(at) + estimate.p_less(at) - 1.0).abs() < 1e-12);
            // TOST at 0.05 passes where the 90 % interval lies within the margin.
            let [low, high] = estimate.interval(0.9);
            let inside = low > at - 10.0 && high < at + 10.0;
            let p = estimate.p_equivalent(at, 10.0);
            prop_assert!((p - 0.05).abs() < 1e-9 || (p < 0.05) == inside, "{p} {inside}");
        }
    }
}
