//! The first layers of Inception-v3 (arXiv 1512.00567), as far as the features
//! of the single-image Fréchet distance (ALGORITHM 4.3).
//!
//! Trained weights are not to be had here: fixed random weights stand in for
//! ImageNet's. Random filters still tell textures apart, but distances are not
//! those of the paper.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use domain::seed::Seed;

use super::layers::{BatchNorm, bare_conv, pool};
use crate::weights;

/// Seed of the weights, the same in every study: distances can be compared
/// from one study to another.
pub const WEIGHTS_SEED: Seed = Seed(4_3);

/// Inception's guard against division by zero.
const EPSILON: f64 = 1e-3;

/// Convolution, normalisation, ReLU.
#[derive(Module, Debug)]
pub struct Unit {
    conv: Conv2d,
    bn: BatchNorm,
}

impl Unit {
    fn new(conv: Conv2d, device: &Device) -> Self {
        let [channels, ..] = conv.weight.dims();
        Self { conv, bn: BatchNorm::new(channels, EPSILON, device) }
    }

    /// `[batch, input, height, width]` to `[batch, output, …]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        relu(self.bn.forward(self.conv.forward(x)))
    }
}

/// Which feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// 64 channels, before the first pooling.
    C64,
    /// 192 channels, before the second pooling.
    C192,
}

/// The stem. Field names are torchvision's in lower case.
#[derive(Module, Debug)]
pub struct Inception {
    conv2d_1a_3x3: Unit,
    conv2d_2a_3x3: Unit,
    conv2d_2b_3x3: Unit,
    conv2d_3b_1x1: Unit,
    conv2d_4a_3x3: Unit,
}

impl Inception {
    /// A blank stem.
    pub fn new(device: &Device) -> Self {
        let unit = |input, output, kernel, stride, padding| {
            Unit::new(bare_conv(input, output, kernel, stride, padding, device), device)
        };
        Self {
            conv2d_1a_3x3: unit(3, 32, 3, 2, 0),
            conv2d_2a_3x3: unit(32, 32, 3, 1, 0),
            conv2d_2b_3x3: unit(32, 64, 3, 1, 1),
            conv2d_3b_1x1: unit(64, 80, 1, 1, 0),
            conv2d_4a_3x3: unit(80, 192, 3, 1, 0),
        }
    }

    /// The stem with its fixed random weights. `device` tracks no gradients.
    pub fn fixed(device: &Device) -> Self {
        weights::initialise(Self::new(device), WEIGHTS_SEED)
    }

    /// # Shapes
    /// - `x`: `[batch, 3, height, width]`, −1..1, at least 15 pixels high and wide
    /// - output: `[batch, 64 or 192, about height/2 or height/4, …]`
    pub fn forward(&self, x: Tensor<4>, block: Block) -> Tensor<4> {
        let h = self.conv2d_1a_3x3.forward(x); // [batch, 32, …/2, …/2]
        let h = self.conv2d_2a_3x3.forward(h);
        let h = self.conv2d_2b_3x3.forward(h); // [batch, 64, …/2, …/2]
        if block == Block::C64 {
            return h;
        }
        let h = pool(0).forward(h);
        let h = self.conv2d_3b_1x1.forward(h); // [batch, 80, …/4, …/4]
        self.conv2d_4a_3x3.forward(h) // [batch, 192, …/4, …/4]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_as_many_positions_as_the_reference() {
        let device = Device::flex();
        let stem = Inception::fixed(&device);
        let x = Tensor::zeros([1, 3, 200, 264], &device);
        assert_eq!(stem.forward(x.clone(), Block::C192).dims(), [1, 192, 46, 62]);
        assert_eq!(stem.forward(x, Block::C64).dims()[1], 64);
        assert_eq!(stem.forward(Tensor::zeros([1, 3, 15, 15], &device), Block::C192).dims()[1], 192);
    }

    #[test]
    fn features_tell_a_stripe_from_a_plain() {
        let device = Device::flex();
        let stem = Inception::fixed(&device);
        let plain = stem.forward(Tensor::zeros([1, 3, 32, 32], &device), Block::C192);
        let striped =
            Tensor::cat(vec![Tensor::ones([1, 3, 32, 16], &device), Tensor::zeros([1, 3, 32, 16], &device)], 3);
        let striped = stem.forward(striped, Block::C192);
        assert!((plain - striped).abs().max().into_scalar::<f32>() > 1e-3);
    }
}
