//! The numbers of a study, as `lithogen results --json` prints them.
//!
//! A stable contract: fields are added, never renamed or removed, unless
//! [`SCHEMA_VERSION`] is raised. Nothing in it depends on when, where or by how
//! many workers the study was computed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod claims;
mod false_claims;
mod gate;
mod scores;
mod stored;
mod training;
mod verdict;

pub use claims::{Claim, ClaimVerdict, Evidence, Scores};
pub use false_claims::{Cases, FalseClaim, Votes};
pub use gate::{Fault, Gate};
pub use scores::{ComparedScore, DriftScore, HeatmapScore, SifidScore};
pub use training::{Enlarging, LossCurve, ModelTraining, Nearness};
pub use verdict::{LEVEL, PAPER_N, PaperN, Verdict};

use crate::study::experiment::{Correction, Protocol, Trials, Varied};
use crate::study::paper::{self, Printed, Row};
use crate::study::stone::{Class, Dataset, View};
use crate::study::trial::Training;

/// Version of the document's form. 2: verdicts on accuracies follow from tests; in
/// version 1, CONSISTENT was within the paper's ±. 3: verdicts on accuracies are
/// corrected for their number and intervals cut at 0 and 100; those of `fixed_split` are
/// of seeds only; verdicts on drift follow from the interval of the score, not from
/// ±0.05; claims are of several kinds; a score that cannot be had is null, with `why`.
/// 4: `compared` has the scores of all systems beside SinDDM, each with system, view and
/// class; before, `ddpm` had those of plain diffusion.
pub const SCHEMA_VERSION: u32 = 4;

/// The correction of documents that name none, which are older than the knob.
fn uncorrected() -> Correction {
    Correction::None
}

/// Everything the study found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Results {
    /// The [`SCHEMA_VERSION`] that the document was written by.
    pub schema_version: u32,
    /// The name of the preset.
    pub scale: String,
    /// The root of every random number of the study.
    pub seed: u64,
    /// Whether the numbers may be set beside the paper's.
    pub comparable: bool,
    /// The reasons, in words, why the numbers may not be set beside the paper's.
    pub stand_ins: Vec<String>,
    /// The readings of what the paper leaves open that differ from the default, each as
    /// `knob = value (default)`. The verdicts hold under these readings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<String>,
    /// The protocol, which says which images are tested in which run.
    #[serde(default)]
    pub protocol: Protocol,
    /// The number of trainings of each model per fold.
    pub repeats: u32,
    /// The number of folds.
    pub folds: u32,
    /// The meaning of ± in `cells`.
    pub spread: String,
    /// What differs between runs. The ± and intervals in `cells` are about that alone.
    #[serde(default)]
    pub varied: Varied,
    /// The accuracy by chance on six balanced classes, in percent.
    pub chance: f64,
    /// The distance from the paper's mean that still counts as equivalent, in percentage points.
    #[serde(default)]
    pub margin: f64,
    /// The correction of the verdicts on accuracies for their number.
    #[serde(default = "uncorrected")]
    pub correction: Correction,
    /// The printed cells of Table I, in the paper's order.
    pub cells: Vec<Cell>,
    /// The paper's claims, checked on our numbers.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// Table I by the other protocols, where the study has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherTable>,
    /// The drift scores, one per view and image property.
    pub drift: Vec<DriftScore>,
    /// The single-image Fréchet distances, one per view.
    pub sifid: Vec<SifidScore>,
    /// The scores of the maps of brightness, one per view.
    pub heatmap: Vec<HeatmapScore>,
    /// The diffusion models, one per view and class.
    pub generators: Vec<Generator>,
    /// The systems beside SinDDM; none unless the study asks for them. Documents before
    /// version 4 call it `ddpm`.
    #[serde(default, alias = "ddpm", deserialize_with = "stored::compared")]
    pub compared: Vec<ComparedScore>,
    /// The trainings of networks that draw pictures or enlarge them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trainings: Vec<ModelTraining>,
}

impl Results {
    /// The tables with the trials behind each: Table I, then those of other protocols.
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
    /// The protocol, which says which images are tested in which run.
    pub protocol: Protocol,
    /// The number of trainings of each model per fold.
    pub repeats: u32,
    /// The number of folds.
    pub folds: u32,
    /// The meaning of ± in `cells`.
    pub spread: String,
    /// What differs between runs, as in [`Results::varied`].
    #[serde(default)]
    pub varied: Varied,
    /// The printed cells, as in [`Results::cells`].
    pub cells: Vec<Cell>,
    /// The claims as in [`Results::claims`], without those that no protocol changes.
    pub claims: Vec<Claim>,
}

/// Runs of a cell that test no picture of a class, because the class has fewer pictures
/// than there are folds. The accuracy of such a run is over the other classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Untested {
    /// The classes of the label that is missing, for instance `IVd`.
    pub classes: Vec<Class>,
    /// The names of the runs, for instance `r0 f4`.
    pub runs: Vec<String>,
}

/// A test picture that the tested network has learnt from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Leak {
    /// The picture, for instance `A/SUR/IVa/12.png`.
    pub image: String,
    /// The labels of the tasks by which the picture came into the training, from the
    /// training back to the task that took the picture up.
    pub path: Vec<String>,
    /// The names of the runs in which the picture is tested.
    pub runs: Vec<String>,
}

/// One printed cell of Table I and its counterpart in this study. Accuracies are in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// The id `<view>-<row>-<step>`, for instance `SUR-8-2`.
    pub id: String,
    /// The half of the table.
    pub view: View,
    /// The row within the view, counted from 1.
    pub row: u8,
    /// The step of the training: 1 if the accuracy is on data set I, 2 if it is on data
    /// set II after the second step.
    pub step: u8,
    /// The training that the cell is about, for instance `A+B → C`.
    pub training: String,
    /// The paper's name of the configuration.
    pub config: String,
    /// The data sets whose test patches are scored.
    pub tested_on: Vec<Dataset>,
    /// The paper's mean.
    pub paper_mean: f64,
    /// The paper's ±.
    pub paper_std: f64,
    /// The mean over runs; absent if no run finished.
    pub mean: Option<f64>,
    /// The sample standard deviation (n − 1) over runs; absent below two runs.
    pub std: Option<f64>,
    /// The number of finished runs, which the mean is over.
    pub n: u32,
    /// The number of runs asked for.
    pub n_asked: u32,
    /// The sample standard deviation of the mean accuracies of the classes.
    pub std_over_classes: Option<f64>,
    /// The mean accuracy of each class over runs.
    pub per_class: Vec<ClassAccuracy>,
    /// The accuracy of each run, ordered by repeat, then fold.
    pub runs: Vec<f64>,
    /// The names of `runs`, for instance `r0 f1`: repeat and fold, counted from 0.
    #[serde(default)]
    pub run_names: Vec<String>,
    /// The names of the runs that did not finish.
    #[serde(default)]
    pub missing: Vec<String>,
    /// The sample standard deviation over all pairs of run and class.
    #[serde(default)]
    pub std_pooled: Option<f64>,
    /// The share of test images whose patches are right by majority, as the mean over runs.
    #[serde(default)]
    pub image_accuracy: Option<f64>,
    /// The share of test images that are right by the mean probability of their patches, as
    /// the mean over runs.
    #[serde(default)]
    pub image_accuracy_by_score: Option<f64>,
    /// The range of `image_accuracy` with other test images: the middle 95 % of 2000
    /// bootstrap samples of images.
    #[serde(default)]
    pub image_interval: Option<[f64; 2]>,
    /// The mean F1 of the classes tested, as the mean over runs, in percent.
    #[serde(default)]
    pub macro_f1: Option<f64>,
    /// The average number of images that a run learns from. After a second step, only the
    /// images of that step count.
    #[serde(default)]
    pub train_images: f64,
    /// The average number of images that a run is tested on.
    #[serde(default)]
    pub test_images: f64,
    /// The term that is added to 1/n in the variance of the mean, because runs share
    /// training images (Nadeau and Bengio 2003): n_test/n_train of images, and 0 where only
    /// seeds differ between runs.
    #[serde(default)]
    pub split_correction: f64,
    /// The 95 % interval of the mean by Student's t with the corrected variance, cut at 0
    /// and 100. Absent below two runs, and if all runs have the same accuracy.
    #[serde(default)]
    pub interval: Option<[f64; 2]>,
    /// The smallest true difference from a fixed number that a two-sided test at 0.05
    /// on as many runs with this spread finds with a power of 80 %, in percentage
    /// points; absent without `interval`.
    #[serde(default)]
    pub detectable_difference: Option<f64>,
    /// The largest `std` with which as many runs can be EQUIVALENT if their mean is the
    /// paper's; absent without `interval`.
    #[serde(default)]
    pub equivalence_std: Option<f64>,
    /// The mean over the runs that test every class. Absent if all runs do, or if none does;
    /// see `untested`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_of_full_runs: Option<f64>,
    /// Our mean minus the paper's.
    #[serde(default)]
    pub difference: Option<f64>,
    /// Whether `difference` is at most the paper's ±, whatever that ± is over.
    #[serde(default)]
    pub within_printed_std: Option<bool>,
    /// The two-sided p-value of no difference from the paper's mean; absent unless both
    /// means may be compared.
    #[serde(default)]
    pub p: Option<f64>,
    /// The p-value `p` corrected for the number of trainings in the table; see
    /// [`Results::correction`].
    #[serde(default)]
    pub p_adjusted: Option<f64>,
    /// The larger p-value of the two one-sided tests against a difference from the
    /// paper's mean of `margin` or more; absent unless both means may be compared.
    #[serde(default)]
    pub p_equivalent: Option<f64>,
    /// The p-value `p_equivalent` corrected as `p_adjusted` is.
    #[serde(default)]
    pub p_equivalent_adjusted: Option<f64>,
    /// Welch's p-values of the difference for several numbers of runs behind the paper's ±,
    /// which the paper does not print. Absent unless both means may be compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub p_by_paper_n: Vec<PaperN>,
    /// The verdict on the cell's mean beside the paper's.
    pub verdict: Verdict,
    /// The reason for the verdict, where the numbers do not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The classes that some of the cell's runs do not test.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untested: Vec<Untested>,
    /// The test pictures that the cell's trainings have seen. If there are any, the cell has
    /// no numbers unless the study allows leaks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaks: Vec<Leak>,
    /// The share, 0 to 1, of the synthetic pictures behind the cell that pass the gate, which
    /// means that they show one central object as the real ones do. Absent if the cell rests on
    /// no synthetic pictures or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

impl Cell {
    /// The data sets whose test patches are scored, for instance `A+B`.
    pub fn test_sets(&self) -> String {
        let names: Vec<String> = self.tested_on.iter().map(Dataset::to_string).collect();
        names.join("+")
    }

    /// The cell of a row without any run: of its first step, or of the step on `second`.
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

    /// The printed cells of Table I in the paper's order. Each is made by `cell` from a row,
    /// the second data set if the accuracy is after the second step, and what is printed.
    pub fn of_table_1(mut cell: impl FnMut(&Row, Option<Dataset>, Printed) -> Cell) -> Vec<Cell> {
        let mut cells = vec![];
        for row in paper::TABLE_1.iter() {
            cells.push(cell(row, None, row.accuracy_1));
            cells.extend(row.accuracy_2.map(|printed| cell(row, row.second, printed)));
        }
        cells
    }
}

/// The mean accuracy of one class, in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClassAccuracy {
    /// The index of the label.
    pub label: u8,
    /// The classes that carry the label in the tested data sets; those of A and C differ.
    pub classes: Vec<Class>,
    /// The mean over runs.
    pub mean: f64,
}

/// What one diffusion model learnt from and made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Generator {
    /// The half of the study.
    pub view: View,
    /// The class of stone.
    pub class: Class,
    /// The number of synthetic pictures.
    pub samples: u32,
    /// The number of pictures with hardly a pixel that is not dark.
    pub empty: u32,
    /// The mean share of foreground pixels.
    pub foreground: f64,
    /// The number of pictures that pass the gate, which means that they show one central
    /// object as the pictures learnt from do. Absent if the pictures were not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<u32>,
    /// The number of pictures with each fault. A picture that does not pass may have several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<Fault, u32>,
    /// The number of pictures drawn to get `samples`, where `sinddm.reject_empty` had those
    /// that do not pass drawn again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn: Option<u32>,
    /// The number of pictures chosen for the model to learn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learnt: Option<u32>,
    /// The mean share of exactly black pixels, mostly padding, in the pictures learnt from.
    /// Such pixels have no relative intensity, which drift is scored on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub black: Option<f64>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::study::system::{Model, System};

    /// A document of this version with a value in almost every place.
    const EXAMPLE: &str = include_str!("results/example.json");

    #[test]
    fn documents_of_this_version_are_written_as_they_were_read() {
        let results: Results = serde_json::from_str(EXAMPLE).unwrap();
        assert_eq!(results.schema_version, SCHEMA_VERSION);
        assert_eq!(serde_json::to_string_pretty(&results).unwrap(), EXAMPLE.trim_end());
    }

    /// The schemas of the document and of all that it holds, by name.
    fn forms(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
        let parts = schema["$defs"].as_object().unwrap().iter().map(|(name, form)| (name.as_str(), form));
        std::iter::once(("Results", schema)).chain(parts).filter(|(_, form)| form["properties"].is_object())
    }

    /// Adds the names of what has a value in a part of a document, as `Cell.mean`.
    fn filled(schema: &Value, name: &str, form: &Value, part: &Value, found: &mut BTreeSet<String>) {
        if let Some(name) = form["$ref"].as_str().and_then(|way| way.strip_prefix("#/$defs/")) {
            return filled(schema, name, &schema["$defs"][name], part, found);
        }
        form["anyOf"].as_array().into_iter().flatten().for_each(|form| filled(schema, name, form, part, found));
        part.as_array().into_iter().flatten().for_each(|part| filled(schema, name, &form["items"], part, found));
        for (field, form) in form["properties"].as_object().into_iter().flatten() {
            if part.get(field).is_some_and(|value| !value.is_null()) {
                found.insert(format!("{name}.{field}"));
                filled(schema, name, form, &part[field], found);
            }
        }
    }

    #[test]
    fn every_field_has_a_value_in_the_example_and_is_listed() {
        let schema = serde_json::to_value(schemars::schema_for!(Results)).unwrap();
        let (mut all, mut found, mut lines) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (name, form) in forms(&schema) {
            let required = form["required"].as_array().map_or(&[][..], Vec::as_slice);
            let mark = |field: &str| if required.contains(&field.into()) { "" } else { "?" };
            let fields: BTreeSet<&str> = form["properties"].as_object().unwrap().keys().map(String::as_str).collect();
            all.extend(fields.iter().map(|field| format!("{name}.{field}")));
            let marked = fields.iter().map(|field| format!("{field}{}", mark(field)));
            lines.insert(format!("{name}: {}\n", marked.collect::<Vec<_>>().join(", ")));
        }
        let listed = String::from_iter(lines);
        filled(&schema, "Results", &schema, &serde_json::from_str(EXAMPLE).unwrap(), &mut found);
        assert_eq!(all.difference(&found).collect::<Vec<_>>(), Vec::<&String>::new(), "example.json lacks these");
        assert!(
            listed == include_str!("results/fields.txt"),
            "the fields of results changed: raise the version of the stage `aggregate`, mind that documents of before \
             lack a new field (`?`), and let fields.txt be\n{listed}"
        );
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
        results.as_object_mut().unwrap().remove("compared");
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
        assert_eq!((old.drift[0].passed, old.sifid[0].mean, old.compared[0].sifid), (Some(true), Some(3.5), Some(1.0)));
        assert_eq!((old.compared[0].system, old.compared[0].model()), (System::Ddpm, Model::View(View::Sur)));
        assert!(old.claims.iter().all(|claim| claim.kind == paper::ClaimKind::Above));
    }
}
