//! Plain diffusion models for comparison (ALGORITHM 5).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PICTURES_MAX;
use super::knob::{Knob, Reading};
use super::range::{BATCH_MAX, Checked, STEPS_MAX, TIMESTEPS_MAX, multiple};

/// The plain diffusion model (ALGORITHM 5), evaluated in the same way as SinDDM and on the same
/// pictures. The study does not need it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ddpm {
    /// How many plain diffusion models are trained.
    pub models: DdpmModels,
    /// Network, noise schedule and training.
    pub training: DdpmTraining,
    /// Sampling.
    pub sampling: DdpmSampling,
}

/// A reading for knobs of the DDPM: the paper states only a reference and one score.
const UNSTATED: Reading = Reading {
    section: "V-A; Fig. 6",
    paper: "a DDPM is compared with SinDDM; network, size, steps and pictures are not said",
    alternatives: "any",
    reason: "a widely used port of the published DDPM at a size that twelve models can afford",
    allows: |_| true,
};

/// The knobs of [`Ddpm`].
pub(super) const KNOBS: &[Knob] = &[
    Knob::reading(
        "ddpm.models",
        Reading {
            section: "V-A; Fig. 6",
            paper: "a DDPM is compared with SinDDM; how many models were trained is not said",
            alternatives: "per_view; per_class_view",
            reason: "no cell of Table I rests on it, and it costs hours on a GPU",
            allows: |_| true,
        },
    ),
    Knob::reading("ddpm.training.size", UNSTATED).whole(8, 4096),
    Knob::reading("ddpm.training.timesteps", UNSTATED).whole(2, TIMESTEPS_MAX),
    Knob::reading("ddpm.training.dim", UNSTATED).multiples(8, 8, 1024),
    Knob::reading("ddpm.training.mults", UNSTATED).list([1, 8], [1, 64]),
    Knob::reading("ddpm.training.batch", UNSTATED).whole(1, BATCH_MAX),
    Knob::reading("ddpm.training.steps", UNSTATED).whole(1, STEPS_MAX),
    Knob::reading("ddpm.training.lr", UNSTATED).real(0.0, 1.0),
    Knob::reading("ddpm.training.clip", UNSTATED).real(1e-6, 1e6),
    Knob::reading("ddpm.training.ema", UNSTATED).real(0.0, 1.0),
    Knob::reading("ddpm.training.ema_every", UNSTATED).whole(1, STEPS_MAX),
    Knob::reading("ddpm.training.ema_start", UNSTATED).whole(0, STEPS_MAX),
    Knob::reading("ddpm.training.flip", UNSTATED),
    Knob::reading("ddpm.sampling.per_class_view", UNSTATED).whole(2, PICTURES_MAX),
    Knob::execution("ddpm.sampling.batch").whole(1, BATCH_MAX),
    Knob::reading("ddpm.sampling.method", UNSTATED),
    Knob::reading("ddpm.sampling.ddim_steps", UNSTATED).whole(1, TIMESTEPS_MAX),
];

impl Ddpm {
    pub(super) fn check(&self) -> Checked {
        let DdpmTraining { size, mults, .. } = &self.training;
        // Each level but the last halves the picture.
        multiple("ddpm.training.size", u64::from(*size), 1 << (mults.len() - 1))
    }
}

/// How many plain diffusion models are trained; see [`Ddpm::models`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DdpmModels {
    /// No model.
    #[default]
    None,
    /// One model for all classes of a view.
    PerView,
    /// One model for each class of a view.
    PerClassView,
}

/// Training of one plain diffusion model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DdpmTraining {
    /// Width and height, in pixels, of the squares that pictures are resized to.
    pub size: u32,
    /// Diffusion steps T.
    pub timesteps: u32,
    /// Channels of the first level; a multiple of eight.
    pub dim: u32,
    /// Channels of each level as multiples of `dim`.
    pub mults: Vec<u32>,
    /// Pictures per optimiser step.
    pub batch: u32,
    /// Optimiser steps.
    pub steps: u32,
    /// Learning rate of Adam.
    pub lr: f64,
    /// Largest norm of the gradient over all parameters; larger gradients are scaled down to
    /// it.
    pub clip: f64,
    /// Decay of the moving average of the weights.
    pub ema: f64,
    /// Steps between updates of the moving average.
    pub ema_every: u32,
    /// Step before which the moving average is a copy of the weights.
    pub ema_start: u32,
    /// Whether training pictures are flipped horizontally at random.
    pub flip: bool,
}

impl Default for DdpmTraining {
    fn default() -> Self {
        Self {
            size: 128,
            timesteps: 1000,
            dim: 64,
            mults: vec![1, 2, 4, 8],
            batch: 16,
            steps: 100_000,
            lr: 8e-5,
            clip: 1.0,
            ema: 0.995,
            ema_every: 10,
            ema_start: 100,
            flip: true,
        }
    }
}

/// Sampling from one plain diffusion model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DdpmSampling {
    /// Synthetic pictures per class and view.
    pub per_class_view: u32,
    /// Pictures sampled at once.
    pub batch: u32,
    /// The sampling method.
    pub method: DdpmMethod,
    /// Number of steps of `ddim`.
    pub ddim_steps: u32,
}

impl Default for DdpmSampling {
    fn default() -> Self {
        Self { per_class_view: 25, batch: 25, method: DdpmMethod::Ancestral, ddim_steps: 250 }
    }
}

/// The sampling method; see [`DdpmSampling::method`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DdpmMethod {
    /// All steps, each with fresh noise (arXiv 2006.11239).
    Ancestral,
    /// Some of the steps, without noise (arXiv 2010.02502).
    Ddim,
}
