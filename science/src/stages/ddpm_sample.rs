//! Samples pictures from one plain diffusion model (Ho et al., NeurIPS 2020;
//! with fewer steps Song et al., ICLR 2021).

use burn::tensor::{Tensor, TensorData};
use domain::study::experiment::{DdpmMethod, DdpmSampling};
use domain::study::records::{DdpmRecord, Record};
use domain::study::stage::{Failure, InputName, Stage};
use image::RgbImage;

use super::Attempt;
use crate::checkpoint::Checkpoints;
use crate::data::gate::Gate;
use crate::data::tensors;
use crate::diffusion::sampler::normals;
use crate::diffusion::samples;
use crate::diffusion::schedule::Schedule;
use crate::files;
use crate::models::ddpm::Unet;
use crate::progress::Watch;
use crate::weights::{self, Array, Arrays};

/// Writes `images/NNN.png`, `sheet.png` and `samples.json`. The noise of sample
/// i depends on the seed and i alone, not on the batch it is drawn in.
///
/// # Errors
/// If the model cannot be read, a picture is not a number, or the attempt was
/// told to stop.
pub fn run(sampling: &DdpmSampling, attempt: Attempt<'_>) -> Result<(), Failure> {
    let input = attempt.folder.input(InputName::Model(None));
    let record: DdpmRecord = files::read(&input.join(DdpmRecord::FILE))?;
    let training = &record.training;
    let net = Unet::new(training.dim as usize, &training.mults, attempt.device);
    let net = weights::load(net, &input.join("model.safetensors"))?;
    let schedule = Schedule::linear(training.timesteps);
    let times = times(sampling, training.timesteps);
    let side = training.size as usize;
    let all: Vec<u64> = (0..u64::from(sampling.per_class_view)).collect();
    let total = times.len() as u64 * all.chunks(sampling.batch.max(1) as usize).len() as u64;

    let stage = Stage::DdpmSample { sampling: sampling.clone() };
    let mut checkpoints = Checkpoints::new(&stage, attempt.seed, attempt.folder)?;
    let each = Each { steps: times.len() as u64, batch: sampling.batch.max(1), all: all.len(), side };
    let resumed = checkpoints.resume(attempt.monitor, |done, state| Made::from_state(state, done, &each));
    let Made { done, x: mut begun, mut images } = resumed.unwrap_or_default();
    let mut watch = Watch::new(attempt.monitor, total);
    for numbers in all.chunks(sampling.batch.max(1) as usize) {
        let shape = [numbers.len(), 3, side, side];
        let noise = |purpose: &str| normals(attempt.seed, purpose, numbers, shape, attempt.device);
        let mut x: Option<Tensor<4>> = None;
        for (place, &t) in times.iter().enumerate() {
            watch.done += 1;
            if watch.done <= done {
                continue; // made before the stop
            }
            if let Some(values) = begun.take() {
                x = Some(Tensor::from_data(TensorData::new(values, shape), attempt.device));
            }
            checkpoints.visit(watch.done - 1, watch.monitor, || Ok(state(x.as_ref(), &images)))?;
            let from = x.take().unwrap_or_else(|| noise("sample.init"));
            let predicted = net.forward(from.clone(), &vec![t; numbers.len()]);
            x = Some(match sampling.method {
                DdpmMethod::Ancestral => {
                    let noise = (t > 0).then(|| noise(&format!("sample.t{t}")));
                    schedule.ancestral_step(from, predicted, t as usize, noise, |clean| clean)
                }
                DdpmMethod::Ddim => {
                    let earlier = times.get(place + 1).map(|&t| t as usize);
                    schedule.implicit_step(from, predicted, t as usize, earlier)
                }
            });
            watch.report(format_args!("sample {}/{}", images.len(), all.len()));
        }
        if let Some(x) = x {
            let values: Vec<f32> = x.into_data().iter::<f32>().collect();
            samples::check(&values, numbers)?;
            let size = [training.size; 2];
            images.extend(values.chunks_exact(3 * side * side).map(|sample| tensors::to_image(sample, size)));
        }
    }
    let gate = Gate::new(&record.reals);
    watch.monitor.log(&gate.summary(&images));
    samples::write(&images, &gate, vec![], attempt.device, attempt.folder)
}

/// The times of the predictions, latest first: all, or some evenly spaced.
fn times(sampling: &DdpmSampling, timesteps: u32) -> Vec<u32> {
    let count = match sampling.method {
        DdpmMethod::Ancestral => timesteps,
        DdpmMethod::Ddim => sampling.ddim_steps.clamp(1, timesteps),
    };
    (1..=count).rev().map(|k| (u64::from(k) * u64::from(timesteps) / u64::from(count)) as u32 - 1).collect()
}

/// The state of sampling between two steps.
#[derive(Default)]
struct Made {
    /// The number of steps done.
    done: u64,
    /// The batch at hand.
    x: Option<Vec<f32>>,
    /// The finished samples.
    images: Vec<RgbImage>,
}

/// The sizes of sampling.
struct Each {
    /// The number of steps of a batch.
    steps: u64,
    /// The number of samples of a batch.
    batch: u32,
    /// The number of samples.
    all: usize,
    /// Width and height in pixels.
    side: usize,
}

impl Each {
    /// The number of samples that are finished and of those at hand after so many steps.
    fn after(&self, done: u64) -> [usize; 2] {
        let batch = self.batch as usize;
        let finished = usize::try_from(done / self.steps).unwrap_or(usize::MAX).saturating_mul(batch).min(self.all);
        let at_hand = if done.is_multiple_of(self.steps) { 0 } else { batch.min(self.all - finished) };
        [finished, at_hand]
    }
}

impl Made {
    /// The state after so many steps, from the tensors of [`state`].
    fn from_state(mut state: Arrays, done: u64, each: &Each) -> Result<Self, Failure> {
        let images = weights::take(&mut state, "images");
        let images: Option<Vec<RgbImage>> = images.values().map(weights::to_picture).collect();
        let (images, x) = (images.unwrap_or_default(), state.remove("x"));
        let sides = (each.side as u32, each.side as u32);
        let [finished, at_hand] = each.after(done);
        let shape = x.as_ref().map_or_else(Vec::new, |x| x.shape.clone());
        let expected = if at_hand == 0 { vec![] } else { vec![at_hand, 3, each.side, each.side] };
        if images.len() != finished || images.iter().any(|image| image.dimensions() != sides) || shape != expected {
            return Err(Failure::invalid_input(format!("its samples are not those of {done} steps")));
        }
        Ok(Self { done, x: x.map(|array| array.values), images })
    }
}

fn state(x: Option<&Tensor<4>>, images: &[RgbImage]) -> Arrays {
    let mut state = Arrays::new();
    state.extend(x.map(|x| ("x".to_owned(), Array::from_tensor(x))));
    let named = images.iter().enumerate();
    state.extend(named.map(|(number, image)| (format!("images.{number:06}"), weights::of_picture(image))));
    state
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use burn::tensor::Device;
    use domain::seed::Seed;
    use domain::study::stage::{Folder, Monitor, Unwatched};

    use super::super::ddpm_train;
    use super::*;
    use crate::checkpoint::tests::{changes_nothing, outputs};

    fn draw(sampling: &DdpmSampling, root: &Path, monitor: &mut dyn Monitor) -> Result<Folder, Failure> {
        let folder = Folder::new(root);
        if !folder.input(InputName::Model(None)).exists() {
            ddpm_train::tests::train(&ddpm_train::tests::small(), root, &mut Unwatched).unwrap();
            fs::rename(folder.outputs(), folder.input(InputName::Model(None))).unwrap();
        }
        let device = Device::flex();
        run(sampling, Attempt { seed: Seed(7), folder: &folder, monitor, device: &device, memory: 0 }).map(|()| folder)
    }

    #[test]
    fn stopping_and_going_on_elsewhere_changes_no_byte() {
        let sampling = DdpmSampling { per_class_view: 3, batch: 2, ..DdpmSampling::default() };
        changes_nothing(&[1, 19, 20, 33], &|root, monitor| draw(&sampling, root, monitor));
    }

    #[test]
    fn both_methods_draw_samples_that_depend_on_their_numbers_alone() {
        let root = tempfile::tempdir().unwrap();
        let of = |sampling: &DdpmSampling| outputs(&draw(sampling, root.path(), &mut Unwatched).unwrap());
        let all = DdpmSampling { per_class_view: 3, ..DdpmSampling::default() };
        let ddim = DdpmSampling { method: DdpmMethod::Ddim, ddim_steps: 5, ..all.clone() };
        for sampling in [&all, &ddim] {
            assert_eq!(of(sampling), of(&DdpmSampling { batch: 1, ..sampling.clone() }));
        }
        assert_ne!(of(&all), of(&ddim));
    }

    #[test]
    fn fewer_steps_are_spread_over_all_times() {
        let of = |method, ddim_steps| times(&DdpmSampling { method, ddim_steps, ..DdpmSampling::default() }, 10);
        assert_eq!(of(DdpmMethod::Ancestral, 3), (0..10).rev().collect::<Vec<_>>());
        assert_eq!(of(DdpmMethod::Ddim, 5), [9, 7, 5, 3, 1]);
        assert_eq!(of(DdpmMethod::Ddim, 99), (0..10).rev().collect::<Vec<_>>());
    }
}
