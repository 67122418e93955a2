//! Functions of single values, and of the values along a dimension.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::kernels;

pub use burn::nn::{LeakyRelu, Relu};
pub use burn::tensor::activation::{leaky_relu, log_softmax, relu, sigmoid, silu, softmax};

/// A rectifier with PyTorch's slope below zero, 0.01, where a network has a layer of its own
/// for it.
pub fn leaky() -> LeakyRelu {
    burn::nn::LeakyReluConfig::new().init()
}

/// Gaussian error linear unit (arXiv 1606.08415), by the error function.
///
/// burn-flex has a gradient of its own. For all other backends burn takes that of
/// the approximation by tanh (burn-backend 0.22.1, `gelu_backward`), which is off by
/// more than the rounding of 32-bit numbers: gradients of SinDDM by up to 3.5e-4 of
/// their largest. So it is put together from its parts there.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if kernels::serve_narrow(&x) {
        return kernels::gelu(x);
    }
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
