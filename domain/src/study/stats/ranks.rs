//! Wilcoxon's signed-rank test, which asks whether paired differences are symmetric about
//! zero, whatever their distribution.

use statrs::function::erf::erfc;

/// The largest number of differences whose exact distribution is counted, as 2⁵⁰ sums are
/// still whole numbers in 64 bits of floating point.
const EXACT_MAX: usize = 50;

/// The treatment of differences that are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeros {
    /// Zeros are dropped before ranking (Wilcoxon).
    Dropped,
    /// Zeros are ranked, then dropped (Pratt).
    Ranked,
}

/// The alternative that the differences are tested for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The differences lie above or below zero.
    Both,
    /// The differences lie above zero.
    Greater,
    /// The differences lie below zero.
    Less,
}

/// Sums of the ranks of absolute differences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SignedRanks {
    /// The sum over differences above zero.
    pub positive: f64,
    /// The sum over differences below zero.
    pub negative: f64,
    /// The number of differences that were ranked.
    ranked: usize,
    /// The number of zeros among the differences.
    zeros: usize,
    /// Σ (t³ − t) over groups of t equal absolute differences other than zero.
    ties: f64,
}

impl SignedRanks {
    /// Ranks the differences, without those that are not a number.
    pub fn of(differences: &[f64], zeros: Zeros) -> Self {
        let is_ranked = |value: &f64| !value.is_nan() && (zeros == Zeros::Ranked || *value != 0.0);
        let mut values: Vec<f64> = differences.iter().copied().filter(is_ranked).collect();
        values.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        let mut sums = Self { positive: 0.0, negative: 0.0, ranked: values.len(), zeros: 0, ties: 0.0 };
        let mut before = 0;
        for group in values.chunk_by(|a, b| a.abs() == b.abs()) {
            let size = group.len();
            let rank = before as f64 + (size + 1) as f64 / 2.0;
            before += size;
            if group[0] == 0.0 {
                sums.zeros = size;
                continue;
            }
            let above = group.iter().filter(|value| **value > 0.0).count();
            sums.positive += rank * above as f64;
            sums.negative += rank * (size - above) as f64;
            sums.ties += (size as f64).powi(3) - size as f64;
        }
        sums
    }

    /// The smaller of the two sums, which tables list for a test on both sides.
    pub fn statistic(&self) -> f64 {
        self.positive.min(self.negative)
    }

    /// The p-value, which is exact for up to fifty differences without zeros and ties, and
    /// otherwise by the normal distribution without correction. 1 if all differences are zero.
    pub fn p(&self, side: Side) -> f64 {
        self.p_exact(side).unwrap_or_else(|| self.p_normal(side, false))
    }

    /// The p-value by the normal distribution, if `corrected`, with the correction for sums
    /// that are whole numbers.
    pub fn p_normal(&self, side: Side, corrected: bool) -> f64 {
        let of = |n: usize| {
            let n = n as f64;
            (n * (n + 1.0) / 4.0, n * (n + 1.0) * (2.0 * n + 1.0))
        };
        let ((all, spread), (of_zeros, spread_of_zeros)) = (of(self.ranked), of(self.zeros));
        let deviation = ((spread - spread_of_zeros - self.ties / 2.0) / 24.0).sqrt();
        if deviation == 0.0 {
            return 1.0;
        }
        let above = self.positive - (all - of_zeros);
        let step = match side {
            _ if !corrected => 0.0,
            Side::Both if above == 0.0 => 0.0,
            Side::Both => 0.5 * above.signum(),
            Side::Greater => 0.5,
            Side::Less => -0.5,
        };
        let z = (above - step) / deviation;
        let tail = |z: f64| erfc(z / std::f64::consts::SQRT_2) / 2.0;
        match side {
            Side::Both => (2.0 * tail(z.abs())).min(1.0),
            Side::Greater => tail(z),
            Side::Less => tail(-z),
        }
    }

    /// The p-value by counting all assignments of signs; absent with zeros or
    /// ties, without differences, and for more than fifty.
    pub fn p_exact(&self, side: Side) -> Option<f64> {
        if self.zeros > 0 || self.ties > 0.0 || !(1..=EXACT_MAX).contains(&self.ranked) {
            return None;
        }
        // How many subsets of the ranks 1..=n have each sum.
        let mut subsets = vec![1.0];
        for rank in 1..=self.ranked {
            let mut with = vec![0.0; rank];
            with.extend_from_slice(&subsets);
            subsets.resize(with.len(), 0.0);
            subsets.iter_mut().zip(with).for_each(|(without, with)| *without += with);
        }
        let all: f64 = subsets.iter().sum();
        let at = self.positive as usize;
        let less: f64 = subsets.iter().take(at + 1).sum::<f64>() / all;
        let greater: f64 = subsets.iter().skip(at).sum::<f64>() / all;
        Some(match side {
            Side::Both => (2.0 * less.min(greater)).min(1.0),
            Side::Greater => greater,
            Side::Less => less,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_gains_in_a_row_have_one_chance_in_eight() {
        let ranks = SignedRanks::of(&[1.0, 2.0, 3.0], Zeros::Dropped);
        assert_eq!((ranks.positive, ranks.negative), (6.0, 0.0));
        assert_eq!(ranks.p(Side::Greater), 0.125);
        assert_eq!((ranks.p(Side::Less), ranks.p(Side::Both)), (1.0, 0.25));
    }

    #[test]
    fn nothing_but_zeros_says_nothing() {
        for zeros in [Zeros::Dropped, Zeros::Ranked] {
            assert_eq!(SignedRanks::of(&[0.0, 0.0], zeros).p(Side::Both), 1.0);
            assert_eq!(SignedRanks::of(&[], zeros).p(Side::Greater), 1.0);
        }
    }
}
