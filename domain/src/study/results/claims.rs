//! The paper's claims about its numbers, checked on ours.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cases, Cell, ComparedScore, DriftScore, FalseClaim, LEVEL, SifidScore, Votes};
use crate::study::paper::{self, ClaimKind};
use crate::study::stats::estimate::Estimate;
use crate::study::stats::multiple::holm;
use crate::study::stats::power::{POWER, detectable, of_difference, of_equivalence, smallest_sample};
use crate::study::stats::ranks::{Side, SignedRanks, Zeros};
use crate::study::stats::{mean, sample_std};
use crate::study::stone::View;
use crate::study::system::System;

/// One claim and what our runs say of the claim. Differences are in percentage points,
/// between runs of the same repeat and fold; differences of SIFID are between scores of
/// the same class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Claim {
    /// The id of the claim, for instance `SUR-synthetic`.
    pub id: String,
    /// The place or the words of the claim in the paper.
    pub quote: String,
    /// The relation that `better` is said to have to `worse`.
    #[serde(default)]
    pub kind: ClaimKind,
    /// The id of the cell that is said to be above `worse`, or a score: `drift`, which is the
    /// largest of all drift scores, `SIFID-SEC`, `SIFID-DDPM`.
    pub better: String,
    /// The id of the cell or score that `better` is compared with; empty where there is a
    /// limit instead.
    pub worse: String,
    /// The difference that `better` is said to exceed; for other kinds of claim, the margin
    /// or the limit.
    pub by: f64,
    /// The difference of the printed means, or the largest printed score; absent where
    /// the paper prints no two numbers of one kind.
    pub paper_difference: Option<f64>,
    /// The number of repeats and folds in which both finished, or of classes or scores
    /// compared.
    pub pairs: u32,
    /// Our mean difference, or our largest score; absent without a pair.
    pub difference: Option<f64>,
    /// The 95 % interval of `difference`, corrected and cut as the intervals of cells are;
    /// absent below two pairs.
    pub interval: Option<[f64; 2]>,
    /// The p-value, with the same correction, of a truth that lies where the claim begins to
    /// be true. It is two-sided; for a difference that looks equivalent, it is the larger
    /// one of two one-sided tests.
    pub p: Option<f64>,
    /// The p-value `p` after Holm over all claims of the list that have one.
    pub p_holm: Option<f64>,
    /// The uncorrected two-sided p-value of Wilcoxon's signed-rank test of the differences.
    /// The test assumes no distribution, but independent runs.
    pub p_wilcoxon: Option<f64>,
    /// The smallest true distance from where the claim begins to be true that a
    /// two-sided test at 0.05 on as many pairs finds with a power of 80 %.
    #[serde(default)]
    pub detectable_difference: Option<f64>,
    /// For claims of no difference, the largest standard deviation of differences with which
    /// as many pairs can show that the difference is below the margin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equivalence_std: Option<f64>,
    /// The number of pairs with which these tests find the paper's difference, or show that
    /// there is none where none is claimed, with a power of 80 %, if differences spread as
    /// ours do. Absent if no number of pairs is enough, since all runs learn from the same
    /// pictures.
    #[serde(default)]
    pub pairs_for_power: Option<u32>,
    /// The probability that `better` is not above `worse` at all, only for claims that it is,
    /// on the same pictures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub false_claim: Vec<FalseClaim>,
    /// What has to be known before the claim is believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The verdict that follows.
    pub verdict: ClaimVerdict,
    /// The share, 0 to 1, of the synthetic pictures behind the claim that pass the gate, which
    /// means that they show one central object as the real ones do. Absent if the claim rests on
    /// no synthetic pictures or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

/// The numbers that claims are checked on.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    /// The cells of a table.
    pub cells: &'a [Cell],
    /// The votes on the pictures behind the table.
    pub votes: &'a Votes,
    /// The difference that still counts as equivalent, in percentage points.
    pub margin: f64,
    /// The scores of the synthetic pictures. Without them, claims on synthetic pictures are
    /// left out.
    pub scores: Option<Scores<'a>>,
    /// Whether the numbers may be set beside the paper's.
    pub comparable: bool,
}

/// The scores of the synthetic pictures.
#[derive(Clone, Copy)]
pub struct Scores<'a> {
    /// The drift scores of all views and properties.
    pub drift: &'a [DriftScore],
    /// The score at and above which a property has drifted.
    pub drift_limit: f64,
    /// The single-image Fréchet distances of both views.
    pub sifid: &'a [SifidScore],
    /// The scores of plain diffusion models, if there are any.
    pub compared: &'a [ComparedScore],
}

/// The verdict of our runs on a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClaimVerdict {
    /// `p_holm` is below 0.05 and the difference is as claimed.
    Supported,
    /// The runs are too few or too unlike to support or contradict the claim.
    NotSupported,
    /// `p_holm` is below 0.05 and the difference is not as claimed.
    Contradicted,
    /// Our differences say nothing of the paper's, as they were made on other data or by
    /// simpler means.
    NotComparable,
    /// Both finished in no repeat and fold, or there are no scores.
    NotRun,
}

impl ClaimVerdict {
    /// The verdict for people.
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
    /// All claims of the paper that are about this evidence.
    pub fn all(evidence: &Evidence<'_>) -> Vec<Claim> {
        let mut claims: Vec<Claim> = paper::claims().iter().filter_map(|claim| Claim::of(claim, evidence)).collect();
        let tested: Vec<f64> = claims.iter().filter_map(|claim| claim.p).collect();
        let mut adjusted = holm(&tested).into_iter();
        for claim in &mut claims {
            claim.p_holm = claim.p.and_then(|_| adjusted.next());
            claim.verdict = claim.judge(evidence.comparable);
        }
        claims
    }

    fn of(claim: &paper::Claim, evidence: &Evidence<'_>) -> Option<Claim> {
        let by = match claim.kind {
            ClaimKind::Above => claim.by,
            ClaimKind::NoGain | ClaimKind::Equivalent => evidence.margin,
            ClaimKind::BelowLimit => evidence.scores?.drift_limit,
        };
        let blank = Claim {
            id: claim.id.clone(),
            quote: claim.quote.clone(),
            kind: claim.kind,
            better: claim.better.clone(),
            worse: claim.worse.clone(),
            by,
            paper_difference: None,
            pairs: 0,
            difference: None,
            interval: None,
            p: None,
            p_holm: None,
            p_wilcoxon: None,
            detectable_difference: None,
            equivalence_std: None,
            pairs_for_power: None,
            false_claim: vec![],
            note: None,
            verdict: ClaimVerdict::NotRun,
            passing: None,
        };
        match (claim.better.as_str(), evidence.scores) {
            ("drift", scores) => Some(blank.on_drift(scores?.drift)),
            ("SIFID-SEC", scores) => Some(blank.on_views(scores?.sifid)),
            ("SIFID-DDPM", scores) => scores.map(|scores| blank.on_ddpm(&scores)),
            _ => blank.on_cells(evidence),
        }
    }

    fn on_cells(mut self, evidence: &Evidence<'_>) -> Option<Claim> {
        let find = |id: &str| evidence.cells.iter().find(|cell| cell.id == id);
        let (better, worse) = (find(&self.better)?, find(&self.worse)?);
        let named = |cell: &Cell, name: &str| {
            cell.run_names.iter().position(|known| known == name).and_then(|at| cell.runs.get(at).copied())
        };
        let pairs = better.run_names.iter().filter_map(|name| Some(named(better, name)? - named(worse, name)?));
        let differences: Vec<f64> = pairs.collect();
        self.paper_difference = Some(better.paper_mean - worse.paper_mean);
        self.passing = better.passing.or(worse.passing);
        // Of two ratios the larger one, which doubts more.
        self.test(&differences, better.split_correction.max(worse.split_correction), [-100.0, 100.0]);
        if better.tested_on != worse.tested_on {
            self.note = Some(format!("tested on different pictures, {} and {}", better.test_sets(), worse.test_sets()));
        } else if self.kind == ClaimKind::Above {
            let printed = [better.paper_mean, worse.paper_mean].map(|mean| mean / 100.0);
            let cases = [Cases::PaperImages, Cases::PaperPatches].into_iter().zip(paper::test_cases(better.view));
            self.false_claim.extend(cases.map(|(of, n)| FalseClaim::of_printed(of, n, printed)));
            let votes = evidence.votes.get(&better.id).zip(evidence.votes.get(&worse.id));
            self.false_claim.extend(votes.and_then(|(better, worse)| FalseClaim::of_votes(better, worse)));
        }
        Some(self)
    }

    /// Fills in a claim that all drift scores are below a limit. If all are, the score that
    /// shows it least decides; otherwise, of the scores above the limit, the one that shows
    /// it most, as one of several tests.
    fn on_drift(mut self, drift: &[DriftScore]) -> Claim {
        let absent: Vec<&str> = drift.iter().filter_map(|score| score.why.as_deref()).collect();
        let scored = drift.iter().filter_map(|score| Some((score.score()?, score.p_threshold?, score)));
        let scored: Vec<(f64, f64, &DriftScore)> = scored.collect();
        self.paper_difference = drift.iter().map(|score| score.paper).max_by(f64::total_cmp);
        self.pairs = scored.len() as u32;
        self.note = absent.first().map(|why| format!("{} scores are absent: {why}", absent.len()));
        let Some((largest, _, score)) = scored.iter().max_by(|a, b| a.0.total_cmp(&b.0)) else { return self };
        if !absent.is_empty() && *largest < self.by {
            return self;
        }
        (self.difference, self.interval) = (Some(*largest), score.interval);
        let above = scored.iter().filter(|(ks, _, _)| *ks >= self.by).map(|(_, p, _)| *p).min_by(f64::total_cmp);
        self.p = match above {
            Some(smallest) => Some((smallest * scored.len() as f64).min(1.0)),
            None => scored.iter().map(|(_, p, _)| *p).max_by(f64::total_cmp),
        };
        self
    }

    fn on_views(mut self, sifid: &[SifidScore]) -> Claim {
        let of = |view: View| sifid.iter().find(|score| score.view == view);
        let (sec, sur) = (of(View::Sec), of(View::Sur));
        self.paper_difference = Some(paper::sifid(View::Sec).mean - paper::sifid(View::Sur).mean);
        if let Some((sec, sur)) = sec.zip(sur) {
            let other = |class| sur.per_class.iter().find(|(known, _)| *known == class).map(|(_, mean)| *mean);
            let pairs = sec.per_class.iter().filter_map(|(class, mean)| Some(mean - other(*class)?));
            self.test(&pairs.collect::<Vec<f64>>(), 0.0, [f64::NEG_INFINITY, f64::INFINITY]);
        }
        self.note = Some("pairs are the classes, whose distances are unlike".to_owned());
        self
    }

    fn on_ddpm(mut self, scores: &Scores<'_>) -> Claim {
        let of_sinddm = |of: &ComparedScore| {
            let of_view = scores.sifid.iter().find(|score| score.view == of.view)?;
            match of.class {
                None => of_view.mean,
                Some(class) => of_view.per_class.iter().find(|(known, _)| *known == class).map(|(_, mean)| *mean),
            }
        };
        let of_ddpm = scores.compared.iter().filter(|score| score.system == System::Ddpm);
        let pairs = of_ddpm.filter_map(|score| Some(score.sifid? - of_sinddm(score)?));
        self.test(&pairs.collect::<Vec<f64>>(), 0.0, [f64::NEG_INFINITY, f64::INFINITY]);
        let note = "by SIFID of both, each beside what it has learnt from; the paper sets an FID beside a SIFID, which are \
                    not of one scale";
        self.note = Some(note.to_owned());
        self
    }

    /// Fills in the tests of paired differences whose true mean can only lie in `range`.
    fn test(&mut self, differences: &[f64], split_correction: f64, range: [f64; 2]) {
        (self.pairs, self.difference) = (differences.len() as u32, mean(differences));
        let Some(estimate) = Estimate::corrected(differences, split_correction) else { return };
        let Some(std) = sample_std(differences) else { return };
        let (alpha, by) = (1.0 - LEVEL, self.by);
        let wilcoxon = |by: f64, side: Side| {
            let beyond: Vec<f64> = differences.iter().map(|difference| difference - by).collect();
            SignedRanks::of(&beyond, Zeros::Dropped).p(side)
        };
        self.interval = Some(estimate.interval_within(LEVEL, range));
        let smallest = detectable(estimate.freedom, alpha, POWER) * estimate.std_error;
        self.detectable_difference = Some(smallest).filter(|smallest| *smallest <= range[1]);
        let looks_equivalent = self.kind == ClaimKind::Equivalent && estimate.value.abs() < by;
        let bound = if self.kind == ClaimKind::Equivalent { by.copysign(estimate.value) } else { by };
        let (p, p_wilcoxon) = if looks_equivalent {
            (estimate.p_equivalent(0.0, by), wilcoxon(-by, Side::Greater).max(wilcoxon(by, Side::Less)))
        } else {
            (estimate.p(bound), wilcoxon(bound, Side::Both))
        };
        (self.p, self.p_wilcoxon) = (Some(p), Some(p_wilcoxon));
        if matches!(self.kind, ClaimKind::NoGain | ClaimKind::Equivalent) {
            self.equivalence_std = Some(std / estimate.std_error * estimate.error_for_equivalence(LEVEL, by));
        }
        let power = |estimate: Estimate| {
            let errors = |distance: f64| (distance / estimate.std_error).abs();
            match self.kind {
                ClaimKind::Equivalent => of_equivalence(errors(by), estimate.freedom, alpha),
                ClaimKind::NoGain => of_difference(errors(by), estimate.freedom, alpha),
                ClaimKind::Above | ClaimKind::BelowLimit => {
                    of_difference(errors(self.paper_difference.unwrap_or(by) - by), estimate.freedom, alpha)
                }
            }
        };
        self.pairs_for_power = smallest_sample(|n| {
            Estimate::of_summary(0.0, std, n, split_correction).is_some_and(|estimate| power(estimate) >= POWER)
        });
    }

    fn judge(&self, comparable: bool) -> ClaimVerdict {
        let is_sure = self.p_holm.is_some_and(|p| p < 1.0 - LEVEL);
        match self.difference {
            None => ClaimVerdict::NotRun,
            Some(_) if !comparable => ClaimVerdict::NotComparable,
            Some(_) if !is_sure => ClaimVerdict::NotSupported,
            Some(difference) if self.is_as_claimed(difference) => ClaimVerdict::Supported,
            Some(_) => ClaimVerdict::Contradicted,
        }
    }

    fn is_as_claimed(&self, difference: f64) -> bool {
        match self.kind {
            ClaimKind::Above => difference > self.by,
            ClaimKind::NoGain | ClaimKind::BelowLimit => difference < self.by,
            ClaimKind::Equivalent => difference.abs() < self.by,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::study::experiment::{DriftMethod, StdOver};
    use crate::study::stone::{Class, Dataset};

    /// The claims if these are the runs of `SUR-8-2`, `SUR-7-2` and `SUR-3-1`.
    fn claims(runs: [&[f64]; 3], comparable: bool) -> Vec<Claim> {
        let mut cells = Cell::of_table_1(Cell::blank);
        for (id, runs) in ["SUR-8-2", "SUR-7-2", "SUR-3-1"].into_iter().zip(runs) {
            let cell = cells.iter_mut().find(|cell| cell.id == id).unwrap();
            cell.runs = runs.to_vec();
            cell.run_names = (0..runs.len()).map(|fold| format!("r0 f{fold}")).collect();
        }
        let claims = Claim::all(&Evidence { comparable, ..on(&cells, &Votes::new()) });
        // Those about the three cells alone.
        claims.into_iter().take(4).collect()
    }

    fn on<'a>(cells: &'a [Cell], votes: &'a Votes) -> Evidence<'a> {
        Evidence { cells, votes, margin: 2.0, scores: None, comparable: true }
    }

    /// Claims of which nothing is known but these runs of some cells.
    fn claim(id: &str, runs: &[(&str, &[f64])], scores: Option<Scores<'_>>) -> Claim {
        let mut cells = Cell::of_table_1(Cell::blank);
        for (id, runs) in runs {
            let cell = cells.iter_mut().find(|cell| cell.id == *id).unwrap();
            cell.runs = runs.to_vec();
            cell.run_names = (0..runs.len()).map(|fold| format!("r0 f{fold}")).collect();
        }
        let claims = Claim::all(&Evidence { scores, ..on(&cells, &Votes::new()) });
        claims.into_iter().find(|claim| claim.id == id).unwrap()
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
        let mut cells = Cell::of_table_1(Cell::blank);
        for (id, runs, names) in
            [("SUR-8-2", [80.0, 90.0], ["r0 f0", "r0 f2"]), ("SUR-7-2", [70.0, 60.0], ["r0 f1", "r0 f2"])]
        {
            let cell = cells.iter_mut().find(|cell| cell.id == id).unwrap();
            (cell.runs, cell.run_names) = (runs.to_vec(), names.map(str::to_owned).to_vec());
        }
        let claim = &Claim::all(&on(&cells, &Votes::new()))[0];
        assert_eq!((claim.pairs, claim.difference), (1, Some(30.0)));
    }

    #[test]
    fn claims_of_no_difference_are_tests_of_equivalence() {
        let base: &[f64] = &[80.0, 81.0, 79.0, 80.5, 79.5];
        let alike: &[f64] = &[80.2, 80.9, 79.1, 80.6, 79.4];
        let far: &[f64] = &[85.2, 85.9, 84.1, 85.6, 84.4];
        let of = |id: &str, runs: &[(&str, &[f64])]| claim(id, runs, None).verdict.words();
        assert_eq!(of("SUR-B-like-A", &[("SUR-1-1", alike), ("SUR-2-1", base)]), "SUPPORTED");
        assert_eq!(of("SUR-B-like-A", &[("SUR-1-1", far), ("SUR-2-1", base)]), "CONTRADICTED");
        assert_eq!(of("SUR-B-like-A", &[("SUR-1-1", base), ("SUR-2-1", far)]), "CONTRADICTED");
        assert_eq!(of("SUR-TL*-A", &[("SUR-4-2", alike), ("SUR-2-1", base)]), "SUPPORTED");
        // A loss is no gain either.
        assert_eq!(of("SUR-TL*-A", &[("SUR-4-2", base), ("SUR-2-1", far)]), "SUPPORTED");
        assert_eq!(of("SUR-TL*-A", &[("SUR-4-2", far), ("SUR-2-1", base)]), "CONTRADICTED");
        let claim = claim("SUR-B-like-A", &[("SUR-1-1", alike), ("SUR-2-1", base)], None);
        assert_eq!((claim.by, claim.note.as_deref()), (2.0, Some("tested on different pictures, B and A")));
        // t of 4 degrees of freedom at 0.95 is 2.132; 3.761 standard errors by an independent integration.
        let std = sample_std(&[0.2, -0.1, 0.1, 0.1, -0.1]).unwrap();
        assert!((claim.equivalence_std.unwrap() - 2.0 * 5.0_f64.sqrt() / 2.131_847).abs() < 1e-5);
        assert!((claim.detectable_difference.unwrap() / std * 5.0_f64.sqrt() - 3.761_06).abs() < 1e-4);
        assert!(claim.false_claim.is_empty() && claim.pairs_for_power == Some(2), "{claim:?}");
    }

    #[test]
    fn splits_that_share_pictures_may_never_have_the_power() {
        let mut claim = claim("SUR-synthetic", &[], None);
        // The paper's gain is 1.63 points; s = 2.
        let differences = [0.0, 4.0, 2.0, 0.0, 4.0, 2.0];
        claim.test(&differences, 0.0, [-100.0, 100.0]);
        // n of a paired t test with an effect of 1.63 / 1.789 is about 12.
        assert_eq!(claim.pairs_for_power, Some(12));
        claim.test(&differences, 0.25, [-100.0, 100.0]);
        assert_eq!(claim.pairs_for_power, None);
    }

    fn drift(ks: f64, p_threshold: f64) -> DriftScore {
        DriftScore {
            passing: None,
            method: DriftMethod::Ks,
            view: View::Sur,
            property: "Brightness".to_owned(),
            ks: Some(ks),
            emd: Some(0.1),
            ks_null: [0.1, 0.2, 0.3],
            p_null: None,
            interval: Some([ks - 0.05, ks + 0.05]),
            p_threshold: Some(p_threshold),
            n_real: 48,
            n_synthetic: 150,
            passed: Some(ks < 0.2),
            paper: 0.142,
            p_null_paper: None,
            verdict: super::super::Verdict::Consistent,
            why: None,
        }
    }

    #[test]
    fn drift_is_below_the_limit_only_if_every_score_is() {
        let of = |drift: &[DriftScore]| {
            claim("drift", &[], Some(Scores { drift, drift_limit: 0.2, sifid: &[], compared: &[] }))
        };
        let sure = of(&[drift(0.1, 0.001), drift(0.15, 0.02)]);
        assert_eq!((sure.difference, sure.p, sure.verdict.words()), (Some(0.15), Some(0.02), "SUPPORTED"));
        assert_eq!(of(&[drift(0.1, 0.001), drift(0.15, 0.2)]).verdict.words(), "NOT SUPPORTED");
        let above = of(&[drift(0.1, 0.001), drift(0.4, 0.004)]);
        assert_eq!((above.p, above.verdict.words()), (Some(0.008), "CONTRADICTED"));
        let absent = DriftScore { ks: None, p_threshold: None, why: Some("too few".to_owned()), ..drift(0.0, 0.0) };
        let unknown = of(&[drift(0.1, 0.001), absent]);
        assert_eq!((unknown.difference, unknown.verdict.words()), (None, "NOT RUN"));
        assert_eq!(unknown.note.as_deref(), Some("1 scores are absent: too few"));
    }

    #[test]
    fn distances_are_paired_by_class_and_model() {
        let sifid = |view, shift: f64| SifidScore {
            passing: None,
            std_over: StdOver::Class,
            view,
            mean: Some(3.5 + shift),
            std: Some(1.0),
            per_class: Dataset::A.classes().into_iter().zip((1..=6).map(|i| f64::from(i) * (1.0 + shift))).collect(),
            paper_mean: 3.0,
            paper_std: 1.0,
            verdict: super::super::Verdict::Consistent,
            why: None,
        };
        let ddpm = |view, class, sifid| ComparedScore {
            passing: None,
            system: System::Ddpm,
            view,
            class,
            drift: vec![],
            sifid,
            mean_difference: None,
            why: BTreeMap::new(),
        };
        let sifid = [sifid(View::Sur, 0.0), sifid(View::Sec, 0.5)];
        let compared = [
            ddpm(View::Sur, Some(Class::Ia), Some(9.0)),
            ddpm(View::Sec, Some(Class::Ia), Some(9.6)),
            ddpm(View::Sec, Some(Class::Iva), None),
            ddpm(View::Sur, None, Some(11.9)),
        ];
        let scores = Scores { drift: &[], drift_limit: 0.2, sifid: &sifid, compared: &compared };
        let views = claim("SIFID-views", &[], Some(scores));
        assert_eq!((views.pairs, views.difference), (6, Some(1.75)));
        assert!((views.paper_difference.unwrap() - 0.65).abs() < 1e-9);
        let index = Dataset::A.classes().iter().position(|class| class.code() == "Ia").unwrap() as f64 + 1.0;
        let models = claim("SIFID-DDPM", &[], Some(scores));
        let expected = (9.0 - index + 9.6 - 1.5 * index + 11.9 - 3.5) / 3.0;
        assert!(models.pairs == 3 && (models.difference.unwrap() - expected).abs() < 1e-9, "{models:?}");
        assert_eq!(models.paper_difference, None);
        assert_eq!(claim("SIFID-DDPM", &[], Some(Scores { compared: &[], ..scores })).verdict.words(), "NOT RUN");
    }

    #[test]
    fn the_probability_of_a_false_claim_is_told_for_printed_and_own_accuracies() {
        let cells = Cell::of_table_1(Cell::blank);
        // Of five pictures, the first alone is right on three in both runs; on the fourth in one.
        let run = |right: [bool; 5]| {
            right.into_iter().enumerate().map(|(id, right)| ((Dataset::C, id as u32), right)).collect()
        };
        let runs =
            |first, second| BTreeMap::from([("r0 f0".to_owned(), run(first)), ("r1 f0".to_owned(), run(second))]);
        let votes = Votes::from([
            ("SUR-8-2".to_owned(), runs([true, true, true, true, false], [true, true, true, false, false])),
            ("SUR-7-2".to_owned(), runs([false; 5], [false; 5])),
        ]);
        let claims = Claim::all(&on(&cells, &votes));
        let [images, patches, ours] = claims[0].false_claim.as_slice() else { panic!("{:?}", claims[0]) };
        assert_eq!((images.of, images.n, patches.of, patches.n), (Cases::PaperImages, 49, Cases::PaperPatches, 1200));
        // Whatever the pictures have in common, 1.63 points on 49 of them say next to nothing.
        assert!(images.p[0] > 0.35 && images.p[1] < 0.5 && images.p[1] > 0.2, "{images:?}");
        assert!(patches.p.iter().all(|p| *p < 0.2), "{patches:?}");
        // Beta(4.5, 1) lies below one half with probability ½ to the 4.5.
        assert_eq!((ours.of, ours.n, ours.congruence), (Cases::OurImages, 5, [0.0; 2]));
        assert!((ours.p[0] - 0.5_f64.powf(4.5)).abs() < 1e-12 && ours.p[0] == ours.p[1]);
        // Different pictures have no congruence.
        let other = claims.iter().find(|claim| claim.id == "SUR-C-below-A").unwrap();
        assert!(other.false_claim.is_empty() && other.note.is_some());
    }
}
