//! Seconds of a forward pass and of a training step of the full SinDDM network,
//! in both precisions, beside PyTorch's in the same run if `LITHOGEN_PYTHON`, or
//! `python3`, has it.
//!
//! LITHOGEN_TEST_DEVICE names the processor, a kind of `--device`. Arguments are
//! cases, `WIDTHxHEIGHTxBATCH`; by default one that the kind of processor can do
//! in a few minutes.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::process::Command;
use std::time::Instant;

use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use domain::seed::Seed;
use domain::study::experiment::{Precision, Sinddm};
use science::models::sinddm::SinDdm;
use science::training::optimizer::NamedOptimizer;
use science::training::precision;
use science::{device, random, weights};
use serde_json::Value;

const REPEATS: usize = 5;

fn main() {
    let kind = std::env::var("LITHOGEN_TEST_DEVICE").unwrap_or("cpu".to_owned());
    let device = device::Kind::parse(&kind).and_then(device::Kind::open).unwrap();
    let asked: Vec<[usize; 3]> = std::env::args().filter_map(|argument| case(&argument)).collect();
    let cases = if !asked.is_empty() {
        asked
    } else if kind == "cpu" {
        vec![[132, 100, 8]]
    } else {
        vec![[132, 100, 8], [264, 200, 32]]
    };
    println!("case | precision | what | s, forward | s, training step | of PyTorch's");
    for [width, height, batch] in cases {
        for number in [Precision::F32, Precision::Bf16] {
            let name = serde_json::to_value(number).unwrap();
            let name = name.as_str().unwrap();
            let row = |what: &str, forward: f64, train: f64, of: &str| {
                println!("{width}x{height}x{batch} | {name} | {what} | {forward:.4} | {train:.4} | {of}");
            };
            let [forward, train] = ours(number, [batch, 3, height, width], &device);
            row(&format!("lithogen, {kind}"), forward, train, "");
            for other in pytorch(&kind, name, [width, height, batch]) {
                let way = other["way"].as_str().unwrap_or_default();
                match (other["forward"].as_f64(), other["train"].as_f64()) {
                    (Some(theirs), Some(step)) => {
                        let of = format!("{:.2} {:.2}", forward / theirs, train / step);
                        row(&format!("PyTorch {}, {way}, {}", other["torch"], other["on"]), theirs, step, &of);
                    }
                    _ => println!("PyTorch, {way}: {}", other["error"]),
                }
            }
        }
    }
}

fn case(argument: &str) -> Option<[usize; 3]> {
    let sides: Vec<usize> = argument.split('x').map(str::parse).collect::<Result<_, _>>().ok()?;
    sides.try_into().ok()
}

/// Seconds of a forward pass and of a training step.
fn ours(number: Precision, shape: [usize; 4], device: &Device) -> [f64; 2] {
    let learning = device.clone().autodiff();
    let values = |purpose: &str| random::normals(&mut random::stream(Seed(1), purpose, 0), shape.iter().product());
    let x = TensorData::new(values("x"), shape);
    let times: Vec<u32> = (0..shape[0] as u32).collect();
    let net = || weights::initialise(SinDdm::new(Sinddm::default().dim as usize, &learning), Seed(1));

    let still = {
        use burn::module::Module;
        precision::cast(&net(), number).valid()
    };
    let plain = Tensor::<4>::from_data(x.clone(), device);
    let forward = median(device, || {
        let _ = still.forward(plain.clone(), &times, 0).sum().into_scalar::<f32>();
    });

    let mut adam = NamedOptimizer::new(AdamConfig::new().build());
    let mut moving = Some(net());
    let x = Tensor::<4>::from_data(x, &learning);
    let train = median(device, || {
        let net = moving.take().unwrap();
        let computing = precision::cast(&net, number);
        let loss = (computing.forward(x.clone(), &times, 0) - x.clone()).abs().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &computing);
        moving = Some(adam.step(1e-3, net, precision::widened(gradients, &computing)));
        let _ = loss.into_scalar::<f32>();
    });
    [forward, train]
}

/// Of several runs after one that is not counted.
fn median(device: &Device, mut work: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..=REPEATS)
        .map(|_| {
            device.sync().unwrap();
            let began = Instant::now();
            work();
            device.sync().unwrap();
            began.elapsed().as_secs_f64()
        })
        .skip(1)
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[REPEATS / 2]
}

/// What PyTorch takes, in each of its ways; nothing where it is not installed.
fn pytorch(kind: &str, precision: &str, case: [usize; 3]) -> Vec<Value> {
    let python = std::env::var("LITHOGEN_PYTHON").unwrap_or("python3".to_owned());
    // It knows the GPUs that are NVIDIA's, by whichever way we reach them.
    let device = if kind == "cpu" { "cpu" } else { "cuda" };
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/step.py")).args([device, precision]);
    command.args(case.map(|number| number.to_string())).arg(REPEATS.to_string());
    let Ok(output) = command.output() else { return vec![] };
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    if lines.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("no PyTorch beside it: {}", said.lines().last().unwrap_or_default());
    }
    lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
