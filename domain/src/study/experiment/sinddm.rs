//! Diffusion models of single pictures: pyramid, training and sampling
//! (ALGORITHM 2).

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::knob::{Knob, Reading};
use super::range::{BATCH_MAX, FINEST_MAX, STEPS_MAX, TIMESTEPS_MAX};
use super::{Geometry, PICTURES_MAX, Pad};

/// Pyramid, network and training of one diffusion model (ALGORITHM 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sinddm {
    /// Number of pictures that one model learns from.
    pub images_per_model: u32,
    /// How these pictures are picked.
    pub pick: Pick,
    /// Chooses among equally good picks; without a value, this follows from `seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pick_seed: Option<u64>,
    /// How a method made for one picture learns from several.
    pub multi_image: MultiImage,
    /// The pictures in a batch.
    pub batch_mix: BatchMix,
    /// The size of the finest scale.
    pub finest: Finest,
    /// How the canvas is brought to the aspect of `finest`.
    pub fit: Fit,
    /// Short side of the coarsest scale in pixels; without a value, the reference's rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coarsest: Option<u32>,
    /// Nominal factor between neighbouring scales.
    pub scale_factor: f64,
    /// How the difference of two scales is taken for the rescale losses.
    pub rescale_loss: RescaleLoss,
    /// How the rescale losses of several pictures are combined.
    pub loss_pool: LossPool,
    /// Diffusion steps T.
    pub timesteps: u32,
    /// Largest number of channels; even.
    pub dim: u32,
    /// Pictures per optimiser step.
    pub batch: u32,
    /// Pictures that go through the network at once; the gradients of a batch's parts are added
    /// up. Without a value, as many as the device's memory holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<u32>,
    /// How far the predicted noise is from the noise.
    pub loss: NoiseLoss,
    /// Number format of the training.
    pub precision: Precision,
    /// Optimiser steps.
    pub steps: u32,
    /// Learning rate of Adam before the first milestone.
    pub lr: f64,
    /// Steps after which the learning rate is multiplied by `lr_gamma`.
    pub milestones: Vec<u32>,
    /// Factor of the learning rate at each of the `milestones`.
    pub lr_gamma: f64,
    /// Decay of the moving average of the weights.
    pub ema: f64,
    /// Steps between updates of the moving average.
    pub ema_every: u32,
    /// Step before which the moving average is a copy of the weights.
    pub ema_start: u32,
    /// Whether samples are drawn again that do not show one central object as the training
    /// pictures do, up to a fixed number of times. Such samples are counted either way.
    /// Training does not read this knob.
    pub reject_empty: bool,
}

impl Default for Sinddm {
    fn default() -> Self {
        Self {
            images_per_model: 8,
            pick: Pick::RandomFromTrainSplit,
            pick_seed: None,
            multi_image: MultiImage::Pooled,
            batch_mix: BatchMix::Balanced,
            finest: Finest::Size([264, 200]),
            fit: Fit::Letterbox,
            coarsest: None,
            scale_factor: 1.411,
            rescale_loss: RescaleLoss::U8Wrap,
            loss_pool: LossPool::Mean,
            timesteps: 100,
            dim: 160,
            batch: 32,
            micro_batch: None,
            loss: NoiseLoss::L1,
            precision: Precision::F32,
            steps: 120_001,
            lr: 1e-3,
            milestones: vec![20_000, 40_000, 70_000, 80_000, 90_000, 110_000],
            lr_gamma: 0.5,
            ema: 0.995,
            ema_every: 10,
            ema_start: 2_000,
            reject_empty: false,
        }
    }
}

/// The knobs of [`Sinddm`] and [`Sampling`].
pub(super) const KNOBS: &[Knob] = &[
    Knob::deviation("sinddm.images_per_model").whole(1, 200),
    Knob::reading(
        "sinddm.pick",
        Reading {
            section: "V-A",
            paper: "eight pictures of each class and view are chosen at random; from the training side or from all is not said",
            alternatives: "random_from_all",
            reason: "otherwise a classifier is tested on pictures that it has seen through the synthetic ones",
            allows: |_| true,
        },
    ),
    Knob::execution("sinddm.pick_seed"),
    Knob::reading(
        "sinddm.multi_image",
        Reading {
            section: "IV-A; V-A",
            paper: "SinDDM learns from a single picture; each model learns from eight",
            alternatives: "first_only, as the published code does; per_image; mosaic",
            reason: "twelve models that each know all eight pictures, without changing the method",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "sinddm.batch_mix",
        Reading {
            section: "V-A",
            paper: "which of the eight pictures a batch holds is not said",
            alternatives: "uniform_random",
            reason: "every picture is seen equally often",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "sinddm.finest",
        Reading {
            section: "V-A",
            paper: "samples have 264×200 pixels, with the details of the SinDDM paper, whose rule gives other sizes on any canvas named",
            alternatives: "auto50000",
            reason: "both printed sizes, 264×200 and 1056×800, are kept",
            allows: |it| matches!(it.sinddm.finest, Finest::Rule(_) | Finest::Size([264, 200])),
        },
    )
    .whole(8, FINEST_MAX),
    Knob::reading(
        "sinddm.fit",
        Reading {
            section: "V-A",
            paper: "neither canvas that is printed has the shape of the samples",
            alternatives: "stretch",
            reason: "no stone is distorted",
            allows: |_| true,
        },
    ),
    Knob::deviation("sinddm.coarsest").whole(4, FINEST_MAX),
    Knob::deviation("sinddm.scale_factor").real(1.05, 8.0),
    Knob::reading(
        "sinddm.rescale_loss",
        Reading {
            section: "IV-A",
            paper: "the SinDDM paper calls it a mean squared error; its code takes differences of unsigned bytes, which wrap around",
            alternatives: "signed",
            reason: "the published checkpoints can be recomputed with wrapped bytes only",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "sinddm.loss_pool",
        Reading {
            section: "V-A",
            paper: "how the rescale losses of eight pictures become one is not said",
            alternatives: "max; first",
            reason: "sampling knows no picture, so one value has to stand for all",
            allows: |_| true,
        },
    ),
    Knob::deviation("sinddm.timesteps").whole(2, TIMESTEPS_MAX),
    Knob::deviation("sinddm.dim").multiples(2, 2, 2048),
    Knob::deviation("sinddm.batch").whole(1, BATCH_MAX),
    Knob::execution("sinddm.micro_batch").whole(1, BATCH_MAX),
    Knob::deviation("sinddm.loss"),
    Knob::reading(
        "sinddm.precision",
        Reading {
            section: "V-A",
            paper: "the numbers in which networks compute are not said",
            alternatives: "bf16",
            reason: "the published code computes in 32 bits",
            allows: |_| true,
        },
    ),
    Knob::deviation("sinddm.steps").whole(1, STEPS_MAX),
    Knob::deviation("sinddm.lr").real(0.0, 1.0),
    Knob::deviation("sinddm.milestones").list([0, 100], [0, STEPS_MAX]),
    Knob::deviation("sinddm.lr_gamma").real(0.0, 1.0),
    Knob::deviation("sinddm.ema").real(0.0, 1.0),
    Knob::deviation("sinddm.ema_every").whole(1, STEPS_MAX),
    Knob::deviation("sinddm.ema_start").whole(0, STEPS_MAX),
    Knob::reading(
        "sinddm.reject_empty",
        Reading {
            section: "V-A",
            paper: "25 samples of each model are used; whether some were drawn again is not said",
            alternatives: "true",
            reason: "a sample without a stone tells of its model, so it is kept and counted",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "sampling.per_model",
        Reading {
            section: "V-A; III",
            paper: "25 pictures in total in one place, 300 synthetic pictures in another",
            alternatives: "none: 12 models × 25 are the 300",
            reason: "25 from each of the twelve models make 300",
            allows: |it| it.sampling.per_model == 25,
        },
    )
    .whole(2, PICTURES_MAX),
    Knob::execution("sampling.batch").whole(1, BATCH_MAX),
    Knob::deviation("sampling.omega").real(0.0, 1.0),
    Knob::deviation("sampling.gamma_clip").real(0.0, 0.99),
    Knob::deviation("sampling.reblurring"),
    Knob::deviation("sampling.scale_mul").real(0.1, 10.0),
    Knob::deviation("sampling.sample_limited_t"),
];

impl Sinddm {
    /// Width and height of the aspect to which canvases are extended with the colour of the
    /// padding before they are shrunk to the finest scale; none if they are stretched, or if
    /// the finest scale has the canvas's aspect anyway.
    pub fn frame(&self) -> Option<[u32; 2]> {
        match (self.fit, self.finest) {
            (Fit::Letterbox, Finest::Size(size)) => Some(size),
            (Fit::Stretch, _) | (_, Finest::Rule(_)) => None,
        }
    }

    /// The same knobs with the finest scale as a size, for a canvas of that width and height. A
    /// size found by a rule has the canvas's aspect, so that no fit is needed.
    pub fn on(&self, canvas: [u32; 2]) -> Self {
        let fit = if let Finest::Size(_) = self.finest { self.fit } else { Fit::Stretch };
        Self { finest: Finest::Size(self.finest.size(canvas)), fit, ..self.clone() }
    }

    /// The milestones after which a training leaves a contact sheet of samples: the milestones
    /// before its end, in order.
    pub fn sheets(&self) -> BTreeSet<u32> {
        self.milestones.iter().copied().filter(|milestone| (1..self.steps).contains(milestone)).collect()
    }

    /// Number of models of one class and view.
    pub fn models(&self) -> u32 {
        if self.multi_image == MultiImage::PerImage { self.images_per_model } else { 1 }
    }

    /// Width and height of the finest scale in pixels, on the paper's canvas where a rule asks
    /// for one.
    pub fn planned_size(&self) -> [u32; 2] {
        self.finest.size(Pad::default().target.nominal())
    }

    /// The scales of a model, planned as [`planned_size`](Self::planned_size) is.
    pub fn planned_geometry(&self) -> Geometry {
        Geometry::new(self.planned_size(), self.scale_factor, self.coarsest)
    }

    /// Bytes that training keeps for one picture of that many pixels until the gradient is taken
    /// (ALGORITHM 9).
    pub fn activation_bytes(&self, pixels: f64) -> f64 {
        const CHANNELS_PER_DIM: f64 = 2246.0 / 160.0;
        f64::from(self.precision.bytes()) * CHANNELS_PER_DIM * f64::from(self.dim) * pixels
    }

    /// Number of pictures of that width and height that go through the network at once: the
    /// number in the knob, or else the batch in as many equal parts as half of the device's
    /// memory requires. The other half is for weights, gradients and temporary values.
    pub fn at_once(&self, [width, height]: [u32; 2], memory_bytes: u64) -> u32 {
        let each = self.activation_bytes(f64::from(width) * f64::from(height));
        let most = self.micro_batch.unwrap_or_else(|| (memory_bytes as f64 / 2.0 / each) as u32);
        let parts = self.batch.div_ceil(most.clamp(1, self.batch));
        self.batch.div_ceil(parts)
    }
}

/// A choice of training pictures; see [`Sinddm::pick`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pick {
    /// Pictures drawn at random that are never on a test side: classifiers see no test picture
    /// through the synthetic ones.
    #[default]
    RandomFromTrainSplit,
    /// Pictures drawn at random from all, including test pictures, which leaks.
    RandomFromAll,
}

/// Learning from several pictures; see [`Sinddm::multi_image`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MultiImage {
    /// One model learns from all pictures at one geometry, with pooled rescale losses.
    Pooled,
    /// One model learns from the first picture, as in the published code.
    FirstOnly,
    /// Each picture has its own model; the models take turns in sampling.
    PerImage,
    /// One model learns from all pictures laid out as one.
    Mosaic,
}

/// The pictures in a batch; see [`Sinddm::batch_mix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchMix {
    /// All pictures in turn: each is seen equally often.
    Balanced,
    /// Each picture is drawn at random.
    UniformRandom,
}

/// A number format; see [`Sinddm::precision`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit numbers, as in the published code.
    #[default]
    F32,
    /// The network computes in bfloat16; weights, their average and the optimiser's moments
    /// stay 32-bit numbers. This takes half the memory, and is faster on GPUs that support the
    /// format.
    Bf16,
}

impl Precision {
    /// Bytes of one number in the format.
    pub fn bytes(self) -> u32 {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        }
    }
}

/// The size of the finest scale; see [`Sinddm::finest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected [width, height] or \"auto50000\"")]
pub enum Finest {
    /// Width and height in pixels.
    Size([u32; 2]),
    /// A size that follows from the canvas by a rule.
    Rule(FinestRule),
}

/// A rule for the finest scale; see [`Finest::Rule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinestRule {
    /// The canvas, shrunk to at most 50 000 pixels, as in the published code.
    Auto50000,
}

impl Finest {
    /// Width and height of the finest scale for a canvas of that width and height.
    pub fn size(self, canvas: [u32; 2]) -> [u32; 2] {
        match self {
            Finest::Size(size) => size,
            Finest::Rule(FinestRule::Auto50000) => shrunk(canvas, 50_000.0),
        }
    }
}

impl From<[u32; 2]> for Finest {
    fn from(size: [u32; 2]) -> Self {
        Finest::Size(size)
    }
}

/// The size, shrunk with its aspect to at most that many pixels, by the rule of the published
/// code (ALGORITHM 2.1, step 1).
pub fn shrunk(size: [u32; 2], pixels: f64) -> [u32; 2] {
    let shrink = (f64::from(size[0]) * f64::from(size[1]) / pixels).sqrt().max(1.0);
    size.map(|side| (f64::from(side) / shrink) as u32)
}

/// How the canvas is brought to the finest scale; see [`Sinddm::fit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// The canvas is extended with the colour of the padding, without distortion.
    Letterbox,
    /// The canvas is stretched, which distorts where the aspects differ.
    Stretch,
}

/// A difference of two scales; see [`Sinddm::rescale_loss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RescaleLoss {
    /// Unsigned 8-bit arithmetic with wrap-around, as the reference computes it.
    U8Wrap,
    /// Signed arithmetic, for study: sampling then starts almost without noise.
    Signed,
}

/// A distance of the predicted noise from the noise; see [`Sinddm::loss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoiseLoss {
    /// The mean absolute error, as in the reference. The best prediction is then a median: where
    /// fewer than half of the pictures have the object, noise becomes background.
    L1,
    /// The mean squared error.
    L2,
}

/// A combination of rescale losses; see [`Sinddm::loss_pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossPool {
    /// The mean of the losses.
    Mean,
    /// The largest loss.
    Max,
    /// The loss of the first picture.
    First,
}

/// Sampling from one diffusion model (ALGORITHM 2.6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Synthetic pictures per model.
    pub per_model: u32,
    /// Pictures sampled at once.
    pub batch: u32,
    /// Share of fresh noise at the finer scales; 0 is deterministic.
    pub omega: f64,
    /// Upper bound of the blur weight while sampling.
    pub gamma_clip: f64,
    /// Whether the blur is taken off and put on anew at each step of the finer scales;
    /// otherwise the finer scales are sampled in the same way as the coarsest.
    pub reblurring: bool,
    /// Height and width of the samples as shares of those of the finest scale.
    pub scale_mul: [f64; 2],
    /// Whether a scale ends where the next one begins.
    pub sample_limited_t: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            per_model: 25,
            batch: 25,
            omega: 0.0,
            gamma_clip: 0.55,
            reblurring: true,
            scale_mul: [1.0, 1.0],
            sample_limited_t: false,
        }
    }
}

impl Sampling {
    /// Width and height of a sample of a model whose finest scale has that size.
    pub fn size(&self, [width, height]: [u32; 2]) -> [u32; 2] {
        let side = |pixels: u32, share: f64| ((f64::from(pixels) * share) as u32).max(1);
        [side(width, self.scale_mul[1]), side(height, self.scale_mul[0])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finest_scale_is_a_size_or_follows_from_the_canvas() {
        let finest = |target, finest: &str| {
            let sinddm: Sinddm = serde_json::from_str(&format!(r#"{{"finest": {finest}}}"#)).unwrap();
            let sinddm = sinddm.on(target);
            assert_eq!(serde_json::to_value(&sinddm).unwrap()["finest"], serde_json::json!(sinddm.finest.size([1, 1])));
            (sinddm.finest.size([1, 1]), sinddm.fit)
        };
        assert_eq!(finest([4288, 2848], "[264, 200]"), ([264, 200], Fit::Letterbox));
        assert_eq!(finest([4288, 2848], r#""auto50000""#), ([274, 182], Fit::Stretch));
        assert_eq!(finest([4288, 2448], r#""auto50000""#).0, [295, 168]);
        assert_eq!(finest([4288, 3216], r#""auto50000""#).0, [258, 193]);
        assert_eq!(finest([40, 30], r#""auto50000""#).0, [40, 30]);
    }

    #[test]
    fn a_batch_is_cut_into_equal_parts_that_fit() {
        let sinddm = Sinddm::default();
        assert_eq!(sinddm.planned_geometry().sizes.len(), 5);
        assert!((32.0 * sinddm.activation_bytes(52_800.0) / 15.2e9 - 1.0).abs() < 0.01);
        let parts = |gib: u64| sinddm.at_once([264, 200], gib << 30);
        assert_eq!([0, 1, 4, 16, 80].map(parts), [1, 1, 4, 16, 32]);
        assert_eq!(sinddm.at_once([65, 49], 4 << 30), 32);
        assert_eq!(Sinddm { micro_batch: Some(12), ..sinddm }.at_once([264, 200], 1), 11);
    }
}
