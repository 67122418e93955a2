//! The spec of a study: every knob with its default.
//!
//! The defaults are the paper's study at full size. Presets (`experiments/`)
//! change sizes; what a knob cannot do yet is not offered as a value. Names
//! follow the configuration of the published code where it has one.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pretrained::Pretrained;
use crate::stone::{Dataset, View};

mod ddpm;
mod effect;
mod evaluation;
pub mod knobs;
mod pad;
mod patch;
mod sinddm;
mod tl;
mod upscale;

pub use ddpm::{Ddpm, DdpmMethod, DdpmModels, DdpmSampling, DdpmTraining};
pub use effect::Idle;
pub use evaluation::{
    Drift, DriftMethod, DriftPath, DriftReference, Features, Heatmap, HeatmapSize, Pairing, Sifid, SifidRule,
    SifidSize, StdOver,
};
pub use pad::{Anchor, Canvas, CanvasRule, Fill, Oversize, Pad};
pub use patch::{Patch, PatchMethod, PatchSource};
pub use sinddm::{
    BatchMix, Finest, FinestRule, Fit, LossPool, MultiImage, Pick, Precision, RescaleLoss, Sampling, Sinddm, shrunk,
};
pub use tl::{
    Correction, HeadStart, ImagenetWeights, Init, LabelOrder, Labels, Mix, Network, Protocol, Rounds, Select, Stem,
    TransferLearning, Validation, Varied, Whiten,
};
pub use upscale::{Reduction, Swin2srTraining, Swin2srVariant, Upscale, UpscaleMethod, UpscaleWeights};

/// A named size of the study: the preset that a spec builds on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Every stage runs, nothing is learnt: seconds.
    Smoke,
    /// The whole study on small pictures, classifiers that learn: minutes on two cores.
    Tiny,
    /// On larger pictures, and with networks that learn for longer: hours on two cores.
    Small,
    /// The study as published: GPU-days.
    #[default]
    Paper,
}

impl Scale {
    /// All presets, smallest first.
    pub const ALL: [Scale; 4] = [Scale::Smoke, Scale::Tiny, Scale::Small, Scale::Paper];

    /// The name used in `--scale` and in spec files.
    pub fn name(self) -> &'static str {
        match self {
            Scale::Smoke => "smoke",
            Scale::Tiny => "tiny",
            Scale::Small => "small",
            Scale::Paper => "paper",
        }
    }
}

/// The whole spec. A study is determined by it, the data and the code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Experiment {
    /// The preset whose values hold where the spec says nothing.
    pub scale: Scale,
    /// Root of every random number of the study.
    pub seed: u64,
    /// Stand-in pictures, drawn when no data are given.
    pub phantom: Phantom,
    /// Bringing the training pictures of a diffusion model to one size.
    pub pad: Pad,
    /// Training of the diffusion models.
    pub sinddm: Sinddm,
    /// Sampling from the diffusion models.
    pub sampling: Sampling,
    /// A plain diffusion model to compare with.
    pub ddpm: Ddpm,
    /// Super-resolution of the samples.
    pub upscale: Upscale,
    /// Image property drift between real and synthetic pictures.
    pub drift: Drift,
    /// Where real and synthetic pictures are bright.
    pub heatmap: Heatmap,
    /// Single-image Fréchet distance.
    pub sifid: Sifid,
    /// Cutting pictures into patches.
    pub patch: Patch,
    /// Which label each class has.
    pub labels: Labels,
    /// Classifiers: baselines and two-step transfer learning.
    pub tl: TransferLearning,
}

impl Default for Experiment {
    fn default() -> Self {
        Self {
            scale: Scale::Paper,
            seed: 3407,
            phantom: Phantom::default(),
            pad: Pad::default(),
            sinddm: Sinddm::default(),
            sampling: Sampling::default(),
            ddpm: Ddpm::default(),
            upscale: Upscale::default(),
            drift: Drift::default(),
            heatmap: Heatmap::default(),
            sifid: Sifid::default(),
            patch: Patch::default(),
            labels: Labels::default(),
            tl: TransferLearning::default(),
        }
    }
}

/// Sizes of the procedural stand-in pictures, in pixels (width, height).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Phantom {
    /// Size of the CCD-like pictures of A.
    pub size_a: [u32; 2],
    /// Size of the endoscope-like pictures of C.
    pub size_c: [u32; 2],
    /// Number of pictures per class as a share of the paper's; at least 4 are drawn.
    pub share: f64,
}

impl Default for Phantom {
    fn default() -> Self {
        Self { size_a: [4288, 2848], size_c: [768, 576], share: 1.0 }
    }
}

/// Most pictures of one class that are numbered within a view.
pub const PICTURES_MAX: u32 = 100_000;

/// What is wrong with a spec: which knob and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct InvalidKnob {
    /// The knob, as in `--set`.
    pub key: String,
    /// What it has to be.
    pub problem: String,
}

impl Experiment {
    /// Checks ranges and the knobs that depend on each other.
    ///
    /// # Errors
    /// The first knob that cannot be.
    pub fn check(&self) -> Result<(), InvalidKnob> {
        let fail = |key: &str, problem: String| Err(InvalidKnob { key: key.to_owned(), problem });
        let at_least = |key: &str, value: u32, least: u32| match value >= least {
            true => Ok(()),
            false => fail(key, format!("is {value}, has to be at least {least}")),
        };
        let within = |key: &str, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
            true => Ok(()),
            false => fail(key, format!("is {value}, has to lie between {low} and {high}")),
        };
        let at_most = |key: &str, value: u32, most: u32| match value <= most {
            true => Ok(()),
            false => fail(key, format!("is {value}, has to be at most {most}")),
        };
        for (key, [width, height]) in [
            ("phantom.size_a", self.phantom.size_a),
            ("phantom.size_c", self.phantom.size_c),
            ("pad.target", self.pad.target.nominal()),
            ("sinddm.finest", self.finest()),
        ] {
            at_least(key, width.min(height), 8)?;
            at_most(key, width.max(height), 32_768)?;
        }
        within("phantom.share", self.phantom.share, 0.0, 10.0)?;
        at_least("sinddm.images_per_model", self.sinddm.images_per_model, 1)?;
        if let Some(coarsest) = self.sinddm.coarsest {
            at_least("sinddm.coarsest", coarsest, 4)?;
            at_most("sinddm.coarsest", coarsest, self.finest()[0].min(self.finest()[1]))?;
        }
        within("sinddm.scale_factor", self.sinddm.scale_factor, 1.05, 8.0)?;
        at_least("sinddm.timesteps", self.sinddm.timesteps, 2)?;
        at_most("sinddm.timesteps", self.sinddm.timesteps, 10_000)?;
        at_least("sinddm.dim", self.sinddm.dim, 2)?;
        if !self.sinddm.dim.is_multiple_of(2) {
            return fail("sinddm.dim", format!("is {}, has to be even", self.sinddm.dim));
        }
        at_least("sinddm.batch", self.sinddm.batch, 1)?;
        at_least("sinddm.micro_batch", self.sinddm.micro_batch.unwrap_or(1), 1)?;
        at_least("sinddm.steps", self.sinddm.steps, 1)?;
        within("sinddm.lr", self.sinddm.lr, 0.0, 1.0)?;
        within("sinddm.lr_gamma", self.sinddm.lr_gamma, 0.0, 1.0)?;
        within("sinddm.ema", self.sinddm.ema, 0.0, 1.0)?;
        at_least("sinddm.ema_every", self.sinddm.ema_every, 1)?;
        at_least("sampling.per_model", self.sampling.per_model, 2)?;
        at_most("sampling.per_model", self.sampling.per_model, PICTURES_MAX)?;
        at_least("sampling.batch", self.sampling.batch, 1)?;
        within("sampling.omega", self.sampling.omega, 0.0, 1.0)?;
        within("sampling.gamma_clip", self.sampling.gamma_clip, 0.0, 0.99)?;
        within("sampling.scale_mul", self.sampling.scale_mul[0], 0.1, 10.0)?;
        within("sampling.scale_mul", self.sampling.scale_mul[1], 0.1, 10.0)?;
        let ddpm = &self.ddpm.training;
        at_least("ddpm.training.size", ddpm.size, 8)?;
        at_most("ddpm.training.size", ddpm.size, 4096)?;
        if !(1..=8).contains(&ddpm.mults.len()) || ddpm.mults.contains(&0) {
            return fail("ddpm.training.mults", "has to name one to eight levels, none of width 0".to_owned());
        }
        let halvings = 1 << (ddpm.mults.len() - 1);
        if !ddpm.size.is_multiple_of(halvings) {
            return fail("ddpm.training.size", format!("is {}, has to be a multiple of {halvings}", ddpm.size));
        }
        if ddpm.dim == 0 || !ddpm.dim.is_multiple_of(8) {
            return fail("ddpm.training.dim", format!("is {}, has to be a multiple of 8", ddpm.dim));
        }
        at_least("ddpm.training.timesteps", ddpm.timesteps, 2)?;
        at_most("ddpm.training.timesteps", ddpm.timesteps, 10_000)?;
        at_least("ddpm.training.batch", ddpm.batch, 1)?;
        at_least("ddpm.training.steps", ddpm.steps, 1)?;
        within("ddpm.training.lr", ddpm.lr, 0.0, 1.0)?;
        within("ddpm.training.clip", ddpm.clip, 1e-6, 1e6)?;
        within("ddpm.training.ema", ddpm.ema, 0.0, 1.0)?;
        at_least("ddpm.training.ema_every", ddpm.ema_every, 1)?;
        at_least("ddpm.sampling.per_class_view", self.ddpm.sampling.per_class_view, 2)?;
        at_most("ddpm.sampling.per_class_view", self.ddpm.sampling.per_class_view, PICTURES_MAX)?;
        at_least("ddpm.sampling.batch", self.ddpm.sampling.batch, 1)?;
        at_least("ddpm.sampling.ddim_steps", self.ddpm.sampling.ddim_steps, 1)?;
        at_most("ddpm.sampling.ddim_steps", self.ddpm.sampling.ddim_steps, 10_000)?;
        at_least("upscale.factor", self.upscale.factor, 1)?;
        at_most("upscale.factor", self.upscale.factor, 16)?;
        if self.upscale.method == UpscaleMethod::Swin2sr && self.upscale.factor != 4 {
            let problem = format!("is {}, has to be 4 for Swin2SR", self.upscale.factor);
            return fail("upscale.factor", problem);
        }
        if !self.upscale.tile.is_multiple_of(8) {
            return fail("upscale.tile", format!("is {}, has to be 0 or a multiple of 8", self.upscale.tile));
        }
        at_most("upscale.tile", self.upscale.tile, 4096)?;
        if self.upscale.tile > 0 && self.upscale.overlap >= self.upscale.tile {
            let problem = format!("is {}, has to be less than upscale.tile", self.upscale.overlap);
            return fail("upscale.overlap", problem);
        }
        let training = &self.upscale.training;
        if training.heads == 0 || !training.embed_dim.is_multiple_of(training.heads) || training.embed_dim > 1024 {
            let problem =
                format!("is {}, has to be a multiple of upscale.training.heads up to 1024", training.embed_dim);
            return fail("upscale.training.embed_dim", problem);
        }
        if training.depths.is_empty() || training.depths.iter().any(|depth| !(1..=24).contains(depth)) {
            return fail("upscale.training.depths", "has to name stages of 1 to 24 blocks".to_owned());
        }
        if training.crop == 0 || !training.crop.is_multiple_of(8) {
            return fail("upscale.training.crop", format!("is {}, has to be a multiple of 8", training.crop));
        }
        at_least("upscale.training.batch", training.batch, 1)?;
        at_least("upscale.training.steps", training.steps, 1)?;
        within("upscale.training.lr", training.lr, 0.0, 1.0)?;
        within("upscale.training.ema", training.ema, 0.0, 1.0)?;
        within("drift.margin", self.drift.margin, 0.0, 0.4)?;
        within("drift.threshold", self.drift.threshold, 0.0, 1.0)?;
        if self.drift.reference == DriftReference::AllA && self.sinddm.multi_image == MultiImage::Mosaic {
            let problem = "is all_a, but a mosaic of all pictures is too large: choose sinddm_train, or another \
                           sinddm.multi_image";
            return fail("drift.reference", problem.to_owned());
        }
        if let SifidSize::Size([width, height]) = self.sifid.size {
            at_least("sifid.size", width.min(height), 23)?;
            at_most("sifid.size", width.max(height), 32_768)?;
        }
        if ![64, 192].contains(&self.sifid.block) {
            return fail("sifid.block", format!("is {}, has to be 64 or 192", self.sifid.block));
        }
        at_least("patch.size", self.patch.size, 16)?;
        at_least("patch.per_class_view", self.patch.per_class_view, 10)?;
        within("patch.test_fraction", self.patch.test_fraction, 0.05, 0.5)?;
        within("patch.coverage", self.patch.coverage, 0.5, 1.0)?;
        at_most("patch.max_overlap", self.patch.max_overlap.unwrap_or(0), self.patch.size - 1)?;
        let [width, height] = self.sampling.size(self.finest());
        let finest = width.min(height).saturating_mul(self.upscale.factor);
        if self.patch.size > finest {
            return fail(
                "patch.size",
                format!("is {}, larger than a synthetic picture ({finest} pixels after upscaling)", self.patch.size),
            );
        }
        at_least("tl.network.width", self.tl.network.width, 1)?;
        let blocks = &self.tl.network.blocks;
        if !(1..=4).contains(&blocks.len()) || blocks.contains(&0) {
            return fail("tl.network.blocks", "has to name one to four stages, each of at least one block".to_owned());
        }
        if self.tl.network.head.contains(&0) {
            return fail("tl.network.head", "has a layer of width 0".to_owned());
        }
        within("tl.network.dropout", self.tl.network.dropout, 0.0, 0.95)?;
        if self.tl.init == Init::Imagenet && !self.tl.network.is_resnet50() {
            let problem = "is imagenet, whose weights are those of ResNet50, which tl.network is not: \
                           choose tl.init=random, or leave tl.network as it is at scale paper";
            return fail("tl.init", problem.to_owned());
        }
        at_least("tl.batch", self.tl.batch, 2)?;
        at_least("tl.epochs", self.tl.epochs[0].min(self.tl.epochs[1]), 1)?;
        within("tl.lr", self.tl.lr[0], 0.0, 10.0)?;
        within("tl.lr", self.tl.lr[1], 0.0, 10.0)?;
        within("tl.momentum", self.tl.momentum, 0.0, 0.999)?;
        at_least("tl.lr_step", self.tl.lr_step, 1)?;
        within("tl.lr_gamma", self.tl.lr_gamma, 0.0, 1.0)?;
        within("tl.val_fraction", self.tl.val_fraction, 0.0, 0.5)?;
        if self.tl.select == Select::Best && self.tl.val_fraction == 0.0 {
            let problem = "is best, which needs patches for validation: raise tl.val_fraction";
            return fail("tl.select", problem.to_owned());
        }
        let protocols: BTreeSet<Protocol> = self.tl.protocol.iter().copied().collect();
        if protocols.is_empty() || protocols.len() < self.tl.protocol.len() {
            return fail("tl.protocol", "has to name at least one protocol, and each once".to_owned());
        }
        for (key, repeats) in [("tl.repeats", self.tl.repeats), ("tl.seeds", self.tl.seeds)] {
            at_least(key, repeats, 1)?;
            at_most(key, repeats, 1_000)?;
        }
        at_least("tl.folds", self.tl.folds, 1)?;
        at_most("tl.folds", self.tl.folds, 10)?;
        within("tl.margin", self.tl.margin, 0.01, 50.0)
    }

    /// What makes its numbers incomparable with the paper's, in words: methods that stand
    /// in for the paper's, and knobs that deviate from it. Knobs without effect beside
    /// the others do not count.
    pub fn stand_ins(&self) -> Vec<String> {
        let own = self.effective();
        let mut stand_ins = Vec::new();
        let named = ["upscale.method", "upscale.weights", "tl.init", "sifid.features"];
        let deviations = own.changes(|change| {
            let counts = own.is_deviation(change.knob) && !named.contains(&change.knob.name);
            counts.then(|| change.to_string())
        });
        if !deviations.is_empty() {
            stand_ins.push(match self.scale {
                Scale::Paper => format!("changed from the paper's: {}", deviations.join(", ")),
                scale => format!("scale {} (sizes and steps are not the paper's)", scale.name()),
            });
        }
        let factor = own.upscale.factor;
        match own.upscale.method {
            UpscaleMethod::Swin2sr if own.upscale.is_trained() => {
                stand_ins.push("a Swin2SR trained on the study's own pictures for the published one".to_owned());
            }
            UpscaleMethod::Swin2sr => {}
            UpscaleMethod::Lanczos => stand_ins.push(format!("Lanczos ×{factor} for Swin2SR")),
            UpscaleMethod::Bicubic => stand_ins.push(format!("bicubic ×{factor} for Swin2SR")),
        }
        match own.tl.init {
            Init::Imagenet => {}
            Init::Random => stand_ins.push("random initial weights for ImageNet's".to_owned()),
        }
        match own.sifid.features {
            Features::Imagenet => {}
            Features::Random => stand_ins.push("SIFID on Inception features with fixed random weights".to_owned()),
        }
        stand_ins
    }

    /// The published weights that the study reads.
    pub fn weights(&self) -> BTreeSet<Pretrained> {
        [self.upscale.pretrained(), self.tl.pretrained(), self.sifid.weights()].into_iter().flatten().collect()
    }

    /// Distinct diffusion models of single pictures: one per class of A and view
    /// unless each picture has its own.
    pub fn diffusion_models(&self) -> usize {
        View::ALL.len() * Dataset::A.classes().len() * self.sinddm.models() as usize
    }

    /// Width and height of the finest scale.
    pub fn finest(&self) -> [u32; 2] {
        self.sinddm.finest.size(self.pad.target.nominal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_check() {
        assert_eq!(Experiment::default().check(), Ok(()));
        assert_eq!(Experiment::default().patch.quota(), (800, 200));
    }

    #[test]
    fn impossible_knobs_are_named() {
        let mut experiment = Experiment::default();
        experiment.sinddm.dim = 15;
        assert_eq!(experiment.check().unwrap_err().to_string(), "sinddm.dim: is 15, has to be even");
        experiment = Experiment::default();
        experiment.tl.lr[1] = f64::NAN;
        assert_eq!(experiment.check().unwrap_err().key, "tl.lr");
        experiment = Experiment::default();
        experiment.patch.size = 801;
        assert_eq!(experiment.check().unwrap_err().key, "patch.size");
        experiment = Experiment::default();
        experiment.tl.network.width = 32;
        assert_eq!(experiment.check().unwrap_err().key, "tl.init");
        experiment.tl.init = Init::Random;
        assert_eq!(experiment.check(), Ok(()));
        experiment.upscale.tile = 20;
        assert_eq!(experiment.check().unwrap_err().key, "upscale.tile");
        (experiment.upscale.tile, experiment.upscale.overlap) = (24, 24);
        assert_eq!(experiment.check().unwrap_err().key, "upscale.overlap");
        (experiment.upscale.overlap, experiment.upscale.factor) = (8, 2);
        assert_eq!(experiment.check().unwrap_err().key, "upscale.factor");
    }

    #[test]
    fn each_stand_in_is_named_and_needs_no_weights() {
        let mut experiment = Experiment::default();
        assert_eq!(experiment.stand_ins(), Vec::<String>::new());
        let needed = [Pretrained::Resnet50V2, Pretrained::InceptionV3, Pretrained::Swin2srCompressed];
        assert_eq!(experiment.weights(), BTreeSet::from(needed));
        experiment.tl.init = Init::Random;
        assert_eq!(experiment.stand_ins(), ["random initial weights for ImageNet's"]);
        experiment.upscale.method = UpscaleMethod::Lanczos;
        experiment.sifid.features = Features::Random;
        assert_eq!(experiment.stand_ins().len(), 3);
        assert_eq!(experiment.weights(), BTreeSet::new());
        experiment.tl.batch = 12;
        assert_eq!(experiment.stand_ins()[0], "changed from the paper's: tl.batch = 12 (24)");
        experiment.upscale.factor = 3;
        assert!(experiment.stand_ins().contains(&"Lanczos ×3 for Swin2SR".to_owned()));
        experiment.scale = Scale::Tiny;
        assert_eq!(experiment.stand_ins()[0], "scale tiny (sizes and steps are not the paper's)");
    }

    #[test]
    fn readings_and_execution_stay_comparable_and_deviations_do_not() {
        let of = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
            crate::overrides::resolve(Scale::Paper, None, &sets).unwrap()
        };
        for set in ["sinddm.micro_batch=4", "sinddm.pick_seed=5", "seed=1", "patch.split_seed=2", "sampling.batch=5"] {
            let experiment = of(&[set]);
            assert_eq!((experiment.stand_ins(), experiment.readings()), (vec![], vec![]), "{set}");
        }
        for (set, said) in [
            ("pad.target=[4288, 2448]", "pad.target = [4288, 2448] ([4288, 2848])"),
            ("sinddm.finest=auto50000", "sinddm.finest = auto50000 ([264, 200])"),
            ("tl.epochs=[10, 30]", "tl.epochs = [10, 30] ([30, 30])"),
            ("upscale.tile=64", "upscale.tile = 64 (0)"),
            ("sifid.block=64", "sifid.block = 64 (192)"),
            ("patch.max_overlap=20", "patch.max_overlap = 20 (unset)"),
        ] {
            let experiment = of(&[set]);
            assert_eq!((experiment.stand_ins(), experiment.readings()), (vec![], vec![said.to_owned()]));
        }
        for set in
            ["pad.target=[100, 50]", "sinddm.dim=64", "tl.epochs=[30, 29]", "patch.size=224", "drift.threshold=0.1"]
        {
            let experiment = of(&[set]);
            assert_eq!((experiment.stand_ins().len(), experiment.readings()), (1, vec![]), "{set}");
        }
        // Without effect, so neither a reading nor a deviation.
        for set in ["tl.seeds=9", "upscale.training.lr=1e-3", "ddpm.training.lr=1e-3"] {
            let experiment = of(&[set]);
            assert_eq!((experiment.stand_ins(), experiment.readings()), (vec![], vec![]), "{set}");
        }
        let other_weights = of(&["upscale.variant=classical_x4", "tl.weights=v1"]);
        assert!(other_weights.weights().contains(&Pretrained::Swin2srClassical));
        assert!(other_weights.weights().contains(&Pretrained::Resnet50V1));
    }
}
