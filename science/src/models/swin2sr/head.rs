//! What follows the body of Swin2SR and enlarges (ALGORITHM 3.3): in bands of
//! rows, since nothing else of the network is as large as the result.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::windows::{self, Grid, in_bands};
use super::{SCALE, Swin2SrConfig, Variant, mean};
use crate::layers::activation::{LeakyRelu, leaky, leaky_relu};
use crate::layers::conv::{Conv2d, conv};
use crate::layers::resample::{PixelShuffle, bicubic, repeated, shuffle};

/// Channels between the body and the picture.
const FEATURES: usize = 64;

/// Twice a convolution to four times the channels, folded into twice the size.
type Upsample = (Conv2d, PixelShuffle, Conv2d, PixelShuffle);

fn upsample(device: &Device) -> Upsample {
    let fourfold = || conv(FEATURES, 4 * FEATURES, 3, 1, device);
    (fourfold(), shuffle(), fourfold(), shuffle())
}

/// `[1, 64, height, width]` to `[1, 64, 4 * height, 4 * width]`.
fn upsampled((first, fold, second, fold_again): &Upsample, x: Tensor<4>) -> Tensor<4> {
    fold_again.forward(second.forward(fold.forward(first.forward(x))))
}

/// A convolution and a rectifier.
type Rectified = (Conv2d, LeakyRelu);

fn rectified(input: usize, device: &Device) -> Rectified {
    (conv(input, FEATURES, 3, 1, device), leaky())
}

/// The layers that follow the body.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has one")]
pub(super) enum Head {
    Classical(Classical),
    Compressed(Compressed),
    RealWorld(RealWorld),
}

impl Head {
    pub(super) fn new(config: &Swin2SrConfig, device: &Device) -> Self {
        let last = || conv(FEATURES, 3, 3, 1, device);
        let same = || conv(FEATURES, FEATURES, 3, 1, device);
        let conv_before_upsample = rectified(config.embed_dim, device);
        match config.variant {
            Variant::Classical => {
                Head::Classical(Classical { conv_before_upsample, upsample: upsample(device), conv_last: last() })
            }
            Variant::Compressed => Head::Compressed(Compressed {
                conv_bicubic: conv(3, FEATURES, 3, 1, device),
                conv_before_upsample,
                conv_aux: last(),
                conv_after_aux: rectified(3, device),
                upsample: upsample(device),
                conv_last: last(),
                hf_compat: config.hf_compat,
            }),
            Variant::RealWorld => Head::RealWorld(RealWorld {
                conv_before_upsample,
                conv_up1: same(),
                conv_up2: same(),
                conv_hr: same(),
                conv_last: last(),
            }),
        }
    }

    /// The picture and the auxiliary one, both less the mean. What of the picture
    /// lies beyond four times `size`, `[height, width]`, has no meaning.
    ///
    /// # Shapes
    /// - `features`: `[1, channels, height, width]` of the padded picture
    /// - `x`: the padded picture, `[1, 3, height, width]`
    pub(super) fn forward(
        &self,
        features: &Tensor<4>,
        x: Tensor<4>,
        size: [usize; 2],
        grid: &Grid,
    ) -> (Tensor<4>, Option<Tensor<4>>) {
        match self {
            Head::Classical(head) => (head.forward(features, grid), None),
            Head::RealWorld(head) => (head.forward(features, grid), None),
            Head::Compressed(head) => {
                let (picture, aux) = head.forward(features, x, size, grid);
                (picture, Some(aux))
            }
        }
    }
}

/// Enlarges the features of the body by pixel shuffling.
#[derive(Module, Debug)]
pub(super) struct Classical {
    conv_before_upsample: Rectified,
    upsample: Upsample,
    conv_last: Conv2d,
}

impl Classical {
    /// Rows of the body that a row of the result depends on, to either side.
    const REACH: usize = 3;

    fn forward(&self, features: &Tensor<4>, grid: &Grid) -> Tensor<4> {
        in_bands(&features.device(), grid.bands(Self::REACH), SCALE, |band| {
            let h = self.conv_before_upsample.0.forward(band.cut(features, 1));
            let h = upsampled(&self.upsample, self.conv_before_upsample.1.forward(h));
            self.conv_last.forward(h) // [1, 3, 4 * rows, 4 * width]
        })
    }
}

/// Enlarges a picture of the old size without defects by pixel shuffling; features of the old
/// picture, enlarged by interpolation, are added.
#[derive(Module, Debug)]
pub(super) struct Compressed {
    conv_bicubic: Conv2d,
    conv_before_upsample: Rectified,
    conv_aux: Conv2d,
    conv_after_aux: Rectified,
    upsample: Upsample,
    conv_last: Conv2d,
    hf_compat: bool,
}

impl Compressed {
    /// Rows of the auxiliary picture that a row of the result depends on, to either side.
    const REACH: usize = 3;

    /// The picture, of the size `[4 * height, 4 * width]`, and the auxiliary one.
    /// The interpolation squeezes what is padded into that size, as the official
    /// code does; so pad before the network where the last pixels matter.
    fn forward(&self, features: &Tensor<4>, x: Tensor<4>, size: [usize; 2], grid: &Grid) -> (Tensor<4>, Tensor<4>) {
        let device = features.device();
        let [height, width] = size.map(|side| SCALE * side);
        let branch = if self.hf_compat { x } else { x - mean(&device) };
        let branch = bicubic(branch, [height, width]);
        let aux = in_bands(&device, grid.bands(2), 1, |band| {
            let h = self.conv_before_upsample.0.forward(band.cut(features, 1));
            self.conv_aux.forward(self.conv_before_upsample.1.forward(h)) // [1, 3, rows, width]
        });
        let picture = in_bands(&device, windows::bands(size, Self::REACH), SCALE, |band| {
            let branch = self.conv_bicubic.forward(band.cut(&branch, SCALE)); // [1, 64, 4 * rows, 4 * width]
            let h = self.conv_after_aux.0.forward(band.cut(&aux, 1));
            let h = upsampled(&self.upsample, self.conv_after_aux.1.forward(h));
            let h = h.narrow(2, 0, branch.dims()[2]).narrow(3, 0, width); // without what was padded
            self.conv_last.forward(h + branch) // [1, 3, 4 * rows, 4 * width]
        });
        (picture, aux)
    }
}

/// Enlarges the features of the body by repeating pixels.
#[derive(Module, Debug)]
pub(super) struct RealWorld {
    conv_before_upsample: Rectified,
    conv_up1: Conv2d,
    conv_up2: Conv2d,
    conv_hr: Conv2d,
    conv_last: Conv2d,
}

impl RealWorld {
    /// Rows of the body that a row of the result depends on, to either side.
    const REACH: usize = 3;

    fn forward(&self, features: &Tensor<4>, grid: &Grid) -> Tensor<4> {
        let rectify = |x| leaky_relu(x, 0.2);
        in_bands(&features.device(), grid.bands(Self::REACH), SCALE, |band| {
            let h = self.conv_before_upsample.0.forward(band.cut(features, 1));
            let h = repeated(self.conv_before_upsample.1.forward(h)); // [1, 64, 2 * rows, 2 * width]
            let h = repeated(rectify(self.conv_up1.forward(h))); // [1, 64, 4 * rows, 4 * width]
            let h = rectify(self.conv_up2.forward(h));
            self.conv_last.forward(rectify(self.conv_hr.forward(h))) // [1, 3, 4 * rows, 4 * width]
        })
    }
}
