//! The numbers of a study, as `lithogen results --json` prints them.
//!
//! A stable contract: fields are added, never renamed or removed, unless
//! [`SCHEMA_VERSION`] is raised. Nothing in it depends on when, where or by how
//! many workers the study was computed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod claims;
mod gate;
mod training;
mod verdict;

pub use claims::{Cases, Claim, ClaimVerdict, Evidence, FalseClaim, Scores, Votes};
pub use gate::{Fault, Gate};
pub use training::{Enlarging, LossCurve, ModelTraining, Nearness};
pub use verdict::{LEVEL, PAPER_N, PaperN, Verdict};

use crate::experiment::{Correction, DriftMethod, Protocol, StdOver, Trials, Varied};
use crate::paper::{self, Printed, Row};
use crate::stone::{Class, Dataset, View};
use crate::trial::Training;

/// Version of the document's form. 2: verdicts on accuracies follow from tests; in
/// version 1, CONSISTENT was within the paper's ±. 3: verdicts on accuracies are
/// corrected for their number and intervals cut at 0 and 100; those of `fixed_split` are
/// of seeds only; verdicts on drift follow from the interval of the score, not from
/// ±0.05; claims are of several kinds; a score that cannot be had is null, with `why`.
pub const SCHEMA_VERSION: u32 = 3;

/// Documents that do not say are older than the correction.
fn uncorrected() -> Correction {
    Correction::None
}

/// Everything the study found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Results {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Name of the preset.
    pub scale: String,
    /// Root of every random number of the study.
    pub seed: u64,
    /// Whether the numbers may be set beside the paper's.
    pub comparable: bool,
    /// If they may not: why, each reason in words.
    pub stand_ins: Vec<String>,
    /// How the study reads what the paper leaves open, where that is not the default: `knob
    /// = value (default)`. Verdicts hold under these readings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<String>,
    /// Which images are tested in which run.
    #[serde(default)]
    pub protocol: Protocol,
    /// Trainings of each model per fold.
    pub repeats: u32,
    /// Folds.
    pub folds: u32,
    /// What ± means in `cells`.
    pub spread: String,
    /// What differs between runs: ± and intervals in `cells` are about no more than that.
    #[serde(default)]
    pub varied: Varied,
    /// Chance level of six balanced classes, in percent.
    pub chance: f64,
    /// How near the paper's mean counts as equivalent, in percentage points.
    #[serde(default)]
    pub margin: f64,
    /// How verdicts on accuracies are corrected for their number.
    #[serde(default = "uncorrected")]
    pub correction: Correction,
    /// One per printed cell of Table I, in the paper's order.
    pub cells: Vec<Cell>,
    /// What the paper says of these numbers, checked on ours.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// The same by other protocols, where several were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherTable>,
    /// One per view and image property.
    pub drift: Vec<DriftScore>,
    /// One per view.
    pub sifid: Vec<SifidScore>,
    /// One per view.
    pub heatmap: Vec<HeatmapScore>,
    /// One per diffusion model.
    pub generators: Vec<Generator>,
    /// One per plain diffusion model; none unless `ddpm.models` asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ddpm: Vec<DdpmScore>,
    /// One per network that was trained to draw pictures or to enlarge them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trainings: Vec<ModelTraining>,
}

impl Results {
    /// Every table with the runs behind it: Table I, then those of other protocols.
    pub fn tables(&self) -> impl Iterator<Item = (Trials, &[Cell])> {
        let own = Trials { protocol: self.protocol, repeats: self.repeats, folds: self.folds };
        let other =
            |table: &'_ OtherTable| Trials { protocol: table.protocol, repeats: table.repeats, folds: table.folds };
        let others = self.others.iter().map(move |table| (other(table), table.cells.as_slice()));
        std::iter::once((own, self.cells.as_slice())).chain(others)
    }
}

/// Table I by another protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OtherTable {
    /// Which images are tested in which run.
    pub protocol: Protocol,
    /// Trainings of each model per fold.
    pub repeats: u32,
    /// Folds.
    pub folds: u32,
    /// What ± means in `cells`.
    pub spread: String,
    /// As in [`Results::varied`].
    #[serde(default)]
    pub varied: Varied,
    /// As in [`Results::cells`].
    pub cells: Vec<Cell>,
    /// As in [`Results::claims`], without those that no protocol changes.
    pub claims: Vec<Claim>,
}

/// Runs of a cell that test no picture of a class, which has fewer of them than there
/// are folds. Their accuracy is over the other classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Untested {
    /// The classes of the label that is missing, for instance `IVd`.
    pub classes: Vec<Class>,
    /// The runs, for instance `r0 f4`.
    pub runs: Vec<String>,
}

/// A picture that is tested and has been learnt from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Leak {
    /// The picture, for instance `A/SUR/IVa/12.png`.
    pub image: String,
    /// How it came into the training: tasks by their labels, from the training back to
    /// the one that took the picture up.
    pub path: Vec<String>,
    /// The runs in which it is tested.
    pub runs: Vec<String>,
}

/// What one plain diffusion model's samples are like, beside the squares that it
/// learnt from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DdpmScore {
    /// View, or view and class, for instance `SUR` or `SUR.IVa`.
    pub model: String,
    /// Drift of each image property: its name, the Kolmogorov–Smirnov statistic
    /// and the earth mover's distance.
    pub drift: Vec<(String, Option<f64>, Option<f64>)>,
    /// Mean single-image Fréchet distance over samples; smaller is better.
    pub sifid: Option<f64>,
    /// Mean absolute difference of the two mean pictures, grey levels 0..255.
    pub mean_difference: Option<f64>,
    /// Why scores are absent, by their kind: `drift`, `sifid`, `heatmap`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub why: BTreeMap<String, String>,
    /// Share of the synthetic pictures behind it that pass the gate: that show one central
    /// object as the real ones do, 0 to 1; absent if none is behind it or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

/// One printed cell of Table I and its counterpart here. Accuracies in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// `<view>-<row>-<step>`, for instance `SUR-8-2`.
    pub id: String,
    /// Which half of the table.
    pub view: View,
    /// Row within the view, from 1.
    pub row: u8,
    /// 1: accuracy on data set I; 2: on data set II after the second step.
    pub step: u8,
    /// The training that the cell is about, for instance `A+B → C`.
    pub training: String,
    /// The paper's name of the configuration.
    pub config: String,
    /// Data sets whose test patches are scored.
    pub tested_on: Vec<Dataset>,
    /// The paper's mean.
    pub paper_mean: f64,
    /// The paper's ±.
    pub paper_std: f64,
    /// Mean over runs; absent if none finished.
    pub mean: Option<f64>,
    /// Sample standard deviation (n − 1) over runs; absent below two runs.
    pub std: Option<f64>,
    /// Finished runs that the mean is over.
    pub n: u32,
    /// Runs asked for.
    pub n_asked: u32,
    /// Sample standard deviation over classes of their mean accuracies.
    pub std_over_classes: Option<f64>,
    /// Mean accuracy of each class over runs.
    pub per_class: Vec<ClassAccuracy>,
    /// Accuracy of each run, by repeat, then fold.
    pub runs: Vec<f64>,
    /// Which runs these are, for instance `r0 f1`: repeat and fold, from 0.
    #[serde(default)]
    pub run_names: Vec<String>,
    /// Runs asked for that did not finish, named alike.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Sample standard deviation over all pairs of run and class.
    #[serde(default)]
    pub std_pooled: Option<f64>,
    /// Share of test images whose patches' majority is right, mean over runs.
    #[serde(default)]
    pub image_accuracy: Option<f64>,
    /// The same by the mean probability of an image's patches.
    #[serde(default)]
    pub image_accuracy_by_score: Option<f64>,
    /// What `image_accuracy` could be with other test images: the middle 95 % of
    /// 2000 bootstrap samples of images.
    #[serde(default)]
    pub image_interval: Option<[f64; 2]>,
    /// Mean F1 of the classes tested, mean over runs, in percent.
    #[serde(default)]
    pub macro_f1: Option<f64>,
    /// Images that one run learns from, on average; in a second step, those of that step.
    #[serde(default)]
    pub train_images: f64,
    /// Images that one run is tested on, on average.
    #[serde(default)]
    pub test_images: f64,
    /// What the variance of the mean is corrected by for runs that share training
    /// images, added to 1/n (Nadeau and Bengio 2003): n_test/n_train of images, and 0
    /// where only seeds differ between runs, whose spread holds no pictures.
    #[serde(default)]
    pub split_correction: f64,
    /// The 95 % interval of the mean by Student's t with that variance, cut at 0 and
    /// 100; absent below two runs, and if all are the same.
    #[serde(default)]
    pub interval: Option<[f64; 2]>,
    /// The smallest true difference from a fixed number that a two-sided test at 0.05
    /// on as many runs with this spread finds with a power of 80 %, in percentage
    /// points; absent without `interval`.
    #[serde(default)]
    pub detectable_difference: Option<f64>,
    /// The largest `std` with which as many runs can be EQUIVALENT, even if their
    /// mean is the paper's; absent without `interval`.
    #[serde(default)]
    pub equivalence_std: Option<f64>,
    /// Mean over the runs that test every class; absent unless some do not, see
    /// `untested`, and some do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_of_full_runs: Option<f64>,
    /// Our mean less the paper's.
    #[serde(default)]
    pub difference: Option<f64>,
    /// Whether that is at most the paper's ±, whatever that is over.
    #[serde(default)]
    pub within_printed_std: Option<bool>,
    /// Two-sided p-value of no difference from the paper's mean; absent unless both
    /// may be compared.
    #[serde(default)]
    pub p: Option<f64>,
    /// The same corrected for the number of trainings in the table; see
    /// [`Results::correction`].
    #[serde(default)]
    pub p_adjusted: Option<f64>,
    /// Larger p-value of the two one-sided tests against a difference from the
    /// paper's mean of `margin` or more; absent unless both may be compared.
    #[serde(default)]
    pub p_equivalent: Option<f64>,
    /// The same corrected likewise.
    #[serde(default)]
    pub p_equivalent_adjusted: Option<f64>,
    /// Welch's p-value of the difference, if the paper's ± were over so many
    /// runs: it prints no number. Absent unless both may be compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub p_by_paper_n: Vec<PaperN>,
    /// How it compares.
    pub verdict: Verdict,
    /// Why it has that verdict, where it is not seen from the numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Classes that some of its runs do not test.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untested: Vec<Untested>,
    /// Test pictures that its trainings have seen. If there are any, the cell has no
    /// numbers unless the study allows leaks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaks: Vec<Leak>,
    /// Share of the synthetic pictures behind it that pass the gate: that show one central
    /// object as the real ones do, 0 to 1; absent if none is behind it or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

impl Cell {
    /// The data sets whose test patches are scored, for instance `A+B`.
    pub fn test_sets(&self) -> String {
        let names: Vec<String> = self.tested_on.iter().map(Dataset::to_string).collect();
        names.join("+")
    }

    /// The cell of a row, after its second step if there is one, of which nothing was run.
    pub fn blank(row: &Row, second: Option<Dataset>, printed: Printed) -> Self {
        let step = if second.is_some() { 2 } else { 1 };
        let training = Training { first: row.first, second };
        Self {
            id: format!("{}-{}-{step}", row.view, row.row),
            view: row.view,
            row: row.row,
            step,
            training: training.shown(),
            config: row.config.clone(),
            tested_on: training.datasets(),
            paper_mean: printed.mean,
            paper_std: printed.std,
            mean: None,
            std: None,
            n: 0,
            n_asked: 0,
            std_over_classes: None,
            per_class: vec![],
            runs: vec![],
            run_names: vec![],
            missing: vec![],
            std_pooled: None,
            image_accuracy: None,
            image_accuracy_by_score: None,
            image_interval: None,
            macro_f1: None,
            train_images: 0.0,
            test_images: 0.0,
            split_correction: 0.0,
            interval: None,
            detectable_difference: None,
            equivalence_std: None,
            mean_of_full_runs: None,
            difference: None,
            within_printed_std: None,
            p: None,
            p_adjusted: None,
            p_equivalent: None,
            p_equivalent_adjusted: None,
            p_by_paper_n: vec![],
            verdict: Verdict::NotRun,
            why: None,
            untested: vec![],
            leaks: vec![],
            passing: None,
        }
    }

    /// The training that the cell is about; absent for a row that the paper does not have.
    pub fn steps(&self) -> Option<Training> {
        let row = paper::TABLE_1.iter().find(|row| (row.view, row.row) == (self.view, self.row))?;
        Some(Training { first: row.first, second: row.second.filter(|_| self.step == 2) })
    }

    /// One for each printed cell of Table I, in the paper's order, made by `cell` of a
    /// row, its second data set for the accuracy after the second step, and what is printed.
    pub fn of_table_1(mut cell: impl FnMut(&Row, Option<Dataset>, Printed) -> Cell) -> Vec<Cell> {
        let mut cells = vec![];
        for row in paper::TABLE_1.iter() {
            cells.push(cell(row, None, row.accuracy_1));
            cells.extend(row.accuracy_2.map(|printed| cell(row, row.second, printed)));
        }
        cells
    }
}

/// Mean accuracy of one class, in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClassAccuracy {
    /// Index of the label.
    pub label: u8,
    /// The classes that carry it in the tested data sets (A's and C's differ).
    pub classes: Vec<Class>,
    /// Mean over runs.
    pub mean: f64,
}

/// Drift of one image property between real and synthetic pictures; both
/// distances lie in 0..1 and smaller is better. Without a score there is `why`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftScore {
    /// Which half of the study.
    pub view: View,
    /// Name of the property.
    pub property: String,
    /// The distance that `interval`, `passed` and `verdict` are about.
    #[serde(default)]
    pub method: DriftMethod,
    /// Largest gap between the two empirical distribution functions.
    pub ks: Option<f64>,
    /// Earth mover's distance of the trimmed samples on their common range.
    pub emd: Option<f64>,
    /// What `ks` would be, at the 5th, 50th and 95th percentile, for two samples
    /// of these sizes from one distribution.
    pub ks_null: [f64; 3],
    /// The probability of a `ks` at least as large for such samples: small, it shows
    /// a drift.
    #[serde(default)]
    pub p_null: Option<f64>,
    /// What `ks` might be for other pictures of either kind, as many of each: the
    /// middle 95 % of 10 000 bootstrap samples of both, moved to have the mean `ks`.
    #[serde(default)]
    pub interval: Option<[f64; 2]>,
    /// Two-sided p-value of a `ks` of the threshold, by the same samples.
    #[serde(default)]
    pub p_threshold: Option<f64>,
    /// Real pictures.
    pub n_real: u32,
    /// Synthetic pictures.
    pub n_synthetic: u32,
    /// Whether `ks` is below the threshold.
    pub passed: Option<bool>,
    /// The paper's score.
    pub paper: f64,
    /// The probability of a score as small as the paper's for samples of these sizes
    /// from one distribution: small, not even a perfect generator would have it.
    #[serde(default)]
    pub p_null_paper: Option<f64>,
    /// CONSISTENT: the paper's score lies in `interval`. HIGHER, LOWER: the whole
    /// interval is above it, below it; less drift is no fault.
    pub verdict: Verdict,
    /// Why there is no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Share of the synthetic pictures behind it that pass the gate: that show one central
    /// object as the real ones do, 0 to 1; absent if none is behind it or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

impl DriftScore {
    /// The distance that its method names.
    pub fn score(&self) -> Option<f64> {
        match self.method {
            DriftMethod::Ks => self.ks,
            DriftMethod::Emd => self.emd,
        }
    }
}

/// Single-image Fréchet distance of one view; smaller is better. Without a score
/// there is `why`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SifidScore {
    /// Which half of the study.
    pub view: View,
    /// What mean and ± are over.
    #[serde(default)]
    pub std_over: StdOver,
    /// Mean over classes, or over synthetic pictures; absent unless all six classes have a score.
    pub mean: Option<f64>,
    /// Sample standard deviation over the same.
    pub std: Option<f64>,
    /// Mean of each class that has a score.
    pub per_class: Vec<(Class, f64)>,
    /// The paper's mean.
    pub paper_mean: f64,
    /// The paper's ±.
    pub paper_std: f64,
    /// How it compares.
    pub verdict: Verdict,
    /// Why there is no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Share of the synthetic pictures behind it that pass the gate: that show one central
    /// object as the real ones do, 0 to 1; absent if none is behind it or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

/// Where pictures are bright, real against synthetic; grey levels 0..255. Without
/// scores there is `why`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeatmapScore {
    /// Which half of the study.
    pub view: View,
    /// Mean absolute difference of the two mean pictures.
    pub mean_difference: Option<f64>,
    /// Share of pixels brighter than the background in the mean real picture.
    pub foreground_real: Option<f64>,
    /// The same of the mean synthetic picture.
    pub foreground_synthetic: Option<f64>,
    /// Why there are no scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Share of the synthetic pictures behind it that pass the gate: that show one central
    /// object as the real ones do, 0 to 1; absent if none is behind it or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

/// What one diffusion model made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Generator {
    /// Which half of the study.
    pub view: View,
    /// Which class.
    pub class: Class,
    /// Synthetic pictures.
    pub samples: u32,
    /// Pictures with hardly a pixel that is not dark.
    pub empty: u32,
    /// Mean share of foreground pixels.
    pub foreground: f64,
    /// Pictures that pass the gate: that show one central object as the pictures learnt
    /// from do. Absent if they were not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<u32>,
    /// How many of those that do not pass have which fault; one may have several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<Fault, u32>,
    /// Pictures drawn to get these, where `sinddm.reject_empty` had those that do not
    /// pass drawn again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn: Option<u32>,
    /// Pictures chosen for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learnt: Option<u32>,
    /// Mean share of exactly black pixels in these: padding, mostly. Such pixels have no
    /// relative intensity, which drift is scored on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub black: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document of this version with a value in almost every place.
    const EXAMPLE: &str = include_str!("results/example.json");

    #[test]
    fn documents_of_this_version_are_written_as_they_were_read() {
        let results: Results = serde_json::from_str(EXAMPLE).unwrap();
        assert_eq!(results.schema_version, SCHEMA_VERSION);
        assert_eq!(serde_json::to_string_pretty(&results).unwrap(), EXAMPLE.trim_end());
    }

    #[test]
    fn documents_of_version_2_are_read() {
        let mut results: serde_json::Value = serde_json::from_str(EXAMPLE).unwrap();
        results["drift"] = serde_json::json!([{
            "view": "SUR", "property": "Brightness", "ks": 0.1, "emd": 0.2, "ks_null": [0.1, 0.2, 0.3],
            "n_real": 48, "n_synthetic": 150, "passed": true, "paper": 0.142, "verdict": "CONSISTENT",
        }]);
        results["sifid"] = serde_json::json!([{
            "view": "SUR", "mean": 3.5, "std": 1.0, "per_class": [["Ia", 2.5]], "paper_mean": 3.79, "paper_std": 1.71,
            "verdict": "CONSISTENT",
        }]);
        results["ddpm"] = serde_json::json!([{
            "model": "SUR", "drift": [["Brightness", 0.1, 0.2]], "sifid": 1.0, "mean_difference": 2.0,
        }]);
        let new = ["varied", "correction"].as_slice();
        new.iter().for_each(|field| drop(results.as_object_mut().unwrap().remove(*field)));
        let of_cells =
            ["split_correction", "detectable_difference", "equivalence_std", "within_printed_std", "p", "p_adjusted"];
        let of_claims = ["kind", "detectable_difference", "pairs_for_power", "false_claim", "note"];
        for (list, fields) in [("cells", of_cells.as_slice()), ("claims", of_claims.as_slice())] {
            for entry in results[list].as_array_mut().unwrap() {
                fields.iter().for_each(|field| drop(entry.as_object_mut().unwrap().remove(*field)));
            }
        }
        let old: Results = serde_json::from_value(results).unwrap();
        assert_eq!((old.correction, old.varied), (Correction::None, Varied::PicturesAndSeeds));
        assert_eq!((old.drift[0].passed, old.sifid[0].mean, old.ddpm[0].sifid), (Some(true), Some(3.5), Some(1.0)));
        assert!(old.claims.iter().all(|claim| claim.kind == paper::ClaimKind::Above));
    }
}
