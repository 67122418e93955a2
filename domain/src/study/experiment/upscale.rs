//! Super-resolution of synthetic pictures (ALGORITHM 3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::knob::{Knob, Reading};
use super::range::{BATCH_MAX, Checked, STEPS_MAX, refuse};
use crate::study::pretrained::Pretrained;

/// Super-resolution of synthetic pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Upscale {
    /// How samples are enlarged.
    pub method: UpscaleMethod,
    /// Where the weights of Swin2SR come from.
    pub weights: UpscaleWeights,
    /// Which of the published networks is used.
    pub variant: Swin2srVariant,
    /// Training of a small Swin2SR on the study's own pictures.
    pub training: Swin2srTraining,
    /// Factor by which width and height grow; Swin2SR enlarges four times.
    pub factor: u32,
    /// Side of the squares that go through Swin2SR one by one, in pixels of the small picture
    /// and a multiple of 8; 0 for the whole picture at once.
    pub tile: u32,
    /// Overlap of neighbouring squares, which are averaged there.
    pub overlap: u32,
    /// Whether the padding that Swin2SR needs is cut off again; otherwise the enlarged picture
    /// keeps the padding, as in the port in Hugging Face's library.
    pub crop: bool,
    /// Whether the bicubic branch of `compressed_x4` sees the picture before the mean is
    /// subtracted, as in the port in Hugging Face's library.
    pub hf_compat: bool,
}

impl Default for Upscale {
    fn default() -> Self {
        Self {
            method: UpscaleMethod::Swin2sr,
            weights: UpscaleWeights::Published,
            variant: Swin2srVariant::CompressedX4,
            training: Swin2srTraining::default(),
            factor: 4,
            tile: 0,
            overlap: 32,
            crop: true,
            hf_compat: false,
        }
    }
}

/// Longest side of a square, in pixels of the small picture.
const TILE_MAX: u32 = 4096;

/// The knobs of [`Upscale`].
pub(super) const KNOBS: &[Knob] = &[
    Knob::deviation("upscale.method"),
    Knob::deviation("upscale.weights"),
    Knob::reading(
        "upscale.variant",
        Reading {
            section: "IV-A",
            paper: "Swin2SR enlarges four times and combines its output with that of a bicubic branch; which weights is not said",
            alternatives: "classical_x4; realworld_x4",
            reason: "only the network for compressed pictures has such a branch",
            allows: |_| true,
        },
    ),
    Knob::deviation("upscale.training.reduction"),
    Knob::deviation("upscale.training.embed_dim").whole(1, 1024),
    Knob::deviation("upscale.training.depths").list([1, 16], [1, 24]),
    Knob::deviation("upscale.training.heads").whole(1, 64),
    Knob::deviation("upscale.training.crop").multiples(8, 8, 1024),
    Knob::deviation("upscale.training.batch").whole(1, BATCH_MAX),
    Knob::deviation("upscale.training.steps").whole(1, STEPS_MAX),
    Knob::deviation("upscale.training.lr").real(0.0, 1.0),
    Knob::deviation("upscale.training.ema").real(0.0, 1.0),
    Knob::deviation("upscale.factor").whole(1, 16),
    Knob::reading("upscale.tile", TILES).multiples(8, 0, TILE_MAX),
    Knob::reading("upscale.overlap", TILES).whole(0, TILE_MAX),
    Knob::reading(
        "upscale.crop",
        Reading {
            section: "V-A",
            paper: "pictures have 264×200 pixels before and 1056×800 after; whether they held the network's padding is not said",
            alternatives: "false, as a port in a popular library does",
            reason: "the published script cuts the padding off",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "upscale.hf_compat",
        Reading {
            section: "IV-A",
            paper: "which implementation of Swin2SR was used is not said",
            alternatives: "true, as a port in a popular library does",
            reason: "the published network's own order",
            allows: |_| true,
        },
    ),
];

/// The reading for whether pictures went through Swin2SR in squares.
const TILES: Reading = Reading {
    section: "IV-A",
    paper: "whether pictures were enlarged as a whole or in squares is not said",
    alternatives: "squares of a multiple of eight pixels, averaged where they overlap",
    reason: "264×200 pixels fit into memory as a whole",
    allows: |_| true,
};

impl Upscale {
    pub(super) fn check(&self) -> Checked {
        if self.method == UpscaleMethod::Swin2sr && self.factor != 4 {
            return refuse("upscale.factor", format!("is {}, has to be 4 for Swin2SR", self.factor));
        }
        if self.tile > 0 && self.overlap >= self.tile {
            return refuse("upscale.overlap", format!("is {}, has to be less than upscale.tile", self.overlap));
        }
        let Swin2srTraining { embed_dim: dim, heads, .. } = self.training;
        if !dim.is_multiple_of(heads) {
            let problem = format!("is {dim}, has to be a multiple of upscale.training.heads, which is {heads}");
            return refuse("upscale.training.embed_dim", problem);
        }
        Ok(())
    }

    /// The published weights that the method needs.
    pub fn pretrained(&self) -> Option<Pretrained> {
        let is_published = self.method == UpscaleMethod::Swin2sr && self.weights == UpscaleWeights::Published;
        is_published.then(|| self.variant.weights())
    }

    /// Whether the study first trains a network for the method.
    pub fn is_trained(&self) -> bool {
        self.method == UpscaleMethod::Swin2sr && self.weights == UpscaleWeights::Trained
    }
}

/// An enlarging method; see [`Upscale::method`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpscaleMethod {
    /// The paper's network.
    Swin2sr,
    /// A fixed filter with three lobes; stands in for Swin2SR.
    Lanczos,
    /// A fixed cubic filter; stands in for Swin2SR.
    Bicubic,
}

/// A source of weights; see [`Upscale::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpscaleWeights {
    /// The published weights.
    Published,
    /// Weights that a small network learns from the study's own pictures of each view; stand in
    /// for the published ones.
    Trained,
}

/// Training of a small Swin2SR on the pictures that the diffusion models of a
/// view learn from, which no test side of A holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Swin2srTraining {
    /// How training pictures are made smaller.
    pub reduction: Reduction,
    /// Channels of the body.
    pub embed_dim: u32,
    /// Number of blocks of each stage.
    pub depths: Vec<u32>,
    /// Number of attention heads; divides `embed_dim`.
    pub heads: u32,
    /// Side of the training crops, in pixels of the small picture and a multiple of 8.
    pub crop: u32,
    /// Crops per optimiser step.
    pub batch: u32,
    /// Optimiser steps.
    pub steps: u32,
    /// Learning rate of Adam before it is halved the first time.
    pub lr: f64,
    /// Decay of the moving average of the weights.
    pub ema: f64,
}

impl Default for Swin2srTraining {
    fn default() -> Self {
        Self {
            reduction: Reduction::Area,
            embed_dim: 60,
            depths: vec![6; 4],
            heads: 6,
            crop: 48,
            batch: 16,
            steps: 50_000,
            lr: 2e-4,
            ema: 0.999,
        }
    }
}

/// A reducing filter; see [`Swin2srTraining::reduction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// The mean of each square of pixels.
    Area,
    /// A cubic filter.
    Bicubic,
}

/// A published network; see [`Upscale::variant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Swin2srVariant {
    /// For pictures that were compressed; the only network with the bicubic branch that the
    /// paper describes.
    CompressedX4,
    /// For pictures that were only made smaller.
    ClassicalX4,
    /// For unprocessed photographs.
    RealworldX4,
}

impl Swin2srVariant {
    /// The published weights of the network.
    pub fn weights(self) -> Pretrained {
        match self {
            Swin2srVariant::CompressedX4 => Pretrained::Swin2srCompressed,
            Swin2srVariant::ClassicalX4 => Pretrained::Swin2srClassical,
            Swin2srVariant::RealworldX4 => Pretrained::Swin2srRealworld,
        }
    }
}
