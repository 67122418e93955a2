//! Verdicts on our numbers beside the paper's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Cell;
use crate::study::experiment::Correction;
use crate::study::paper::Printed;
use crate::study::stats::estimate::Estimate;
use crate::study::stats::multiple::holm_by_group;
use crate::study::stats::power::{POWER, detectable};
use crate::study::stone::View;

/// The probability with which intervals hold the truth; tests have the level `1 - LEVEL`.
pub const LEVEL: f64 = 0.95;

/// Numbers of runs that the paper's ± may be over, as the paper does not say.
pub const PAPER_N: [u32; 4] = [3, 5, 10, 30];

/// A p-value under a guess of the number of runs behind the paper's ±.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PaperN {
    /// The guessed number of runs.
    pub n: u32,
    /// Welch's two-sided p-value.
    pub p: f64,
}

/// How one of our numbers compares with the paper's: an accuracy by
/// [`Verdict::of_accuracy`], drift by [`Verdict::of_score`], SIFID by [`Verdict::within`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// The difference is below the margin, as both one-sided tests show (TOST).
    Equivalent,
    /// Neither a difference from the paper's mean is shown, nor that the difference is below
    /// the margin. For drift, the paper's score lies in the interval of ours; for SIFID, our
    /// mean is within the paper's ±.
    Consistent,
    /// Our mean is above the paper's by the test of the difference, and not EQUIVALENT; the
    /// whole interval is above the paper's mean. Of scores where smaller is better, ours is
    /// worse.
    Higher,
    /// Our mean is below the paper's by the test of the difference, and not EQUIVALENT. Of
    /// scores where smaller is better, ours is better.
    Lower,
    /// Our number was made on other data or by simpler means; see `stand_ins`.
    NotComparable,
    /// No run finished.
    NotRun,
}

impl Verdict {
    /// All verdicts.
    pub const ALL: [Verdict; 6] = [
        Verdict::Equivalent,
        Verdict::Consistent,
        Verdict::Higher,
        Verdict::Lower,
        Verdict::NotComparable,
        Verdict::NotRun,
    ];

    /// The verdict on an accuracy by the p-values of no difference from the paper's
    /// mean and of a difference of the margin or more, both corrected for the number
    /// of verdicts. The paper's mean counts as a number without error, since over how
    /// many runs it is, is not printed.
    pub fn of_accuracy(p: f64, p_equivalent: f64, difference: f64) -> Verdict {
        match () {
            () if p_equivalent < 1.0 - LEVEL => Verdict::Equivalent,
            () if p >= 1.0 - LEVEL => Verdict::Consistent,
            () if difference > 0.0 => Verdict::Higher,
            () => Verdict::Lower,
        }
    }

    /// The verdict on a score with its interval. Without an interval there is no score.
    pub fn of_score(comparable: bool, interval: Option<[f64; 2]>, paper: f64) -> Verdict {
        match interval {
            None => Verdict::NotRun,
            Some(_) if !comparable => Verdict::NotComparable,
            Some([low, _]) if low > paper => Verdict::Higher,
            Some([_, high]) if high < paper => Verdict::Lower,
            Some(_) => Verdict::Consistent,
        }
    }

    /// The verdict on a number by the paper's ± alone.
    pub fn within(comparable: bool, value: f64, paper: Printed) -> Verdict {
        match value {
            _ if !comparable => Verdict::NotComparable,
            value if value > paper.mean + paper.std => Verdict::Higher,
            value if value < paper.mean - paper.std => Verdict::Lower,
            _ => Verdict::Consistent,
        }
    }

    /// The verdict for people.
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

impl Cell {
    /// Fills in what follows from the mean and its error: the interval, the differences that
    /// these runs can find, and, if the mean may be compared with the paper's, the p-values.
    pub fn test(&mut self, ours: Estimate, margin: f64, comparable: bool) {
        let per_error = self.std.unwrap_or(0.0) / ours.std_error;
        self.interval = Some(ours.interval_within(LEVEL, [0.0, 100.0]));
        let smallest = detectable(ours.freedom, 1.0 - LEVEL, POWER) * ours.std_error;
        // Accuracies differ by 100 points at most.
        self.detectable_difference = Some(smallest).filter(|smallest| *smallest <= 100.0);
        self.equivalence_std = Some(per_error * ours.error_for_equivalence(LEVEL, margin));
        if comparable {
            let paper = Printed { mean: self.paper_mean, std: self.paper_std };
            self.p = Some(ours.p(paper.mean));
            self.p_equivalent = Some(ours.p_equivalent(paper.mean, margin));
            self.p_by_paper_n = PaperN::all(ours, paper);
        }
    }

    /// Corrects the p-values of a whole table and gives the verdicts that follow.
    /// Cells that show the same training are one test, as more rows do not make it more
    /// likely to err. Table I has 18 such tests.
    pub fn judge(cells: &mut [Cell], correction: Correction) {
        let tested: Vec<usize> = (0..cells.len()).filter(|&at| cells[at].p.is_some()).collect();
        let trainings: Vec<(View, &str)> =
            tested.iter().map(|&at| (cells[at].view, cells[at].training.as_str())).collect();
        let adjusted = |of: fn(&Cell) -> Option<f64>| {
            let p: Vec<f64> = tested.iter().map(|&at| of(&cells[at]).unwrap_or(1.0)).collect();
            match correction {
                Correction::Holm => holm_by_group(&p, &trainings),
                Correction::None => p,
            }
        };
        let (p, p_equivalent) = (adjusted(|cell| cell.p), adjusted(|cell| cell.p_equivalent));
        for (at, (p, p_equivalent)) in tested.into_iter().zip(p.into_iter().zip(p_equivalent)) {
            let cell = &mut cells[at];
            (cell.p_adjusted, cell.p_equivalent_adjusted) = (Some(p), Some(p_equivalent));
            cell.verdict = Verdict::of_accuracy(p, p_equivalent, cell.difference.unwrap_or(0.0));
            if cell.verdict == Verdict::Consistent && cell.p.is_some_and(|alone| alone < 1.0 - LEVEL) {
                let why = "the interval leaves the paper's mean out, but of as many tests one may do so by chance";
                cell.why = Some(format!("{why}: p is {p:.3} after Holm's correction"));
            }
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
    use crate::study::stats::{mean, sample_std};

    /// Cells of Table I from the first on, by their runs.
    fn judged(runs: &[&[f64]], paper: f64, correction: Correction) -> Vec<Cell> {
        let mut cells = Cell::of_table_1(Cell::blank);
        cells.truncate(runs.len());
        for (cell, runs) in cells.iter_mut().zip(runs) {
            (cell.paper_mean, cell.std) = (paper, sample_std(runs));
            cell.difference = mean(runs).map(|ours| ours - paper);
            if let Some(ours) = Estimate::of(runs) {
                cell.test(ours, 2.0, true);
            }
        }
        Cell::judge(&mut cells, correction);
        cells
    }

    fn verdict(runs: &[f64], paper: f64) -> Verdict {
        judged(&[runs], paper, Correction::Holm)[0].verdict
    }

    #[test]
    fn each_verdict_on_an_accuracy() {
        let values = [80.0, 80.5, 79.5, 80.2];
        assert_eq!(verdict(&values, 80.1), Verdict::Equivalent);
        // Surely different, and surely by less than the margin.
        assert_eq!(verdict(&values, 81.2), Verdict::Equivalent);
        assert_eq!(verdict(&values, 90.0), Verdict::Lower);
        assert_eq!(verdict(&values, 70.0), Verdict::Higher);
        assert_eq!(verdict(&[70.0, 90.0], 80.0), Verdict::Consistent);
        // Without an estimate there is nothing to judge.
        assert_eq!(verdict(&[70.0], 10.0), Verdict::NotRun);
    }

    #[test]
    fn verdicts_are_corrected_for_the_number_of_trainings() {
        // t = 4 of 3 degrees of freedom: p = 0.028, of two trainings 0.056.
        let runs: &[f64] = &[83.0, 85.0, 83.0, 85.0];
        let paper = 84.0 - 4.0 * (4.0_f64 / 3.0).sqrt() / 2.0;
        let alone = judged(&[runs, &[], &[]], paper, Correction::Holm);
        assert_eq!(alone[0].verdict, Verdict::Higher);
        let two = judged(&[runs, &[60.0, 99.0, 70.0, 95.0]], paper, Correction::Holm);
        assert_eq!(two[0].verdict, Verdict::Consistent);
        assert!((two[0].p.unwrap() - 0.028_009).abs() < 1e-5, "{:?}", two[0].p);
        assert!((two[0].p_adjusted.unwrap() - 2.0 * two[0].p.unwrap()).abs() < 1e-12);
        assert!(two[0].interval.unwrap()[0] > paper && two[0].why.as_ref().unwrap().contains("p is 0.056"));
        let uncorrected = judged(&[runs, &[60.0, 99.0, 70.0, 95.0]], paper, Correction::None);
        assert_eq!((uncorrected[0].verdict, uncorrected[0].p_adjusted), (Verdict::Higher, uncorrected[0].p));
        // The first and the fourth cell are of one training.
        let rows = judged(&[runs, &[], &[], runs], paper, Correction::Holm);
        assert_eq!((rows[0].p_adjusted, rows[3].p_adjusted), (rows[0].p, rows[0].p));
    }

    #[test]
    fn what_the_runs_can_find_stands_beside_them() {
        let mut cell = Cell::of_table_1(Cell::blank).remove(0);
        cell.std = Some(3.0);
        // s = 3 over ten runs, a quarter as many images to test on as to learn from.
        let ours = Estimate::of_summary(80.0, 3.0, 10, 0.25).unwrap();
        cell.test(ours, 2.0, false);
        // t of 9 degrees of freedom at 0.95 is 1.833: s·1.833·√(1/10 + 1/4) has to be below 2.
        assert!((cell.equivalence_std.unwrap() - 2.0 / (1.833_113 * 0.35_f64.sqrt())).abs() < 1e-5);
        // By an independent integration.
        let errors = cell.detectable_difference.unwrap() / (3.0 * 0.35_f64.sqrt());
        assert!((errors - 3.149_63).abs() < 1e-4, "{errors}");
        assert_eq!((cell.p, cell.p_equivalent, cell.p_by_paper_n.len()), (None, None, 0));
    }

    #[test]
    fn scores_are_compared_by_their_own_interval() {
        assert_eq!(Verdict::of_score(true, Some([0.1, 0.2]), 0.15), Verdict::Consistent);
        assert_eq!(Verdict::of_score(true, Some([0.1, 0.2]), 0.05), Verdict::Higher);
        assert_eq!(Verdict::of_score(true, Some([0.1, 0.2]), 0.25), Verdict::Lower);
        assert_eq!(Verdict::of_score(false, Some([0.1, 0.2]), 0.25), Verdict::NotComparable);
        assert_eq!(Verdict::of_score(true, None, 0.25), Verdict::NotRun);
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
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn verdicts_and_intervals_agree(
            runs in prop::collection::vec(prop::collection::vec(0.0..=100.0f64, 2..5), 1..12),
            spread in 0.001..1.0f64, paper in 0.1..99.9f64
        ) {
            // Around one value, as runs are.
            let near = |runs: &Vec<f64>| runs.iter().map(|run| runs[0] + spread * (run - runs[0])).collect::<Vec<f64>>();
            let runs: Vec<Vec<f64>> = runs.iter().map(near).collect();
            let runs: Vec<&[f64]> = runs.iter().map(Vec::as_slice).collect();
            let (alone, holm) = (judged(&runs, paper, Correction::None), judged(&runs, paper, Correction::Holm));
            for ((alone, holm), runs) in alone.iter().zip(&holm).zip(&runs) {
                let Some(ours) = Estimate::of(runs) else { continue };
                let [low, high] = alone.interval.unwrap();
                prop_assert!(0.0 <= low && low <= ours.value && ours.value <= high && high <= 100.0);
                let ([low_90, high_90], is_out) = (ours.interval(0.9), paper < low || high < paper);
                let is_at_the_edge = (alone.p.unwrap() - 0.05).abs() < 1e-9;
                prop_assert!(is_at_the_edge || is_out == (alone.p.unwrap() < 0.05));
                for cell in [alone, holm] {
                    match cell.verdict {
                        Verdict::Equivalent => prop_assert!(low_90 > paper - 2.0 - 1e-9 && high_90 < paper + 2.0 + 1e-9),
                        Verdict::Higher => prop_assert!(low > paper - 1e-9),
                        Verdict::Lower => prop_assert!(high < paper + 1e-9),
                        // Where the correction alone keeps a verdict back, that is said.
                        Verdict::Consistent => prop_assert!(is_at_the_edge || is_out == cell.why.is_some()),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                prop_assert!(alone.verdict != Verdict::Consistent || holm.verdict == Verdict::Consistent);
                prop_assert!(holm.p_adjusted >= alone.p && holm.p_equivalent_adjusted >= alone.p_equivalent);
            }
        }
    }
}
