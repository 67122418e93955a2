//! Convolutions with one padding on opposite sides.

use burn::nn::conv::Conv2dConfig;
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::Device;

pub use burn::nn::conv::Conv2d;

/// A convolution with a square kernel, the same padding on all sides and a bias.
pub fn conv(input: usize, output: usize, kernel: usize, padding: usize, device: &Device) -> Conv2d {
    square(input, output, kernel, padding).init(device)
}

/// A convolution with one filter per channel, padded so that the size stays.
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

fn square(input: usize, output: usize, kernel: usize, padding: usize) -> Conv2dConfig {
    rect(input, output, [kernel; 2], [padding; 2])
}

fn rect(input: usize, output: usize, kernel: [usize; 2], [height, width]: [usize; 2]) -> Conv2dConfig {
    Conv2dConfig::new([input, output], kernel)
        .with_padding(PaddingConfig2d::Explicit(height, width, height, width))
        .with_initializer(Initializer::Zeros)
}
