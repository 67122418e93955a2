//! Samples pictures from one diffusion model, coarse to fine (ALGORITHM 2.6).

use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor, TensorData};
use domain::experiment::Sampling;
use domain::stage::{Failure, FailureCode, Monitor, Progress};
use image::RgbImage;
use rand_chacha::ChaCha8Rng;

use super::Attempt;
use crate::data::{foreground, picture, tensors};
use crate::models::diffusion::{Reblurring, Schedule};
use crate::models::sinddm::SinDdm;
use crate::records::{self, DiffusionRecord, SamplesRecord};
use crate::{random, weights};

/// Grey level above which a pixel shows something, 0..255. Fixed rather than
/// fitted to the picture: a fitted threshold finds two halves in an empty one.
const FOREGROUND_LEVEL: u8 = 24;

/// Share of foreground below which a sample counts as empty.
const EMPTY_BELOW: f64 = 0.02;

/// Time between progress reports.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// Pictures in a row of the contact sheet, and pixels of each.
const SHEET: (u32, u32) = (5, 132);

/// Writes `images/NNN.png`, `sheet.png` and `samples.json`. The noise of sample
/// i depends on the seed and i alone, not on the batch it is drawn in.
///
/// # Errors
/// If the model cannot be read, a picture is not a number, or the attempt was
/// told to stop.
pub fn run(sampling: &Sampling, attempt: Attempt<'_>) -> Result<(), Failure> {
    let input = attempt.folder.input("model");
    let record: DiffusionRecord = records::read(&input.join("training.json"))?;
    let net = SinDdm::new(record.sinddm.dim as usize, attempt.device);
    let model = Model {
        net: weights::load(net, &input.join("model.safetensors"))?,
        schedule: Schedule::new(record.sinddm.timesteps, &record.rescale_losses),
        record,
    };
    let mut watch = Watch::new(attempt.monitor, u64::from(sampling.per_model), &model.record.sampling_steps);

    let mut images: Vec<RgbImage> = Vec::new();
    let all: Vec<u64> = (0..u64::from(sampling.per_model)).collect();
    for batch in all.chunks(sampling.batch.max(1) as usize) {
        let mut streams: Vec<ChaCha8Rng> = batch.iter().map(|&i| random::stream(attempt.seed, "sample", i)).collect();
        images.extend(model.sample(sampling, &mut streams, &mut watch, attempt.device)?);
    }

    for (i, image) in images.iter().enumerate() {
        picture::save_png(&attempt.folder.output(&format!("images/{i:03}.png")), image)?;
    }
    let sheet = picture::contact_sheet(&images, SHEET.0, SHEET.1);
    picture::save_png(&attempt.folder.output("sheet.png"), &sheet)?;
    let foreground: Vec<f64> = images.iter().map(foreground_share).collect();
    let empty = foreground.iter().filter(|share| **share < EMPTY_BELOW).count() as u32;
    let size = model.finest();
    records::write(&attempt.folder.output("samples.json"), &SamplesRecord { size, foreground, empty })
}

struct Model {
    net: SinDdm,
    schedule: Schedule,
    record: DiffusionRecord,
}

impl Model {
    /// Width and height of the samples.
    fn finest(&self) -> [u32; 2] {
        self.record.sizes.last().copied().unwrap_or_default()
    }

    /// One sample per stream.
    fn sample(
        &self,
        sampling: &Sampling,
        streams: &mut [ChaCha8Rng],
        watch: &mut Watch<'_>,
        device: &Device,
    ) -> Result<Vec<RgbImage>, Failure> {
        let count = streams.len();
        let mut pixels: Vec<f32> = Vec::new(); // of the scale before, sample after sample
        let mut before = [0, 0];
        let scales = self.record.sizes.iter().zip(&self.record.sampling_steps).enumerate();
        for (scale, (&size, &steps)) in scales {
            let shape = [count, 3, size[1] as usize, size[0] as usize];
            let mut noise = || normal(streams, shape, device);
            let predict = |x: &Tensor<4>, t: u32| self.net.forward(x.clone(), &vec![t; count], scale);
            let x = if scale == 0 {
                let mut x = noise();
                for t in (0..steps).rev() {
                    watch.step(count)?;
                    x = self.schedule.ancestral_step(x.clone(), predict(&x, t), t as usize, noise());
                }
                x
            } else {
                let upsampled = TensorData::new(tensors::upsample(&pixels, before, size), shape);
                let upsampled = Tensor::<4>::from_data(upsampled, device);
                // On purpose one step noisier than the first prediction, as the reference does.
                let mut x = self.schedule.renoise(upsampled.clone(), steps as usize, noise());
                for t in (0..steps).rev() {
                    watch.step(count)?;
                    let fresh = (sampling.omega > 0.0).then(&mut noise);
                    let at =
                        Reblurring { scale, t: t as usize, omega: sampling.omega, gamma_clip: sampling.gamma_clip };
                    x = self.schedule.reblurring_step(x.clone(), predict(&x, t), upsampled.clone(), fresh, at);
                }
                x
            };
            pixels = x.into_data().iter::<f32>().collect();
            before = size;
            if pixels.iter().any(|value| !value.is_finite()) {
                let message = format!("a sample is not a number at scale {scale}: the model is not usable");
                return Err(Failure::new(FailureCode::NotANumber, message));
            }
        }
        let each = 3 * (before[0] * before[1]) as usize;
        Ok(pixels.chunks_exact(each.max(1)).map(|sample| tensors::to_image(sample, before)).collect())
    }
}

/// Noise for every sample from its own stream.
fn normal(streams: &mut [ChaCha8Rng], shape: [usize; 4], device: &Device) -> Tensor<4> {
    let each = shape[1] * shape[2] * shape[3];
    let values: Vec<f32> = streams.iter_mut().flat_map(|stream| random::normals(stream, each)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn foreground_share(image: &RgbImage) -> f64 {
    let grey = foreground::grey(image).into_raw();
    let bright = grey.iter().filter(|level| **level > FOREGROUND_LEVEL).count();
    bright as f64 / grey.len().max(1) as f64
}

/// Progress over all batches, in network calls times samples.
struct Watch<'a> {
    monitor: &'a mut dyn Monitor,
    samples: u64,
    steps: u64,
    done: u64,
    reported: Instant,
}

impl<'a> Watch<'a> {
    fn new(monitor: &'a mut dyn Monitor, samples: u64, sampling_steps: &[u32]) -> Self {
        let steps = sampling_steps.iter().map(|&steps| u64::from(steps)).sum();
        Self { monitor, samples, steps, done: 0, reported: Instant::now() }
    }

    /// Called before each step of `count` samples.
    fn step(&mut self, count: usize) -> Result<(), Failure> {
        if self.monitor.stopping() {
            return Err(Failure::new(FailureCode::Preempted, "told to stop while sampling"));
        }
        self.done += count as u64;
        let total = self.samples * self.steps;
        if self.reported.elapsed() >= REPORT_EVERY || self.done == total {
            self.reported = Instant::now();
            let note = format!("sample {}/{}", self.done / self.steps.max(1), self.samples);
            self.monitor.progress(Progress { done: self.done, total, note });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use domain::seed::Seed;
    use domain::stage::{Folder, Unwatched};

    use super::super::sinddm_train;
    use super::*;

    /// Samples from a small model in `root`; the bytes of its pictures.
    fn sample(batch: u32, omega: f64, seed: u64, root: &Path) -> Vec<Vec<u8>> {
        let folder = Folder::new(root);
        let small = sinddm_train::tests::small();
        sinddm_train::tests::train(&small, 7, root, &mut Unwatched).unwrap();
        fs::rename(folder.outputs(), folder.input("model")).unwrap();
        let sampling = Sampling { per_model: 3, batch, omega, ..Sampling::default() };
        let device = Device::flex();
        let attempt = Attempt { seed: Seed(seed), folder: &folder, monitor: &mut Unwatched, device: &device };
        run(&sampling, attempt).unwrap();
        let record: SamplesRecord = records::read(&folder.output("samples.json")).unwrap();
        assert_eq!((record.size, record.foreground.len()), ([21, 16], 3));
        assert!(folder.output("sheet.png").exists());
        (0..3).map(|i| fs::read(folder.output(&format!("images/{i:03}.png"))).unwrap()).collect()
    }

    #[test]
    fn a_sample_depends_on_its_number_and_the_seed_but_not_on_the_batch() {
        let root = tempfile::tempdir().unwrap();
        let all = sample(3, 0.0, 7, &root.path().join("all"));
        assert_eq!(all, sample(1, 0.0, 7, &root.path().join("single")));
        assert_ne!(all, sample(3, 0.0, 8, &root.path().join("seed")));
        assert_ne!(all[0], all[1]);
    }

    #[test]
    fn fresh_noise_changes_the_samples() {
        let root = tempfile::tempdir().unwrap();
        let calm = sample(3, 0.0, 7, &root.path().join("calm"));
        assert_ne!(calm, sample(3, 0.5, 7, &root.path().join("fresh")));
    }
}
