//! Maps of another size: pooling, interpolation, pixel shuffling.

use burn::nn::PaddingConfig2d;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::tensor::Tensor;
use burn::tensor::module::{avg_pool2d, interpolate, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions, MaxPoolOptions};

pub use burn::nn::PixelShuffle;

/// The mean over all positions: `[batch, channels, height, width]` to `[batch, channels]`.
pub fn spatial_mean(x: Tensor<4>) -> Tensor<2> {
    x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)
}

/// A layer that takes the largest of 3×3 values at every other pixel.
pub fn pool(padding: usize) -> MaxPool2d {
    let padding = PaddingConfig2d::Explicit(padding, padding, padding, padding);
    MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padding).init()
}

/// The mean of 3×3 values at every pixel; `padded` tells whether zeros round the map count.
pub fn average(x: Tensor<4>, padded: bool) -> Tensor<4> {
    let options = AvgPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1]);
    avg_pool2d(x, options.with_count_include_pad(padded))
}

/// The largest of 3×3 values at every pixel.
pub fn largest(x: Tensor<4>) -> Tensor<4> {
    max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1]))
}

/// A layer that folds four channels into a map of twice the size.
pub fn shuffle() -> PixelShuffle {
    burn::nn::PixelShuffleConfig::new(2).init()
}

/// A map of that height and width by bicubic interpolation between pixel centres.
pub fn bicubic(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let options = InterpolateOptions::new(InterpolateMode::Bicubic).with_align_corners(false);
    interpolate(x, options.with_output_size(size))
}

/// A map of twice the size, each pixel repeated.
pub fn repeated(x: Tensor<4>) -> Tensor<4> {
    interpolate(x, InterpolateOptions::new(InterpolateMode::Nearest).with_scale_factor([2.0, 2.0]))
}
