//! Convolutions with one padding on opposite sides.

use ::kernels::conv::Conv;
use burn::module::{Initializer, Module, Param};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};

use super::kernels;

/// A convolution of maps in two dimensions.
///
/// burn's own layer computes by its backend alone; this one by the crate `kernels` where that
/// serves.
#[derive(Module, Debug)]
pub struct Conv2d {
    weight: Param<Tensor<4>>,
    bias: Option<Param<Tensor<1>>>,
    stride: [usize; 2],
    padding: [usize; 2],
    groups: usize,
}

impl Conv2d {
    fn new(channels: [usize; 2], kernel: [usize; 2], padding: [usize; 2], device: &Device) -> Self {
        let [input, output] = channels;
        Self {
            weight: Initializer::Zeros.init([output, input, kernel[0], kernel[1]], device),
            bias: Some(Initializer::Zeros.init([output], device)),
            stride: [1; 2],
            padding,
            groups: 1,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, input, height, width]`
    /// - output: `[batch, output, height, width]`, each length
    ///   `(length + 2 * padding - kernel) / stride + 1`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        if !kernels::serve_narrow(&x) {
            return conv2d(x, weight, bias, ConvOptions::new(self.stride, self.padding, [1, 1], self.groups));
        }
        let shapes = self.shapes(&x);
        kernels::convolve(x, weight, bias, shapes)
    }

    /// The output scaled and shifted by channel, with `short` added and rectified, by kernels
    /// that have no gradients.
    pub(super) fn forward_rectified(
        &self,
        x: Tensor<4>,
        scale: Tensor<1>,
        shift: Tensor<1>,
        short: Option<Tensor<4>>,
    ) -> Tensor<4> {
        let shapes = self.shapes(&x);
        let shift = match &self.bias {
            Some(bias) => shift + bias.val() * scale.clone(),
            None => shift,
        };
        let weight = self.weight.val() * scale.reshape([shapes.outputs, 1, 1, 1]);
        kernels::convolve_rectify(x, weight, shift, short, shapes)
    }

    fn shapes(&self, x: &Tensor<4>) -> Conv {
        let [batch, inputs, height, width] = x.dims();
        let [outputs, _, kernel_height, kernel_width] = self.weight.dims();
        Conv {
            batch,
            inputs,
            outputs,
            size: [height, width],
            kernel: [kernel_height, kernel_width],
            stride: self.stride,
            padding: self.padding,
            dilation: [1, 1],
            groups: self.groups,
        }
    }
}

/// A convolution with a square kernel, the same padding on all sides and a bias.
pub fn conv(input: usize, output: usize, kernel: usize, padding: usize, device: &Device) -> Conv2d {
    Conv2d::new([input, output], [kernel; 2], [padding; 2], device)
}

/// A convolution with one filter per channel, padded so that the size stays.
pub fn depthwise(channels: usize, kernel: usize, device: &Device) -> Conv2d {
    Conv2d { groups: channels, ..Conv2d::new([1, channels], [kernel; 2], [kernel / 2; 2], device) }
}

/// A convolution without bias, for use before a normalisation.
pub fn bare_conv(input: usize, output: usize, kernel: usize, stride: usize, padding: usize, device: &Device) -> Conv2d {
    bare_conv_rect(input, output, [kernel; 2], stride, [padding; 2], device)
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
    Conv2d { bias: None, stride: [stride; 2], ..Conv2d::new([input, output], kernel, padding, device) }
}
