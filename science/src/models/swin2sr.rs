//! Swin2SR (Conde et al., AIM at ECCV 2022, arXiv 2209.11345): makes a picture
//! four times as large with attention inside windows of pixels, every other time
//! in windows moved by half (ALGORITHM 3).
//!
//! | module | what it holds |
//! |---|---|
//! | here | configuration, blocks, the network |
//! | [`checkpoint`] | the published checkpoints, in either naming |
//! | `head` | what enlarges |
//! | [`script`] | pictures of any size, padded and tiled as the official script does |
//! | `windows` | which pixels look at each other; work in parts |

pub mod checkpoint;
mod head;
pub mod script;
pub(crate) mod windows;

use std::path::Path;

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use domain::study::experiment::Swin2srTraining;
use domain::study::records::{Record, Swin2srRecord};
use domain::study::stage::Failure;
use serde::{Deserialize, Serialize};

use self::head::Head;
use self::script::{Mirror, mirrored};
use self::windows::{Band, Grid, each, in_bands};
use crate::layers::activation::{Relu, gelu, sigmoid, softmax};
use crate::layers::conv::{Conv2d, conv};
use crate::layers::linear::{Linear, bare_linear, linear};
use crate::layers::norm::LayerNorm;
use crate::{files, weights};

/// The factor by which a picture becomes higher and wider.
pub const SCALE: usize = 4;

/// Means of red, green and blue that the network counts from.
const MEAN: [f32; 3] = [0.4488, 0.4371, 0.4040];

/// Width of the network that turns distances into attention.
const POSITION_WIDTH: usize = 512;

/// The largest number that a cosine is multiplied by.
const SHARPEST: f64 = 100.0;

/// One of the three published networks, which differ in what follows the body. They are named
/// by what their configuration calls the upsampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Variant {
    /// Pictures reduced by bicubic interpolation.
    #[serde(rename = "pixelshuffle")]
    Classical,
    /// Reduced and compressed (JPEG) pictures.
    #[serde(rename = "pixelshuffle_aux")]
    Compressed,
    /// Pictures with unknown defects.
    #[serde(rename = "nearest+conv")]
    RealWorld,
}

/// The sizes of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swin2SrConfig {
    /// The published network whose layers follow the body.
    pub variant: Variant,
    /// Side of the patches that it was trained with, more than a window; no
    /// parameter depends on it.
    pub img_size: usize,
    /// Channels of the body.
    pub embed_dim: usize,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Heads of attention of each stage; they divide `embed_dim`.
    pub heads: Vec<usize>,
    /// Side of a window, even.
    pub window: usize,
    /// Width of a block's perceptron as a multiple of `embed_dim`.
    pub mlp_ratio: usize,
    /// True if the bicubic branch of [`Variant::Compressed`] gets the picture as it is, as in
    /// Hugging Face's port, and not less the mean.
    pub hf_compat: bool,
}

impl Swin2SrConfig {
    /// The sizes of `Swin2SR_ClassicalSR_X4_64`.
    pub fn classical() -> Self {
        Self::published(Variant::Classical, 64)
    }

    /// The sizes of `Swin2SR_CompressedSR_X4_48`.
    pub fn compressed() -> Self {
        Self::published(Variant::Compressed, 48)
    }

    /// The sizes of `Swin2SR_RealworldSR_X4_64_BSRGAN_PSNR`.
    pub fn real_world() -> Self {
        Self::published(Variant::RealWorld, 64)
    }

    /// The network of a training of this program: the published one for pictures that are
    /// only made smaller, in other sizes.
    pub fn trained(training: &Swin2srTraining) -> Self {
        Self {
            variant: Variant::Classical,
            img_size: training.crop as usize,
            embed_dim: training.embed_dim as usize,
            depths: training.depths.iter().map(|depth| *depth as usize).collect(),
            heads: training.depths.iter().map(|_| training.heads as usize).collect(),
            ..Self::classical()
        }
    }

    fn published(variant: Variant, img_size: usize) -> Self {
        let (depths, heads) = (vec![6; 6], vec![6; 6]);
        Self { variant, img_size, embed_dim: 180, depths, heads, window: 8, mlp_ratio: 2, hf_compat: false }
    }
}

/// Attention among the tokens of each window, by the cosine between query and
/// key and by where they lie to each other (arXiv 2111.09883, section 3.3).
#[derive(Module, Debug)]
pub(crate) struct Attention {
    logit_scale: Param<Tensor<3>>,
    q_bias: Param<Tensor<1>>,
    v_bias: Param<Tensor<1>>,
    cpb_mlp: (Linear, Relu, Linear),
    qkv: Linear,
    proj: Linear,
    window: usize,
}

impl Attention {
    fn new(channels: usize, heads: usize, window: usize, device: &Device) -> Self {
        Self {
            logit_scale: Initializer::Constant { value: 10f64.ln() }.init([heads, 1, 1], device),
            q_bias: Initializer::Zeros.init([channels], device),
            v_bias: Initializer::Zeros.init([channels], device),
            cpb_mlp: (linear(2, POSITION_WIDTH, device), Relu::new(), bare_linear(POSITION_WIDTH, heads, device)),
            qkv: bare_linear(channels, 3 * channels, device),
            proj: linear(channels, channels, device),
            window,
        }
    }

    /// The part of two tokens' score that their places make, for the tokens of one window:
    /// `[1, heads, tokens, tokens]`.
    pub(crate) fn position_bias(&self, device: &Device) -> Tensor<4> {
        let (tokens, offsets) = (self.window * self.window, (2 * self.window - 1).pow(2));
        let table = TensorData::new(windows::offsets(self.window), [offsets, 2]);
        let h = self.cpb_mlp.1.forward(self.cpb_mlp.0.forward(Tensor::<2>::from_data(table, device)));
        let table = sigmoid(self.cpb_mlp.2.forward(h)) * 16.0; // [offsets, heads]
        let heads = table.dims()[1];
        let pairs = Tensor::<1, Int>::from_ints(windows::pairs(self.window).as_slice(), device);
        table.select(0, pairs).swap_dims(0, 1).reshape([1, heads, tokens, tokens])
    }

    /// # Shapes
    /// - `x`, output: `[windows * tokens, channels]`, window after window
    /// - `bias`: `[1 or windows, heads, tokens, tokens]`
    fn forward(&self, x: Tensor<2>, bias: Tensor<4>) -> Tensor<2> {
        let [rows, channels] = x.dims();
        let (heads, tokens) = (self.logit_scale.dims()[0], self.window * self.window);
        // Keys have no bias: it would add the same to all scores of a query.
        let shift = vec![self.q_bias.val(), self.q_bias.val().zeros_like(), self.v_bias.val()];
        let qkv = self.qkv.forward(x) + Tensor::cat(shift, 0).unsqueeze();
        let part = |which: usize| {
            let part = qkv.clone().narrow(1, which * channels, channels);
            part.reshape([rows / tokens, tokens, heads, channels / heads])
        };
        let shorten = |part: Tensor<4>| part.square().sum_dim(3).sqrt().clamp_min(1e-12).recip();
        let sharpness = self.logit_scale.val().clamp_max(SHARPEST.ln()).exp().reshape([1, 1, heads, 1]);
        let (q, k, v) = (part(0), part(1), part(2));
        let q = q.clone() * (shorten(q) * sharpness);
        let k = k.clone() * shorten(k);
        let scores = q.swap_dims(1, 2).matmul(k.permute([0, 2, 3, 1])) + bias; // [windows, heads, tokens, tokens]
        let out = softmax(scores, 3).matmul(v.swap_dims(1, 2)); // [windows, heads, tokens, channels / heads]
        self.proj.forward(out.swap_dims(1, 2).reshape([rows, channels]))
    }
}

/// Two layers for each token alone.
#[derive(Module, Debug)]
struct Perceptron {
    fc1: Linear,
    fc2: Linear,
}

/// Attention and perceptron, each normalised before it is added.
#[derive(Module, Debug)]
pub(crate) struct Block {
    norm1: LayerNorm,
    pub(crate) attn: Attention,
    norm2: LayerNorm,
    mlp: Perceptron,
}

impl Block {
    fn new(config: &Swin2SrConfig, heads: usize, device: &Device) -> Self {
        let (channels, hidden) = (config.embed_dim, config.mlp_ratio * config.embed_dim);
        Self {
            norm1: LayerNorm::new(channels, device),
            attn: Attention::new(channels, heads, config.window, device),
            norm2: LayerNorm::new(channels, device),
            mlp: Perceptron { fc1: linear(channels, hidden, device), fc2: linear(hidden, channels, device) },
        }
    }

    /// Shapes as of [`Attention::forward`].
    fn forward(&self, x: Tensor<2>, bias: Tensor<4>) -> Tensor<2> {
        let x = x.clone() + self.norm1.forward(self.attn.forward(x, bias));
        let h = gelu(self.mlp.fc1.forward(x.clone())); // [windows * tokens, mlp_ratio * channels]
        x + self.norm2.forward(self.mlp.fc2.forward(h))
    }
}

/// The blocks of a stage, in windows where they are and moved, in turn.
#[derive(Module, Debug)]
pub(crate) struct Blocks {
    pub(crate) blocks: Vec<Block>,
}

impl Blocks {
    /// Applies all blocks. All of a block happens inside its windows, so it is done for a few
    /// windows at a time: that bounds the memory, and occupies all cores with one picture.
    ///
    /// # Shapes
    /// - `x`, output: `[height * width, channels]`, row after row
    pub(crate) fn forward(&self, mut x: Tensor<2>, grid: &Grid) -> Tensor<2> {
        let device = x.device();
        let mut order = grid.rows();
        for (number, block) in self.blocks.iter().enumerate() {
            let moved = number % 2 == 1;
            let wanted = grid.order(moved);
            let sources = windows::sources(&order, &wanted);
            let bias = block.attn.position_bias(&device);
            let parts = each(&device, grid.parts(), |part| {
                let rows = Tensor::<1, Int>::from_ints(&sources[part.rows.clone()], &device);
                let bias = match &part.mask {
                    Some(mask) if moved => bias.clone() + mask.clone(),
                    _ => bias.clone(),
                };
                block.forward(x.clone().select(0, rows), bias)
            });
            x = Tensor::cat(parts, 0);
            order = wanted;
        }
        let sources = windows::sources(&order, &grid.rows());
        x.select(0, Tensor::from_ints(sources.as_slice(), &device))
    }
}

/// A convolution of each pixel alone.
#[derive(Module, Debug)]
struct Projection {
    proj: Conv2d,
}

/// Blocks, then convolutions, around which the tokens are added.
#[derive(Module, Debug)]
pub(crate) struct Stage {
    pub(crate) residual_group: Blocks,
    conv: Conv2d,
    patch_embed: Projection,
}

impl Stage {
    /// Shapes as of [`Blocks::forward`].
    fn forward(&self, x: Tensor<2>, grid: &Grid) -> Tensor<2> {
        let map = grid.map(self.residual_group.forward(x.clone(), grid));
        let parts = each(&x.device(), grid.bands(1), |band| {
            let h = band.trim(self.conv.forward(band.cut(&map, 1)), 1);
            tokens(self.patch_embed.proj.forward(h))
        });
        x + Tensor::cat(parts, 0)
    }
}

/// Pixels as tokens.
#[derive(Module, Debug)]
struct Embedding {
    proj: Conv2d,
    norm: LayerNorm,
}

/// A picture four times as large.
#[derive(Clone, Debug)]
pub struct Enlarged {
    /// `[batch, 3, 4 * height, 4 * width]`, about 0..1 and not cut to it.
    pub picture: Tensor<4>,
    /// The picture without compression as [`Variant::Compressed`] guesses it:
    /// `[batch, 3, height, width]` of what the network padded the input to.
    pub aux: Option<Tensor<4>>,
}

/// The network that makes pictures four times as large.
#[derive(Module, Debug)]
pub struct Swin2Sr {
    conv_first: Conv2d,
    patch_embed: Embedding,
    pub(crate) layers: Vec<Stage>,
    norm: LayerNorm,
    conv_after_body: Conv2d,
    head: Head,
    window: usize,
}

impl Swin2Sr {
    /// A blank network.
    ///
    /// # Panics
    /// If heads do not divide channels, stages have no heads or a window is odd.
    pub fn new(config: &Swin2SrConfig, device: &Device) -> Self {
        assert_eq!(config.depths.len(), config.heads.len(), "heads for each stage");
        assert!(config.heads.iter().all(|heads| config.embed_dim.is_multiple_of(*heads)), "heads divide channels");
        assert!(config.window >= 2 && config.window.is_multiple_of(2), "windows are moved by half");
        let channels = config.embed_dim;
        let stage = |(depth, heads): (&usize, &usize)| Stage {
            residual_group: Blocks { blocks: (0..*depth).map(|_| Block::new(config, *heads, device)).collect() },
            conv: conv(channels, channels, 3, 1, device),
            patch_embed: Projection { proj: conv(channels, channels, 1, 0, device) },
        };
        Self {
            conv_first: conv(3, channels, 3, 1, device),
            patch_embed: Embedding {
                proj: conv(channels, channels, 1, 0, device),
                norm: LayerNorm::new(channels, device),
            },
            layers: config.depths.iter().zip(&config.heads).map(stage).collect(),
            norm: LayerNorm::new(channels, device),
            conv_after_body: conv(channels, channels, 3, 1, device),
            head: Head::new(config, device),
            window: config.window,
        }
    }

    /// A network that was trained here, from the folder of its training.
    ///
    /// # Errors
    /// If a file cannot be read or they do not belong together.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, Failure> {
        let record: Swin2srRecord = files::read(&folder.join(Swin2srRecord::FILE))?;
        let blank = Self::new(&Swin2SrConfig::trained(&record.training), device);
        weights::load(blank, &folder.join("model.safetensors"))
    }

    /// The network called on pictures as they are: it mirrors what is missing to
    /// whole windows and cuts it off again. [`Swin2Sr::script`] pads as the
    /// official script does. One picture occupies all cores, so the pictures of a
    /// batch follow each other.
    ///
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]`, pixels 0..1, of any size
    pub fn forward(&self, x: Tensor<4>) -> Enlarged {
        let one = |number| self.one(x.clone().narrow(0, number, 1));
        let (pictures, aux): (Vec<_>, Vec<_>) = (0..x.dims()[0]).map(one).unzip();
        let aux: Vec<Tensor<4>> = aux.into_iter().flatten().collect();
        Enlarged { picture: Tensor::cat(pictures, 0), aux: (!aux.is_empty()).then(|| Tensor::cat(aux, 0)) }
    }

    fn one(&self, x: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        let [_, _, height, width] = x.dims();
        let device = x.device();
        let size = [height, width].map(|side| side.next_multiple_of(self.window));
        let grid = Grid::new(size, self.window, &device);
        let x = mirrored(x, size, Mirror::OnPixel);
        let first = self.first(x.clone());
        let deep = grid.map(self.body(&first, &grid));
        let features = in_bands(&device, grid.bands(1), 1, |band: &Band| {
            self.conv_after_body.forward(band.cut(&deep, 1)) + band.cut(&first, 1)
        });
        drop((deep, first));
        let (picture, aux) = self.head.forward(&features, x, [height, width], &grid);
        let picture = picture.narrow(2, 0, SCALE * height).narrow(3, 0, SCALE * width);
        (picture + mean(&device), aux.map(|aux| aux + mean(&device)))
    }

    /// `[1, 3, height, width]` to `[1, channels, height, width]`.
    pub(crate) fn first(&self, x: Tensor<4>) -> Tensor<4> {
        let device = x.device();
        self.conv_first.forward(x - mean(&device))
    }

    /// `[1, channels, height, width]` to `[height * width, channels]`.
    pub(crate) fn body(&self, first: &Tensor<4>, grid: &Grid) -> Tensor<2> {
        let x = self.embed(first, grid);
        self.norm.forward(self.layers.iter().fold(x, |x, stage| stage.forward(x, grid)))
    }

    pub(crate) fn embed(&self, first: &Tensor<4>, grid: &Grid) -> Tensor<2> {
        let parts = each(&first.device(), grid.bands(0), |band| {
            self.patch_embed.norm.forward(tokens(self.patch_embed.proj.forward(band.cut(first, 1))))
        });
        Tensor::cat(parts, 0)
    }
}

/// `[1, channels, height, width]` to `[height * width, channels]`.
fn tokens(map: Tensor<4>) -> Tensor<2> {
    let [_, channels, height, width] = map.dims();
    map.permute([0, 2, 3, 1]).reshape([height * width, channels])
}

fn mean(device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(MEAN.to_vec(), [1, 3, 1, 1]), device)
}

#[cfg(test)]
mod tests;
