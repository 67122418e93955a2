//! The steps that a study spends its time in, ready to be timed: each with the network and the
//! sizes of the paper, on values that are random. `lithogen bench compute` has the same in
//! PyTorch.

use std::time::{Duration, Instant};

use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, ExecutionError, Tensor, TensorData};
use domain::resources::CPU_MEMORY_BYTES;
use domain::seed::Seed;
use domain::study::experiment::{DdpmTraining, Experiment, Network, Precision, Sinddm};
use domain::study::plan::rates::{Measurement, TASK_SECONDS};
use domain::study::plan::{Plan, cost};
use domain::study::stage::{Stage, StageKind};
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
        Step { name: "sinddm_train_8x100x132", gflop: 681.0, prepare: |device| sinddm_train(device, &Sinddm::default(), [8, 100, 132]) },
        Step { name: "sinddm_train_bf16_8x100x132", gflop: 681.0, prepare: |device| sinddm_train(device, &Sinddm { precision: Precision::Bf16, ..Sinddm::default() }, [8, 100, 132]) },
        Step { name: "sinddm_sample_1x200x264", gflop: 113.5, prepare: |device| sinddm_sample(device, 1) },
        Step { name: "sinddm_sample_16x200x264", gflop: 1816.5, prepare: |device| sinddm_sample(device, 16) },
        Step { name: "resnet50_train_24x256", gflop: 761.6, prepare: |device| resnet_train(device, &Network::default(), PATCHES, PATCH) },
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

/// A training step on a number of pictures, to be timed for an estimate.
struct SizedStep<'a> {
    /// Floating-point operations for one picture.
    flop: f64,
    /// Most pictures.
    batch: u32,
    prepare: Box<dyn Fn(usize) -> Box<dyn FnMut()> + 'a>,
}

/// The largest step, in floating-point operations, that is tried without knowing how long it takes:
/// a second on most processors, eight on the slowest.
const FIRST_FLOP: f64 = 64e9;

/// How long the trainings of a plan take on so many threads of this processor, by a step at each
/// of their sizes or as many as fit into about so much time. A training of which a single picture
/// takes too long is left out.
///
/// # Errors
/// If the system gives no thread.
pub fn measure(
    experiment: &Experiment,
    plan: &Plan,
    threads: usize,
    most: Duration,
) -> Result<Vec<Measurement>, rayon::ThreadPoolBuildError> {
    let flops = cost::flops(plan);
    let first = |stage| plan.tasks.iter().zip(&flops).find(|(task, _)| task.stage.kind() == stage);
    let trainings = [first(StageKind::SinddmTrain), first(StageKind::ClassifyTrain)];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let measured = trainings.into_iter().flatten().filter_map(|(task, flop)| {
        let speed = pool.install(|| speed(&sizes(&task.stage, experiment, &Device::flex()), most / 2))?;
        let seconds = TASK_SECONDS + flop / speed;
        Some(Measurement { stage: task.stage.kind(), flop: *flop, seconds })
    });
    Ok(measured.collect())
}

/// The steps of a training, small ones first.
fn sizes<'a>(stage: &'a Stage, experiment: &Experiment, device: &'a Device) -> Vec<SizedStep<'a>> {
    match stage {
        Stage::SinddmTrain { sinddm } => {
            let size = |[width, height]: [u32; 2]| SizedStep {
                flop: 6.0 * cost::diffusion_mac(sinddm) * f64::from(width) * f64::from(height),
                batch: sinddm.at_once([width, height], CPU_MEMORY_BYTES),
                prepare: Box::new(move |batch| sinddm_train(device, sinddm, [batch, height as usize, width as usize])),
            };
            sinddm.planned_geometry().sizes.into_iter().map(size).collect()
        }
        Stage::ClassifyTrain(training) => {
            let size = experiment.patch.size;
            vec![SizedStep {
                flop: 6.0 * cost::network_mac(&training.network, size),
                batch: training.batch,
                prepare: Box::new(move |batch| resnet_train(device, &training.network, batch, size as usize)),
            }]
        }
        _ => vec![],
    }
}

/// Floating-point operations per second over one step at each size, as long as there is time;
/// none if a single picture of the first is too large.
fn speed(sizes: &[SizedStep<'_>], most: Duration) -> Option<f64> {
    let began = Instant::now();
    let time = |size: &SizedStep<'_>, batch: u32| {
        let mut step = (size.prepare)(batch as usize);
        let began = Instant::now();
        step();
        (size.flop * f64::from(batch), began.elapsed().as_secs_f64())
    };
    let first = sizes.first()?;
    let pictures = first.batch.min(2).min((FIRST_FLOP / first.flop) as u32);
    if pictures == 0 {
        return None;
    }
    // The first step of a process takes longer than others, and says how much more there is time for.
    let (mut flop, mut seconds) = time(first, pictures);
    for (at, size) in sizes.iter().enumerate() {
        let left = most.saturating_sub(began.elapsed()).as_secs_f64() / (sizes.len() - at) as f64;
        let batch = size.batch.min((left * flop / seconds / size.flop) as u32);
        if batch == 0 {
            break;
        }
        let (more, took) = time(size, batch);
        (flop, seconds) = if at == 0 { (more, took) } else { (flop + more, seconds + took) };
    }
    Some(flop / seconds)
}

fn noise<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = random::normals(&mut random::stream(Seed(1), "x", 0), shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Times of a batch for a network that denoises.
fn times(batch: usize) -> Vec<u32> {
    (0..batch as u32).collect()
}

fn sinddm(device: &Device, sinddm: &Sinddm) -> SinDdm {
    weights::initialise(SinDdm::new(sinddm.dim as usize, device), Seed(1))
}

fn sinddm_train(device: &Device, knobs: &Sinddm, [batch, height, width]: [usize; 3]) -> Box<dyn FnMut()> {
    let (device, precision) = (device.clone().autodiff(), knobs.precision);
    let x = noise([batch, 3, height, width], &device);
    let mut rule = NamedOptimizer::new(adam().build());
    let mut moving = Some(sinddm(&device, knobs));
    Box::new(move || {
        let Some(net) = moving.take() else { return };
        let computing = precision::cast(&net, precision);
        let loss = (computing.forward(x.clone(), &times(batch), 0) - x.clone()).abs().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &computing);
        moving = Some(rule.step(1e-3, net, precision::widened(gradients, &computing)));
        let _ = loss.into_scalar::<f32>();
    })
}

fn sinddm_sample(device: &Device, batch: usize) -> Box<dyn FnMut()> {
    let (net, x) = (sinddm(device, &Sinddm::default()), noise([batch, 3, 200, 264], device));
    Box::new(move || {
        let _ = net.forward(x.clone(), &times(batch), 0).sum().into_scalar::<f32>();
    })
}

fn resnet(device: &Device, network: &Network) -> ResNet {
    weights::initialise(ResNet::new(network, device), Seed(1))
}

fn resnet_train(device: &Device, network: &Network, batch: usize, size: usize) -> Box<dyn FnMut()> {
    let device = device.clone().autodiff();
    let x = noise([batch, 3, size, size], &device);
    let truth = (0..batch * CLASSES).map(|at| f32::from(at % CLASSES == at / CLASSES % CLASSES)).collect::<Vec<_>>();
    let truth = Tensor::<2>::from_data(TensorData::new(truth, [batch, CLASSES]), &device);
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let mut rule = NamedOptimizer::new(SgdConfig::new().with_momentum(Some(momentum)).build());
    let (mut moving, mut step) = (Some(resnet(&device, network)), 0);
    Box::new(move || {
        let Some(net) = moving.take() else { return };
        let scores = net.forward(x.clone(), Some(&mut random::stream(Seed(1), "dropout", step)));
        let loss = (log_softmax(scores, 1) * truth.clone()).sum() / -(batch as f64);
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        moving = Some(rule.step(1e-3, net, gradients));
        step += 1;
        let _ = loss.into_scalar::<f32>();
    })
}

fn resnet_infer(device: &Device) -> Box<dyn FnMut()> {
    let (net, x) = (resnet(device, &Network::default()), noise([PATCHES, 3, PATCH, PATCH], device));
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use domain::study::experiment::Scale;
    use domain::study::overrides;
    use domain::study::plan::{Data, plan};

    use super::*;

    #[test]
    fn the_trainings_of_a_study_are_measured_soon() {
        let experiment = overrides::resolve(Scale::Smoke, None, &[]).unwrap();
        let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
        let measured = measure(&experiment, &plan, 1, Duration::from_secs(1)).unwrap();
        assert_eq!(
            measured.iter().map(|each| each.stage).collect::<Vec<_>>(),
            [StageKind::SinddmTrain, StageKind::ClassifyTrain]
        );
        for each in measured {
            let speed = each.flop / each.seconds;
            assert!((1e6..1e13).contains(&speed), "{speed} FLOP/s in {each:?}");
        }
    }

    #[test]
    fn where_there_is_no_time_two_pictures_are_enough() {
        let taken = RefCell::new(vec![]);
        let size = |flop| SizedStep {
            flop,
            batch: 8,
            prepare: Box::new(|batch| -> Box<dyn FnMut()> {
                taken.borrow_mut().push(batch);
                Box::new(|| ())
            }),
        };
        assert!(speed(&[size(1e9), size(1e10)], Duration::ZERO).is_some());
        assert!(speed(&[size(50e9)], Duration::ZERO).is_some(), "one picture, where two are too large");
        assert_eq!(speed(&[size(1e12)], Duration::MAX), None);
        assert_eq!(taken.take(), [2, 1]);
    }
}
