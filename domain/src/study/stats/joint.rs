//! The probability that one of two methods is better than the other, from the cases on
//! which each is right (after Christodoulou et al., "False promises in medical imaging
//! AI?", arXiv 2505.04720).
//!
//! A case has one of four outcomes: both methods are right, the first alone, the
//! second alone, neither. With a uniform (Dirichlet) prior over their
//! probabilities, the posterior is Dirichlet with each count plus one. The
//! accuracies differ by p(first alone) − p(second alone), whose sign is that of
//! x − ½ with x = p(first alone) / (p(first alone) + p(second alone)), and x has the
//! distribution Beta(first alone + 1, second alone + 1). So the probability that the
//! first is no better is the regularised incomplete beta function at ½.

use statrs::function::beta::checked_beta_reg;

/// Counts of test cases by which of two methods is right. The counts need not be whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Joint {
    /// Cases on which both methods are right.
    pub both: f64,
    /// Cases on which the first method alone is right.
    pub first: f64,
    /// Cases on which the second method alone is right.
    pub second: f64,
    /// Cases on which neither method is right.
    pub neither: f64,
}

impl Joint {
    /// The counts that follow from the accuracies of both methods and their
    /// congruence, the share of cases on which both are right; all 0 to 1.
    pub fn of_accuracies(cases: f64, [first, second]: [f64; 2], congruence: f64) -> Self {
        Self {
            both: cases * congruence,
            first: cases * (first - congruence).max(0.0),
            second: cases * (second - congruence).max(0.0),
            neither: cases * (1.0 - first - second + congruence).max(0.0),
        }
    }

    /// The range of congruences that two methods of these accuracies may have: from that of
    /// independent methods to the greatest, where the better method is right on every case
    /// on which the worse one is.
    pub fn congruences([first, second]: [f64; 2]) -> [f64; 2] {
        [first * second, first.min(second)]
    }

    /// The number of all cases.
    pub fn cases(&self) -> f64 {
        self.both + self.first + self.second + self.neither
    }

    /// The share of cases on which both are right.
    pub fn congruence(&self) -> f64 {
        self.both / self.cases()
    }

    /// The posterior probability that the first method is not better than the second.
    pub fn p_not_better(&self) -> f64 {
        checked_beta_reg(self.first + 1.0, self.second + 1.0, 0.5).unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_posterior_is_that_of_a_fair_coin() {
        let p = |first: f64, second: f64| Joint { first, second, ..Joint::default() }.p_not_better();
        assert!((p(0.0, 0.0) - 0.5).abs() < 1e-12);
        // Beta(3, 1) lies below ½ with probability 1/8.
        assert!((p(2.0, 0.0) - 0.125).abs() < 1e-12);
        // Beta(a, b) at ½ is the chance of at least a heads in a + b − 1 throws: a = 6, b = 3.
        assert!((p(5.0, 2.0) - 37.0 / 256.0).abs() < 1e-12);
        assert!((p(7.0, 3.0) + p(3.0, 7.0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn alike_methods_need_fewer_cases_to_be_told_apart() {
        let accuracies = [0.8782, 0.8619];
        let [least, most] =
            Joint::congruences(accuracies).map(|congruence| Joint::of_accuracies(49.0, accuracies, congruence));
        assert!((least.cases() - 49.0).abs() < 1e-9 && (most.cases() - 49.0).abs() < 1e-9);
        assert!(most.second.abs() < 1e-12 && (most.first - 49.0 * 0.0163).abs() < 1e-9);
        // Beta(1.7987, 1) lies below ½ with probability ½ to the 1.7987.
        assert!((most.p_not_better() - 0.5_f64.powf(1.0 + 49.0 * 0.0163)).abs() < 1e-9);
        assert!(least.p_not_better() > most.p_not_better());
    }
}
