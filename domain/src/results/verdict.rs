//! How a number compares with the paper's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::paper::Printed;
use crate::stats::estimate::Estimate;

/// Probability with which intervals hold the truth; one less it is the level of tests.
pub const LEVEL: f64 = 0.95;

/// Runs that the paper's ± may be over: it does not say.
pub const PAPER_N: [u32; 4] = [3, 5, 10, 30];

/// A p-value under a guess of how many runs the paper had.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PaperN {
    /// The guess.
    pub n: u32,
    /// Welch's p-value, two-sided.
    pub p: f64,
}

/// See [`Verdict::of_accuracy`]; for drift and SIFID, [`Verdict::within`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// The difference is below the margin: both one-sided tests say so (TOST).
    Equivalent,
    /// Inconclusive: the interval holds the paper's mean, but the difference may
    /// be as large as the margin. For drift and SIFID: within the paper's ±.
    Consistent,
    /// The whole interval is above the paper's mean, and not EQUIVALENT.
    Higher,
    /// The whole interval is below the paper's mean, and not EQUIVALENT.
    Lower,
    /// Made on other data or by simpler means; see `stand_ins`.
    NotComparable,
    /// No run finished.
    NotRun,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; 6] = [
        Verdict::Equivalent,
        Verdict::Consistent,
        Verdict::Higher,
        Verdict::Lower,
        Verdict::NotComparable,
        Verdict::NotRun,
    ];

    /// The verdict on an accuracy. The paper's mean counts as a number without
    /// error, since over how many runs it is, is not printed. `estimate` is absent
    /// below two runs.
    pub fn of_accuracy(comparable: bool, n: u32, estimate: Option<Estimate>, paper: f64, margin: f64) -> Verdict {
        match estimate {
            _ if n == 0 => Verdict::NotRun,
            _ if !comparable => Verdict::NotComparable,
            None => Verdict::Consistent,
            Some(ours) if ours.p_equivalent(paper, margin) < 1.0 - LEVEL => Verdict::Equivalent,
            Some(ours) if ours.p(paper) >= 1.0 - LEVEL => Verdict::Consistent,
            Some(ours) if ours.value > paper => Verdict::Higher,
            Some(_) => Verdict::Lower,
        }
    }

    /// The verdict on a number of which nothing but the paper's ± says how far it
    /// may lie from the paper's.
    pub fn within(comparable: bool, value: f64, paper: Printed) -> Verdict {
        match value {
            _ if !comparable => Verdict::NotComparable,
            value if value > paper.mean + paper.std => Verdict::Higher,
            value if value < paper.mean - paper.std => Verdict::Lower,
            _ => Verdict::Consistent,
        }
    }

    /// As people read it.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Equivalent => "EQUIVALENT",
            Verdict::Consistent => "CONSISTENT",
            Verdict::Higher => "HIGHER",
            Verdict::Lower => "LOWER",
            Verdict::NotComparable => "NOT COMPARABLE",
            Verdict::NotRun => "NOT RUN",
        }
    }
}

impl PaperN {
    /// The p-values under each guess of [`PAPER_N`].
    pub fn all(ours: Estimate, paper: Printed) -> Vec<PaperN> {
        let p = |n| {
            let paper = Estimate::of_summary(paper.mean, paper.std, n, 0.0)?;
            Some(PaperN { n, p: ours.minus(paper).p(0.0) })
        };
        PAPER_N.into_iter().filter_map(p).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(values: &[f64], paper: f64) -> Verdict {
        Verdict::of_accuracy(true, values.len() as u32, Estimate::of(values), paper, 2.0)
    }

    #[test]
    fn each_verdict_on_an_accuracy() {
        let values = [80.0, 80.5, 79.5, 80.2];
        assert_eq!(judge(&values, 80.1), Verdict::Equivalent);
        // Surely different, and surely by less than the margin.
        assert_eq!(judge(&values, 81.2), Verdict::Equivalent);
        assert_eq!(judge(&values, 90.0), Verdict::Lower);
        assert_eq!(judge(&values, 70.0), Verdict::Higher);
        assert_eq!(judge(&[70.0, 90.0], 80.0), Verdict::Consistent);
        assert_eq!(judge(&[70.0], 10.0), Verdict::Consistent);
        assert_eq!(judge(&[], 80.0), Verdict::NotRun);
        assert_eq!(Verdict::of_accuracy(false, 4, Estimate::of(&values), 80.0, 2.0), Verdict::NotComparable);
        assert_eq!(Verdict::of_accuracy(false, 0, None, 80.0, 2.0), Verdict::NotRun);
    }

    #[test]
    fn numbers_without_runs_are_compared_with_the_papers_spread() {
        let paper = Printed { mean: 80.0, std: 5.0 };
        assert_eq!(Verdict::within(false, 80.0, paper), Verdict::NotComparable);
        assert_eq!(Verdict::within(true, 85.1, paper), Verdict::Higher);
        assert_eq!(Verdict::within(true, 74.9, paper), Verdict::Lower);
        assert_eq!(Verdict::within(true, 85.0, paper), Verdict::Consistent);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn verdicts_follow_from_the_intervals(
            value in 40.0..100.0f64, std_error in 0.001..15.0f64, freedom in 1u32..60, paper in 40.0..100.0f64, margin in 0.1..10.0f64
        ) {
            let ours = Estimate { value, std_error, freedom: f64::from(freedom) };
            let of = |margin| Verdict::of_accuracy(true, freedom + 1, Some(ours), paper, margin);
            let ([low, high], [low_90, high_90]) = (ours.interval(0.95), ours.interval(0.9));
            match of(margin) {
                Verdict::Equivalent => prop_assert!(low_90 > paper - margin - 1e-9 && high_90 < paper + margin + 1e-9),
                Verdict::Consistent => prop_assert!(low <= paper + 1e-9 && paper <= high + 1e-9),
                Verdict::Higher => prop_assert!(low > paper - 1e-9),
                Verdict::Lower => prop_assert!(high < paper + 1e-9),
                other => prop_assert!(false, "{other:?}"),
            }
            // A wider margin never takes an equivalence back.
            prop_assert!(of(margin) != Verdict::Equivalent || of(2.0 * margin) == Verdict::Equivalent);
            // Higher and lower change places when everything is mirrored.
            let mirrored = Estimate { value: -value, ..ours };
            let mirror = Verdict::of_accuracy(true, freedom + 1, Some(mirrored), -paper, margin);
            let expected = match of(margin) {
                Verdict::Higher => Verdict::Lower,
                Verdict::Lower => Verdict::Higher,
                same => same,
            };
            prop_assert_eq!(mirror, expected);
            prop_assert_eq!(Verdict::of_accuracy(false, freedom + 1, Some(ours), paper, margin), Verdict::NotComparable);
        }
    }
}
