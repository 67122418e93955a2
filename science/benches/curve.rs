//! Trainings of SinDDM beside those that the reference recorded: the mean loss
//! of every tenth of the run over three seeds, and the distance of samples from
//! the picture. Minutes to an hour; needs LITHOGEN_GOLDEN, the folder of
//! reference vectors. Arguments: another number of seeds, and `bf16` for networks
//! that compute in it. LITHOGEN_TEST_DEVICE names another processor, a kind of
//! `--device`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use domain::resources::CPU_MEMORY_BYTES;
use domain::seed::Seed;
use domain::study::experiment::{Features, Fit, Precision, Sampling, Sinddm};
use domain::study::records::SifidRecord;
use domain::study::stage::{EvaluateSifid, Folder, Unwatched};
use science::files;
use science::stages::{Attempt, sifid, sinddm_sample, sinddm_train};
use serde_json::Value;

/// Parts of a run that are compared.
const PARTS: usize = 10;

fn main() {
    let Some(golden) = std::env::var_os("LITHOGEN_GOLDEN") else {
        println!("needs LITHOGEN_GOLDEN");
        return;
    };
    let curve = PathBuf::from(golden).join("sinddm/curve");
    let seeds: u64 = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(3);
    let precision = if std::env::args().any(|argument| argument == "bf16") { Precision::Bf16 } else { Precision::F32 };
    println!("precision: {precision:?}");
    let mut names: Vec<PathBuf> = std::fs::read_dir(&curve).unwrap().map(|file| file.unwrap().path()).collect();
    names.sort();
    let recorded = names.iter().filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("curve_seed"));
    let theirs: Vec<Value> = recorded.map(|path| files::value(path).unwrap()).collect();
    let their_means: Vec<Vec<f64>> = theirs.iter().map(|run| means(&floats(&run["step_loss"]))).collect();
    let root = tempfile::tempdir().unwrap();
    let mut our_means = Vec::new();
    let mut our_distances = Vec::new();
    for seed in 1..=seeds {
        let (losses, distances) = ours(&theirs[0], &curve, precision, seed, &root.path().join(seed.to_string()));
        our_means.push(means(&losses));
        our_distances.push(mean(&distances));
        for (part, ours) in our_means.last().unwrap().iter().enumerate() {
            let theirs: Vec<f64> = their_means.iter().map(|means| means[part]).collect();
            println!("seed {seed} part {part}: {ours:.4}, reference {theirs:.4?}");
        }
    }
    println!("part | ours, mean over seeds | reference, mean ± sample std over seeds | in stds");
    for part in 0..PARTS {
        let of = |runs: &[Vec<f64>]| runs.iter().map(|means| means[part]).collect::<Vec<f64>>();
        let (ours, theirs) = (mean(&of(&our_means)), of(&their_means));
        let off = (ours - mean(&theirs)) / std(&theirs);
        println!("{part} | {ours:.4} | {:.4} ± {:.4} | {off:+.1}", mean(&theirs), std(&theirs));
    }
    let their_distances: Vec<f64> = theirs
        .iter()
        .map(|run| {
            let names: Vec<PathBuf> =
                (0..4).map(|k| curve.join(format!("sample_seed{}_{k}.png", run["seed"]))).collect();
            mean(&distances(&curve, &names, &root.path().join(format!("reference{}", run["seed"]))))
        })
        .collect();
    println!("SIFID on random features, lower is nearer: ours {our_distances:.5?}, reference {their_distances:.5?}");
}

/// The losses of a training with the recorded knobs, and how far its samples are
/// from the picture.
fn ours(run: &Value, curve: &Path, precision: Precision, seed: u64, root: &Path) -> (Vec<f64>, Vec<f64>) {
    let folder = Folder::new(root);
    // The input of every scale, not the finest scale, which has been shrunk already.
    let picture = curve.join("../pyramid/input").join(run["image"].as_str().unwrap());
    std::fs::create_dir_all(folder.inputs().join("pad").join("images")).unwrap();
    std::fs::copy(picture, folder.inputs().join("pad").join("images/000.png")).unwrap();
    let sizes: Vec<[u32; 2]> = serde_json::from_value(run["sizes_wh"].clone()).unwrap();
    let integer = |key: &str| run[key].as_u64().unwrap() as u32;
    let sinddm = Sinddm {
        finest: sizes.last().copied().unwrap().into(),
        fit: Fit::Stretch,
        dim: integer("dim"),
        batch: integer("batch"),
        steps: integer("steps"),
        timesteps: integer("timesteps"),
        lr: run["lr"].as_f64().unwrap(),
        precision,
        ..Sinddm::default()
    };
    let device = science::device::Kind::parse(&std::env::var("LITHOGEN_TEST_DEVICE").unwrap_or("cpu".to_owned()));
    let device = device.and_then(science::device::Kind::open).unwrap();
    let began = Instant::now();
    sinddm_train::run(&sinddm, attempt(seed, &folder, &mut Unwatched, &device)).unwrap();
    println!("seed {seed}: {:.2} s a step", began.elapsed().as_secs_f64() / f64::from(sinddm.steps));
    let csv = std::fs::read_to_string(folder.output("loss.csv")).unwrap();
    let losses = csv.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().parse().unwrap()).collect();
    std::fs::rename(folder.outputs(), folder.inputs().join("model")).unwrap();
    sinddm_sample::run(
        &Sampling { per_model: 4, ..Sampling::default() },
        false,
        attempt(seed, &folder, &mut Unwatched, &device),
    )
    .unwrap();
    let samples: Vec<PathBuf> = (0..4).map(|k| folder.output(&format!("images/{k:03}.png"))).collect();
    (losses, distances(curve, &samples, &root.join("distance")))
}

fn attempt<'a>(seed: u64, folder: &'a Folder, monitor: &'a mut Unwatched, device: &'a Device) -> Attempt<'a> {
    Attempt { seed: Seed(seed), folder, monitor, device, memory: CPU_MEMORY_BYTES }
}

/// Single-image Fréchet distance of each sample from the training picture.
fn distances(curve: &Path, samples: &[PathBuf], root: &Path) -> Vec<f64> {
    let folder = Folder::new(root);
    let copy = |from: &Path, input: &str, number: usize| {
        std::fs::create_dir_all(folder.inputs().join(input).join("images")).unwrap();
        std::fs::copy(from, folder.inputs().join(input).join(format!("images/{number:03}.png"))).unwrap();
    };
    copy(&curve.join("train_scale_last.png"), "real", 0);
    samples.iter().enumerate().for_each(|(number, sample)| copy(sample, "synthetic", number));
    let device = Device::flex();
    let sifid = EvaluateSifid { features: Features::Random, ..EvaluateSifid::default() };
    sifid::run(&sifid, attempt(1, &folder, &mut Unwatched, &device)).unwrap();
    files::read::<SifidRecord>(&folder.output("sifid.json")).unwrap().per_image
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// The mean of every tenth.
fn means(losses: &[f64]) -> Vec<f64> {
    losses.chunks(losses.len().div_ceil(PARTS)).map(mean).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn std(values: &[f64]) -> f64 {
    let centre = mean(values);
    (values.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)).sqrt()
}
