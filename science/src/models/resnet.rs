//! Bottleneck residual network (He et al., CVPR 2016, arXiv 1512.03385) as
//! torchvision builds it, with one fully connected layer at its end or with the
//! paper's head of several (ALGORITHM 7.1). Tensor names are torchvision's.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use domain::seed::Seed;
use domain::study::experiment::{HeadStart, Network, Stem};
use domain::study::stage::Failure;
use domain::study::stone::CLASSES;
use rand_chacha::ChaCha8Rng;

use crate::layers::activation::{Relu, relu};
use crate::layers::conv::{Conv2d, bare_conv};
use crate::layers::linear::{Linear, linear};
use crate::layers::norm::{BatchNorm, EPSILON};
use crate::layers::resample::{pool, spatial_mean};
use crate::random;
use crate::weights::{self, Arrays, Shapes};

/// Channels at the end of a block, as a multiple of its inner channels.
const EXPANSION: usize = 4;

/// Classes of the pictures that published weights were trained on.
pub const IMAGENET_CLASSES: usize = 1000;

/// 1×1, 3×3, 1×1, and a short cut round them.
#[derive(Module, Debug)]
pub struct Bottleneck {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Conv2d,
    bn3: BatchNorm,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Bottleneck {
    fn new(input: usize, inner: usize, stride: usize, device: &Device) -> Self {
        let output = EXPANSION * inner;
        let norm = |channels| BatchNorm::new(channels, EPSILON, device);
        Self {
            conv1: bare_conv(input, inner, 1, 1, 0, device),
            bn1: norm(inner),
            conv2: bare_conv(inner, inner, 3, stride, 1, device),
            bn2: norm(inner),
            conv3: bare_conv(inner, output, 1, 1, 0, device),
            bn3: norm(output),
            downsample: (stride != 1 || input != output)
                .then(|| (bare_conv(input, output, 1, stride, 0, device), norm(output))),
        }
    }

    /// `[batch, input, height, width]` to `[batch, 4 · inner, height/stride, width/stride]`.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self.bn1.rectify(&self.conv1, x.clone(), None); // [batch, inner, height, width]
        let h = self.bn2.rectify(&self.conv2, h, None); // [batch, inner, height/stride, width/stride]
        let short = match &self.downsample {
            Some((conv, norm)) => norm.forward(conv.forward(x)),
            None => x,
        };
        self.bn3.rectify(&self.conv3, h, Some(short)) // [batch, 4 · inner, …]
    }
}

/// `[batch, channels, 1, 1]` to `[batch, channels]`; keeps torchvision's numbering.
#[derive(Module, Debug)]
pub struct Flatten;

/// Drops activations; keeps torchvision's numbering. Which ones is drawn from
/// the caller's stream.
#[derive(Module, Debug)]
pub struct Dropout;

/// A step of the head.
#[derive(Module, Debug)]
pub enum Layer {
    /// The step [`Flatten`].
    Flatten(Flatten),
    /// A fully connected layer.
    Linear(Linear),
    /// A normalisation over the batch.
    Norm(BatchNorm),
    /// A rectifier.
    Relu(Relu),
    /// The step [`Dropout`].
    Dropout(Dropout),
}

/// The layers that make scores of features.
#[derive(Module, Debug)]
pub enum Head {
    /// One layer, as in published networks.
    Plain(Linear),
    /// The layers of the paper.
    Layers(Vec<Layer>),
}

/// A network that tells the class of a patch.
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<Bottleneck>,
    layer2: Vec<Bottleneck>,
    layer3: Vec<Bottleneck>,
    layer4: Vec<Bottleneck>,
    fc: Head,
    pooled: bool,
    dropout: f64,
}

impl ResNet {
    /// A blank network of up to four stages, with the paper's head.
    pub fn new(network: &Network, device: &Device) -> Self {
        Self::with_planes(network, network.width as usize, device)
    }

    /// [`ResNet::new`] with `planes` inner channels in the first stage, whatever
    /// the width of the stem.
    pub(crate) fn with_planes(network: &Network, planes: usize, device: &Device) -> Self {
        Self::build(network, planes, |features| Head::Layers(head(features, &network.head, device)), device)
    }

    /// A blank network with one layer for a head, as torchvision's are.
    pub fn plain(network: &Network, classes: usize, device: &Device) -> Self {
        let head = |features| Head::Plain(linear(features, classes, device));
        Self::build(network, network.width as usize, head, device)
    }

    /// [`ResNet::plain`] with the weights of torchvision's file. `device` tracks no gradients.
    ///
    /// # Errors
    /// `InvalidInput`, with the name of the first tensor that is missing, left
    /// over or has another shape.
    pub fn published(network: &Network, tensors: Arrays, device: &Device) -> Result<Self, Failure> {
        weights::check(&tensors, &Self::tensors(network, IMAGENET_CLASSES))?;
        weights::apply(Self::plain(network, IMAGENET_CLASSES, device), tensors)
    }

    /// The network that learns from ImageNet to tell stones apart: all layers of
    /// torchvision's file but the last, and the paper's head with random weights.
    ///
    /// # Errors
    /// As [`ResNet::published`].
    pub fn transferred(network: &Network, tensors: Arrays, seed: Seed, device: &Device) -> Result<Self, Failure> {
        weights::check(&tensors, &Self::tensors(network, IMAGENET_CLASSES))?;
        Self::renewed(network, tensors, "fc.", seed, device)
    }

    /// The network that goes on from weights of its own kind, with its head, or the
    /// head's last layer, drawn anew where that is asked for.
    ///
    /// # Errors
    /// As [`ResNet::published`].
    pub fn continued(
        network: &Network,
        tensors: Arrays,
        head: HeadStart,
        seed: Seed,
        device: &Device,
    ) -> Result<Self, Failure> {
        match head {
            HeadStart::Keep => weights::apply(Self::new(network, device), tensors),
            // Behind four layers for each hidden one.
            HeadStart::ResetLast => {
                Self::renewed(network, tensors, &format!("fc.{}.", 4 * network.head.len() + 1), seed, device)
            }
            HeadStart::ResetAll => Self::renewed(network, tensors, "fc.", seed, device),
        }
    }

    /// The network with these weights, but random ones where names begin with `prefix`.
    fn renewed(
        network: &Network,
        mut tensors: Arrays,
        prefix: &str,
        seed: Seed,
        device: &Device,
    ) -> Result<Self, Failure> {
        let fresh = weights::initialise(Self::new(network, device), seed);
        tensors.retain(|name, _| !name.starts_with(prefix));
        tensors.extend(weights::collect(&fresh).into_iter().filter(|(name, _)| name.starts_with(prefix)));
        weights::apply(fresh, tensors)
    }

    /// The names and shapes that a file of torchvision's has to hold for this network.
    pub fn tensors(network: &Network, classes: usize) -> Shapes {
        weights::shapes(&Self::plain(network, classes, &Device::flex()))
    }

    fn build(network: &Network, planes: usize, head: impl FnOnce(usize) -> Head, device: &Device) -> Self {
        let width = network.width as usize;
        let (kernel, stride) = match network.stem {
            Stem::Imagenet => (7, 2),
            Stem::Small => (3, 1),
        };
        let mut channels = width;
        let mut stage = |index: usize| {
            let blocks = network.blocks.get(index).copied().unwrap_or(0);
            let inner = planes << index;
            let block = |number: u32| {
                let stride = if index > 0 && number == 0 { 2 } else { 1 };
                let block = Bottleneck::new(channels, inner, stride, device);
                channels = EXPANSION * inner;
                block
            };
            (0..blocks).map(block).collect::<Vec<_>>()
        };
        let (layer1, layer2, layer3, layer4) = (stage(0), stage(1), stage(2), stage(3));
        Self {
            conv1: bare_conv(3, width, kernel, stride, kernel / 2, device),
            bn1: BatchNorm::new(width, EPSILON, device),
            layer1,
            layer2,
            layer3,
            layer4,
            fc: head(channels),
            pooled: network.stem == Stem::Imagenet,
            dropout: network.dropout,
        }
    }

    /// Scores of the classes. While training, `dropping` is the stream that
    /// decides what is dropped; without it nothing is.
    ///
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]`, normalised
    /// - output: `[batch, classes]`
    pub fn forward(&self, x: Tensor<4>, dropping: Option<&mut ChaCha8Rng>) -> Tensor<2> {
        self.classify(self.features(x), dropping)
    }

    /// The features that the head gets.
    ///
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]`, normalised
    /// - output: `[batch, channels]`
    pub fn features(&self, x: Tensor<4>) -> Tensor<2> {
        let blocks = self.stages().into_iter().flatten();
        spatial_mean(blocks.fold(self.stem(x), |h, block| block.forward(h)))
    }

    /// `[batch, 3, height, width]` to `[batch, width, …]`.
    pub(crate) fn stem(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self.bn1.rectify(&self.conv1, x, None);
        if self.pooled { pool(1).forward(h) } else { h }
    }

    pub(crate) fn stages(&self) -> [&Vec<Bottleneck>; 4] {
        [&self.layer1, &self.layer2, &self.layer3, &self.layer4]
    }

    /// `[batch, channels]` to `[batch, classes]`.
    fn classify(&self, features: Tensor<2>, mut dropping: Option<&mut ChaCha8Rng>) -> Tensor<2> {
        let layers = match &self.fc {
            Head::Plain(linear) => return linear.forward(features),
            Head::Layers(layers) => layers,
        };
        layers.iter().fold(features, |h, layer| match layer {
            Layer::Flatten(_) => h,
            Layer::Linear(linear) => linear.forward(h),
            Layer::Norm(norm) => norm.forward(h),
            Layer::Relu(_) => relu(h),
            Layer::Dropout(_) => match dropping.as_deref_mut() {
                Some(rng) => drop_out(h, self.dropout, rng),
                None => h,
            },
        })
    }
}

/// Flatten, then linear, normalisation, rectifier and dropout per hidden
/// layer, then linear.
fn head(input: usize, hidden: &[u32], device: &Device) -> Vec<Layer> {
    let mut layers = vec![Layer::Flatten(Flatten)];
    let mut from = input;
    for &to in hidden {
        let to = to as usize;
        layers.push(Layer::Linear(linear(from, to, device)));
        layers.push(Layer::Norm(BatchNorm::new(to, EPSILON, device)));
        layers.push(Layer::Relu(Relu::new()));
        layers.push(Layer::Dropout(Dropout));
        from = to;
    }
    layers.push(Layer::Linear(linear(from, CLASSES, device)));
    layers
}

/// Sets a share of the values to zero and scales the others up, so that the
/// mean stays.
fn drop_out(x: Tensor<2>, share: f64, rng: &mut ChaCha8Rng) -> Tensor<2> {
    if share <= 0.0 {
        return x;
    }
    let kept = (1.0 / (1.0 - share)) as f32;
    let [batch, width] = x.dims();
    let mask: Vec<f32> = (0..batch * width).map(|_| if random::uniform(rng) < share { 0.0 } else { kept }).collect();
    let device = x.device();
    x * Tensor::from_data(TensorData::new(mask, [batch, width]), &device)
}

#[cfg(test)]
mod tests {
    use burn::optim::GradientsParams;

    use super::*;
    use crate::weights::Array;

    fn small() -> Network {
        Network { stem: Stem::Small, width: 4, blocks: vec![1, 1], head: vec![8], dropout: 0.5 }
    }

    #[test]
    fn the_default_is_resnet50_with_the_papers_head() {
        let net = ResNet::new(&Network::default(), &Device::flex());
        let arrays = weights::collect(&net);
        let learnt = arrays.iter().filter(|(name, _)| !name.contains("running_"));
        assert_eq!(learnt.map(|(_, array)| array.values.len()).sum::<usize>(), 25_314_502);
        for (name, shape) in [
            ("conv1.weight", vec![64, 3, 7, 7]),
            ("layer1.0.downsample.0.weight", vec![256, 64, 1, 1]),
            ("layer1.0.downsample.1.running_var", vec![256]),
            ("layer4.2.bn3.weight", vec![2048]),
            ("fc.1.weight", vec![768, 2048]),
            ("fc.2.running_mean", vec![768]),
            ("fc.5.weight", vec![256, 768]),
            ("fc.9.bias", vec![128]),
            ("fc.13.weight", vec![6, 128]),
        ] {
            assert_eq!(arrays[name].shape, shape, "{name}");
        }
    }

    fn file(network: &Network) -> Arrays {
        let array = |shape: Vec<usize>| Array { values: vec![0.5; shape.iter().product()], shape };
        ResNet::tensors(network, IMAGENET_CLASSES).into_iter().map(|(name, shape)| (name, array(shape))).collect()
    }

    #[test]
    fn the_published_layout_is_torchvisions() {
        let tensors = ResNet::tensors(&Network::default(), IMAGENET_CLASSES);
        assert_eq!(tensors.len(), 267); // 320 with the counters of 53 normalisations
        let learnt = tensors.iter().filter(|(name, _)| !name.contains("running_"));
        assert_eq!(learnt.map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>(), 25_557_032);
        assert_eq!(tensors["fc.weight"], [1000, 2048]);
    }

    #[test]
    fn what_is_not_the_published_file_is_refused_by_tensor() {
        let refusal = |change: fn(&mut Arrays)| {
            let mut tensors = file(&small());
            change(&mut tensors);
            ResNet::published(&small(), tensors, &Device::flex()).unwrap_err().message
        };
        let transposed = |tensors: &mut Arrays| tensors.get_mut("fc.weight").unwrap().shape.reverse();
        assert_eq!(refusal(transposed), "tensor fc.weight has shape [32, 1000], has to be [1000, 32]");
        let truncated = |tensors: &mut Arrays| drop(tensors.split_off("layer2.0.conv2"));
        assert_eq!(refusal(truncated), "tensor layer2.0.conv2.weight is missing");
        let renamed = |tensors: &mut Arrays| {
            let array = tensors.remove("bn1.bias").unwrap();
            tensors.insert("norm1.bias".to_owned(), array);
        };
        assert_eq!(refusal(renamed), "tensor bn1.bias is missing");
        let longer = |tensors: &mut Arrays| drop(tensors.insert("layer5".to_owned(), tensors["bn1.bias"].clone()));
        assert_eq!(refusal(longer), "tensor layer5 does not belong to this network");
        let device = Device::flex();
        let other = ResNet::transferred(&Network::default(), file(&small()), Seed(1), &device).unwrap_err();
        assert_eq!(other.message, "tensor bn1.bias has shape [4], has to be [64]");
    }

    #[test]
    fn transfer_keeps_all_but_the_head() {
        let device = Device::flex();
        let net = ResNet::transferred(&small(), file(&small()), Seed(1), &device).unwrap();
        let fresh = weights::collect(&weights::initialise(ResNet::new(&small(), &device), Seed(1)));
        for (name, array) in weights::collect(&net) {
            if name.starts_with("fc.") {
                assert_eq!(array, fresh[&name], "{name}");
            } else {
                assert!(array.values.iter().all(|value| *value == 0.5), "{name}");
            }
        }
        let whole = ResNet::published(&small(), file(&small()), &device).unwrap();
        assert_eq!(whole.forward(Tensor::zeros([2, 3, 12, 12], &device), None).dims(), [2, 1000]);
    }

    #[test]
    fn shapes_and_gradients_of_a_small_network() {
        let device = Device::flex().autodiff();
        let net = weights::initialise(ResNet::new(&small(), &device), Seed(1));
        let values = random::normals(&mut random::stream(Seed(1), "x", 0), 3 * 3 * 12 * 12);
        let x = Tensor::<4>::from_data(TensorData::new(values, [3, 3, 12, 12]), &device);
        let scores = net.forward(x, Some(&mut random::stream(Seed(1), "dropout", 0)));
        assert_eq!(scores.dims(), [3, 6]);
        let gradients = GradientsParams::from_grads(scores.square().mean().backward(), &net);
        let learnt = weights::collect(&net).into_keys().filter(|name| !name.contains("running_")).count();
        assert_eq!(gradients.len(), learnt);
    }

    #[test]
    fn dropping_keeps_the_mean_and_follows_its_stream() {
        let x = || Tensor::<2>::ones([50, 40], &Device::flex());
        let dropped = |step| drop_out(x(), 0.25, &mut random::stream(Seed(1), "dropout", step)).into_data();
        assert_eq!(dropped(0), dropped(0));
        assert_ne!(dropped(0), dropped(1));
        let mean = dropped(0).iter::<f32>().sum::<f32>() / 2000.0;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
    }
}
