//! The steps that a study spends its time in, ready to be timed: each with the network and the
//! sizes of the paper, on values that are random. `lithogen bench compute` has the same in
//! PyTorch.

use std::time::Instant;

use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, ExecutionError, Tensor, TensorData};
use domain::seed::Seed;
use domain::study::experiment::{DdpmTraining, Network, Precision, Sinddm};
use domain::study::stone::CLASSES;
use image::RgbImage;

use crate::data::tensors;
use crate::layers::activation::log_softmax;
use crate::models::ddpm::Unet;
use crate::models::inception::{Block, Inception};
use crate::models::resnet::ResNet;
use crate::models::sinddm::SinDdm;
use crate::models::swin2sr::script::Script;
use crate::models::swin2sr::{Swin2Sr, Swin2SrConfig};
use crate::training::optimizer::{NamedOptimizer, adam};
use crate::training::precision;
use crate::{random, weights};

/// Width and height of a patch that a classifier sees.
const PATCH: usize = 256;

/// Pictures or patches of a batch of the classifier.
const PATCHES: usize = 24;

/// A step that can be timed.
pub struct Step {
    /// What it is, with batch, height and width: also the name by which others know it.
    pub name: &'static str,
    /// Multiplications and additions of its convolutions and matrix products, in 10⁹, as they
    /// are defined: a kernel that gets by with fewer may look faster than the processor. Counted
    /// by `torch.utils.flop_counter` on the same in PyTorch, but for the gradient by the weight
    /// of depthwise convolutions, which is as much as their output and is counted there as if
    /// they had no groups.
    pub gflop: f64,
    prepare: fn(&Device) -> Box<dyn FnMut()>,
}

impl Step {
    /// All of them.
    #[rustfmt::skip]
    pub const ALL: &[Step] = &[
        Step { name: "sinddm_train_8x100x132", gflop: 681.0, prepare: |device| sinddm_train(device, Precision::F32) },
        Step { name: "sinddm_train_bf16_8x100x132", gflop: 681.0, prepare: |device| sinddm_train(device, Precision::Bf16) },
        Step { name: "sinddm_sample_1x200x264", gflop: 113.5, prepare: |device| sinddm_sample(device, 1) },
        Step { name: "sinddm_sample_16x200x264", gflop: 1816.5, prepare: |device| sinddm_sample(device, 16) },
        Step { name: "resnet50_train_24x256", gflop: 761.6, prepare: resnet_train },
        Step { name: "resnet50_infer_24x256", gflop: 256.3, prepare: resnet_infer },
        Step { name: "inception_sifid_1056x800", gflop: 11.9, prepare: inception_sifid },
        Step { name: "ddpm_train_4x128", gflop: 700.0, prepare: ddpm_train },
        Step { name: "swin2sr_x4_264x200", gflop: 1508.7, prepare: swin2sr },
    ];

    /// The step of that name.
    pub fn named(name: &str) -> Option<&'static Step> {
        Self::ALL.iter().find(|step| step.name == name)
    }

    /// Builds all that the step needs. Each call of what is returned does it once, to its end,
    /// and says the seconds that it took.
    pub fn prepare(&self, device: &Device) -> impl FnMut() -> Result<f64, ExecutionError> + use<> {
        let (mut work, device) = ((self.prepare)(device), device.clone());
        move || {
            let began = Instant::now();
            work();
            device.sync()?;
            Ok(began.elapsed().as_secs_f64())
        }
    }
}

fn noise<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = random::normals(&mut random::stream(Seed(1), "x", 0), shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Times of a batch for a network that denoises.
fn times(batch: usize) -> Vec<u32> {
    (0..batch as u32).collect()
}

fn sinddm(device: &Device) -> SinDdm {
    weights::initialise(SinDdm::new(Sinddm::default().dim as usize, device), Seed(1))
}

fn sinddm_train(device: &Device, precision: Precision) -> Box<dyn FnMut()> {
    let device = device.clone().autodiff();
    let x = noise([8, 3, 100, 132], &device);
    let mut rule = NamedOptimizer::new(adam().build());
    let mut moving = Some(sinddm(&device));
    Box::new(move || {
        let Some(net) = moving.take() else { return };
        let computing = precision::cast(&net, precision);
        let loss = (computing.forward(x.clone(), &times(8), 0) - x.clone()).abs().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &computing);
        moving = Some(rule.step(1e-3, net, precision::widened(gradients, &computing)));
        let _ = loss.into_scalar::<f32>();
    })
}

fn sinddm_sample(device: &Device, batch: usize) -> Box<dyn FnMut()> {
    let (net, x) = (sinddm(device), noise([batch, 3, 200, 264], device));
    Box::new(move || {
        let _ = net.forward(x.clone(), &times(batch), 0).sum().into_scalar::<f32>();
    })
}

fn resnet(device: &Device) -> ResNet {
    weights::initialise(ResNet::new(&Network::default(), device), Seed(1))
}

fn resnet_train(device: &Device) -> Box<dyn FnMut()> {
    let device = device.clone().autodiff();
    let x = noise([PATCHES, 3, PATCH, PATCH], &device);
    let truth = (0..PATCHES * CLASSES).map(|at| f32::from(at % CLASSES == at / CLASSES % CLASSES)).collect::<Vec<_>>();
    let truth = Tensor::<2>::from_data(TensorData::new(truth, [PATCHES, CLASSES]), &device);
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let mut rule = NamedOptimizer::new(SgdConfig::new().with_momentum(Some(momentum)).build());
    let (mut moving, mut step) = (Some(resnet(&device)), 0);
    Box::new(move || {
        let Some(net) = moving.take() else { return };
        let scores = net.forward(x.clone(), Some(&mut random::stream(Seed(1), "dropout", step)));
        let loss = (log_softmax(scores, 1) * truth.clone()).sum() / -(PATCHES as f64);
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        moving = Some(rule.step(1e-3, net, gradients));
        step += 1;
        let _ = loss.into_scalar::<f32>();
    })
}

fn resnet_infer(device: &Device) -> Box<dyn FnMut()> {
    let (net, x) = (resnet(device), noise([PATCHES, 3, PATCH, PATCH], device));
    Box::new(move || {
        let _ = net.forward(x.clone(), None).sum().into_scalar::<f32>();
    })
}

fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * y) as u8, x as u8, y as u8]))
}

fn inception_sifid(device: &Device) -> Box<dyn FnMut()> {
    let net = Inception::fixed(device).stem();
    let x = tensors::signed(&[picture(1056, 800)], device);
    Box::new(move || {
        let _ = net.forward(x.clone(), Block::C64).sum().into_scalar::<f32>();
    })
}

fn ddpm_train(device: &Device) -> Box<dyn FnMut()> {
    let device = device.clone().autodiff();
    let training = DdpmTraining::default();
    let size = training.size as usize;
    let x = noise([4, 3, size, size], &device);
    let mut rule = NamedOptimizer::new(adam().build());
    let mut moving = Some(Unet::fresh(&training, Seed(1), &device));
    Box::new(move || {
        let Some(net) = moving.take() else { return };
        let loss = (net.forward(x.clone(), &times(4)) - x.clone()).abs().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        moving = Some(rule.step(1e-3, net, gradients));
        let _ = loss.into_scalar::<f32>();
    })
}

fn swin2sr(device: &Device) -> Box<dyn FnMut()> {
    let device = device.clone();
    let net = weights::initialise(Swin2Sr::new(&Swin2SrConfig::compressed(), &device), Seed(1));
    let picture = picture(264, 200);
    Box::new(move || drop(net.enlarge(&picture, Script { crop: true, tiling: None }, &device)))
}
