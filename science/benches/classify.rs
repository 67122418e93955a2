//! Patches per second of ResNet50's training on 256×256 patches, beside PyTorch's in
//! the same run if `LITHOGEN_PYTHON`, or `python3`, has it; and of the input pipeline
//! alone: read, turn, flip, normalise.
//! Wanted: ten times the training's.
//!
//! LITHOGEN_TEST_DEVICE names the processor. The argument is the batch (24).

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::process::Command;
use std::time::Instant;

use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor, TensorData};
use domain::seed::Seed;
use domain::study::experiment::{Network, Whiten};
use domain::study::stone::CLASSES;
use image::{Rgb, RgbImage};
use science::data::augment::Augmentation;
use science::data::packed::{self, Row};
use science::data::patchset::PatchSet;
use science::layers::activation::log_softmax;
use science::models::resnet::ResNet;
use science::training::optimizer::NamedOptimizer;
use science::{device, random, weights};
use serde_json::Value;

/// Steps that are timed, after one that is not.
const REPEATS: usize = 3;

/// Width and height of a patch.
const SIZE: usize = 256;

/// Patches in the file: more than fit a processor's caches.
const PATCHES: usize = 960;

fn main() {
    let kind = std::env::var("LITHOGEN_TEST_DEVICE").unwrap_or("cpu".to_owned());
    let device = device::Kind::parse(&kind).and_then(device::Kind::open).unwrap();
    let batch = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(24);
    println!("what | patches/s | ratio");
    let input = input(batch);
    let train = train(batch, &device);
    println!("ResNet50's training step, lithogen, {kind} | {train:.2} | ");
    println!("input alone | {input:.0} | {:.1} of the training's, wanted 10", input / train);
    for other in pytorch(&kind, batch) {
        match other["patches"].as_f64() {
            Some(theirs) => println!(
                "ResNet50's training step, PyTorch {}, {}, {} | {theirs:.2} | lithogen's time is {:.2} of it",
                other["torch"],
                other["way"],
                other["on"],
                theirs / train
            ),
            None => println!("PyTorch, {}: {}", other["way"], other["error"]),
        }
    }
}

/// Patches per second that become batches.
fn input(batch: usize) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.safetensors");
    let mut rng = random::stream(Seed(1), "pixels", 0);
    let patch =
        RgbImage::from_fn(SIZE as u32, SIZE as u32, |_, _| Rgb([0; 3].map(|_: u8| random::below(&mut rng, 256) as u8)));
    let rows: Vec<Row<'_>> = (0..PATCHES as u32).map(|id| Row { patch: &patch, label: 0, id }).collect();
    packed::write(&path, &rows, SIZE).unwrap();
    let set = PatchSet::open(&path).unwrap();
    let normalisation = set.normalisation(Whiten::None);
    let mut order: Vec<usize> = (0..PATCHES).collect();
    random::shuffle(&mut rng, &mut order);
    let began = Instant::now();
    for batch in order.chunks(batch) {
        let drawn: Vec<_> = batch.iter().map(|&index| Augmentation::draw(Seed(1), 0, index, true, false)).collect();
        std::hint::black_box(set.values(batch, &drawn, &normalisation));
    }
    PATCHES as f64 / began.elapsed().as_secs_f64()
}

/// Patches per second that ResNet50 with the paper's head learns from.
fn train(batch: usize, device: &Device) -> f64 {
    let learning = device.clone().autodiff();
    let values = random::normals(&mut random::stream(Seed(1), "x", 0), batch * 3 * SIZE * SIZE);
    let x = Tensor::<4>::from_data(TensorData::new(values, [batch, 3, SIZE, SIZE]), &learning);
    let truth: Vec<f32> = (0..batch * CLASSES).map(|at| f32::from(at % CLASSES == at / CLASSES % CLASSES)).collect();
    let truth = Tensor::<2>::from_data(TensorData::new(truth, [batch, CLASSES]), &learning);
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let mut sgd = NamedOptimizer::new(SgdConfig::new().with_momentum(Some(momentum)).build());
    let mut net = weights::initialise(ResNet::new(&Network::default(), &learning), Seed(1));
    let mut seconds = Vec::new();
    for step in 0..=REPEATS as u64 {
        device.sync().unwrap();
        let began = Instant::now();
        let mut dropping = random::stream(Seed(1), "dropout", step);
        let scores = net.forward(x.clone(), Some(&mut dropping));
        let loss = (log_softmax(scores, 1) * truth.clone()).sum() / -(batch as f64);
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = sgd.step(1e-3, net, gradients);
        let _ = loss.into_scalar::<f32>();
        device.sync().unwrap();
        seconds.push(began.elapsed().as_secs_f64());
    }
    let mut counted = seconds.split_off(1);
    counted.sort_by(f64::total_cmp);
    batch as f64 / counted[REPEATS / 2]
}

/// What PyTorch takes, in each of its ways; nothing where it is not installed.
fn pytorch(kind: &str, batch: usize) -> Vec<Value> {
    let python = std::env::var("LITHOGEN_PYTHON").unwrap_or("python3".to_owned());
    let device = if kind == "cpu" { "cpu" } else { "cuda" };
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/classify.py"));
    command.args([device, &batch.to_string(), &REPEATS.to_string()]);
    let Ok(output) = command.output() else { return vec![] };
    if output.stdout.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("no PyTorch beside it: {}", said.lines().last().unwrap_or_default());
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
