//! Super-resolution of synthetic pictures (ALGORITHM 3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pretrained::Pretrained;

/// Super-resolution of synthetic pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Upscale {
    /// How.
    pub method: UpscaleMethod,
    /// Which weights of Swin2SR.
    pub variant: Swin2srVariant,
    /// By how much in each direction; Swin2SR enlarges four times.
    pub factor: u32,
    /// Side of the squares that go through Swin2SR one by one, in pixels of the
    /// small picture and a multiple of 8; 0: the whole picture at once.
    pub tile: u32,
    /// By how much neighbouring squares overlap; they are averaged there.
    pub overlap: u32,
    /// Whether the padding that Swin2SR needs is cut off again; otherwise the
    /// enlarged picture keeps it, as the port in Hugging Face's library does.
    pub crop: bool,
    /// Whether the bicubic branch of `compressed_x4` sees the picture before its
    /// mean is taken off, as in that port.
    pub hf_compat: bool,
}

impl Default for Upscale {
    fn default() -> Self {
        Self {
            method: UpscaleMethod::Swin2sr,
            variant: Swin2srVariant::CompressedX4,
            factor: 4,
            tile: 0,
            overlap: 32,
            crop: true,
            hf_compat: false,
        }
    }
}

impl Upscale {
    /// The weights that it needs.
    pub fn weights(&self) -> Option<Pretrained> {
        (self.method == UpscaleMethod::Swin2sr).then(|| self.variant.weights())
    }
}

/// See [`Upscale::method`].
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

/// See [`Upscale::variant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Swin2srVariant {
    /// For pictures that were compressed; the only one with the bicubic branch
    /// that the paper describes.
    CompressedX4,
    /// For pictures that were only made smaller.
    ClassicalX4,
    /// For photographs as they come.
    RealworldX4,
}

impl Swin2srVariant {
    /// Its weights.
    pub fn weights(self) -> Pretrained {
        match self {
            Swin2srVariant::CompressedX4 => Pretrained::Swin2srCompressed,
            Swin2srVariant::ClassicalX4 => Pretrained::Swin2srClassical,
            Swin2srVariant::RealworldX4 => Pretrained::Swin2srRealworld,
        }
    }
}
