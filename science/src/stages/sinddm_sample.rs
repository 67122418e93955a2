//! Samples pictures from a diffusion model, coarse to fine (ALGORITHM 2.6).

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use domain::study::experiment::Sampling;
use domain::study::records::gate::Traits;
use domain::study::stage::{Failure, Folder, InputName, Stage};
use image::RgbImage;

use super::Attempt;
use crate::checkpoint::Checkpoints;
use crate::data::gate::Gate;
use crate::diffusion::guide::Guide;
use crate::diffusion::model::Model;
use crate::diffusion::sampler::{Canvas, Sampler, Step, normals};
use crate::diffusion::samples;
use crate::progress::Watch;
use crate::weights::{self, Array, Arrays};

/// The largest number of draws of a sample, if those that do not pass the gate are drawn again.
const DRAWS: u32 = 10;

/// Writes `images/NNN.png`, `sheet.png` and `samples.json`. The noise of sample
/// i depends on the seed, i and how often it was drawn before, not on the batch
/// that it is drawn in.
///
/// # Errors
/// If a model cannot be read, a picture is not a number, or the attempt was
/// told to stop.
pub fn run(sampling: &Sampling, reject_empty: bool, attempt: Attempt<'_>) -> Result<(), Failure> {
    let models = models(attempt.folder, attempt.device)?;
    let guide = Guide::default();
    let samplers: Vec<Sampler<'_>> = models.iter().map(|model| model.sampler(sampling, &guide)).collect();
    let reals: Vec<Traits> = models.iter().flat_map(|model| model.record().reals.clone()).collect();
    let gate = Gate::new(&reals);

    let stage = Stage::SinddmSample { sampling: sampling.clone(), reject_empty };
    let mut checkpoints = Checkpoints::new(&stage, attempt.seed, attempt.folder)?;
    let sizes: Vec<[u32; 2]> = samplers.iter().flat_map(|sampler| sampler.sizes.clone()).collect();
    let resumed =
        checkpoints.resume(attempt.monitor, |done, state| Made::from_state(state, done, &sizes, attempt.device));
    let Made { done, mut canvas, samples: mut drawn } = resumed.unwrap_or_default();
    let mut watch = Watch::new(attempt.monitor, 0);

    for round in 0..if reject_empty { DRAWS } else { 1 } {
        // What a checkpoint holds of later rounds is not to change earlier ones.
        let is_due =
            |number: &u64| drawn.get(number).is_none_or(|sample| sample.draws > round || !gate.passes(&sample.image));
        let due: Vec<u64> = (0..u64::from(sampling.per_model)).filter(is_due).collect();
        if round > 0 && !due.is_empty() {
            watch.monitor.log(&format!("{} samples do not pass, draw {} of at most {DRAWS}", due.len(), round + 1));
        }
        let batches = batches(&due, models.len(), sampling.batch);
        watch.total += batches.iter().map(|batch| samplers[batch.model].steps().len() as u64).sum::<u64>();
        for batch in &batches {
            let sampler = &samplers[batch.model];
            for step in sampler.steps() {
                watch.done += 1;
                if watch.done <= done {
                    continue; // made before the stop
                }
                checkpoints.visit(watch.done - 1, watch.monitor, || Ok(state(canvas.as_ref(), &drawn)))?;
                if canvas.as_ref().is_some_and(|canvas| canvas.x.dims()[..2] != [batch.numbers.len(), 3]) {
                    return Err(Failure::invalid_input("the checkpoint is damaged: its batch is another one"));
                }
                let purpose = purpose(round, step);
                canvas = Some(sampler.step(canvas, step, batch.numbers.len(), &mut |shape| {
                    normals(attempt.seed, &purpose, &batch.numbers, shape, attempt.device)
                }));
                watch.report(format_args!("sample {}/{}", drawn.len(), sampling.per_model));
            }
            // What a checkpoint holds of a later batch is not to end an earlier one.
            if watch.done > done
                && let Some(canvas) = canvas.take()
            {
                samples::check(&canvas.x.to_data().iter().collect::<Vec<f32>>(), &batch.numbers)?;
                let newest = sampler.pictures(&canvas).into_iter().map(|image| Sample { draws: round + 1, image });
                drawn.extend(batch.numbers.iter().copied().zip(newest));
            }
        }
    }

    if !drawn.keys().copied().eq(0..u64::from(sampling.per_model)) {
        return Err(Failure::invalid_input("the checkpoint is damaged: samples are missing or too many"));
    }
    let draws = if reject_empty { drawn.values().map(|sample| sample.draws).collect() } else { vec![] };
    let images: Vec<RgbImage> = drawn.into_values().map(|sample| sample.image).collect();
    watch.monitor.log(&gate.summary(&images));
    samples::write(&images, &gate, draws, attempt.device, attempt.folder)
}

/// Tells the noise of a step from that of others, also of other draws of the same sample.
fn purpose(round: u32, step: Step) -> String {
    match round {
        0 => step.purpose(),
        round => format!("again{round}.{}", step.purpose()),
    }
}

/// The input `model`, or `model.0`, `model.1` and so on.
fn models(folder: &Folder, device: &Device) -> Result<Vec<Model>, Failure> {
    let numbered = (0..).map(|number| folder.input(InputName::Model(Some(number)))).take_while(|path| path.exists());
    let numbered = numbered.map(|path| Model::open(&path, device)).collect::<Result<Vec<_>, _>>()?;
    if numbered.is_empty() {
        Ok(vec![Model::open(&folder.input(InputName::Model(None)), device)?])
    } else {
        Ok(numbered)
    }
}

/// Samples that are drawn at once.
#[derive(Debug, PartialEq)]
struct Batch {
    model: usize,
    numbers: Vec<u64>,
}

/// The samples of these numbers by model: the models take turns.
fn batches(samples: &[u64], models: usize, batch: u32) -> Vec<Batch> {
    let of_model = |model: usize| {
        let numbers: Vec<u64> =
            samples.iter().copied().filter(|number| number % models as u64 == model as u64).collect();
        let batches = numbers.chunks(batch.max(1) as usize);
        batches.map(|numbers| Batch { model, numbers: numbers.to_vec() }).collect::<Vec<_>>()
    };
    (0..models).flat_map(of_model).collect()
}

/// A sample as it was drawn last.
#[derive(Debug)]
struct Sample {
    /// The number of times that it was drawn.
    draws: u32,
    image: RgbImage,
}

/// The state of sampling between two steps.
#[derive(Default)]
struct Made {
    /// The number of steps done.
    done: u64,
    /// The batch at hand.
    canvas: Option<Canvas>,
    /// The finished samples by their numbers.
    samples: BTreeMap<u64, Sample>,
}

impl Made {
    /// The state after so many steps, from the tensors of [`state`].
    fn from_state(mut state: Arrays, done: u64, sizes: &[[u32; 2]], device: &Device) -> Result<Self, Failure> {
        let unfit = || Failure::invalid_input("its samples do not fit");
        let finished = weights::take(&mut state, "images").into_iter().map(|(name, array)| {
            let (draws, number) = name.split_once('.')?;
            let sample = Sample { draws: draws.parse().ok()?, image: weights::to_picture(&array)? };
            Some((number.parse().ok()?, sample))
        });
        let samples: BTreeMap<u64, Sample> = finished.collect::<Option<_>>().ok_or_else(unfit)?;
        let mut tensor = |name: &str| {
            let Array { shape, values } = state.remove(name)?;
            let shape: [usize; 4] = shape.try_into().ok()?;
            Some(Tensor::<4>::from_data(TensorData::new(values, shape), device))
        };
        let coarser = tensor("coarser");
        let canvas = tensor("x").map(|x| Canvas { x, coarser });
        let fits = |canvas: &Canvas| {
            let [_, _, height, width] = canvas.x.dims();
            let coarser = canvas.coarser.as_ref().is_none_or(|coarser| coarser.dims() == canvas.x.dims());
            coarser && sizes.contains(&[width as u32, height as u32])
        };
        let is_whole = |sample: &Sample| sizes.contains(&sample.image.dimensions().into()) && sample.draws <= DRAWS;
        if canvas.as_ref().is_none_or(fits) && samples.values().all(is_whole) {
            Ok(Self { done, canvas, samples })
        } else {
            Err(unfit())
        }
    }
}

fn state(canvas: Option<&Canvas>, samples: &BTreeMap<u64, Sample>) -> Arrays {
    let mut state = Arrays::new();
    if let Some(canvas) = canvas {
        state.insert("x".to_owned(), Array::from_tensor(&canvas.x));
        state.extend(canvas.coarser.as_ref().map(|coarser| ("coarser".to_owned(), Array::from_tensor(coarser))));
    }
    let named = |(number, Sample { draws, image }): (&u64, &Sample)| {
        (format!("images.{draws}.{number}"), weights::of_picture(image))
    };
    state.extend(samples.iter().map(named));
    state
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use burn::tensor::Device;
    use domain::seed::Seed;
    use domain::study::records::gate::Traits;
    use domain::study::records::{Record, SamplesRecord, SinddmRecord};
    use domain::study::results::Fault;
    use domain::study::stage::{Folder, Monitor, Unwatched, picture_path};

    use super::super::sinddm_train;
    use super::*;
    use crate::checkpoint::tests::changes_nothing;
    use crate::data::gate::traits;
    use crate::data::picture;
    use crate::files;

    /// Samples from a small model in `root`, which is trained if it is not there yet.
    fn draw(sampling: &Sampling, seed: u64, root: &Path, monitor: &mut dyn Monitor) -> Result<Folder, Failure> {
        let folder = Folder::new(root);
        if !folder.input(InputName::Model(None)).exists() {
            let small = sinddm_train::tests::small();
            sinddm_train::tests::train(&small, 7, root, &mut Unwatched).unwrap();
            fs::rename(folder.outputs(), folder.input(InputName::Model(None))).unwrap();
        }
        let device = Device::flex();
        let attempt = Attempt { seed: Seed(seed), folder: &folder, monitor, device: &device, memory: 0 };
        run(sampling, false, attempt).map(|()| folder)
    }

    /// Samples from a model that has learnt from pictures against which samples fail only for a
    /// brighter background than that; those are drawn again.
    fn draw_again(
        sampling: &Sampling,
        background: f64,
        root: &Path,
        monitor: &mut dyn Monitor,
    ) -> Result<Folder, Failure> {
        let folder = Folder::new(root);
        if !folder.input(InputName::Model(None)).exists() {
            draw(sampling, 7, root, &mut Unwatched).unwrap();
            fs::remove_dir_all(folder.outputs()).unwrap();
            let path = folder.input(InputName::Model(None)).join(SinddmRecord::FILE);
            let mut record: SinddmRecord = files::read(&path).unwrap();
            // Its floor of eight levels is added.
            let real = |by: f64| Traits {
                area: by,
                parts: 1000,
                offset: 1.0,
                edge: 1.0,
                background: background - 8.0,
                contrast: 255.0 * by,
            };
            record.reals = vec![real(1e-6), real(1.0)];
            files::write(&path, &record).unwrap();
        }
        let attempt = Attempt { seed: Seed(7), folder: &folder, monitor, device: &Device::flex(), memory: 0 };
        run(sampling, true, attempt).map(|()| folder)
    }

    /// A background that one of three samples exceeds.
    fn middle(sampling: &Sampling, root: &Path) -> f64 {
        let folder = draw(sampling, 7, root, &mut Unwatched).unwrap();
        let images = crate::data::folder::pictures(&folder.output("")).unwrap();
        let mut backgrounds: Vec<f64> = images.iter().map(|image| traits(image).background).collect();
        backgrounds.sort_by(f64::total_cmp);
        backgrounds[1]
    }

    /// The bytes of its pictures.
    fn sample(batch: u32, omega: f64, seed: u64, root: &Path) -> Vec<Vec<u8>> {
        let sampling = Sampling { per_model: 3, batch, omega, ..Sampling::default() };
        let folder = draw(&sampling, seed, root, &mut Unwatched).unwrap();
        let record: SamplesRecord = files::read(&folder.output(SamplesRecord::FILE)).unwrap();
        assert_eq!((record.size, record.foreground.len()), ([21, 16], 3));
        assert!(folder.output("sheet.png").exists());
        (0..3).map(|i| fs::read(folder.output(&picture_path(i))).unwrap()).collect()
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

    #[test]
    fn stopping_and_going_on_elsewhere_changes_no_byte() {
        // Within the coarsest scale, as the finer one begins, within it, and in the second batch.
        let sampling = Sampling { per_model: 3, batch: 2, omega: 0.3, ..Sampling::default() };
        changes_nothing(&[1, 20, 21, 24, 40], &|root, monitor| draw(&sampling, 7, root, monitor));
    }

    #[test]
    fn samples_that_fail_are_drawn_again_and_those_that_pass_are_not() {
        let root = tempfile::tempdir().unwrap();
        let sampling = Sampling { per_model: 3, ..Sampling::default() };
        let once = root.path().join("once");
        let background = middle(&sampling, &once);
        let of = |sampling: &Sampling, background: f64, name: &str| {
            let folder = draw_again(sampling, background, &root.path().join(name), &mut Unwatched).unwrap();
            let record: SamplesRecord = files::read(&folder.output(SamplesRecord::FILE)).unwrap();
            (record, crate::data::folder::pictures(&folder.output("")).unwrap())
        };
        let first = crate::data::folder::pictures(&once.join("outputs")).unwrap();
        let (record, images) = of(&sampling, background, "again");
        assert_eq!(record.draws.iter().filter(|draws| **draws == 1).count(), 2, "{:?}", record.draws);
        for (number, draws) in record.draws.iter().enumerate() {
            let is_good = traits(&images[number]).background <= background;
            assert_eq!(images[number] == first[number], *draws == 1);
            assert_eq!((record.passed[number], record.faults.contains_key(&number)), (is_good, !is_good));
            assert!(is_good || *draws == DRAWS);
        }
        // Which noise a draw gets does not depend on what is drawn beside it.
        assert_eq!((record, images), of(&Sampling { batch: 1, ..sampling.clone() }, background, "single"));

        // What never passes is kept, and said.
        let (record, images) = of(&sampling, -1.0, "never");
        assert_eq!((record.draws, record.passed), (vec![DRAWS; 3], vec![false; 3]));
        assert!(record.faults.values().all(|faults| *faults == [Fault::Background]) && record.faults.len() == 3);
        assert!(images.iter().zip(&first).all(|(last, first)| last != first));
    }

    #[test]
    fn stopping_while_samples_are_drawn_again_changes_no_byte() {
        let root = tempfile::tempdir().unwrap();
        let sampling = Sampling { per_model: 3, batch: 2, ..Sampling::default() };
        let background = middle(&sampling, root.path());
        let model = Model::open(&root.path().join("inputs/model"), &Device::flex()).unwrap();
        let steps = model.sampler(&sampling, &Guide::default()).steps().len() as u64;
        // In the first draws, at their end, as the second draw begins, and within it;
        // then where nothing passes, in later draws.
        changes_nothing(&[steps + 1, 2 * steps, 2 * steps + 1, 2 * steps + 9, 3 * steps - 1], &|root, monitor| {
            draw_again(&sampling, background, root, monitor)
        });
        changes_nothing(&[2 * steps, 3 * steps, 5 * steps + 3], &|root, monitor| {
            draw_again(&sampling, -1.0, root, monitor)
        });
    }

    #[test]
    fn knobs_change_the_size_and_the_way_of_sampling() {
        let root = tempfile::tempdir().unwrap();
        let of = |sampling: &Sampling| {
            let folder = draw(sampling, 7, root.path(), &mut Unwatched).unwrap();
            picture::open_rgb8(&folder.output("images/000.png")).unwrap().image
        };
        let base = Sampling { per_model: 1, ..Sampling::default() };
        let plain = of(&base);
        assert_eq!(plain.dimensions(), (21, 16));
        assert_eq!(of(&Sampling { scale_mul: [1.5, 2.0], ..base.clone() }).dimensions(), (42, 24));
        for other in [
            Sampling { reblurring: false, ..base.clone() },
            Sampling { sample_limited_t: true, ..base.clone() },
            Sampling { gamma_clip: 0.1, ..base.clone() },
        ] {
            assert_ne!(of(&other), plain, "{other:?}");
        }
    }

    #[test]
    fn several_models_take_turns() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        for number in [0, 1] {
            let small = sinddm_train::tests::small();
            sinddm_train::tests::train(&small, 7, root.path(), &mut Unwatched).unwrap();
            fs::rename(folder.outputs(), folder.input(InputName::Model(Some(number)))).unwrap();
        }
        let sampling = Sampling { per_model: 5, batch: 2, ..Sampling::default() };
        let attempt =
            Attempt { seed: Seed(7), folder: &folder, monitor: &mut Unwatched, device: &Device::flex(), memory: 0 };
        run(&sampling, false, attempt).unwrap();
        let record: SamplesRecord = files::read(&folder.output(SamplesRecord::FILE)).unwrap();
        assert_eq!(record.foreground.len(), 5);
        assert!((0..5).all(|i| folder.output(&picture_path(i)).exists()));
    }
}
