//! What the paper says of its table, checked on our runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cell, LEVEL};
use crate::paper;
use crate::stats::estimate::Estimate;
use crate::stats::multiple::holm;
use crate::stats::ranks::{Side, SignedRanks, Zeros};

/// One claim and what our runs say of it. Differences are of runs of the same
/// repeat and fold, in percentage points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Claim {
    /// For instance `SUR-synthetic`.
    pub id: String,
    /// Where the paper says it, or in which words.
    pub quote: String,
    /// Id of the cell that is said to be above the other.
    pub better: String,
    /// Id of the other.
    pub worse: String,
    /// By more than how much.
    pub by: f64,
    /// The difference of the printed means.
    pub paper_difference: f64,
    /// Repeats and folds in which both finished.
    pub pairs: u32,
    /// Our mean difference; absent without a pair.
    pub difference: Option<f64>,
    /// Its 95 % interval, corrected as those of cells; absent below two pairs.
    pub interval: Option<[f64; 2]>,
    /// Two-sided p-value of a true difference of `by`, corrected alike.
    pub p: Option<f64>,
    /// The same after Holm over all claims that have one.
    pub p_holm: Option<f64>,
    /// Two-sided p-value of Wilcoxon's signed-rank test of the same, uncorrected:
    /// it asks for no distribution, but holds the runs to be independent.
    pub p_wilcoxon: Option<f64>,
    /// What follows.
    pub verdict: ClaimVerdict,
}

/// What our runs say of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClaimVerdict {
    /// `p_holm` is below 0.05 and the difference above `by`.
    Supported,
    /// Neither the one nor the other: too few or too unlike runs to tell.
    NotSupported,
    /// `p_holm` is below 0.05 and the difference below `by`.
    Contradicted,
    /// Made on other data or by simpler means: our differences say nothing of the paper's.
    NotComparable,
    /// No repeat and fold in which both finished.
    NotRun,
}

impl ClaimVerdict {
    /// As people read it.
    pub fn words(self) -> &'static str {
        match self {
            ClaimVerdict::Supported => "SUPPORTED",
            ClaimVerdict::NotSupported => "NOT SUPPORTED",
            ClaimVerdict::Contradicted => "CONTRADICTED",
            ClaimVerdict::NotComparable => "NOT COMPARABLE",
            ClaimVerdict::NotRun => "NOT RUN",
        }
    }
}

impl Claim {
    /// All claims of the paper, as these cells have them.
    pub fn all(cells: &[Cell], comparable: bool) -> Vec<Claim> {
        let mut claims: Vec<Claim> = paper::claims().iter().filter_map(|claim| Claim::of(claim, cells)).collect();
        let tested: Vec<f64> = claims.iter().filter_map(|claim| claim.p).collect();
        let mut adjusted = holm(&tested).into_iter();
        for claim in &mut claims {
            claim.p_holm = claim.p.and_then(|_| adjusted.next());
            claim.verdict = claim.judge(comparable);
        }
        claims
    }

    fn of(claim: &paper::Claim, cells: &[Cell]) -> Option<Claim> {
        let find = |id: &str| cells.iter().find(|cell| cell.id == id);
        let (better, worse) = (find(&claim.better)?, find(&claim.worse)?);
        let named = |cell: &Cell, name: &str| {
            cell.run_names.iter().position(|known| known == name).and_then(|at| cell.runs.get(at).copied())
        };
        let pairs = better.run_names.iter().filter_map(|name| Some(named(better, name)? - named(worse, name)?));
        let differences: Vec<f64> = pairs.collect();
        // Of two ratios the larger one, which doubts more.
        let ratio = better.test_over_train().max(worse.test_over_train());
        let estimate = Estimate::corrected(&differences, ratio);
        let beyond: Vec<f64> = differences.iter().map(|difference| difference - claim.by).collect();
        Some(Claim {
            id: claim.id.clone(),
            quote: claim.quote.clone(),
            better: better.id.clone(),
            worse: worse.id.clone(),
            by: claim.by,
            paper_difference: better.paper_mean - worse.paper_mean,
            pairs: differences.len() as u32,
            difference: crate::stats::mean(&differences),
            interval: estimate.map(|estimate| estimate.interval(LEVEL)),
            p: estimate.map(|estimate| estimate.p(claim.by)),
            p_holm: None,
            p_wilcoxon: estimate.map(|_| SignedRanks::of(&beyond, Zeros::Dropped).p(Side::Both)),
            verdict: ClaimVerdict::NotRun,
        })
    }

    fn judge(&self, comparable: bool) -> ClaimVerdict {
        let is_sure = self.p_holm.is_some_and(|p| p < 1.0 - LEVEL);
        match self.difference {
            None => ClaimVerdict::NotRun,
            Some(_) if !comparable => ClaimVerdict::NotComparable,
            Some(_) if !is_sure => ClaimVerdict::NotSupported,
            Some(difference) if difference > self.by => ClaimVerdict::Supported,
            Some(_) => ClaimVerdict::Contradicted,
        }
    }
}

impl Cell {
    /// Test images per training image of one run, for the correction of variances;
    /// 0 where neither is known.
    pub fn test_over_train(&self) -> f64 {
        if self.train_images > 0.0 { self.test_images / self.train_images } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::export::tests::results;

    /// The claims if these are the runs of `SUR-8-2`, `SUR-7-2` and `SUR-3-1`.
    fn claims(runs: [&[f64]; 3], comparable: bool) -> Vec<Claim> {
        let mut cells = results(&[]).cells;
        for (id, runs) in ["SUR-8-2", "SUR-7-2", "SUR-3-1"].into_iter().zip(runs) {
            let cell = cells.iter_mut().find(|cell| cell.id == id).unwrap();
            cell.runs = runs.to_vec();
            cell.run_names = (0..runs.len()).map(|fold| format!("r0 f{fold}")).collect();
        }
        Claim::all(&cells, comparable).into_iter().filter(|claim| claim.id.starts_with("SUR")).collect()
    }

    fn verdicts(claims: &[Claim]) -> Vec<&'static str> {
        claims.iter().map(|claim| claim.verdict.words()).collect()
    }

    #[test]
    fn each_verdict_on_a_claim() {
        let base = [60.0, 62.0, 61.0, 60.5, 61.5];
        let plus = |by: f64, unlike: f64| {
            let gains = [0.0, 0.2, -0.1, 0.1, 0.0].map(|gain| by + unlike * gain);
            base.iter().zip(gains).map(|(base, gain)| base + gain).collect()
        };
        let (much, more): (Vec<f64>, Vec<f64>) = (plus(20.0, 1.0), plus(18.0, -1.0));
        // 2 points are surely more than none and surely less than 6.
        let sure = claims([&much, &more, &base], true);
        assert_eq!(verdicts(&sure), ["SUPPORTED", "SUPPORTED", "SUPPORTED", "CONTRADICTED"]);
        assert!((sure[0].difference.unwrap() - 2.08).abs() < 1e-9 && sure[0].pairs == 5);
        assert!(sure.iter().all(|claim| claim.p_holm >= claim.p));
        assert_eq!(verdicts(&claims([&much, &more, &base], false)), ["NOT COMPARABLE"; 4]);
        let wild = [20.0, 99.0, 60.0, 70.0, 30.0];
        assert_eq!(verdicts(&claims([&wild, &more, &base], true))[0], "NOT SUPPORTED");
        // One pair has no interval, none has no difference.
        let one = claims([&much[..1], &more, &[]], true);
        assert_eq!(verdicts(&one), ["NOT SUPPORTED", "NOT RUN", "NOT RUN", "NOT SUPPORTED"]);
        assert_eq!((one[0].pairs, one[0].interval, one[1].difference), (1, None, None));
    }

    #[test]
    fn only_runs_of_the_same_repeat_and_fold_are_paired() {
        let mut cells = results(&[]).cells;
        for (id, runs, names) in
            [("SUR-8-2", [80.0, 90.0], ["r0 f0", "r0 f2"]), ("SUR-7-2", [70.0, 60.0], ["r0 f1", "r0 f2"])]
        {
            let cell = cells.iter_mut().find(|cell| cell.id == id).unwrap();
            (cell.runs, cell.run_names) = (runs.to_vec(), names.map(str::to_owned).to_vec());
        }
        let claim = &Claim::all(&cells, true)[0];
        assert_eq!((claim.pairs, claim.difference), (1, Some(30.0)));
    }
}
