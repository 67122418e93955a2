//! The U-Net of the plain diffusion model (Ho et al., NeurIPS 2020, arXiv
//! 2006.11239) in the form of the widely used PyTorch port: two residual blocks
//! and an attention per level, linear attention but at the innermost level
//! (ALGORITHM 5). It predicts the noise in a picture.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use domain::seed::Seed;
use domain::study::experiment::DdpmTraining;

use crate::layers::activation::{gelu, silu, softmax};
use crate::layers::conv::{Conv2d, bare_conv, conv};
use crate::layers::linear::{Linear, linear};
use crate::layers::norm::{GroupNorm, RmsNorm};
use crate::{random, weights};

/// Groups of channels that are normalised together.
const GROUPS: usize = 8;

/// Heads of attention, channels of each, and keys that do not depend on the picture.
const HEADS: usize = 4;
const HEAD_DIM: usize = 32;
const MEMORY: usize = 4;

/// Base of the slowest frequency of the time embedding.
const SLOWEST: f64 = 10_000.0;

/// Convolution, normalisation, scale and shift by the time, activation.
#[derive(Module, Debug)]
struct Half {
    proj: Conv2d,
    norm: GroupNorm,
}

impl Half {
    fn new(input: usize, output: usize, device: &Device) -> Self {
        Self { proj: conv(input, output, 3, 1, device), norm: GroupNorm::new(GROUPS, output, device) }
    }

    fn forward(&self, x: Tensor<4>, scale_shift: Option<(Tensor<4>, Tensor<4>)>) -> Tensor<4> {
        let h = self.norm.forward(self.proj.forward(x));
        silu(match scale_shift {
            Some((scale, shift)) => h * (scale + 1.0) + shift,
            None => h,
        })
    }
}

/// Two convolutions with a short cut, told the time.
#[derive(Module, Debug)]
struct Residual {
    mlp: Linear,
    block1: Half,
    block2: Half,
    res_conv: Option<Conv2d>,
}

impl Residual {
    fn new(input: usize, output: usize, time: usize, device: &Device) -> Self {
        Self {
            mlp: linear(time, 2 * output, device),
            block1: Half::new(input, output, device),
            block2: Half::new(output, output, device),
            res_conv: (input != output).then(|| conv(input, output, 1, 0, device)),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, input, height, width]`; `time`: `[batch, time]`
    /// - output: `[batch, output, height, width]`
    fn forward(&self, x: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        let told = self.mlp.forward(silu(time));
        let [batch, both] = told.dims();
        let told = told.reshape([batch, both, 1, 1]);
        let (scale, shift) = (told.clone().narrow(1, 0, both / 2), told.narrow(1, both / 2, both / 2));
        let h = self.block2.forward(self.block1.forward(x.clone(), Some((scale, shift))), None);
        match &self.res_conv {
            Some(project) => h + project.forward(x),
            None => h + x,
        }
    }
}

/// Attention over all pixels: in full, or linear in their number.
#[derive(Module, Debug)]
struct Attention {
    norm: RmsNorm,
    /// Keys, then values, `[2, heads, memory, head_dim]`.
    mem_kv: Param<Tensor<4>>,
    to_qkv: Conv2d,
    to_out: Conv2d,
    /// A second normalisation, only after linear attention.
    out_norm: Option<RmsNorm>,
}

impl Attention {
    fn new(channels: usize, full: bool, device: &Device) -> Self {
        let hidden = HEADS * HEAD_DIM;
        Self {
            norm: RmsNorm::new(channels, device),
            mem_kv: Initializer::Zeros.init([2, HEADS, MEMORY, HEAD_DIM], device),
            to_qkv: bare_conv(channels, 3 * hidden, 1, 1, 0, device),
            to_out: if full {
                bare_conv(hidden, channels, 1, 1, 0, device)
            } else {
                conv(hidden, channels, 1, 0, device)
            },
            out_norm: (!full).then(|| RmsNorm::new(channels, device)),
        }
    }

    /// # Shapes
    /// - `x`, output: `[batch, channels, height, width]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, _, height, width] = x.dims();
        let pixels = height * width;
        let qkv = self.to_qkv.forward(self.norm.forward(x.clone())); // [batch, 3 * hidden, height, width]
        let part = |which: usize| {
            let part = qkv.clone().narrow(1, which * HEADS * HEAD_DIM, HEADS * HEAD_DIM);
            part.reshape([batch, HEADS, HEAD_DIM, pixels]).swap_dims(2, 3) // [batch, heads, pixels, head_dim]
        };
        let remembered = |which: usize| self.mem_kv.val().narrow(0, which, 1).repeat_dim(0, batch);
        let q = part(0);
        let k = Tensor::cat(vec![remembered(0), part(1)], 2); // [batch, heads, memory + pixels, head_dim]
        let v = Tensor::cat(vec![remembered(1), part(2)], 2);
        let scale = (HEAD_DIM as f64).powf(-0.5);
        let out = if self.out_norm.is_none() {
            softmax(q.matmul(k.swap_dims(2, 3)) * scale, 3).matmul(v)
        } else {
            // Keys are mixed before queries ask: nothing is as large as pixels × pixels.
            (softmax(q, 3) * scale).matmul(softmax(k, 2).swap_dims(2, 3).matmul(v))
        };
        let out = out.swap_dims(2, 3).reshape([batch, HEADS * HEAD_DIM, height, width]);
        let out = self.to_out.forward(out);
        x + match &self.out_norm {
            Some(norm) => norm.forward(out),
            None => out,
        }
    }
}

/// Two residual blocks, attention and a change of size.
#[derive(Module, Debug)]
struct Level {
    first: Residual,
    second: Residual,
    attention: Attention,
    resize: Conv2d,
}

/// The network that predicts the noise in a picture.
#[derive(Module, Debug)]
pub struct Unet {
    init_conv: Conv2d,
    time_mlp: (Linear, Linear),
    downs: Vec<Level>,
    mid_block1: Residual,
    mid_attn: Attention,
    mid_block2: Residual,
    ups: Vec<Level>,
    final_res_block: Residual,
    final_conv: Conv2d,
    dim: usize,
}

impl Unet {
    /// A blank network; `dim` is a multiple of eight. Pictures have sides that
    /// can be halved as often as there are levels but one.
    pub fn new(dim: usize, mults: &[u32], device: &Device) -> Self {
        let time = 4 * dim;
        let widths: Vec<usize> = std::iter::once(dim).chain(mults.iter().map(|mult| dim * *mult as usize)).collect();
        let levels = widths.len() - 1;
        let inner = widths[levels];
        let residual = |input, output| Residual::new(input, output, time, device);
        let down = |level: usize| {
            let (input, output) = (widths[level], widths[level + 1]);
            let last = level + 1 == levels;
            Level {
                first: residual(input, input),
                second: residual(input, input),
                attention: Attention::new(input, last, device),
                resize: if last { conv(input, output, 3, 1, device) } else { conv(4 * input, output, 1, 0, device) },
            }
        };
        let up = |level: usize| {
            let (input, output) = (widths[level], widths[level + 1]);
            Level {
                first: residual(output + input, output),
                second: residual(output + input, output),
                attention: Attention::new(output, level + 1 == levels, device),
                resize: conv(output, input, 3, 1, device),
            }
        };
        Self {
            init_conv: conv(3, dim, 7, 3, device),
            time_mlp: (linear(dim, time, device), linear(time, time, device)),
            downs: (0..levels).map(down).collect(),
            mid_block1: residual(inner, inner),
            mid_attn: Attention::new(inner, true, device),
            mid_block2: residual(inner, inner),
            ups: (0..levels).rev().map(up).collect(),
            final_res_block: residual(2 * dim, dim),
            final_conv: conv(dim, 3, 1, 0, device),
            dim,
        }
    }

    /// The network of a training, with fresh random weights.
    pub fn fresh(training: &DdpmTraining, seed: Seed, device: &Device) -> Self {
        let net = weights::initialise(Self::new(training.dim as usize, &training.mults, device), seed);
        let mut arrays = weights::collect(&net);
        for (name, array) in arrays.iter_mut().filter(|(name, _)| name.ends_with("mem_kv")) {
            let count = array.values.len();
            array.values = random::normals(&mut random::stream(seed, &format!("init.{name}"), 0), count);
        }
        weights::apply(net, arrays).expect("the names and shapes are the network's own")
    }

    /// # Shapes
    /// - `x`, output: `[batch, 3, height, width]`, pixels about −1..1
    /// - `times`: one step per item, from 0
    pub fn forward(&self, x: Tensor<4>, times: &[u32]) -> Tensor<4> {
        let time = self.embed(times, &x.device()); // [batch, 4 * dim]
        let stem = self.init_conv.forward(x); // [batch, dim, height, width]
        let mut h = stem.clone();
        let mut skips = Vec::new();
        for (number, level) in self.downs.iter().enumerate() {
            h = level.first.forward(h, time.clone());
            skips.push(h.clone());
            h = level.attention.forward(level.second.forward(h, time.clone()));
            skips.push(h.clone());
            let last = number + 1 == self.downs.len();
            h = level.resize.forward(if last { h } else { unshuffle(h) }); // [batch, mult * dim, height/2, width/2]
        }
        h = self.mid_block1.forward(h, time.clone());
        h = self.mid_block2.forward(self.mid_attn.forward(h), time.clone());
        for (number, level) in self.ups.iter().enumerate() {
            let mut joined = |h: Tensor<4>| Tensor::cat([h].into_iter().chain(skips.pop()).collect(), 1);
            let h1 = level.first.forward(joined(h), time.clone());
            let h2 = level.second.forward(joined(h1), time.clone());
            h = level.attention.forward(h2);
            let last = number + 1 == self.ups.len();
            h = level.resize.forward(if last { h } else { doubled(h) }); // [batch, …, 2 * height, 2 * width]
        }
        let h = self.final_res_block.forward(Tensor::cat(vec![h, stem], 1), time);
        self.final_conv.forward(h)
    }

    /// The times as the blocks are told them: `[batch, 4 * dim]`.
    fn embed(&self, times: &[u32], device: &Device) -> Tensor<2> {
        let half = self.dim / 2;
        let angle = |time: u32, i: usize| f64::from(time) * (-(i as f64) * SLOWEST.ln() / (half as f64 - 1.0)).exp();
        let wave = |time: u32, i: usize| if i < half { angle(time, i).sin() } else { angle(time, i - half).cos() };
        let values: Vec<f32> =
            times.iter().flat_map(|&time| (0..2 * half).map(move |i| wave(time, i) as f32)).collect();
        let waves = Tensor::<2>::from_data(TensorData::new(values, [times.len(), 2 * half]), device);
        self.time_mlp.1.forward(gelu(self.time_mlp.0.forward(waves)))
    }
}

/// Four neighbouring pixels as one with four times the channels.
fn unshuffle(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height / 2, 2, width / 2, 2]).permute([0, 1, 3, 5, 2, 4]).reshape([
        batch,
        4 * channels,
        height / 2,
        width / 2,
    ])
}

/// Each pixel four times.
fn doubled(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let wide = x.reshape([batch, channels, height, 1, width, 1]).repeat_dim(3, 2).repeat_dim(5, 2);
    wide.reshape([batch, channels, 2 * height, 2 * width])
}

#[cfg(test)]
mod tests {
    use burn::optim::{AdamConfig, GradientsParams};

    use super::*;

    fn small(device: &Device) -> Unet {
        Unet::fresh(&DdpmTraining { dim: 8, mults: vec![1, 2], ..DdpmTraining::default() }, Seed(1), device)
    }

    #[test]
    fn has_about_as_many_parameters_as_the_port() {
        let net = Unet::new(64, &[1, 2, 4, 8], &Device::flex());
        let parameters = weights::parameters(&net) as f64;
        assert!((parameters / 35.72e6 - 1.0).abs() < 1e-3, "{parameters}");
    }

    #[test]
    fn pixels_are_folded_and_doubled_in_place() {
        let x = Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0], &Device::flex()).reshape([1, 1, 2, 2]);
        let values = |x: Tensor<4>| (x.dims(), x.into_data().iter::<f32>().collect::<Vec<_>>());
        assert_eq!(values(unshuffle(x.clone())), ([1, 4, 1, 1], vec![0.0, 1.0, 2.0, 3.0]));
        let large = values(doubled(x));
        assert_eq!(large.0, [1, 1, 4, 4]);
        assert_eq!(large.1[..8], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn gradients_reach_every_parameter_and_one_batch_can_be_learnt() {
        let device = Device::flex().autodiff();
        let mut net = small(&device);
        let count = weights::collect(&net).len();
        let noise = |purpose: &str| {
            let values = random::normals(&mut random::stream(Seed(5), purpose, 0), 2 * 3 * 64);
            Tensor::<4>::from_data(TensorData::new(values, [2, 3, 8, 8]), &device)
        };
        let (x, target) = (noise("x"), noise("target"));
        let mut adam = AdamConfig::new().init();
        let mut losses = Vec::new();
        for _ in 0..60 {
            let loss = (net.forward(x.clone(), &[3, 50]) - target.clone()).square().mean();
            losses.push(loss.clone().into_scalar::<f32>());
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            assert_eq!(gradients.len(), count);
            net = adam.step(3e-3, net, gradients);
        }
        assert!(losses[0] < 2.5 && losses[59] < 0.6 * losses[0], "{losses:?}");
    }
}
