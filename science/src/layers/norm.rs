//! Normalisations. burn has layers of the same names; each one here says why it is not
//! burn's. Common to all is that burn calls the parameters `gamma` and `beta`, and the
//! checkpoints of the reference implementations do not.

use burn::module::{Initializer, Module, Param, RunningState};
use burn::tensor::module::{batch_norm, batch_norm_train, layer_norm};
use burn::tensor::{Device, Tensor};

use super::activation::relu;
use super::conv::Conv2d;
use super::kernels::{self, Rectifier};

/// The share of the newest batch in the running statistics; PyTorch's default.
const MOMENTUM: f64 = 0.1;

/// PyTorch's default guard against division by zero.
pub const EPSILON: f64 = 1e-5;

/// Batch normalisation (arXiv 1502.03167), over all dimensions but the second.
///
/// burn's own layer keeps the biased variance in its running statistics; PyTorch, and so
/// this one, the unbiased.
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

    /// Normalises with the statistics of the batch where gradients are tracked, which also
    /// moves the running statistics; with the running statistics elsewhere.
    ///
    /// # Shapes
    /// - `x`, output: `[batch, channels, …]`; more than one value per channel while training
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_then(x, None)
    }

    /// A convolution, this normalisation and a rectifier: what classifiers are made of. `short`
    /// is added before the rectifier.
    ///
    /// # Shapes
    /// - `x`: as [`Conv2d::forward`] takes it
    /// - `short`, output: as it gives it
    pub fn rectify(&self, conv: &Conv2d, x: Tensor<4>, short: Option<Tensor<4>>) -> Tensor<4> {
        if kernels::serve(&x) && !x.device().is_autodiff() {
            // Normalising by numbers that are known is part of the weights.
            let scale = self.weight.val() / (self.running_var.value() + self.epsilon).sqrt();
            let shift = self.bias.val() - self.running_mean.value() * scale.clone();
            return conv.forward_rectified(x, scale, shift, short);
        }
        self.forward_then(conv.forward(x), Some(Rectifier { other: short }))
    }

    fn forward_then<const D: usize>(&self, x: Tensor<D>, after: Option<Rectifier<D>>) -> Tensor<D> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        if !x.device().is_autodiff() {
            let (mean, variance) = (self.running_mean.value(), self.running_var.value());
            return applied(after, batch_norm(x, weight, bias, mean, variance, self.epsilon));
        }
        let values = x.shape().num_elements() / x.dims()[1];
        let unbiased = values as f64 / (values as f64 - 1.0).max(1.0);
        let (output, [mean, variance]) = if kernels::serve(&x) {
            kernels::batch_norm(x, weight, bias, self.epsilon, after)
        } else {
            let batch = batch_norm_train(x, weight, bias, self.epsilon);
            (applied(after, batch.output), [batch.mean.detach(), batch.variance.detach()])
        };
        for (running, newest) in [(&self.running_mean, mean), (&self.running_var, variance * unbiased)] {
            running.update((running.value_sync() * (1.0 - MOMENTUM) + newest * MOMENTUM).detach());
        }
        output
    }
}

/// A rectifier by operations of burn.
fn applied<const D: usize>(after: Option<Rectifier<D>>, x: Tensor<D>) -> Tensor<D> {
    match after {
        None => x,
        Some(Rectifier { other: None }) => relu(x),
        Some(Rectifier { other: Some(other) }) => relu(x + other),
    }
}

/// Group normalisation (arXiv 1803.08494).
///
/// burn's own layer does the same operations, but would give the parameters other names.
#[derive(Module, Debug)]
pub struct GroupNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    groups: usize,
}

impl GroupNorm {
    /// The identity, up to [`EPSILON`], for channels that are normalised in so many groups.
    pub fn new(groups: usize, channels: usize, device: &Device) -> Self {
        Self {
            weight: Initializer::Ones.init([channels], device),
            bias: Initializer::Zeros.init([channels], device),
            groups,
        }
    }

    /// # Shapes
    /// - `x`, output: `[batch, channels, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let grouped = x.reshape([batch, self.groups, channels / self.groups * height * width]);
        let centred = grouped.clone() - grouped.mean_dim(2);
        let variance = centred.clone().square().mean_dim(2);
        let normed = (centred / (variance + EPSILON).sqrt()).reshape([batch, channels, height, width]);
        let each = |param: &Param<Tensor<1>>| param.val().reshape([1, channels, 1, 1]);
        normed * each(&self.weight) + each(&self.bias)
    }
}

/// Brings each pixel's channels to one length.
///
/// burn's own layer normalises the last dimension, and adds its epsilon to the mean of
/// the squares; the reference normalises the second, and bounds the length from below.
#[derive(Module, Debug)]
pub struct RmsNorm {
    g: Param<Tensor<4>>,
}

impl RmsNorm {
    /// A layer that leaves lengths at the square root of the number of channels.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { g: Initializer::Ones.init([1, channels, 1, 1], device) }
    }

    /// # Shapes
    /// - `x`, output: `[batch, channels, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let channels = x.dims()[1] as f64;
        let length = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
        x / length * self.g.val() * channels.sqrt()
    }
}

/// Layer normalisation (arXiv 1607.06450) over the channels of each token.
///
/// burn's own layer does the same operation, but would give the parameters other names.
#[derive(Module, Debug)]
pub struct LayerNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// The identity, up to [`EPSILON`].
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { weight: Initializer::Ones.init([channels], device), bias: Initializer::Zeros.init([channels], device) }
    }

    /// # Shapes
    /// - `x`, output: `[tokens, channels]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        layer_norm(x, self.weight.val(), Some(self.bias.val()), EPSILON)
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
