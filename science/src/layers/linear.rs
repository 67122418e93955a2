//! Fully connected layers.

use burn::nn::{Initializer, LinearConfig};
use burn::tensor::Device;

pub use burn::nn::Linear;

/// The kind of module that a visitor is told a [`Linear`] is. Its weight is kept as
/// `[in, out]`, where PyTorch has `[out, in]`.
pub(crate) const KIND: &str = "Struct:Linear";

/// A fully connected layer.
pub fn linear(input: usize, output: usize, device: &Device) -> Linear {
    LinearConfig::new(input, output).with_initializer(Initializer::Zeros).init(device)
}

/// A fully connected layer without bias.
pub fn bare_linear(input: usize, output: usize, device: &Device) -> Linear {
    LinearConfig::new(input, output).with_bias(false).with_initializer(Initializer::Zeros).init(device)
}
