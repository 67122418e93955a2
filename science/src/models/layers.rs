//! Layers that several networks share. They start blank, all weights zero:
//! `weights::initialise` or `weights::load` fills them.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::module::{Module, Param, RunningState};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Initializer, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::module::{batch_norm, batch_norm_train};
use burn::tensor::{Device, Tensor};

/// Share of the newest batch in the running statistics; PyTorch's default.
const MOMENTUM: f64 = 0.1;

/// A fully connected layer.
pub fn linear(input: usize, output: usize, device: &Device) -> Linear {
    LinearConfig::new(input, output).with_initializer(Initializer::Zeros).init(device)
}

/// A fully connected layer without bias.
pub fn bare_linear(input: usize, output: usize, device: &Device) -> Linear {
    LinearConfig::new(input, output).with_bias(false).with_initializer(Initializer::Zeros).init(device)
}

/// A convolution with a square kernel, the same padding on all sides and a bias.
pub fn conv(input: usize, output: usize, kernel: usize, padding: usize, device: &Device) -> Conv2d {
    square(input, output, kernel, padding).init(device)
}

/// One filter per channel: `padding` keeps the size.
pub fn depthwise(channels: usize, kernel: usize, device: &Device) -> Conv2d {
    square(channels, channels, kernel, kernel / 2).with_groups(channels).init(device)
}

/// A convolution without bias, for use before a normalisation.
pub fn bare_conv(input: usize, output: usize, kernel: usize, stride: usize, padding: usize, device: &Device) -> Conv2d {
    square(input, output, kernel, padding).with_stride([stride; 2]).with_bias(false).init(device)
}

/// [`bare_conv`] with a kernel and padding of their own in each direction, height first.
pub fn bare_conv_rect(
    input: usize,
    output: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: [usize; 2],
    device: &Device,
) -> Conv2d {
    rect(input, output, kernel, padding).with_stride([stride; 2]).with_bias(false).init(device)
}

/// The mean over all positions: `[batch, channels, height, width]` to `[batch, channels]`.
pub fn spatial_mean(x: Tensor<4>) -> Tensor<2> {
    x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)
}

/// The largest of 3×3 values, every other pixel.
pub fn pool(padding: usize) -> MaxPool2d {
    let padding = PaddingConfig2d::Explicit(padding, padding, padding, padding);
    MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padding).init()
}

fn square(input: usize, output: usize, kernel: usize, padding: usize) -> Conv2dConfig {
    rect(input, output, [kernel; 2], [padding; 2])
}

fn rect(input: usize, output: usize, kernel: [usize; 2], [height, width]: [usize; 2]) -> Conv2dConfig {
    Conv2dConfig::new([input, output], kernel)
        .with_padding(PaddingConfig2d::Explicit(height, width, height, width))
        .with_initializer(Initializer::Zeros)
}

/// Gaussian error linear unit (arXiv 1606.08415), by the error function.
///
/// burn-flex has a gradient of its own. For all other backends burn takes that of
/// the approximation by tanh (burn-backend 0.22.1, `gelu_backward`), which is off by
/// more than the rounding of 32-bit numbers: gradients of SinDDM by up to 3.5e-4 of
/// their largest. So it is put together from its parts there.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.device().without_autodiff() == Device::flex() {
        return burn::tensor::activation::gelu(x);
    }
    x.clone() * ((x * FRAC_1_SQRT_2).erf() + 1.0) * 0.5
}

/// [`gelu`] where a network has a layer of its own for it, without parameters.
#[derive(Module, Debug)]
pub struct Gelu;

impl Gelu {
    /// # Shapes
    /// - `x`, output: any
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        gelu(x)
    }
}

/// Batch normalisation (arXiv 1502.03167), over all dimensions but the second.
///
/// burn's own layer keeps the biased variance in its running statistics;
/// PyTorch, and so this one, the unbiased. Names are PyTorch's too.
#[derive(Module, Debug)]
pub struct BatchNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    running_mean: RunningState<Tensor<1>>,
    running_var: RunningState<Tensor<1>>,
    epsilon: f64,
}

impl BatchNorm {
    /// The identity, up to `epsilon`.
    pub fn new(channels: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            weight: Initializer::Ones.init([channels], device),
            bias: Initializer::Zeros.init([channels], device),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            epsilon,
        }
    }

    /// With the statistics of the batch where gradients are tracked, which also
    /// moves the running statistics; with the running statistics elsewhere.
    ///
    /// # Shapes
    /// - `x`, output: `[batch, channels, …]`; more than one value per channel while training
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        if !x.device().is_autodiff() {
            return batch_norm(x, weight, bias, self.running_mean.value(), self.running_var.value(), self.epsilon);
        }
        let values = x.shape().num_elements() / x.dims()[1];
        let unbiased = values as f64 / (values as f64 - 1.0).max(1.0);
        let batch = batch_norm_train(x, weight, bias, self.epsilon);
        for (running, newest) in
            [(&self.running_mean, batch.mean.detach()), (&self.running_var, batch.variance.detach() * unbiased)]
        {
            running.update((running.value_sync() * (1.0 - MOMENTUM) + newest * MOMENTUM).detach());
        }
        batch.output
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights;

    #[test]
    fn running_statistics_use_the_unbiased_variance() {
        let device = Device::flex().autodiff();
        let norm = BatchNorm::new(1, 1e-5, &device);
        norm.forward(Tensor::<2>::from_floats([[1.0], [3.0]], &device)); // mean 2, unbiased variance 2
        let arrays = weights::collect(&norm.valid());
        assert!((arrays["running_mean"].values[0] - 0.2).abs() < 1e-6);
        assert!((arrays["running_var"].values[0] - 1.1).abs() < 1e-6);
        assert_eq!(weights::parameters(&norm), 2);
    }
}
