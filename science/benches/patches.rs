//! Cutting patches from pictures of the paper's size: how many pictures a second, beside
//! what opening them takes, and how much memory a view needs; then making batches of patches.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use domain::seed::Seed;
use domain::study::experiment::{Patch, Pick, Whiten};
use domain::study::stage::{Choice, Folder, Ingest, Patches, Stage, Unwatched};
use domain::study::stone::{Dataset, View};
use domain::study::trial::Split;
use image::{ImageFormat, Rgb, RgbImage};
use rayon::prelude::*;
use science::data::augment::Augmentation;
use science::data::packed::{self, Row};
use science::data::patchset::PatchSet;
use science::data::{batch, phantom, picture};
use science::random;
use science::stages::{self, Attempt};

/// As the larger photographs of A.
const SIZE: [u32; 2] = [4288, 2848];

/// Pictures of each class.
const PICTURES: u32 = 4;

/// Pictures of A in the paper, over both views.
const OF_THE_PAPER: u32 = 366;

/// Wanted pictures a second, and memory.
const WANTED: (f64, f64) = (5.0, 2048.0);

fn main() {
    let root = tempfile::tempdir().unwrap();
    let images = 6 * PICTURES;
    println!("{images} pictures of {}x{} on {} threads", SIZE[0], SIZE[1], rayon::current_num_threads());
    println!("files | MiB each | opened a second | ingest a second | patches a second | ÷ wanted");
    // Patches per picture as in the paper, on average.
    let few = Patch { per_class_view: 12_000 / OF_THE_PAPER * PICTURES, ..Patch::default() };
    for (ending, format) in [("png", ImageFormat::Png), ("jpg", ImageFormat::Jpeg)] {
        let folder = Folder::new(root.path().join(ending));
        let files = draw(&folder, ending, format);
        let size = files.iter().map(|path| path.metadata().unwrap().len()).sum::<u64>() as f64 / files.len() as f64;
        let rate = |work: &mut dyn FnMut()| {
            let began = Instant::now();
            work();
            f64::from(images) / began.elapsed().as_secs_f64()
        };
        let opened = rate(&mut || {
            batch::map(&files, "picture", &mut Unwatched, |path| picture::open_rgb8(path).map(drop)).unwrap();
        });
        let ingested = rate(&mut || ingest(&folder));
        let cut = rate(&mut || patches(&folder, &few));
        println!(
            "{ending} | {:.1} | {opened:.1} | {ingested:.1} | {cut:.1} | {:.2}",
            size / f64::from(1 << 20),
            cut / WANTED.0
        );
    }
    // A view has as many patches whatever its pictures: 1000 of each class.
    let before = peak_mib();
    patches(&Folder::new(root.path().join("png")), &Patch::default());
    let peak = peak_mib();
    println!(
        "peak of all above {before:.0} MiB, with 6000 patches of a view {peak:.0} MiB, ÷ wanted {:.2}",
        peak / WANTED.1
    );
    println!("patches of a mapped file turned, flipped and normalised a second: {:.0}", turned());
}

/// Draws pictures into the class folders of a view; returns their files.
fn draw(folder: &Folder, ending: &str, format: ImageFormat) -> Vec<PathBuf> {
    let classes = Dataset::A.classes();
    let jobs: Vec<_> = classes.iter().flat_map(|class| (0..PICTURES).map(move |index| (*class, index))).collect();
    let draw = |(class, index): &_| {
        let path = folder.inputs().join(format!("raw.{class}")).join(format!("{index}.{ending}"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        phantom::stone(Dataset::A, View::Sur, *class, SIZE, Seed(1), *index).save_with_format(&path, format).unwrap();
        path
    };
    jobs.par_iter().map(draw).collect()
}

fn run(folder: &Folder, stage: &Stage) {
    let device = Device::flex();
    stages::run(stage, Attempt { seed: Seed(1), folder, monitor: &mut Unwatched, device: &device, memory: 0 }).unwrap();
}

/// Patches a second that become batches of a training. Wanted: ten times what the training takes.
fn turned() -> f64 {
    const SIZE: usize = 256;
    // More than fit a processor's caches.
    const PATCHES: usize = 960;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("train.safetensors");
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
    for batch in order.chunks(24) {
        let drawn: Vec<_> = batch.iter().map(|&index| Augmentation::draw(Seed(1), 0, index, true, false)).collect();
        std::hint::black_box(set.values(batch, &drawn, &normalisation));
    }
    PATCHES as f64 / began.elapsed().as_secs_f64()
}

fn ingest(folder: &Folder) {
    let (dataset, view, stones) = (Dataset::A, View::Sur, Default::default());
    let choice = Some(Choice { images: 2, pick: Pick::RandomFromTrainSplit, seed: Seed(1) });
    run(folder, &Stage::Ingest(Ingest { dataset, view, choice, min_side: 256, stones }));
    let made: &Path = &folder.output("images.json");
    std::fs::create_dir_all(folder.inputs().join("ingest")).unwrap();
    std::fs::rename(made, folder.inputs().join("ingest").join("images.json")).unwrap();
}

fn patches(folder: &Folder, patch: &Patch) {
    let (dataset, view, split) = (Dataset::A, View::Sur, Split::default());
    run(folder, &Stage::Patches(Patches { dataset, view, split, patch: patch.clone(), pad: None }));
}

/// Most memory that this process has had.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}
