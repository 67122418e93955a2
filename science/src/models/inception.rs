//! Inception-v3 (arXiv 1512.00567) in two variants: torchvision's, and the one
//! that the Fréchet Inception distance is defined on, which pools otherwise
//! (ALGORITHM 4.3, 4.4). Each of its feature maps can be had.
//!
//! Trained weights come from the published files ([`Inception::published`]).
//! Where there are none, fixed random weights stand in for ImageNet's. Random
//! filters still tell textures apart, but distances are not those of the paper.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use domain::seed::Seed;
use domain::study::stage::Failure;
use image::RgbImage;

use crate::data::tensors;
use crate::layers::conv::{Conv2d, bare_conv_rect};
use crate::layers::linear::{Linear, linear};
use crate::layers::norm::BatchNorm;
use crate::layers::resample::{average, largest, pool, spatial_mean};
use crate::weights::{self, Arrays, Shapes};

/// Seed of the weights, the same in every study: distances can be compared
/// from one study to another.
pub const WEIGHTS_SEED: Seed = Seed(4_3);

/// Width and height of the pictures that the network was trained on, in pixels.
const SIDE: u32 = 299;

/// Inception's guard against division by zero.
const EPSILON: f64 = 1e-3;

/// Kernels, height first.
const POINT: [usize; 2] = [1, 1];
const SQUARE: [usize; 2] = [3, 3];
const SHORT_ROW: [usize; 2] = [1, 3];
const SHORT_COLUMN: [usize; 2] = [3, 1];
const ROW: [usize; 2] = [1, 7];
const COLUMN: [usize; 2] = [7, 1];

/// The publisher of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `inception_v3` of torchvision, with ImageNet's 1000 classes.
    Torchvision,
    /// `FIDInceptionV3` of pytorch-fid, translated from the network that the
    /// distance was published with: averages leave padding out, the last block
    /// takes the largest instead, and there are 1008 classes.
    Fid,
}

impl Variant {
    /// Scores of [`Inception::logits`].
    pub fn classes(self) -> usize {
        match self {
            Variant::Torchvision => 1000,
            Variant::Fid => 1008,
        }
    }
}

/// A feature map of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// 64 channels, before the first pooling (pytorch-fid's 64 are after it).
    C64,
    /// 192 channels, before the second pooling (pytorch-fid's 192 are after it).
    C192,
    /// 768 channels, at the end of the blocks before the last reduction.
    C768,
    /// 2048 channels, averaged over all positions: "pool3".
    C2048,
}

/// Convolution, normalisation, ReLU.
#[derive(Module, Debug)]
pub struct Unit {
    conv: Conv2d,
    bn: BatchNorm,
}

impl Unit {
    /// One that keeps the size of the map.
    fn same(input: usize, output: usize, kernel: [usize; 2], device: &Device) -> Self {
        Self::new(input, output, kernel, 1, kernel.map(|side| side / 2), device)
    }

    /// One without padding.
    fn valid(input: usize, output: usize, stride: usize, device: &Device) -> Self {
        Self::new(input, output, SQUARE, stride, [0, 0], device)
    }

    fn new(
        input: usize,
        output: usize,
        kernel: [usize; 2],
        stride: usize,
        padding: [usize; 2],
        device: &Device,
    ) -> Self {
        let conv = bare_conv_rect(input, output, kernel, stride, padding, device);
        Self { conv, bn: BatchNorm::new(output, EPSILON, device) }
    }

    /// `[batch, input, height, width]` to `[batch, output, …]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.bn.rectify(&self.conv, x, None)
    }
}

/// One after another.
fn chain<const N: usize>(units: [&Unit; N], x: Tensor<4>) -> Tensor<4> {
    units.into_iter().fold(x, |h, unit| unit.forward(h))
}

/// One size, kernels of 1, 5 and twice 3.
#[derive(Module, Debug)]
struct MixedA {
    branch1x1: Unit,
    branch5x5_1: Unit,
    branch5x5_2: Unit,
    branch3x3dbl_1: Unit,
    branch3x3dbl_2: Unit,
    branch3x3dbl_3: Unit,
    branch_pool: Unit,
}

impl MixedA {
    fn new(input: usize, pooled: usize, device: &Device) -> Self {
        let unit = |input, output, kernel| Unit::same(input, output, kernel, device);
        Self {
            branch1x1: unit(input, 64, POINT),
            branch5x5_1: unit(input, 48, POINT),
            branch5x5_2: unit(48, 64, [5, 5]),
            branch3x3dbl_1: unit(input, 64, POINT),
            branch3x3dbl_2: unit(64, 96, SQUARE),
            branch3x3dbl_3: unit(96, 96, SQUARE),
            branch_pool: unit(input, pooled, POINT),
        }
    }

    /// `[batch, input, height, width]` to `[batch, 224 + pooled, height, width]`.
    fn forward(&self, x: Tensor<4>, pool: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let point = self.branch1x1.forward(x.clone());
        let five = chain([&self.branch5x5_1, &self.branch5x5_2], x.clone());
        let three = chain([&self.branch3x3dbl_1, &self.branch3x3dbl_2, &self.branch3x3dbl_3], x.clone());
        let pooled = self.branch_pool.forward(pool(x));
        Tensor::cat(vec![point, five, three, pooled], 1)
    }
}

/// To half the size.
#[derive(Module, Debug)]
struct MixedB {
    branch3x3: Unit,
    branch3x3dbl_1: Unit,
    branch3x3dbl_2: Unit,
    branch3x3dbl_3: Unit,
}

impl MixedB {
    fn new(input: usize, device: &Device) -> Self {
        Self {
            branch3x3: Unit::valid(input, 384, 2, device),
            branch3x3dbl_1: Unit::same(input, 64, POINT, device),
            branch3x3dbl_2: Unit::same(64, 96, SQUARE, device),
            branch3x3dbl_3: Unit::valid(96, 96, 2, device),
        }
    }

    /// `[batch, input, height, width]` to `[batch, 480 + input, about height/2, …]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let once = self.branch3x3.forward(x.clone());
        let twice = chain([&self.branch3x3dbl_1, &self.branch3x3dbl_2, &self.branch3x3dbl_3], x.clone());
        Tensor::cat(vec![once, twice, pool(0).forward(x)], 1)
    }
}

/// One size, rows and columns of 7.
#[derive(Module, Debug)]
struct MixedC {
    branch1x1: Unit,
    branch7x7_1: Unit,
    branch7x7_2: Unit,
    branch7x7_3: Unit,
    branch7x7dbl_1: Unit,
    branch7x7dbl_2: Unit,
    branch7x7dbl_3: Unit,
    branch7x7dbl_4: Unit,
    branch7x7dbl_5: Unit,
    branch_pool: Unit,
}

impl MixedC {
    fn new(inner: usize, device: &Device) -> Self {
        let unit = |input, output, kernel| Unit::same(input, output, kernel, device);
        Self {
            branch1x1: unit(768, 192, POINT),
            branch7x7_1: unit(768, inner, POINT),
            branch7x7_2: unit(inner, inner, ROW),
            branch7x7_3: unit(inner, 192, COLUMN),
            branch7x7dbl_1: unit(768, inner, POINT),
            branch7x7dbl_2: unit(inner, inner, COLUMN),
            branch7x7dbl_3: unit(inner, inner, ROW),
            branch7x7dbl_4: unit(inner, inner, COLUMN),
            branch7x7dbl_5: unit(inner, 192, ROW),
            branch_pool: unit(768, 192, POINT),
        }
    }

    /// `[batch, 768, height, width]`, in and out.
    fn forward(&self, x: Tensor<4>, pool: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let point = self.branch1x1.forward(x.clone());
        let once = chain([&self.branch7x7_1, &self.branch7x7_2, &self.branch7x7_3], x.clone());
        let twice = [
            &self.branch7x7dbl_1,
            &self.branch7x7dbl_2,
            &self.branch7x7dbl_3,
            &self.branch7x7dbl_4,
            &self.branch7x7dbl_5,
        ];
        let twice = chain(twice, x.clone());
        let pooled = self.branch_pool.forward(pool(x));
        Tensor::cat(vec![point, once, twice, pooled], 1)
    }
}

/// To half the size again.
#[derive(Module, Debug)]
struct MixedD {
    branch3x3_1: Unit,
    branch3x3_2: Unit,
    branch7x7x3_1: Unit,
    branch7x7x3_2: Unit,
    branch7x7x3_3: Unit,
    branch7x7x3_4: Unit,
}

impl MixedD {
    fn new(device: &Device) -> Self {
        Self {
            branch3x3_1: Unit::same(768, 192, POINT, device),
            branch3x3_2: Unit::valid(192, 320, 2, device),
            branch7x7x3_1: Unit::same(768, 192, POINT, device),
            branch7x7x3_2: Unit::same(192, 192, ROW, device),
            branch7x7x3_3: Unit::same(192, 192, COLUMN, device),
            branch7x7x3_4: Unit::valid(192, 192, 2, device),
        }
    }

    /// `[batch, 768, height, width]` to `[batch, 1280, about height/2, …]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let three = chain([&self.branch3x3_1, &self.branch3x3_2], x.clone());
        let seven = [&self.branch7x7x3_1, &self.branch7x7x3_2, &self.branch7x7x3_3, &self.branch7x7x3_4];
        let seven = chain(seven, x.clone());
        Tensor::cat(vec![three, seven, pool(0).forward(x)], 1)
    }
}

/// One size, rows beside columns of 3.
#[derive(Module, Debug)]
struct MixedE {
    branch1x1: Unit,
    branch3x3_1: Unit,
    branch3x3_2a: Unit,
    branch3x3_2b: Unit,
    branch3x3dbl_1: Unit,
    branch3x3dbl_2: Unit,
    branch3x3dbl_3a: Unit,
    branch3x3dbl_3b: Unit,
    branch_pool: Unit,
}

impl MixedE {
    fn new(input: usize, device: &Device) -> Self {
        let unit = |input, output, kernel| Unit::same(input, output, kernel, device);
        Self {
            branch1x1: unit(input, 320, POINT),
            branch3x3_1: unit(input, 384, POINT),
            branch3x3_2a: unit(384, 384, SHORT_ROW),
            branch3x3_2b: unit(384, 384, SHORT_COLUMN),
            branch3x3dbl_1: unit(input, 448, POINT),
            branch3x3dbl_2: unit(448, 384, SQUARE),
            branch3x3dbl_3a: unit(384, 384, SHORT_ROW),
            branch3x3dbl_3b: unit(384, 384, SHORT_COLUMN),
            branch_pool: unit(input, 192, POINT),
        }
    }

    /// `[batch, input, height, width]` to `[batch, 2048, height, width]`.
    fn forward(&self, x: Tensor<4>, pool: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let point = self.branch1x1.forward(x.clone());
        let once = self.branch3x3_1.forward(x.clone());
        let twice = chain([&self.branch3x3dbl_1, &self.branch3x3dbl_2], x.clone());
        let pooled = self.branch_pool.forward(pool(x));
        let branches = vec![
            point,
            self.branch3x3_2a.forward(once.clone()),
            self.branch3x3_2b.forward(once),
            self.branch3x3dbl_3a.forward(twice.clone()),
            self.branch3x3dbl_3b.forward(twice),
            pooled,
        ];
        Tensor::cat(branches, 1)
    }
}

/// All layers after the second pooling.
#[derive(Module, Debug)]
struct Deep {
    mixed_5b: MixedA,
    mixed_5c: MixedA,
    mixed_5d: MixedA,
    mixed_6a: MixedB,
    mixed_6b: MixedC,
    mixed_6c: MixedC,
    mixed_6d: MixedC,
    mixed_6e: MixedC,
    mixed_7a: MixedD,
    mixed_7b: MixedE,
    mixed_7c: MixedE,
    fc: Linear,
    #[module(skip)]
    variant: Variant,
}

impl Deep {
    fn new(variant: Variant, device: &Device) -> Self {
        Self {
            mixed_5b: MixedA::new(192, 32, device),
            mixed_5c: MixedA::new(256, 64, device),
            mixed_5d: MixedA::new(288, 64, device),
            mixed_6a: MixedB::new(288, device),
            mixed_6b: MixedC::new(128, device),
            mixed_6c: MixedC::new(160, device),
            mixed_6d: MixedC::new(160, device),
            mixed_6e: MixedC::new(192, device),
            mixed_7a: MixedD::new(device),
            mixed_7b: MixedE::new(1280, device),
            mixed_7c: MixedE::new(2048, device),
            fc: linear(2048, variant.classes(), device),
            variant,
        }
    }

    fn average(&self) -> impl Fn(Tensor<4>) -> Tensor<4> + Copy + use<> {
        let padded = self.variant == Variant::Torchvision;
        move |x| average(x, padded)
    }

    /// `[batch, 192, about height/8, …]` to `[batch, 768, about height/16, …]`.
    fn middle(&self, x: Tensor<4>) -> Tensor<4> {
        let average = self.average();
        let h = self.mixed_5b.forward(x, average); // [batch, 256, …/8, …/8]
        let h = self.mixed_5c.forward(h, average); // [batch, 288, …/8, …/8]
        let h = self.mixed_5d.forward(h, average);
        let h = self.mixed_6a.forward(h); // [batch, 768, …/16, …/16]
        [&self.mixed_6b, &self.mixed_6c, &self.mixed_6d, &self.mixed_6e]
            .into_iter()
            .fold(h, |h, mixed| mixed.forward(h, average))
    }

    /// `[batch, 768, about height/16, …]` to `[batch, 2048, about height/32, …]`.
    fn last(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self.mixed_7a.forward(x); // [batch, 1280, …/32, …/32]
        let h = self.mixed_7b.forward(h, self.average()); // [batch, 2048, …/32, …/32]
        match self.variant {
            Variant::Torchvision => self.mixed_7c.forward(h, self.average()),
            Variant::Fid => self.mixed_7c.forward(h, largest),
        }
    }
}

/// A second head, which helped training. Only its tensors are of interest:
/// torchvision's file has them.
#[derive(Module, Debug)]
struct AuxLogits {
    conv0: Unit,
    conv1: Unit,
    fc: Linear,
}

/// The network, or its first layers only. Field names are torchvision's in
/// lower case; [`published_name`] gives theirs.
#[derive(Module, Debug)]
pub struct Inception {
    conv2d_1a_3x3: Unit,
    conv2d_2a_3x3: Unit,
    conv2d_2b_3x3: Unit,
    conv2d_3b_1x1: Unit,
    conv2d_4a_3x3: Unit,
    deep: Option<Deep>,
}

impl Inception {
    /// The first layers, blank: enough for [`Block::C64`] and [`Block::C192`].
    pub fn new(device: &Device) -> Self {
        Self {
            conv2d_1a_3x3: Unit::valid(3, 32, 2, device),
            conv2d_2a_3x3: Unit::valid(32, 32, 1, device),
            conv2d_2b_3x3: Unit::same(32, 64, SQUARE, device),
            conv2d_3b_1x1: Unit::same(64, 80, POINT, device),
            conv2d_4a_3x3: Unit::valid(80, 192, 1, device),
            deep: None,
        }
    }

    /// The network with all layers, blank.
    pub fn whole(variant: Variant, device: &Device) -> Self {
        Self { deep: Some(Deep::new(variant, device)), ..Self::new(device) }
    }

    /// The first layers with their fixed random weights. `device` tracks no gradients.
    pub fn fixed(device: &Device) -> Self {
        weights::initialise(Self::new(device), WEIGHTS_SEED)
    }

    /// The network with all layers and the weights of a published file. `device` tracks no
    /// gradients.
    ///
    /// # Errors
    /// As [`Inception::check`].
    pub fn published(variant: Variant, mut tensors: Arrays, device: &Device) -> Result<Self, Failure> {
        Self::check(variant, &tensors)?;
        let blank = Self::whole(variant, device);
        let own = weights::shapes(&blank).into_keys();
        let own = own.filter_map(|name| Some((tensors.remove(&published_name(&name))?, name)));
        let own = own.map(|(array, name)| (name, array)).collect();
        weights::apply(blank, own)
    }

    /// Checks that these are the tensors of the variant's published file. The second head of
    /// torchvision's may be there or not; nothing computes it.
    ///
    /// # Errors
    /// `InvalidInput`, with the name of the first tensor that is missing, left
    /// over or has another shape.
    pub fn check(variant: Variant, tensors: &Arrays) -> Result<(), Failure> {
        let mut expected = Self::tensors(variant);
        if variant == Variant::Torchvision && tensors.keys().any(|name| name.starts_with("AuxLogits.")) {
            expected.extend(Self::aux_tensors());
        }
        weights::check(tensors, &expected)
    }

    /// The names and shapes that the variant's published file has to hold.
    pub fn tensors(variant: Variant) -> Shapes {
        let own = weights::shapes(&Self::whole(variant, &Device::flex()));
        own.into_iter().map(|(name, shape)| (published_name(&name), shape)).collect()
    }

    /// The names and shapes that torchvision's file holds besides.
    pub fn aux_tensors() -> Shapes {
        let device = Device::flex();
        let aux = AuxLogits {
            conv0: Unit::same(768, 128, POINT, &device),
            conv1: Unit::new(128, 768, [5, 5], 1, [0, 0], &device),
            fc: linear(768, Variant::Torchvision.classes(), &device),
        };
        weights::shapes(&aux).into_iter().map(|(name, shape)| (format!("AuxLogits.{name}"), shape)).collect()
    }

    /// The first layers, without the others.
    pub fn stem(self) -> Self {
        Self { deep: None, ..self }
    }

    /// # Shapes
    /// - `x`: `[batch, 3, height, width]`, −1..1, at least 15 pixels high and
    ///   wide, 75 for the last two blocks
    /// - output: `[batch, 64 or 192, about height/2 or height/4, …]`,
    ///   `[batch, 768, about height/16, …]` or `[batch, 2048, 1, 1]`
    ///
    /// # Panics
    /// If the network is only the first layers and the block is none of theirs.
    pub fn forward(&self, x: Tensor<4>, block: Block) -> Tensor<4> {
        let h = self.conv2d_1a_3x3.forward(x); // [batch, 32, …/2, …/2]
        let h = self.conv2d_2a_3x3.forward(h);
        let h = self.conv2d_2b_3x3.forward(h); // [batch, 64, …/2, …/2]
        if block == Block::C64 {
            return h;
        }
        let h = pool(0).forward(h);
        let h = self.conv2d_3b_1x1.forward(h); // [batch, 80, …/4, …/4]
        let h = self.conv2d_4a_3x3.forward(h); // [batch, 192, …/4, …/4]
        if block == Block::C192 {
            return h;
        }
        let deep = self.deep();
        let h = deep.middle(pool(0).forward(h)); // [batch, 768, …/16, …/16]
        if block == Block::C768 {
            return h;
        }
        let h = spatial_mean(deep.last(h)); // [batch, 2048]
        let [batch, channels] = h.dims();
        h.reshape([batch, channels, 1, 1])
    }

    /// Scores of the classes that the network was trained on.
    ///
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]`, −1..1, at least 75 pixels high and wide
    /// - output: `[batch, classes]`
    ///
    /// # Panics
    /// If the network is only the first layers.
    pub fn logits(&self, x: Tensor<4>) -> Tensor<2> {
        let features = self.forward(x, Block::C2048).flatten(1, 3); // [batch, 2048]
        self.deep().fc.forward(features)
    }

    fn deep(&self) -> &Deep {
        self.deep.as_ref().expect("all layers were asked for when the network was made")
    }
}

/// The name that a tensor of [`Inception`] has in published files.
pub fn published_name(own: &str) -> String {
    let name = own.strip_prefix("deep.").unwrap_or(own);
    if name.starts_with("conv2d_") || name.starts_with("mixed_") {
        name[..1].to_ascii_uppercase() + &name[1..]
    } else {
        name.to_owned()
    }
}

/// Pictures of any sizes as the Fréchet Inception distance takes them: brought
/// to 299×299 pixels by bilinear interpolation between pixel centres, without
/// antialiasing, then mapped to −1..1. `[pictures, 3, 299, 299]`.
pub fn fid_input(images: &[RgbImage], device: &Device) -> Tensor<4> {
    let mut values = Vec::with_capacity(images.len() * 3 * (SIDE * SIDE) as usize);
    for image in images {
        let channel = |channel: usize| image.pixels().map(move |pixel| f32::from(pixel[channel]) / 255.0);
        let planes: Vec<f32> = (0..3).flat_map(channel).collect();
        let resized = tensors::upsample(&planes, image.dimensions().into(), [SIDE; 2]);
        values.extend(resized.into_iter().map(|value| value * 2.0 - 1.0));
    }
    Tensor::from_data(TensorData::new(values, [images.len(), 3, SIDE as usize, SIDE as usize]), device)
}

#[cfg(test)]
mod tests;
