//! Networks that draw or enlarge pictures, and what they have drawn.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::gate::{Limits, Traits};
use crate::study::experiment::{DdpmTraining, Fill, Sinddm, Swin2srTraining, UpscaleMethod};
use crate::study::results::{Fault, Nearness};

/// `training.json` of `sinddm.train`: with `model.safetensors`, all that sampling needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinddmRecord {
    /// The knobs it was trained with.
    pub sinddm: Sinddm,
    /// Width and height of each scale, coarsest first.
    pub sizes: Vec<[u32; 2]>,
    /// Factor between neighbouring scales.
    pub scale_factor: f64,
    /// Pooled rescale losses, one fewer than scales.
    pub rescale_losses: Vec<f64>,
    /// Sampling lengths t*, one per scale.
    pub sampling_steps: Vec<u32>,
    /// Parameters of the network.
    pub parameters: u64,
    /// Mean loss of the last tenth of the steps.
    pub final_loss: f64,
    /// Mean loss of the last steps of each scale.
    #[serde(default)]
    pub loss_by_scale: BTreeMap<usize, f64>,
    /// Ids of the images learnt from, as in `images.json` of the view.
    #[serde(default)]
    pub image_ids: Vec<u32>,
    /// What surrounded them; absent where nobody says.
    #[serde(default)]
    pub fill: Option<Fill>,
    /// What the gate measures of each picture learnt from, as it was framed for that;
    /// empty where nobody says.
    #[serde(default)]
    pub reals: Vec<Traits>,
    /// Whether the same training gives the same bytes.
    pub determinism: Determinism,
}

/// `training.json` of `ddpm.train`: with `model.safetensors`, all that sampling needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DdpmRecord {
    /// The knobs it was trained with.
    pub training: DdpmTraining,
    /// Pictures learnt from.
    pub images: u32,
    /// What the gate measures of each picture learnt from, as it was framed for that;
    /// empty where nobody says.
    #[serde(default)]
    pub reals: Vec<Traits>,
    /// Parameters of the network.
    pub parameters: u64,
    /// Mean loss of the last tenth of the steps.
    pub final_loss: f64,
    /// Whether the same training gives the same bytes.
    pub determinism: Determinism,
}

/// `training.json` of `swin2sr.train`: with `model.safetensors`, all that enlarging needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swin2srRecord {
    /// The knobs it was trained with.
    pub training: Swin2srTraining,
    /// Pictures learnt from.
    pub images: u32,
    /// Parameters of the network.
    pub parameters: u64,
    /// Mean loss of the last tenth of the steps.
    pub final_loss: f64,
    /// Pictures held out to see how good it is; without any, there are no scores.
    pub held_out: u32,
    /// How near they come when they are made smaller and enlarged by the network.
    pub ours: Nearness,
    /// The same by bicubic interpolation.
    pub bicubic: Nearness,
    /// Whether the same training gives the same bytes.
    pub determinism: Determinism,
}

/// What two runs of one task have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Determinism {
    /// Every bit: computed on a processor.
    Bitwise,
    /// The distribution of their results: computed on a GPU.
    Statistical,
}

/// `samples.json` of `sinddm.sample` and `ddpm.sample`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplesRecord {
    /// Width and height.
    pub size: [u32; 2],
    /// Share of foreground pixels of each sample.
    pub foreground: Vec<f64>,
    /// Samples whose foreground is below 2 %.
    pub empty: u32,
    /// Within which limits a sample passes the gate; absent where the model does not tell
    /// what it learnt from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Whether each sample passes; empty without limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<bool>,
    /// What is wrong with those that do not, by their number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<usize, Vec<Fault>>,
    /// How often each was drawn, the last time as it is here; empty unless those that do
    /// not pass were to be drawn again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draws: Vec<u32>,
    /// Whether the same sampling gives the same bytes.
    pub determinism: Determinism,
}

/// `upscale.json` of `upscale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpscaleRecord {
    /// The method used, as in the spec.
    pub method: UpscaleMethod,
    /// Width and height.
    pub size: [u32; 2],
    /// Width and height of the sample itself in it, from the upper left: the rest is
    /// padding that the network needed and `upscale.crop` kept.
    #[serde(default)]
    pub counts: Option<[u32; 2]>,
    /// Pictures.
    pub images: u32,
}
