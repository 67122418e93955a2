//! Trains one diffusion model on all its pictures at once (ALGORITHM 2.5, 2.7).

use std::ops::Range;
use std::path::Path;
use std::thread;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use domain::seed::Seed;
use domain::study::experiment::{BatchMix, MultiImage, NoiseLoss, Sampling, Sinddm};
use domain::study::records::gate::Traits;
use domain::study::records::{PadRecord, Record, SinddmRecord};
use domain::study::stage::{Failure, InputName, Stage, milestone_path, picture_path};
use image::RgbImage;

use super::Attempt;
use crate::checkpoint::Checkpoints;
use crate::data::gate::{Gate, traits};
use crate::data::pyramid::{Pyramid, learnt};
use crate::data::{folder, picture, tensors};
use crate::device::determinism;
use crate::diffusion::guide::Guide;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Schedule;
use crate::files;
use crate::models::sinddm::SinDdm;
use crate::random;
use crate::training::pace::Pace;
use crate::training::{READ_EVERY, Training, ahead, averaged, finish, optimizer, precision, state};
use crate::weights::{self, Array, Arrays};

/// The number of samples on the contact sheet of a milestone, and of pixels of each.
const SHEET: (u64, u32) = (4, 132);

/// The knob that the learning rate comes from.
const LR: &str = "sinddm.lr";

/// Writes `model.safetensors` (the averaged weights), `training.json`,
/// `loss.csv` and a contact sheet of each milestone.
///
/// # Errors
/// If the input cannot be used, the loss is not a number, or the attempt was
/// told to stop.
pub fn run(sinddm: &Sinddm, mut attempt: Attempt<'_>) -> Result<(), Failure> {
    let device = attempt.device.clone().autodiff();
    let input = attempt.folder.input(InputName::Pad(None));
    let padded = padded(&input)?;
    let color = padded.as_ref().and_then(|record| record.colors.first().copied()).unwrap_or_default();
    let pyramid = Pyramid::new(&learnt(folder::pictures(&input)?, sinddm, color), sinddm)?;
    let sizes = &pyramid.geometry.sizes;
    let schedule = Schedule::new(sinddm.timesteps, &pyramid.rescale_losses);
    let lengths = schedule.sampling_steps(&pyramid.rescale_losses);
    let reals: Vec<Traits> =
        pyramid.scales.last().map_or_else(Vec::new, |finest| finest.images.iter().map(traits).collect());
    let gate = Gate::new(&reals);
    let scales: Vec<Scale> = pyramid.scales.iter().map(|scale| Scale::new(scale, &device)).collect();
    let parts: Vec<u32> = sizes.iter().map(|size| sinddm.at_once(*size, attempt.memory)).collect();
    attempt.monitor.log(&format!("pictures through the network at once, by scale: {parts:?} of {}", sinddm.batch));

    let stage = Stage::SinddmTrain { sinddm: sinddm.clone() };
    let mut checkpoints = Checkpoints::new(&stage, attempt.seed, attempt.folder)?;
    let (begun, mut sheets) = begin(sinddm, &mut checkpoints, &mut attempt, &device);
    let Training { mut net, mut average, mut adam, mut losses } = begun;

    let steps = losses.steps()..sinddm.steps;
    let milestones = sinddm.sheets();
    let mut pace = Pace::new(&steps, sinddm.batch);
    let (seed, drawn) = (attempt.seed, &pyramid);
    let (average, losses, sheets) = thread::scope(|scope| {
        for (step, draw) in ahead(scope, steps, move |step| Draw::new(sinddm, drawn, seed, step)) {
            let kept = checkpoints.last();
            checkpoints.visit(u64::from(step), attempt.monitor, || {
                losses.read(LR, learning_rate(sinddm, step), kept)?;
                Ok(with_sheets(state(&net, &average, &adam, &losses), &sheets))
            })?;
            let lr = learning_rate(sinddm, step);

            let narrow = precision::cast(&net, sinddm.precision);
            let (loss, gradients) =
                loss_and_gradients(&narrow, &schedule, &scales[draw.scale], &draw, parts[draw.scale], sinddm.loss);
            net = adam.step(lr, net, gradients);

            if step.is_multiple_of(sinddm.ema_every) {
                let newest = net.valid();
                average = if step < sinddm.ema_start { newest } else { weights::blend(average, &newest, sinddm.ema) };
            }
            losses.push(draw.scale, loss);
            let done = step + 1;
            if losses.unread() == READ_EVERY || done == sinddm.steps {
                losses.read(LR, lr, checkpoints.last())?;
                if let Some(progress) = pace.progress(done, sinddm.steps, lr, &losses.by_scale()) {
                    attempt.monitor.progress(progress);
                }
            }
            if milestones.contains(&done) {
                let images = milestone(&average, &schedule, sizes, &lengths, seed, attempt.device);
                attempt.monitor.log(&format!("step {done}: {}", gate.summary(&images)));
                sheets.push((done, picture::contact_sheet(&images, SHEET.0 as u32, SHEET.1)));
            }
        }
        Ok((average, losses, sheets))
    })?;

    let arrays = averaged(&average, LR)?;
    let record = SinddmRecord {
        sinddm: sinddm.clone(),
        sizes: sizes.clone(),
        scale_factor: pyramid.geometry.factor,
        sampling_steps: lengths,
        parameters: weights::parameters(&average),
        final_loss: losses.final_mean(),
        loss_by_scale: losses.by_scale(),
        image_ids: padded.as_ref().map_or_else(Vec::new, |record| learnt_ids(&input, record, sinddm)),
        fill: padded.map(|record| record.pad.fill),
        reals,
        determinism: determinism(attempt.device),
        rescale_losses: pyramid.rescale_losses,
    };
    for (step, sheet) in &sheets {
        picture::save_png(&attempt.folder.output(&milestone_path(*step)), sheet)?;
    }
    finish(&arrays, &record, &losses, attempt.folder)
}

/// The state that the attempt goes on from, or the first, with the contact sheets of the
/// milestones passed.
fn begin(
    sinddm: &Sinddm,
    checkpoints: &mut Checkpoints<'_>,
    attempt: &mut Attempt<'_>,
    device: &Device,
) -> (Training<SinDdm>, Vec<(u32, RgbImage)>) {
    let (blank, adam) = (|| SinDdm::new(sinddm.dim as usize, device), || optimizer::adam().build());
    let resumed = checkpoints.resume(attempt.monitor, |step, mut state| {
        let training = Training::resume(blank(), adam(), step, &mut state)?;
        Ok((training, sheets_of(weights::take(&mut state, "sheets"))?))
    });
    resumed.unwrap_or_else(|| (Training::start(weights::initialise(blank(), attempt.seed), adam()), Vec::new()))
}

/// The record of the canvases, if there is one.
fn padded(input: &Path) -> Result<Option<PadRecord>, Failure> {
    let path = input.join(PadRecord::FILE);
    path.exists().then(|| files::read(&path)).transpose()
}

/// The ids of the images learnt from: of those that were padded, the ones that are among
/// the inputs.
fn learnt_ids(input: &Path, record: &PadRecord, sinddm: &Sinddm) -> Vec<u32> {
    let numbered = record.images.iter().enumerate();
    let there = numbered.filter(|(number, _)| input.join(picture_path(*number)).exists());
    let most = if sinddm.multi_image == MultiImage::FirstOnly { 1 } else { usize::MAX };
    there.map(|(_, image)| image.id).take(most).collect()
}

/// The input of a step: it depends on the seed and the step alone.
pub(crate) struct Draw {
    scale: usize,
    /// A time for each item of the batch.
    times: Vec<u32>,
    /// The picture of each item.
    pictures: Vec<i32>,
    /// `[batch, 3, height, width]`
    noise: Vec<f32>,
}

impl Draw {
    pub(crate) fn new(sinddm: &Sinddm, pyramid: &Pyramid, seed: Seed, step: u32) -> Self {
        let mut rng = random::stream(seed, "train", u64::from(step));
        let scale = random::below(&mut rng, pyramid.scales.len());
        let times = (0..sinddm.batch).map(|_| random::below(&mut rng, sinddm.timesteps as usize) as u32).collect();
        let count = pyramid.scales[scale].images.len();
        let first = u64::from(step) * u64::from(sinddm.batch);
        let pictures = match sinddm.batch_mix {
            // In turn over all steps, so that each is seen equally often even
            // where the batch is no multiple of their number.
            BatchMix::Balanced => (first..first + u64::from(sinddm.batch)).map(|i| (i % count as u64) as i32).collect(),
            BatchMix::UniformRandom => {
                let mut rng = random::stream(seed, "train.pictures", u64::from(step));
                (0..sinddm.batch).map(|_| random::below(&mut rng, count) as i32).collect()
            }
        };
        let [width, height] = pyramid.geometry.sizes[scale];
        let noise = random::normals(&mut rng, 3 * sinddm.batch as usize * (width * height) as usize);
        Self { scale, times, pictures, noise }
    }
}

/// The loss of the predicted noise and its gradients, in 32-bit numbers. The batch goes through
/// the network, which may compute in others, in parts of at most so many pictures.
fn loss_and_gradients(
    net: &SinDdm,
    schedule: &Schedule,
    scale: &Scale,
    draw: &Draw,
    part: u32,
    loss: NoiseLoss,
) -> (Tensor<1>, GradientsParams) {
    let (batch, part) = (draw.times.len(), part as usize);
    let of_part = |range: Range<usize>| {
        let times = &draw.times[range.clone()];
        let (image, blurred) = scale.select(&draw.pictures[range.clone()]);
        let shape = image.dims();
        let each = shape[1] * shape[2] * shape[3];
        let noise = TensorData::new(draw.noise[range.start * each..range.end * each].to_vec(), shape);
        let noise = Tensor::<4>::from_data(noise, &image.device()); // [part, 3, height, width]
        let x = schedule.diffuse(image, blurred, draw.scale, times, noise.clone());
        let off = net.forward(x, times, draw.scale) - noise;
        match loss {
            NoiseLoss::L1 => off.abs().mean(),
            NoiseLoss::L2 => off.square().mean(),
        }
    };
    let gradients_of = |loss: Tensor<1>| precision::widened(GradientsParams::from_grads(loss.backward(), net), net);
    if part >= batch {
        let loss = of_part(0..batch);
        return (loss.clone().inner(), gradients_of(loss));
    }
    let mut gradients = GradientsAccumulator::new();
    let mut sum: Option<Tensor<1>> = None;
    for start in (0..batch).step_by(part) {
        let range = start..(start + part).min(batch);
        let loss = of_part(range.clone()) * (range.len() as f64 / batch as f64);
        let newest = loss.clone().inner();
        sum = Some(sum.map_or(newest.clone(), |sum| sum + newest));
        gradients.accumulate(net, gradients_of(loss));
    }
    (sum.expect("a batch holds at least one picture"), gradients.grads())
}

/// The samples of a milestone.
fn milestone(
    net: &SinDdm,
    schedule: &Schedule,
    sizes: &[[u32; 2]],
    lengths: &[u32],
    seed: Seed,
    device: &Device,
) -> Vec<RgbImage> {
    let (sampling, guide) = (Sampling::default(), Guide::default());
    let sampler = Sampler { net, schedule, sizes: sizes.to_vec(), lengths, sampling: &sampling, guide: &guide };
    let numbers: Vec<u64> = (0..SHEET.0).collect();
    sampler.sample(seed, "milestone.", &numbers, device)
}

/// The contact sheets of the milestones passed, for a checkpoint.
fn with_sheets(mut state: Arrays, sheets: &[(u32, RgbImage)]) -> Arrays {
    state.extend(sheets.iter().map(|(step, sheet)| (format!("sheets.{step:06}"), weights::of_picture(sheet))));
    state
}

/// The contact sheets that [`with_sheets`] has added.
fn sheets_of(arrays: Arrays) -> Result<Vec<(u32, RgbImage)>, Failure> {
    let sheet = |(step, array): (&String, &Array)| Some((step.parse().ok()?, weights::to_picture(array)?));
    let sheets: Option<Vec<_>> = arrays.iter().map(sheet).collect();
    sheets.ok_or_else(|| Failure::invalid_input("the contact sheets of the milestones do not fit"))
}

/// The learning rate of a step, counted from 0.
pub(crate) fn learning_rate(sinddm: &Sinddm, step: u32) -> f64 {
    let passed = sinddm.milestones.iter().filter(|&&milestone| milestone <= step).count();
    sinddm.lr * sinddm.lr_gamma.powi(passed as i32)
}

/// All pictures at one scale, on the device.
struct Scale {
    /// `[pictures, 3, height, width]`
    images: Tensor<4>,
    /// The blurred pictures, absent at the coarsest scale.
    blurred: Option<Tensor<4>>,
}

impl Scale {
    fn new(scale: &crate::data::pyramid::Scale, device: &Device) -> Self {
        let blurred = (!scale.blurred.is_empty()).then(|| tensors::signed(&scale.blurred, device));
        Self { images: tensors::signed(&scale.images, device), blurred }
    }

    /// A batch of the pictures with these numbers.
    fn select(&self, pictures: &[i32]) -> (Tensor<4>, Option<Tensor<4>>) {
        let indices = Tensor::<1, Int>::from_data(pictures, &self.images.device());
        let select = |pictures: &Tensor<4>| pictures.clone().select(0, indices.clone());
        (select(&self.images), self.blurred.as_ref().map(select))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::checkpoint::tests::{Notes, changes_nothing, follows_from_its_seed, threads_change_nothing};
    use crate::training::optimizer::NamedOptimizer;
    use burn::optim::SgdConfig;
    use domain::study::experiment::Precision;
    use domain::study::records::Determinism;
    use domain::study::stage::{FailureCode, Folder, Monitor, Unwatched};

    /// Small enough for a test.
    pub(crate) fn small() -> Sinddm {
        Sinddm {
            finest: [21, 16].into(),
            coarsest: Some(11),
            dim: 8,
            batch: 4,
            steps: 12,
            timesteps: 20,
            milestones: vec![6],
            ema_start: 4,
            ema_every: 2,
            ..Sinddm::default()
        }
    }

    /// Trains on two textures in `root`.
    pub(crate) fn train(sinddm: &Sinddm, seed: u64, root: &Path, monitor: &mut dyn Monitor) -> Result<Folder, Failure> {
        let folder = Folder::new(root);
        let images = folder.input(InputName::Pad(None)).join("images");
        std::fs::create_dir_all(&images).unwrap();
        for k in [3, 5] {
            let texture = RgbImage::from_fn(42, 32, |x, y| image::Rgb([(x * y * k) as u8, (x * k) as u8, 90]));
            texture.save(images.join(format!("{k:03}.png"))).unwrap();
        }
        let attempt = Attempt {
            seed: Seed(seed),
            folder: &folder,
            monitor,
            device: &Device::flex(),
            memory: domain::resources::CPU_MEMORY_BYTES,
        };
        run(sinddm, attempt)?;
        Ok(folder)
    }

    #[test]
    fn equal_seeds_give_equal_bytes_and_others_do_not() {
        follows_from_its_seed(&|root, seed| train(&small(), seed, root, &mut Unwatched).unwrap());
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        threads_change_nothing(&|root| train(&small(), 7, root, &mut Unwatched).unwrap());
    }

    #[test]
    fn leaves_a_record_and_every_loss() {
        let root = tempfile::tempdir().unwrap();
        let folder = train(&small(), 7, root.path(), &mut Unwatched).unwrap();
        let record: SinddmRecord = files::read(&folder.output(SinddmRecord::FILE)).unwrap();
        assert_eq!(record.sizes, [[14, 11], [21, 16]]);
        assert_eq!(record.sampling_steps[0], 20);
        assert!(record.final_loss > 0.0 && record.final_loss < 2.0);
        assert_eq!(record.loss_by_scale.len(), 2);
        assert_eq!(record.determinism, Determinism::Bitwise);
        let sheet = picture::open_rgb8(&folder.output("milestones/000006.png")).unwrap();
        assert_eq!(sheet.image.width(), 4 * (132 + 2) + 2);
        let sheets = std::fs::read_dir(folder.output("milestones")).unwrap().count();
        assert_eq!(sheets, small().sheets().len(), "as the plan asks for them");
        let csv = std::fs::read_to_string(folder.output("loss.csv")).unwrap();
        assert_eq!(csv.lines().count(), 13);
    }

    #[test]
    fn a_loss_that_is_not_a_number_ends_the_attempt() {
        let root = tempfile::tempdir().unwrap();
        let wild = Sinddm { lr: 1e30, ..small() };
        let failure = train(&wild, 7, root.path(), &mut Unwatched).unwrap_err();
        assert_eq!(failure.code, FailureCode::NotANumber);
        assert!(failure.message.contains("sinddm.lr"), "{failure}");
    }

    #[test]
    fn a_loss_that_is_not_a_number_leaves_the_last_good_checkpoint() {
        let root = tempfile::tempdir().unwrap();
        // The first milestone multiplies the learning rate beyond all bounds.
        let wild = Sinddm { lr: 1e-3, milestones: vec![6], lr_gamma: 1e33, ema_start: 100, ..small() };
        let mut notes = Notes::default();
        notes.every = Some(1);
        let failure = train(&wild, 7, root.path(), &mut notes).unwrap_err();
        assert_eq!(failure.code.name(), "nan", "{failure}");
        let last = *notes.checkpoints.last().unwrap();
        assert!(last >= 6, "{:?}", notes.checkpoints);
        assert!(failure.message.contains(&format!("the last good checkpoint is of step {last}")), "{failure}");
        let kept = Folder::new(root.path()).checkpoint_of(last).join("state.safetensors");
        assert_eq!(weights::not_a_number(&weights::read(&kept).unwrap()), None);
    }

    #[test]
    fn pictures_that_do_not_suit_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let coarse = Sinddm { finest: [64, 48].into(), coarsest: Some(40), ..small() };
        let failure = train(&coarse, 7, root.path(), &mut Unwatched).unwrap_err();
        assert_eq!(failure.code, FailureCode::InvalidInput);
        assert!(failure.message.contains("picture 0 has 42x32 pixels, less than the coarsest scale's"), "{failure}");
    }

    #[test]
    fn a_batch_in_parts_has_the_same_loss_and_gradients() {
        let device = Device::flex().autodiff();
        let textures =
            [3, 5].map(|k| RgbImage::from_fn(42, 32, |x, y| image::Rgb([(x * y * k) as u8, (x * k) as u8, 90])));
        let sinddm = Sinddm { batch: 5, ..small() };
        let pyramid = Pyramid::new(&textures, &sinddm).unwrap();
        let schedule = Schedule::new(sinddm.timesteps, &pyramid.rescale_losses);
        let net = weights::initialise(SinDdm::new(8, &device), Seed(1));
        for (step, loss) in [(0, NoiseLoss::L1), (1, NoiseLoss::L1), (2, NoiseLoss::L1), (0, NoiseLoss::L2)] {
            let draw = Draw::new(&sinddm, &pyramid, Seed(2), step);
            let scale = Scale::new(&pyramid.scales[draw.scale], &device);
            let of = |part| {
                let (loss, gradients) = loss_and_gradients(&net, &schedule, &scale, &draw, part, loss);
                let mut moved = NamedOptimizer::new(SgdConfig::new().build());
                (loss.into_scalar::<f32>(), weights::collect(&moved.step(1.0, net.clone(), gradients).valid()))
            };
            let (whole, stepped) = of(5);
            for part in [1, 2, 4] {
                let (loss, other) = of(part);
                assert!((loss - whole).abs() < 1e-6, "{loss} {whole}");
                for (name, array) in &stepped {
                    let pairs = array.values.iter().zip(&other[name].values);
                    let gap = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(gap < 1e-6, "{name} differs by {gap} in parts of {part}");
                }
            }
        }
    }

    #[test]
    fn training_in_bfloat16_stays_near() {
        let root = tempfile::tempdir().unwrap();
        let [full, half] = [Precision::F32, Precision::Bf16].map(|precision| {
            let folder =
                train(&Sinddm { precision, ..small() }, 7, &root.path().join(format!("{precision:?}")), &mut Unwatched);
            files::read::<SinddmRecord>(&folder.unwrap().output(SinddmRecord::FILE)).unwrap().final_loss
        });
        assert!(full != half && (full - half).abs() < 0.02 * full, "{full} {half}");
    }

    #[test]
    fn the_record_names_the_images_learnt_from() {
        let root = tempfile::tempdir().unwrap();
        let input = root.path().join("inputs/pad");
        let image = |id: u32| serde_json::json!({ "class": "Ia", "id": id, "file": "", "digest": "" });
        let images: Vec<_> = (10..16).map(image).collect();
        let pad = serde_json::json!({ "class": "Ia", "canvas": [42, 32], "images": images, "black": [] });
        files::write(&input.join(PadRecord::FILE), &pad).unwrap();
        let ids = |multi_image| {
            let folder = train(&Sinddm { multi_image, ..small() }, 7, root.path(), &mut Unwatched).unwrap();
            files::read::<SinddmRecord>(&folder.output(SinddmRecord::FILE)).unwrap().image_ids
        };
        // The pictures there are numbers 3 and 5.
        assert_eq!(ids(MultiImage::Pooled), [13, 15]);
        assert_eq!(ids(MultiImage::FirstOnly), [13]);
    }

    #[test]
    fn a_batch_holds_the_pictures_in_turn_or_at_random() {
        let textures = [3, 5, 7].map(|k| RgbImage::from_fn(42, 32, |x, y| image::Rgb([(x * y * k) as u8; 3])));
        let pictures = |batch_mix, step| {
            let sinddm = Sinddm { batch_mix, ..small() };
            Draw::new(&sinddm, &Pyramid::new(&textures, &sinddm).unwrap(), Seed(7), step).pictures
        };
        assert_eq!([0, 1].map(|step| pictures(BatchMix::Balanced, step)), [[0, 1, 2, 0], [1, 2, 0, 1]]);
        let random: Vec<i32> = (0..50).flat_map(|step| pictures(BatchMix::UniformRandom, step)).collect();
        assert!((0..3).all(|picture| random.iter().filter(|drawn| **drawn == picture).count() > 40), "{random:?}");
        assert_eq!(pictures(BatchMix::UniformRandom, 4), pictures(BatchMix::UniformRandom, 4));
    }

    #[test]
    fn stops_when_told() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(train(&small(), 7, root.path(), &mut Notes::until(0)).unwrap_err().code, FailureCode::Preempted);
    }

    #[test]
    fn stopping_and_going_on_elsewhere_changes_no_byte() {
        // Before, at and after the averaging begins and the milestone, between two
        // readings of the loss, and the last; with a batch in parts.
        let in_parts = Sinddm { micro_batch: Some(3), ..small() };
        changes_nothing(&[5], &|root, monitor| train(&in_parts, 7, root, monitor));
        changes_nothing(&[1, 4, 6, 7, 11], &|root, monitor| train(&small(), 7, root, monitor));
    }

    #[test]
    fn the_learning_rate_halves_at_the_milestones() {
        let paper = Sinddm::default();
        for (step, lr) in [(0, 1e-3), (19_999, 1e-3), (20_000, 5e-4), (120_000, 1.5625e-5)] {
            assert_eq!(learning_rate(&paper, step), lr);
        }
    }
}
