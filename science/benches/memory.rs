//! Memory and pace of 1000 steps of training: neither may change on the way.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::time::Instant;

use burn::tensor::Device;
use domain::resources::CPU_MEMORY_BYTES;
use domain::seed::Seed;
use domain::study::experiment::Sinddm;
use domain::study::stage::{Folder, Monitor, Progress};
use image::RgbImage;
use science::stages::{Attempt, sinddm_train};

/// Prints memory now and then.
struct Watch {
    began: Instant,
}

impl Monitor for Watch {
    fn progress(&mut self, _: Progress) {}

    fn stopping(&self) -> bool {
        false
    }

    fn checkpoint_due(&mut self, step: u64) -> bool {
        if step.is_multiple_of(100) {
            println!("{step} | {:.1} | {:.1}", self.began.elapsed().as_secs_f64(), memory_mib());
        }
        false
    }
}

fn main() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::new(root.path());
    std::fs::create_dir_all(folder.inputs().join("pad").join("images")).unwrap();
    let texture = RgbImage::from_fn(132, 100, |x, y| image::Rgb([(x * y) as u8, x as u8, 90]));
    texture.save(folder.inputs().join("pad").join("images/000.png")).unwrap();
    let sinddm =
        Sinddm { finest: [33, 25].into(), coarsest: Some(12), dim: 16, batch: 8, steps: 1001, ..Sinddm::default() };
    println!("step | seconds | resident MiB");
    let attempt = Attempt {
        seed: Seed(1),
        folder: &folder,
        monitor: &mut Watch { began: Instant::now() },
        device: &Device::flex(),
        memory: CPU_MEMORY_BYTES,
    };
    sinddm_train::run(&sinddm, attempt).unwrap();
}

fn memory_mib() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0);
    resident * 4096.0 / f64::from(1 << 20)
}
