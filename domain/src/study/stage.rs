//! The catalogue of stages: what each does, with its resolved parameters.
//!
//! A stage is a pure function of its parameters, its inputs and its seed. Its
//! version is part of the task's key: whoever changes what a stage computes
//! raises its number, and nothing computed before is mistaken for the new.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::{EnumDiscriminants, VariantArray};

use crate::seed::Seed;
use crate::study::experiment::{
    Correction, DdpmSampling, DdpmTraining, DriftMethod, DriftPath, Features, Finest, HeadStart, HeatmapSize, Init,
    LabelOrder, Mix, Network, Pad, Pairing, Patch, Pick, Sampling, Select, Sifid, SifidSize, Sinddm, StdOver,
    Swin2srTraining, Trials, Upscale, UpscaleMethod, Validation, Whiten,
};
use crate::study::lineage::Lineage;
use crate::study::stone::{Class, Dataset, View};
use crate::study::trial::Split;
use crate::text::FIELD_BYTES;

mod attempt;
mod check;
mod kind;
mod names;
mod values;

pub use attempt::{Cadence, Failure, FailureCode, Folder, Monitor, Progress, Unwatched};
pub use kind::UnknownStage;
pub use names::{InputName, Subject, milestone_path, picture_path};
pub use values::Values;

/// One kind of work with everything that it depends on, inputs and seed aside.
///
/// Each variant says which inputs it reads and which files it writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, EnumDiscriminants)]
#[serde(tag = "stage")]
#[strum_discriminants(name(StageKind), derive(PartialOrd, Ord, Hash, VariantArray))]
#[strum_discriminants(doc = "A stage without its parameters, in the order in which a study runs them.")]
pub enum Stage {
    /// Scans, decodes and validates one view of a data set and sets images apart
    /// for its diffusion models.
    ///
    /// Inputs `raw.<class>`: the class folder as given; `masks.<class>`, where there are
    /// any: `<file stem>.png`, not black where the stone is. Output `images.json`.
    #[serde(rename = "ingest")]
    Ingest(Ingest),
    /// Chooses pictures of one class and brings them to one canvas.
    ///
    /// Input `raw`: the class folder as given. Outputs `images/NNN.png`, `pad.json`.
    #[serde(rename = "pad")]
    Pad(Canvases),
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
        /// Whether samples that do not pass the gate are drawn again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        reject_empty: bool,
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
    /// (ddpm.train) and `synthetic` (ddpm.sample). Output `drift.json`. As of all
    /// evaluations, it says why if there is nothing that can be scored.
    #[serde(rename = "evaluate.drift")]
    EvaluateDrift(EvaluateDrift),
    /// Compares where the mean real and the mean synthetic picture are bright.
    ///
    /// Inputs as for drift. Outputs `heatmap.json`, `real.png`, `synthetic.png`, `difference.png`.
    #[serde(rename = "evaluate.heatmap")]
    EvaluateHeatmap(EvaluateHeatmap),
    /// Single-image Fréchet distance of one class of one view.
    ///
    /// Inputs `real` (pad), `synthetic` (upscale), and `weights` for ImageNet's
    /// features. Output `sifid.json`.
    #[serde(rename = "evaluate.sifid")]
    EvaluateSifid(EvaluateSifid),
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
    /// `heatmap.<view>`, `sifid.<view>.<class>`, `samples.<view>.<class>`,
    /// `ddpm-<samples or score>.<model>`, and for the losses `sinddm.train.<model>`,
    /// `ddpm.train.<model>`, `swin2sr.train.<view>`. Output `results.json`.
    #[serde(rename = "aggregate")]
    Aggregate(Aggregate),
    /// Writes what people read.
    ///
    /// Inputs `results`, `heatmap.<view>`, `samples.<view>.<class>`, and with contact sheets
    /// `milestones.<view>.<class>`. Outputs `index.html`, `table.md`, `table.csv`,
    /// `table.tex`, `scores.csv`, `claims.csv`, `results.json` and the pictures of
    /// `index.html`.
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
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub id: Arc<str>,
    /// The program and its arguments. All tasks of an array have the same in memory, as
    /// they have the fields beside it.
    pub argv: Arc<[String]>,
    /// Variables set for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: Arc<BTreeMap<String, String>>,
    /// Which element of an array it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The line of that element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

impl Command {
    /// Bytes of its texts, with those around them.
    pub(crate) fn told_bytes(&self) -> usize {
        let environment = self.environment.iter().flat_map(|(name, value)| [name, value]);
        let texts = self.argv.iter().chain(environment).chain(&self.line);
        self.id.len() + texts.map(|text| text.len() + FIELD_BYTES).sum::<usize>()
    }
}

/// Parameters of [`Stage::Ingest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ingest {
    /// A or C.
    pub dataset: Dataset,
    /// Which half of it.
    pub view: View,
    /// Which images diffusion models learn from; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// Pictures smaller than this in width or height are refused, so that a study does
    /// not find out when it cuts patches.
    pub min_side: u32,
    /// Which stone a picture shows, by class and file name; what is not named shows
    /// one of its own. No stone is ever on both sides of a split.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stones: BTreeMap<Class, BTreeMap<String, u32>>,
}

/// Which images of a class its diffusion model learns from. The same choice gives the
/// same images whatever the protocol, the number of folds and the size of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// How many; fewer where a class would have none left to test.
    pub images: u32,
    /// Whether they may be tested: unless this says so, they are on the training side of
    /// every fold, so that no fold leaks through the generator.
    pub pick: Pick,
    /// Root of the random order in which they are taken.
    pub seed: Seed,
}

/// Parameters of [`Stage::Pad`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Canvases {
    /// The class of the pictures.
    pub class: Class,
    /// The canvas.
    pub pad: Pad,
    /// Width to height to which the canvas is extended; absent: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<[u32; 2]>,
    /// The pictures that are brought to it; absent: all of the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// Stones by file name, as in [`Ingest::stones`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stones: BTreeMap<String, u32>,
}

/// All pictures of a class laid out as one, which its diffusion model has learnt from:
/// real pictures are laid out alike before synthetic ones are compared with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mosaic {
    /// Width to height to which the whole is extended; absent: left as it is.
    pub frame: Option<[u32; 2]>,
}

/// Parameters of [`Stage::EvaluateDrift`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaluateDrift {
    /// The pixels of a picture that are measured.
    pub path: DriftPath,
    /// Share cut from each end of both samples before the earth mover's distance.
    pub margin: f64,
    /// How real pictures are brought to the size of synthetic ones; absent: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// How real pictures are laid out; absent: one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mosaic: Option<Mosaic>,
}

/// How synthetic pictures came to their size. Real ones are brought there the same way
/// before properties are measured: relative intensities leave out exactly black pixels, as
/// padding has them, and every shrinking and enlarging makes some of them less black.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The finest scale, to which pictures are shrunk for training.
    pub finest: Finest,
    /// By how much samples are enlarged.
    pub factor: u32,
    /// The filter that enlarges them; real pictures go through Lanczos where samples go
    /// through Swin2SR.
    pub method: UpscaleMethod,
}

/// Parameters of [`Stage::EvaluateHeatmap`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaluateHeatmap {
    /// The size to which pictures are brought.
    pub size: HeatmapSize,
    /// How real pictures are laid out; absent: one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mosaic: Option<Mosaic>,
}

/// Parameters of [`Stage::EvaluateSifid`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaluateSifid {
    /// Weights of the network whose features are compared.
    pub features: Features,
    /// Channels of the feature map: 64 or 192.
    pub block: u32,
    /// Which real picture a synthetic one is compared with.
    pub pairing: Pairing,
    /// The size at which pictures are looked at.
    pub size: SifidSize,
    /// How real pictures are laid out; absent: one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mosaic: Option<Mosaic>,
}

impl Default for EvaluateSifid {
    fn default() -> Self {
        Self::of(&Sifid::default())
    }
}

impl EvaluateSifid {
    /// Those of a spec, of real pictures one by one.
    pub fn of(sifid: &Sifid) -> Self {
        let Sifid { features, block, pairing, size, std_over: _ } = *sifid;
        Self { features, block, pairing, size, mosaic: None }
    }
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
    /// The trials behind each cell, by each protocol; the first makes Table I.
    #[serde(rename = "rounds")]
    pub trials: Vec<Trials>,
    /// Whether cells are filled whose training has seen a test picture.
    pub allow_leak: bool,
    /// From what each training has learnt.
    pub lineage: Lineage,
    /// Why the numbers cannot be compared with the paper's; empty if they can.
    pub stand_ins: Vec<String>,
    /// Readings of the paper that differ from the defaults, as `knob = value (default)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<String>,
    /// Drift score at and above which a property has drifted.
    pub drift_threshold: f64,
    /// The distance that is the drift score.
    #[serde(default)]
    pub drift_method: DriftMethod,
    /// Share cut from each end of both samples before the earth mover's distance.
    #[serde(default)]
    pub drift_margin: f64,
    /// What mean and ± of SIFID are over.
    #[serde(default)]
    pub sifid_std_over: StdOver,
    /// How near the paper's mean counts as equivalent, in percentage points.
    #[serde(default)]
    pub margin: f64,
    /// What keeps the many verdicts of a table from being right by chance.
    #[serde(default)]
    pub correction: Correction,
}

impl Stage {
    /// The parameters that its results depend on. Left out is what cannot change them: how
    /// many pictures go through a network at once, and what a generator's input has
    /// decided already.
    pub fn parameters(&self) -> Value {
        let mut own = json(self);
        for (section, name) in self.execution() {
            if let Some(Value::Object(section)) = own.pointer_mut(section) {
                section.remove(*name);
            }
        }
        own
    }

    /// What tells its results apart from those of the same stage with other parameters:
    /// [`parameters`](Self::parameters) without the entries of sections of the spec that
    /// have their defaults, so that a knob which is added with a default moves no key.
    /// Whoever changes a default raises the versions of the stages that read it.
    pub fn identity(&self) -> Value {
        let mut own = self.parameters();
        for (name, defaults) in self.sections() {
            if let Some(section) = own.get_mut(name) {
                drop_equal(section, &defaults);
            }
        }
        sorted(own)
    }

    /// The sections of the spec among its parameters, with their defaults.
    fn sections(&self) -> Vec<(&'static str, Value)> {
        match self {
            Stage::Pad(_) => vec![("pad", json(&Pad::default()))],
            Stage::SinddmTrain { .. } => vec![("sinddm", json(&Sinddm::default()))],
            Stage::SinddmSample { .. } => vec![("sampling", json(&Sampling::default()))],
            Stage::DdpmTrain { .. } => vec![("training", json(&DdpmTraining::default()))],
            Stage::DdpmSample { .. } => vec![("sampling", json(&DdpmSampling::default()))],
            Stage::Swin2srTrain { .. } => vec![("training", json(&Swin2srTraining::default()))],
            Stage::Upscale { .. } => vec![("upscale", json(&Upscale::default()))],
            Stage::Patches(_) => vec![("patch", json(&Patch::default())), ("pad", json(&Pad::default()))],
            Stage::ClassifyTrain(_) => vec![("network", json(&Network::default()))],
            Stage::Ingest(_)
            | Stage::EvaluateDrift(_)
            | Stage::EvaluateHeatmap(_)
            | Stage::EvaluateSifid(_)
            | Stage::Aggregate(_)
            | Stage::Report
            | Stage::Command(_) => vec![],
        }
    }

    /// Parameters that cannot change its results: where they stand, and their names.
    fn execution(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            // Decides whether there is a result at all.
            Stage::Ingest(_) => &[("", "min_side")],
            Stage::SinddmTrain { .. } => &[
                ("/sinddm", "micro_batch"),
                // Acts when samples are drawn.
                ("/sinddm", "reject_empty"),
                // Decided by the pictures of the input.
                ("/sinddm", "images_per_model"),
                ("/sinddm", "pick"),
                ("/sinddm", "pick_seed"),
            ],
            Stage::SinddmSample { .. } | Stage::DdpmSample { .. } => &[("/sampling", "batch")],
            _ => &[],
        }
    }
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// With the entries of each object by name, whatever order the JSON library keeps.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            let entries: BTreeMap<String, Value> = entries.into_iter().collect();
            Value::Object(entries.into_iter().map(|(name, value)| (name, sorted(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        value => value,
    }
}

/// Removes the entries that equal those of `defaults`, section by section.
fn drop_equal(own: &mut Value, defaults: &Value) {
    let (Value::Object(own), Value::Object(defaults)) = (own, defaults) else { return };
    own.retain(|name, value| {
        let Some(default) = defaults.get(name) else { return true };
        if value.is_object() && value != default {
            drop_equal(value, default);
        }
        value != default
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_of_the_gate_tell_no_trainings_apart_and_old_samplings_are_read() {
        let train = |reject_empty| Stage::SinddmTrain { sinddm: Sinddm { reject_empty, ..Sinddm::default() } };
        assert_eq!(train(false).identity(), train(true).identity());
        let sample = |reject_empty| Stage::SinddmSample { sampling: Sampling::default(), reject_empty };
        assert_ne!(sample(false).identity(), sample(true).identity());
        assert_eq!(json(&sample(false)).get("reject_empty"), None);
        assert_eq!(serde_json::from_value::<Stage>(json(&sample(false))).unwrap(), sample(false));
    }
}
