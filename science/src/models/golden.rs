//! The networks against numbers computed by the reference implementations, in
//! the folder that the environment variable LITHOGEN_GOLDEN names.

use std::path::PathBuf;
use std::{env, fs};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

use crate::weights::{Array, Arrays};

/// The processor that the parity of SinDDM is tested on: LITHOGEN_TEST_DEVICE, a
/// kind of `--device`, or the CPU.
fn device() -> Device {
    let kind = env::var("LITHOGEN_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    crate::device::Kind::parse(&kind).and_then(crate::device::Kind::open).unwrap()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env::var("LITHOGEN_GOLDEN").unwrap()).join(name)
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path(name)).unwrap()).unwrap()
}

/// All tensors of a file as 64-bit numbers.
struct Vectors(std::collections::BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Vectors {
    fn open(name: &str) -> Self {
        let bytes = fs::read(path(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |view: &safetensors::tensor::TensorView<'_>| -> Vec<f64> {
            let data = view.data();
            match view.dtype() {
                Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
                Dtype::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::I64 => data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
                Dtype::U8 => data.iter().map(|&b| b.into()).collect(),
                other => panic!("{other:?}"),
            }
        };
        Self(file.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), numbers(&view)))).collect())
    }

    fn values(&self, name: &str) -> &[f64] {
        &self.0.get(name).unwrap_or_else(|| panic!("no tensor {name}")).1
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.0[name].0.clone()
    }

    fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let values: Vec<f32> = self.values(name).iter().map(|&v| v as f32).collect();
        Tensor::from_data(TensorData::new(values, self.shape(name)), device)
    }

    fn integers(&self, name: &str) -> Vec<u32> {
        self.values(name).iter().map(|&v| v as u32).collect()
    }

    /// The tensors whose names start with `prefix`, without it; counters left out.
    fn arrays(&self, prefix: &str) -> Arrays {
        let own = self.0.iter().filter(|(name, _)| !name.contains("num_batches"));
        own.filter_map(|(name, (shape, values))| {
            let values = values.iter().map(|&v| v as f32).collect();
            Some((name.strip_prefix(prefix)?.to_owned(), Array { shape: shape.clone(), values }))
        })
        .collect()
    }
}

/// Fails unless all values are within `tolerance` of what is expected.
fn assert_close<const D: usize>(tensor: Tensor<D>, expected: &[f64], tolerance: f64, what: &str) {
    let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
    assert_eq!(values.len(), expected.len(), "{what}");
    let worst = values.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: differs by {worst}");
}

/// Number i of the stream of a name, −1 to 1 (FNV-1a and SplitMix64), for the
/// seed of the whole set.
fn procedural(name: &str) -> impl Fn(u64) -> f64 + use<> {
    let seed = json("set.json")["fill_seed"].as_u64().unwrap();
    let key = seed
        ^ name.bytes().fold(0xCBF29CE484222325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100000001B3));
    move |i| {
        let mut z = key.wrapping_add((i + 1).wrapping_mul(0x9E3779B97F4A7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
        ((z ^ (z >> 31)) >> 40) as f64 * f64::from(2f32.powi(-23)) - 1.0
    }
}

/// Noise of unit variance that the reference was given.
fn noise<const D: usize>(tag: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let c = procedural(tag);
    let value = |i: u64| (((c(4 * i) + c(4 * i + 1)) + (c(4 * i + 2) + c(4 * i + 3))) * 0.8660254037844386) as f32;
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(value).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Replaces weights by those that the reference was given.
fn fill(arrays: &mut Arrays, gain_sq: f64, reference_name: impl Fn(&str) -> String) {
    for (name, array) in arrays {
        let last = name.rsplit('.').next().unwrap();
        let (offset, amplitude) = match (last, array.shape.len()) {
            ("running_mean", _) => (0.0, 0.1),
            ("running_var", _) => (1.0, 0.5),
            ("logit_scale", _) => (std::f64::consts::LN_10, 0.3),
            (_, 2..) => (0.0, (3.0 * gain_sq / array.shape[1..].iter().product::<usize>() as f64).sqrt()),
            ("weight", _) => (1.0, 0.1),
            _ => (0.0, 0.1),
        };
        let c = procedural(&reference_name(name));
        for (i, value) in array.values.iter_mut().enumerate() {
            *value = (offset + amplitude * c(i as u64)) as f32;
        }
    }
}

mod sinddm;
mod swin2sr;

mod fid {
    use super::*;
    use crate::data::picture;
    use crate::models::inception::{Block, Inception};
    use crate::stages::sifid::{Rooted, Statistics};
    use crate::weights;

    #[test]
    #[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
    fn sifid_equals_the_reference() {
        let device = Device::flex();
        let vectors = Vectors::open("fid/sifid.safetensors");
        let mut arrays = weights::collect(&Inception::new(&device));
        fill(&mut arrays, 2.0, |name| name.replacen("conv2d", "Conv2d", 1));
        let stem = weights::apply(Inception::new(&device), arrays).unwrap();
        for pair in json("fid/sifid.json")["pairs"].as_array().unwrap() {
            for (block, channels) in [(Block::C64, 64), (Block::C192, 192)] {
                let of = |side: &str| {
                    let image = picture::open_rgb8(&path("fid").join(pair[side].as_str().unwrap())).unwrap().image;
                    Statistics::of(&stem, &image, block, &device)
                };
                let (real, fake) = (of("real"), of("fake"));
                let name = pair["pair"].as_str().unwrap();
                let mean = vectors.values(&format!("{name}.real.mu{channels}_f64"));
                assert!(real.mean.iter().zip(mean).all(|(a, b)| (a - b).abs() < 1e-4), "{name} {channels}");
                let expected = pair[format!("rgb01_sifid{channels}")].as_f64().unwrap();
                let distance = Rooted::new(real).distance(&fake);
                assert!((distance / expected - 1.0).abs() < 1e-3, "{name} {channels}: {distance} {expected}");
            }
        }
    }
}

mod resnet50 {
    use burn::module::Module;
    use burn::optim::momentum::MomentumConfig;
    use burn::optim::{GradientsParams, SgdConfig};
    use burn::tensor::activation::log_softmax;
    use domain::experiment::{Network, Stem};

    use super::*;
    use crate::models::resnet::{CLASSES, ResNet};
    use crate::weights;

    /// Bytes `[batch, height, width, 3]`, normalised: `[batch, 3, height, width]`.
    fn input(vectors: &Vectors, name: &str, device: &Device) -> Tensor<4> {
        let x = vectors.tensor::<4>(name, device).permute([0, 3, 1, 2]) / 255.0;
        let channel = |values: [f32; 3]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), device);
        (x - channel([0.485, 0.456, 0.406])) / channel([0.229, 0.224, 0.225])
    }

    #[test]
    #[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
    fn three_steps_of_training_equal_the_reference() {
        let device = Device::flex().autodiff();
        let vectors = Vectors::open("resnet50/small/train_lr1e-3.safetensors");
        let network =
            Network { stem: Stem::Imagenet, width: 8, blocks: vec![2, 1, 1, 1], dropout: 0.0, ..Network::default() };
        let start = Vectors::open("resnet50/small/init.safetensors").arrays("");
        let mut net = weights::apply(ResNet::with_planes(&network, 8, 4, &device), start).unwrap();
        let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
        let mut sgd = SgdConfig::new().with_momentum(Some(momentum)).init();
        for step in 0..3 {
            let x = input(&vectors, &format!("step{step}.input_u8"), &device);
            let labels = vectors.integers(&format!("step{step}.target"));
            let mut truth = vec![0.0f32; labels.len() * CLASSES];
            labels.iter().enumerate().for_each(|(row, label)| truth[row * CLASSES + *label as usize] = 1.0);
            let truth = Tensor::<2>::from_data(TensorData::new(truth, [labels.len(), CLASSES]), &device);
            let scores = net.forward(x, None);
            let logits = vectors.values(&format!("step{step}.logits"));
            assert_close(scores.clone(), logits, 2e-3, &format!("logits {step}"));
            let loss = (log_softmax(scores, 1) * truth).sum() / -(labels.len() as f64);
            assert_close(loss.clone(), vectors.values(&format!("step{step}.loss")), 1e-4, &format!("loss {step}"));
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            net = sgd.step(1e-3, net, gradients);
        }
        // The file calls them "after step 0"; its counter of batches, 3, says what they are.
        let own = weights::collect(&net.valid());
        for (name, expected) in vectors.arrays("after_step0.") {
            for (a, b) in own[&name].values.iter().zip(&expected.values) {
                assert!((a - b).abs() <= 1e-4 * b.abs().max(1e-2), "{name}: {a} {b}");
            }
        }
        let plain = Device::flex();
        let scores = net.valid().forward(input(&vectors, "step0.input_u8", &plain), None);
        assert_close(scores, vectors.values("eval_logits_after"), 2e-3, "logits after training");
    }
}
