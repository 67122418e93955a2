//! The catalogue of stages: what each does, with its resolved parameters.
//!
//! A stage is a pure function of its parameters, its inputs and its seed. Its
//! version is part of the task's key: whoever changes what a stage computes
//! raises its number, and nothing computed before is mistaken for the new.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::experiment::{
    DdpmSampling, DdpmTraining, Drift, HeadStart, Init, LabelOrder, Mix, Network, Pad, Patch, Pick, Rounds, Sampling,
    Select, Sifid, Sinddm, Swin2srTraining, Upscale, Validation, Whiten,
};
use crate::lineage::Lineage;
use crate::stone::{Class, Dataset, View};

mod attempt;

pub use attempt::{Cadence, Failure, FailureCode, Folder, Monitor, Progress, Unwatched};

/// One kind of work with everything that it depends on, inputs and seed aside.
///
/// Each variant says which inputs it reads and which files it writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage")]
pub enum Stage {
    /// Scans, decodes and validates one view of a data set and sets images apart
    /// for its diffusion models.
    ///
    /// Inputs `raw.<class>`: the class folder as given; `masks.<class>`, where there are
    /// any: `<file stem>.png`, not black where the stone is. Output `images.json`.
    #[serde(rename = "ingest")]
    Ingest(Ingest),
    /// Brings the training pictures of one diffusion model to one canvas.
    ///
    /// Inputs `ingest`, `raw`: of one class. Outputs `images/NNN.png`,
    /// `masks/NNN.png` (255 where the picture is), `pad.json`.
    #[serde(rename = "pad")]
    Pad {
        /// Whose pictures.
        class: Class,
        /// The canvas.
        pad: Pad,
    },
    /// Trains one diffusion model.
    ///
    /// Input `pad`. Outputs `model.safetensors`, `training.json`, `loss.csv`,
    /// and `milestones/<step>.png`, samples at each milestone.
    #[serde(rename = "sinddm.train")]
    SinddmTrain {
        /// Pyramid, network and schedule.
        sinddm: Sinddm,
    },
    /// Samples from one diffusion model, or from several in turn.
    ///
    /// Input `model`, or `model.0`, `model.1`, …. Outputs `images/NNN.png`, `sheet.png`, `samples.json`.
    #[serde(rename = "sinddm.sample")]
    SinddmSample {
        /// How many and how.
        sampling: Sampling,
    },
    /// Trains one plain diffusion model.
    ///
    /// Inputs `pad`, or `pad.<class>` of all classes of a view. Outputs
    /// `model.safetensors`, `training.json`, `loss.csv`, and `images/NNN.png`, the
    /// squares that it has learnt from.
    #[serde(rename = "ddpm.train")]
    DdpmTrain {
        /// Network and schedule.
        training: DdpmTraining,
    },
    /// Samples from one plain diffusion model.
    ///
    /// Input `model`. Outputs `images/NNN.png`, `sheet.png`, `samples.json`.
    #[serde(rename = "ddpm.sample")]
    DdpmSample {
        /// How many and how.
        sampling: DdpmSampling,
    },
    /// Trains a small Swin2SR on the pictures of one view.
    ///
    /// Inputs `pad.<class>`. Outputs `model.safetensors`, `training.json`, `loss.csv`.
    #[serde(rename = "swin2sr.train")]
    Swin2srTrain {
        /// Width and height that a canvas has as an enlarged sample.
        size: [u32; 2],
        /// Network and schedule.
        training: Swin2srTraining,
    },
    /// Enlarges the samples of one model.
    ///
    /// Input `samples`, and for Swin2SR `weights` or `model` (swin2sr.train). Outputs `images/NNN.png`, `upscale.json`.
    #[serde(rename = "upscale")]
    Upscale {
        /// How.
        upscale: Upscale,
    },
    /// Scores the drift of image properties of one view.
    ///
    /// Inputs `real.<class>` (pad), `synthetic.<class>` (upscale), or `real`
    /// (ddpm.train) and `synthetic` (ddpm.sample). Output `drift.json`.
    #[serde(rename = "evaluate.drift")]
    EvaluateDrift {
        /// Thresholds.
        drift: Drift,
    },
    /// Compares where the mean real and the mean synthetic picture are bright.
    ///
    /// Inputs as for drift. Outputs `heatmap.json`, `real.png`, `synthetic.png`, `difference.png`.
    #[serde(rename = "evaluate.heatmap")]
    EvaluateHeatmap,
    /// Single-image Fréchet distance of one class of one view.
    ///
    /// Inputs `real` (pad), `synthetic` (upscale), and `weights` for ImageNet's
    /// features. Output `sifid.json`.
    #[serde(rename = "evaluate.sifid")]
    EvaluateSifid {
        /// Features and pairing.
        sifid: Sifid,
    },
    /// Splits one view of a data set by image and cuts it into patches.
    ///
    /// Inputs for A and C: `ingest`, `raw.<class>`, `masks.<class>`; for B: `synthetic.<class>`
    /// (upscale). Outputs `train.safetensors`, `test.safetensors` (tensors
    /// `images` u8 [n, 3, size, size], `labels` u8 [n], `image_ids` u32 [n]),
    /// `patches.csv`, `patches.json`, `sheet.png`.
    #[serde(rename = "patches")]
    Patches(Patches),
    /// Trains one classifier and tests it on the test side of the same data.
    ///
    /// Inputs `patches.<dataset>` for each data set; `weights` for a first step
    /// that starts from ImageNet's; `init` (classify.train) for a second step. Outputs `model.safetensors`, `metrics.json`, `epochs.csv`.
    #[serde(rename = "classify.train")]
    ClassifyTrain(ClassifyTrain),
    /// Brings the numbers of the whole study together.
    ///
    /// Inputs: `classify.<view>.<model>.<run>`, `patches.<dataset>.<view>.<split>` and
    /// `pad.<view>.<class>`, whose records say which pictures are where, `drift.<view>`,
    /// `heatmap.<view>`, `sifid.<view>.<class>`, `samples.<view>.<class>`, and for the
    /// losses `sinddm.train.<model>`, `ddpm.train.<model>`, `swin2sr.train.<view>`. Output
    /// `results.json`.
    #[serde(rename = "aggregate")]
    Aggregate(Aggregate),
    /// Writes what people read.
    ///
    /// Inputs `results`, `heatmap.<view>`, `samples.<view>.<class>`, and with contact sheets
    /// `milestones.<view>.<class>`. Outputs `index.html`, `table.md`, `table.csv`,
    /// `table.tex`, `results.json` and the pictures of `index.html`.
    #[serde(rename = "report")]
    Report,
    /// Runs somebody's own program. Only by workers that were started with
    /// `--allow-exec`.
    ///
    /// Inputs as named in the request. Outputs: what the program leaves in its
    /// folder of outputs, and what it prints, as `stdout.txt`.
    #[serde(rename = "command")]
    Command(Command),
}

/// Parameters of [`Stage::Command`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Sets it apart from the same command in other submissions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables set for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Which element of an array it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The line of that element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

/// Parameters of [`Stage::Ingest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ingest {
    /// A or C.
    pub dataset: Dataset,
    /// Which half of it.
    pub view: View,
    /// Images per class that a diffusion model will learn from. Unless `pick`
    /// says otherwise they are on the training side of every fold, so that no
    /// fold leaks through the generator.
    pub generator_images: u32,
    /// Images of a class that are left for testing in any case: the most folds of
    /// any split.
    #[serde(alias = "folds")]
    pub leave: u32,
    /// Which images these are.
    #[serde(default)]
    pub pick: Pick,
    /// Where the choice of these comes from; absent: the attempt's seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick_seed: Option<u64>,
    /// Pictures smaller than this in width or height are refused.
    pub min_side: u32,
    /// Which stone a picture shows, by class and file name; what is not named shows
    /// one of its own. No stone is ever on both sides of a split.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stones: BTreeMap<Class, BTreeMap<String, u32>>,
}

/// Parameters of [`Stage::Patches`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patches {
    /// Whose pictures.
    pub dataset: Dataset,
    /// Which half of it.
    pub view: View,
    /// Which images are on the test side.
    #[serde(default)]
    pub split: Split,
    /// Sizes and quotas.
    pub patch: Patch,
    /// The canvas that the pictures are brought to before; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad: Option<Pad>,
}

/// One way to put images on a training and a test side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Split {
    /// Which dealing of the images over the folds, counted from 0: each number has
    /// its own, and all folds of one number share it.
    pub number: u32,
    /// 1: a share of the images is tested. More: each image is tested in one fold.
    pub folds: u32,
    /// The fold whose images are tested, counted from 0.
    pub fold: u32,
}

impl Default for Split {
    fn default() -> Self {
        Self { number: 0, folds: 1, fold: 0 }
    }
}

/// Parameters of [`Stage::ClassifyTrain`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifyTrain {
    /// The data sets whose patches are learnt and tested, concatenated.
    pub datasets: Vec<Dataset>,
    /// The network.
    pub network: Network,
    /// First step: where the weights come from. A second step has the input
    /// `init` instead and keeps all weights of the first below its head.
    pub init: Option<Init>,
    /// What a second step does with the head of the first.
    pub head: HeadStart,
    /// Which label each class has.
    pub order: LabelOrder,
    /// How training patches of several data sets are put together.
    pub mix: Mix,
    /// What patches are normalised by.
    pub whiten: Whiten,
    /// Patches per optimiser step.
    pub batch: u32,
    /// Passes over the training patches.
    pub epochs: u32,
    /// Learning rate of the first epoch.
    pub lr: f64,
    /// Momentum of stochastic gradient descent.
    pub momentum: f64,
    /// Epochs after which the learning rate is multiplied by `lr_gamma`.
    pub lr_step: u32,
    /// See `lr_step`.
    pub lr_gamma: f64,
    /// Random flips and rotations.
    pub augment: bool,
    /// A random blur.
    pub blur: bool,
    /// Share of training patches kept for validation.
    pub val_fraction: f64,
    /// Which patches these are.
    pub val: Validation,
    /// Which epoch's weights are tested and passed on.
    pub select: Select,
}

/// Parameters of [`Stage::Aggregate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// Name of the preset.
    pub scale: String,
    /// Root seed of the study.
    pub seed: u64,
    /// The runs behind each cell, by each protocol; the first makes Table I.
    pub rounds: Vec<Rounds>,
    /// Whether cells are filled whose training has seen a test picture.
    pub allow_leak: bool,
    /// From what each training has learnt.
    pub lineage: Lineage,
    /// Why the numbers cannot be compared with the paper's; empty if they can.
    pub stand_ins: Vec<String>,
    /// Drift score at and above which a property has drifted.
    pub drift_threshold: f64,
    /// How near the paper's mean counts as equivalent, in percentage points.
    #[serde(default)]
    pub margin: f64,
}

impl Stage {
    /// The name of every stage with its current version.
    pub const CATALOGUE: [(&'static str, u32); 16] = [
        ("ingest", 3),
        ("pad", 3),
        ("sinddm.train", 2),
        ("sinddm.sample", 2),
        ("ddpm.train", 1),
        ("ddpm.sample", 1),
        ("swin2sr.train", 1),
        ("upscale", 2),
        ("evaluate.drift", 1),
        ("evaluate.heatmap", 1),
        ("evaluate.sifid", 4),
        ("patches", 2),
        ("classify.train", 3),
        ("aggregate", 4),
        ("report", 3),
        ("command", 1),
    ];

    /// The stage's name.
    pub fn name(&self) -> &'static str {
        match self {
            Stage::Ingest(_) => "ingest",
            Stage::Pad { .. } => "pad",
            Stage::SinddmTrain { .. } => "sinddm.train",
            Stage::SinddmSample { .. } => "sinddm.sample",
            Stage::DdpmTrain { .. } => "ddpm.train",
            Stage::DdpmSample { .. } => "ddpm.sample",
            Stage::Swin2srTrain { .. } => "swin2sr.train",
            Stage::Upscale { .. } => "upscale",
            Stage::EvaluateDrift { .. } => "evaluate.drift",
            Stage::EvaluateHeatmap => "evaluate.heatmap",
            Stage::EvaluateSifid { .. } => "evaluate.sifid",
            Stage::Patches(_) => "patches",
            Stage::ClassifyTrain(_) => "classify.train",
            Stage::Aggregate(_) => "aggregate",
            Stage::Report => "report",
            Stage::Command(_) => "command",
        }
    }

    /// Whether an attempt that is stopped can go on elsewhere from a checkpoint.
    pub fn leaves_checkpoints(&self) -> bool {
        matches!(
            self,
            Stage::SinddmTrain { .. }
                | Stage::SinddmSample { .. }
                | Stage::DdpmTrain { .. }
                | Stage::DdpmSample { .. }
                | Stage::Swin2srTrain { .. }
                | Stage::ClassifyTrain(_)
        )
    }

    /// The version of what the stage computes.
    pub fn version(&self) -> u32 {
        let named = Self::CATALOGUE.iter().find(|(name, _)| *name == self.name());
        named.expect("every stage is in the catalogue").1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_the_stage_as_the_catalogue_does() {
        let stages = [Stage::EvaluateHeatmap, Stage::Report, Stage::SinddmTrain { sinddm: Sinddm::default() }];
        for stage in stages {
            let json = serde_json::to_value(&stage).unwrap();
            assert_eq!(json["stage"], stage.name());
            assert!(stage.version() > 0);
        }
    }
}
