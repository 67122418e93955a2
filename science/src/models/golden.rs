//! The networks against numbers computed by the reference implementations, in
//! the folder that the environment variable LITHOGEN_GOLDEN names.

use std::path::PathBuf;
use std::{env, fs};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

use crate::weights::{Array, Arrays};

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

/// Number i of the stream of a name, −1 to 1 (FNV-1a and SplitMix64, seed 0).
fn procedural(name: &str) -> impl Fn(u64) -> f64 + use<> {
    let key =
        name.bytes().fold(0xCBF29CE484222325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100000001B3));
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

mod sinddm {
    use burn::module::Module;
    use burn::optim::{AdamConfig, GradientsParams};
    use domain::experiment::{Fit, Sinddm};
    use image::RgbImage;

    use super::*;
    use crate::data::{picture, pyramid};
    use crate::models::diffusion::{Reblurring, Schedule};
    use crate::models::sinddm::SinDdm;
    use crate::weights;

    fn floats(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }

    /// The reference's large picture.
    fn gradient() -> RgbImage {
        let (width, height) = (4288, 2848);
        RgbImage::from_fn(width, height, |x, y| {
            let blue = (7 * x + 13 * y) ^ (x >> 3);
            image::Rgb([255 * x / (width - 1), 255 * y / (height - 1), blue & 255].map(|value| value as u8))
        })
    }

    #[test]
    #[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
    fn pyramid_equals_the_reference() {
        let mut compared = 0;
        for case in json("sinddm/pyramid/cases.json").as_array().unwrap() {
            // Other modes are differenced before conversion, which we do not imitate.
            let Some(input) = case["input"].as_str().filter(|_| case["mode"] == "RGB") else { continue };
            let image = match input.starts_with("formula") {
                true => gradient(),
                false => picture::open_rgb8(&path("sinddm").join(input)).unwrap().image,
            };
            let (width, height) = image.dimensions();
            let area = f64::from(width) * f64::from(height);
            let shrink = case["auto_scale"].as_f64().map_or(1.0, |limit| (area / limit).sqrt().max(1.0));
            let finest = [width, height].map(|side| (f64::from(side) / shrink) as u32);
            let sinddm = Sinddm { finest, fit: Fit::Stretch, ..Sinddm::default() };
            let pyramid = pyramid::Pyramid::new(&[image], &sinddm);
            let name = &case["name"];
            assert_eq!(serde_json::json!(pyramid.geometry.sizes), case["sizes_wh"], "{name}");
            if name == "dog_tall" {
                continue; // its loss moves with the version of Pillow, across a sampling length
            }
            for (own, expected) in pyramid.rescale_losses.iter().zip(floats(&case["rescale_losses"])) {
                assert!((own / expected - 1.0).abs() < 1e-9, "{name}: {own} {expected}");
            }
            let lengths = Schedule::new(100, &pyramid.rescale_losses).sampling_steps(&pyramid.rescale_losses);
            assert_eq!(serde_json::json!(lengths), case["num_timesteps_ideal"], "{name}");
            compared += 1;
        }
        assert!(compared > 2, "{compared}");
    }

    #[test]
    #[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
    fn schedule_equals_the_reference() {
        let vectors = Vectors::open("sinddm/schedule/schedule.safetensors");
        for case in json("sinddm/schedule/schedule.json").as_array().unwrap() {
            let (name, losses) = (case["case"].as_str().unwrap(), floats(&case["scale_losses"]));
            let schedule = Schedule::new(case["timesteps"].as_u64().unwrap() as u32, &losses);
            for (buffer, own) in [
                ("betas", schedule.beta.clone()),
                ("alphas_cumprod", schedule.alpha_bar.clone()),
                ("gammas", schedule.gammas.concat()),
            ] {
                for (own, expected) in own.iter().zip(vectors.values(&format!("{name}.{buffer}"))) {
                    assert!((own - expected).abs() <= 1e-6 * expected.abs(), "{name}.{buffer}: {own} {expected}");
                }
            }
            assert_eq!(serde_json::json!(schedule.sampling_steps(&losses)), case["num_timesteps_ideal"]);
        }
    }

    #[test]
    #[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
    fn network_equals_the_reference() {
        let device = Device::flex();
        let vectors = Vectors::open("sinddm/net/dim16_forward.safetensors");
        let net = weights::load(SinDdm::new(16, &device), &path("sinddm/net/dim16.safetensors")).unwrap();
        for case in ["case0", "case1", "case2"] {
            let times = vectors.integers(&format!("{case}.t"));
            let scale = vectors.integers(&format!("{case}.s"))[0] as usize;
            let out = net.forward(vectors.tensor(&format!("{case}.x"), &device), &times, scale);
            let expected = vectors.values(&format!("{case}.out"));
            let largest = expected.iter().fold(0.0, |largest: f64, v| largest.max(v.abs()));
            assert_close(out, expected, 2e-5 * largest, case);
        }
    }

    #[test]
    #[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
    fn five_steps_of_training_equal_the_reference() {
        for (file, ema_start, ema_every, milestones) in
            [("loop_default", 2000, 10, vec![20_000]), ("loop_ema", 2, 1, vec![2, 4])]
        {
            let device = Device::flex().autodiff();
            let vectors = Vectors::open(&format!("sinddm/train/{file}.safetensors"));
            let start = Vectors::open("sinddm/train/loop_ema.safetensors").arrays("init.");
            let pictures = Vectors::open("sinddm/train/grad.safetensors");
            let losses = floats(&json("sinddm/train/train.json")[0]["rescale_losses"]);
            let schedule = Schedule::new(100, &losses);
            let mut net = weights::apply(SinDdm::new(16, &device), start).unwrap();
            let mut average = net.valid();
            let mut adam = AdamConfig::new().with_epsilon(1e-8).init();
            for step in 0..5usize {
                let s = vectors.integers(&format!("step{step}.s"))[0] as usize;
                let times = vectors.integers(&format!("step{step}.t"));
                let of = |what: &str| {
                    let picture = pictures.tensor::<4>(&format!("scale{s}.{what}"), &device);
                    picture.repeat_dim(0, times.len())
                };
                let image = of("image");
                let blurred = (s > 0).then(|| of("image_recon"));
                let noise = noise(&format!("train.loop.step{step}.noise"), image.dims(), &device);
                let x = schedule.diffuse(image, blurred, s, &times, noise.clone());
                let loss = (net.forward(x, &times, s) - noise).abs().mean();
                assert_close(loss.clone(), &vectors.values("loss")[step..=step], 1e-5, &format!("{file} {step}"));
                let gradients = GradientsParams::from_grads(loss.backward(), &net);
                let halvings = milestones.iter().filter(|&&milestone| milestone <= step).count();
                net = adam.step(1e-3 * 0.5f64.powi(halvings as i32), net, gradients);
                if step % ema_every == 0 {
                    let newest = net.valid();
                    average = if step < ema_start { newest } else { weights::blend(average, &newest, 0.995) };
                }
            }
            for (own, prefix) in [(weights::collect(&net.valid()), "final."), (weights::collect(&average), "ema.")] {
                let expected = vectors.arrays(prefix);
                assert_eq!(own.len(), expected.len());
                // Adam can move a weight with a vanishing gradient by up to the learning rate.
                let gaps = |limit: f32| {
                    let pairs = own.iter().flat_map(|(name, array)| array.values.iter().zip(&expected[name].values));
                    pairs.filter(|(a, b)| (*a - *b).abs() > limit).count()
                };
                let all: usize = own.values().map(|array| array.values.len()).sum();
                assert!(gaps(5e-6) * 1000 <= all && gaps(1e-3) == 0, "{file} {prefix} {} {}", gaps(5e-6), gaps(1e-3));
            }
        }
    }

    #[test]
    #[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
    fn sampling_steps_equal_the_reference() {
        let device = Device::flex();
        let vectors = Vectors::open("sinddm/sample/steps.safetensors");
        let schedule = Schedule::new(100, &floats(&json("sinddm/sample/sample.json")["rescale_losses"]));
        let net = weights::load(SinDdm::new(16, &device), &path("sinddm/sample/net.safetensors")).unwrap();
        let mut compared = 0;
        for case in json("sinddm/sample/steps.json").as_array().unwrap() {
            if case["reblurring"] == false {
                continue; // the plain posterior at finer scales is not offered
            }
            let name = |what: &str| format!("case{}.{what}", case["case"]);
            let (scale, t) = (case["s"].as_u64().unwrap() as usize, case["t"].as_u64().unwrap() as usize);
            let x = vectors.tensor::<4>(&name("x"), &device);
            let noise = vectors.tensor::<4>(&name("noise"), &device);
            let predicted = net.forward(x.clone(), &[t as u32; 2], scale);
            let out = if scale == 0 {
                schedule.ancestral_step(x, predicted, t, noise)
            } else {
                let upsampled = vectors.tensor::<4>(&name("prev_upsample"), &device);
                let omega = case["omega"].as_f64().unwrap();
                let at = Reblurring { scale, t, omega, gamma_clip: 0.55 };
                schedule.reblurring_step(x, predicted, upsampled, Some(noise), at)
            };
            assert_close(out, vectors.values(&name("out")), 1e-4, &name("out"));
            compared += 1;
        }
        assert!(compared > 10, "{compared}");
    }
}

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
