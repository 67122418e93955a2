//! The spec of a study: every knob with its default.
//!
//! The defaults are the paper's study at full size. Presets (`experiments/`) change sizes; a
//! value that is not implemented yet is not offered. Names follow the configuration of the
//! published code where it has one.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::study::pretrained::Pretrained;
use crate::study::stone::{Dataset, View};
use range::{Checked, refuse, size, within};
pub use range::{Range, SIDE_MAX};

mod ddpm;
mod effect;
mod evaluation;
mod geometry;
pub mod knob;
pub mod knobs;
mod pad;
mod patch;
mod protocol;
pub(crate) mod range;
mod sinddm;
mod tl;
mod upscale;

pub use ddpm::{Ddpm, DdpmMethod, DdpmModels, DdpmSampling, DdpmTraining};
pub use effect::Idle;
pub use evaluation::{
    Drift, DriftMethod, DriftPath, DriftReference, Features, Heatmap, HeatmapSize, Pairing, Sifid, SifidRule,
    SifidSize, StdOver,
};
pub use geometry::Geometry;
pub use pad::{Anchor, Canvas, CanvasRule, Fill, Oversize, Pad};
pub use patch::{Patch, PatchMethod, PatchSource};
pub use protocol::{Protocol, Trials, Varied};
pub use sinddm::{
    BatchMix, Finest, FinestRule, Fit, LossPool, MultiImage, NoiseLoss, Pick, Precision, RescaleLoss, Sampling, Sinddm,
    shrunk,
};
pub use tl::{
    Correction, HeadStart, ImagenetWeights, Init, LabelOrder, Labels, Mix, Network, Select, Stem, TransferLearning,
    Validation, Whiten,
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
    /// The whole study on larger pictures, with networks that learn for longer: hours on two
    /// cores.
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

/// The whole spec. The spec, the data and the code determine a study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Experiment {
    /// The preset whose values apply where the spec sets none.
    pub scale: Scale,
    /// Root of every random number of the study.
    pub seed: u64,
    /// Stand-in pictures, drawn when no data are given.
    pub phantom: Phantom,
    /// The canvas on which the training pictures of a diffusion model are brought to one size.
    pub pad: Pad,
    /// Training of the diffusion models.
    pub sinddm: Sinddm,
    /// Sampling from the diffusion models.
    pub sampling: Sampling,
    /// A plain diffusion model for comparison.
    pub ddpm: Ddpm,
    /// Super-resolution of the samples.
    pub upscale: Upscale,
    /// Image property drift between real and synthetic pictures.
    pub drift: Drift,
    /// Maps of the brightness of real and of synthetic pictures.
    pub heatmap: Heatmap,
    /// Single-image Fréchet distance.
    pub sifid: Sifid,
    /// Cutting pictures into patches.
    pub patch: Patch,
    /// The labels of the classes.
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

/// Most pictures of one class: pictures are numbered within a view.
pub const PICTURES_MAX: u32 = 100_000;

/// Which knob of a spec is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct InvalidKnob {
    /// The knob's name as in `--set`.
    pub key: String,
    /// What the knob's value has to be.
    pub problem: String,
}

impl Experiment {
    /// Checks the range of every knob, and the knobs that depend on each other.
    ///
    /// # Errors
    /// The first knob with an invalid value.
    pub fn check(&self) -> Result<(), InvalidKnob> {
        knobs::check(self)?;
        self.pad.check()?;
        self.ddpm.check()?;
        self.upscale.check()?;
        self.patch.check()?;
        self.tl.check()?;
        self.check_together()
    }

    /// Checks the knobs that depend on knobs of other sections.
    fn check_together(&self) -> Checked {
        let [width, height] = self.finest();
        size("sinddm.finest", [width, height], 8..=range::FINEST_MAX)?;
        if let Some(coarsest) = self.sinddm.coarsest {
            within("sinddm.coarsest", coarsest, 4..=width.min(height))?;
        }
        if self.drift.reference == DriftReference::AllA && self.sinddm.multi_image == MultiImage::Mosaic {
            let problem = "is all_a, but a mosaic of all pictures is too large: choose sinddm_train, or another \
                           sinddm.multi_image";
            return refuse("drift.reference", problem);
        }
        let [width, height] = self.sampling.size([width, height]);
        let finest = width.min(height) * self.upscale.factor;
        if self.patch.size > finest {
            let size = self.patch.size;
            let problem = format!("is {size}, larger than a synthetic picture ({finest} pixels after upscaling)");
            return refuse("patch.size", problem);
        }
        Ok(())
    }

    /// What makes the study's numbers incomparable with the paper's, in words: methods that
    /// stand in for the paper's, and knobs that deviate from the paper. Knobs without effect
    /// beside the others do not count.
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

    /// Number of distinct diffusion models of single pictures: one per class of A and view
    /// unless each picture has its own.
    pub fn diffusion_models(&self) -> usize {
        View::ALL.len() * Dataset::A.classes().len() * self.sinddm.models() as usize
    }

    /// Width and height of the finest scale in pixels.
    pub fn finest(&self) -> [u32; 2] {
        self.sinddm.finest.size(self.pad.target.nominal())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

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

    /// Adds every number in a value to `found`, with its path.
    fn numbers(value: &Value, way: String, found: &mut Vec<String>) {
        match value {
            Value::Number(_) => found.push(way),
            Value::Array(values) => {
                (0..).zip(values).for_each(|(place, value)| numbers(value, format!("{way}/{place}"), found));
            }
            Value::Object(values) => {
                values.iter().for_each(|(name, value)| numbers(value, format!("{way}/{name}"), found));
            }
            _ => {}
        }
    }

    /// A spec in which every knob has a value, including those that are left to a rule by
    /// default.
    fn spelt() -> Value {
        let mut experiment = Experiment::default();
        (experiment.sinddm.coarsest, experiment.sinddm.micro_batch) = (Some(20), Some(4));
        experiment.patch.max_overlap = Some(20);
        experiment.sifid.size = SifidSize::Size([264, 200]);
        serde_json::to_value(experiment).unwrap()
    }

    fn refused(spec: Value) -> Option<InvalidKnob> {
        serde_json::from_value::<Experiment>(spec).unwrap().check().err()
    }

    #[test]
    fn every_number_has_an_upper_bound_whose_refusal_names_the_knob() {
        let (spelt, mut ways) = (spelt(), vec![]);
        assert_eq!(refused(spelt.clone()), None);
        numbers(&spelt, String::new(), &mut ways);
        // Roots of random numbers: any will do.
        ways.retain(|way| way != "/seed");
        assert!(ways.len() > 80, "{ways:?}");
        for way in ways {
            let mut spec = spelt.clone();
            let place = spec.pointer_mut(&way).unwrap();
            *place = if place.is_u64() { u32::MAX.into() } else { 1e300.into() };
            let knob =
                way[1..].split('/').take_while(|part| part.parse::<u32>().is_err()).collect::<Vec<_>>().join(".");
            assert_eq!(refused(spec).map(|refused| refused.key), Some(knob));
        }
    }

    #[test]
    fn no_number_of_zeros_or_of_less_is_taken_where_a_network_would_have_no_weights() {
        for way in [
            "sinddm.dim",
            "ddpm.training.dim",
            "upscale.training.embed_dim",
            "upscale.training.heads",
            "upscale.training.depths",
            "upscale.training.crop",
            "tl.network.width",
            "tl.network.blocks",
            "tl.network.head",
            "ddpm.training.mults",
            "ddpm.training.size",
            "patch.size",
        ] {
            let mut spec = spelt();
            let place = spec.pointer_mut(&format!("/{}", way.replace('.', "/"))).unwrap();
            *place = if place.is_array() { vec![0].into() } else { 0.into() };
            assert_eq!(refused(spec).map(|refused| refused.key).as_deref(), Some(way));
        }
    }

    #[test]
    fn every_list_has_a_longest_length_and_a_refusal_that_counts() {
        for (way, most) in [
            ("sinddm.milestones", 100),
            ("ddpm.training.mults", 8),
            ("upscale.training.depths", 16),
            ("tl.network.blocks", 4),
            ("tl.network.head", 16),
        ] {
            let mut spec = spelt();
            *spec.pointer_mut(&format!("/{}", way.replace('.', "/"))).unwrap() = vec![1; most + 1].into();
            let refused = refused(spec).unwrap().to_string();
            assert!(refused.starts_with(&format!("{way}: has {} entries, has to have ", most + 1)), "{refused}");
            assert!(refused.ends_with(&format!(" to {most}")), "{refused}");
        }
    }

    #[test]
    fn what_attention_cannot_divide_among_its_heads_is_refused() {
        let mut experiment = Experiment::default();
        (experiment.upscale.training.embed_dim, experiment.upscale.training.heads) = (60, 7);
        let expected = "upscale.training.embed_dim: is 60, has to be a multiple of upscale.training.heads, which is 7";
        assert_eq!(experiment.check().unwrap_err().to_string(), expected);
    }

    #[test]
    fn all_protocols_together_have_a_largest_number_of_runs() {
        let mut experiment = Experiment::default();
        (experiment.tl.repeats, experiment.tl.folds) = (51, 10);
        let refused = experiment.check().unwrap_err().to_string();
        assert_eq!(refused, "tl.repeats: makes 510 runs with tl.folds, tl.seeds and tl.protocol, has to make 1 to 500");
        experiment.tl.repeats = 50;
        assert_eq!(experiment.check(), Ok(()));
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
            crate::study::overrides::resolve(Scale::Paper, None, &sets).unwrap()
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
