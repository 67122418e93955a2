//! The numbers of a study, as `lithogen results --json` prints them.
//!
//! A stable contract: fields are added, never renamed or removed, unless
//! [`SCHEMA_VERSION`] is raised. Nothing in it depends on when, where or by how
//! many workers the study was computed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod claims;
pub mod export;
mod training;
mod verdict;

pub use claims::{Claim, ClaimVerdict};
pub use training::{Enlarging, LossCurve, ModelTraining, Nearness};
pub use verdict::{LEVEL, PAPER_N, PaperN, Verdict};

use crate::experiment::{Protocol, Rounds};
use crate::paper::{self, Printed, Row};
use crate::stone::{Class, Dataset, View};

/// Version of the document's form. 2: verdicts on accuracies follow from tests; in
/// version 1, CONSISTENT was within the paper's ±.
pub const SCHEMA_VERSION: u32 = 2;

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
    /// Which images are tested in which run.
    #[serde(default)]
    pub protocol: Protocol,
    /// Trainings of each model per fold.
    pub repeats: u32,
    /// Folds.
    pub folds: u32,
    /// What ± means in `cells`.
    pub spread: String,
    /// Chance level of six balanced classes, in percent.
    pub chance: f64,
    /// How near the paper's mean counts as equivalent, in percentage points.
    #[serde(default)]
    pub margin: f64,
    /// One per printed cell of Table I, in the paper's order.
    pub cells: Vec<Cell>,
    /// What the paper says of these cells, checked on pairs of runs.
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
    pub fn tables(&self) -> impl Iterator<Item = (Rounds, &[Cell])> {
        let own = Rounds { protocol: self.protocol, repeats: self.repeats, folds: self.folds };
        let other =
            |table: &'_ OtherTable| Rounds { protocol: table.protocol, repeats: table.repeats, folds: table.folds };
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
    /// As in [`Results::cells`].
    pub cells: Vec<Cell>,
    /// As in [`Results::claims`].
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
    pub drift: Vec<(String, f64, f64)>,
    /// Mean single-image Fréchet distance over samples; smaller is better.
    pub sifid: f64,
    /// Mean absolute difference of the two mean pictures, grey levels 0..255.
    pub mean_difference: f64,
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
    /// The 95 % interval of the mean, corrected for runs that share training
    /// images (Nadeau and Bengio 2003), n_test/n_train being of images; absent
    /// below two runs, and if all are the same.
    #[serde(default)]
    pub interval: Option<[f64; 2]>,
    /// Our mean less the paper's.
    #[serde(default)]
    pub difference: Option<f64>,
    /// Larger p-value of the two one-sided tests against a difference from the
    /// paper's mean of `margin` or more; absent unless both may be compared.
    #[serde(default)]
    pub p_equivalent: Option<f64>,
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
}

impl Cell {
    /// The cell of a row, after its second step if there is one, of which nothing was run.
    pub fn blank(row: &Row, second: Option<Dataset>, printed: Printed) -> Self {
        let step = if second.is_some() { 2 } else { 1 };
        Self {
            id: format!("{}-{}-{step}", row.view, row.row),
            view: row.view,
            row: row.row,
            step,
            training: second.map_or_else(|| row.first.to_string(), |second| format!("{} → {second}", row.first)),
            config: row.config.clone(),
            tested_on: second.map_or_else(|| row.first.datasets(), |second| vec![second]),
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
            interval: None,
            difference: None,
            p_equivalent: None,
            p_by_paper_n: vec![],
            verdict: Verdict::NotRun,
            why: None,
            untested: vec![],
            leaks: vec![],
        }
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
/// distances lie in 0..1 and smaller is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftScore {
    /// Which half of the study.
    pub view: View,
    /// Name of the property.
    pub property: String,
    /// Largest gap between the two empirical distribution functions.
    pub ks: f64,
    /// Earth mover's distance of the trimmed samples on their common range.
    pub emd: f64,
    /// What `ks` would be, at the 5th, 50th and 95th percentile, for two samples
    /// of these sizes from one distribution.
    pub ks_null: [f64; 3],
    /// Real pictures.
    pub n_real: u32,
    /// Synthetic pictures.
    pub n_synthetic: u32,
    /// Whether `ks` is below the threshold.
    pub passed: bool,
    /// The paper's score.
    pub paper: f64,
    /// How it compares: never more than `NOT_COMPARABLE` or `CONSISTENT`/`HIGHER`/`LOWER` by 0.05.
    pub verdict: Verdict,
}

/// Single-image Fréchet distance of one view; smaller is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SifidScore {
    /// Which half of the study.
    pub view: View,
    /// Mean over classes.
    pub mean: f64,
    /// Sample standard deviation over classes.
    pub std: f64,
    /// Mean of each class.
    pub per_class: Vec<(Class, f64)>,
    /// The paper's mean.
    pub paper_mean: f64,
    /// The paper's ±.
    pub paper_std: f64,
    /// How it compares.
    pub verdict: Verdict,
}

/// Where pictures are bright, real against synthetic; grey levels 0..255.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeatmapScore {
    /// Which half of the study.
    pub view: View,
    /// Mean absolute difference of the two mean pictures.
    pub mean_difference: f64,
    /// Share of pixels brighter than the background in the mean real picture.
    pub foreground_real: f64,
    /// The same of the mean synthetic picture.
    pub foreground_synthetic: f64,
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
    /// Pictures without a visible object. They are kept, not drawn again.
    pub empty: u32,
    /// Mean share of foreground pixels.
    pub foreground: f64,
}

/// A distance for people: two decimals where they say something, otherwise
/// three digits and a power of ten.
pub fn significant(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (0.1..1e4).contains(&size) => format!("{value:.2}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_distances_keep_their_digits() {
        assert_eq!([3.456, 0.0, 0.00043065].map(significant), ["3.46", "0.00", "4.31e-4"]);
    }
}
