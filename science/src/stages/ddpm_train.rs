//! Trains one plain diffusion model (Ho et al., NeurIPS 2020; ALGORITHM 5).

use std::thread;

use burn::module::Module;
use burn::optim::{Adam, GradientsParams};
use burn::tensor::{Tensor, TensorData};
use domain::seed::Seed;
use domain::study::experiment::DdpmTraining;
use domain::study::records::{DdpmRecord, PadRecord, Record};
use domain::study::stage::{Failure, Folder, InputName, Stage, picture_path};
use domain::study::stone::Dataset;
use image::{RgbImage, imageops};

use super::Attempt;
use crate::checkpoint::Checkpoints;
use crate::data::gate::traits;
use crate::data::resize::{Filter, resize};
use crate::data::{canvas, folder, picture, tensors};
use crate::device::determinism;
use crate::diffusion::schedule::Schedule;
use crate::files;
use crate::models::ddpm::Unet;
use crate::random;
use crate::training::pace::Pace;
use crate::training::{READ_EVERY, Training, ahead, averaged, finish, optimizer, state};
use crate::weights;

/// The knob that the learning rate comes from.
const LR: &str = "ddpm.training.lr";

/// Writes `model.safetensors` (the averaged weights), `training.json`,
/// `loss.csv` and the squares learnt from.
///
/// # Errors
/// If the input cannot be used, the loss is not a number, or the attempt was
/// told to stop.
pub fn run(training: &DdpmTraining, attempt: Attempt<'_>) -> Result<(), Failure> {
    let device = attempt.device.clone().autodiff();
    let squares = squares(attempt.folder, training.size)?;
    let schedule = Schedule::linear(training.timesteps);
    let blank = || Unet::new(training.dim as usize, &training.mults, &device);
    let stage = Stage::DdpmTrain { training: training.clone() };
    let mut checkpoints = Checkpoints::new(&stage, attempt.seed, attempt.folder)?;
    let resumed =
        checkpoints.resume(attempt.monitor, |step, mut state| Training::resume(blank(), adam(), step, &mut state));
    let begun = resumed.unwrap_or_else(|| Training::start(Unet::fresh(training, attempt.seed, &device), adam()));
    let Training { mut net, mut average, mut adam, mut losses } = begun;

    let steps = losses.steps()..training.steps;
    let mut pace = Pace::new(&steps, training.batch);
    let (seed, drawn) = (attempt.seed, &squares);
    let (average, losses) = thread::scope(|scope| {
        for (step, draw) in ahead(scope, steps, move |step| Draw::new(training, drawn, seed, step)) {
            let kept = checkpoints.last();
            checkpoints.visit(u64::from(step), attempt.monitor, || {
                losses.read(LR, training.lr, kept)?;
                Ok(state(&net, &average, &adam, &losses))
            })?;

            let image = tensors::signed(&draw.images, &device); // [batch, 3, size, size]
            let noise = Tensor::<4>::from_data(TensorData::new(draw.noise, image.dims()), &device);
            let x = schedule.diffuse(image, None, 0, &draw.times, noise.clone());
            let loss = (net.forward(x, &draw.times) - noise).square().mean();
            losses.push(0, loss.clone().inner());
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            let gradients = optimizer::clip(gradients, &net, training.clip);
            net = adam.step(training.lr, net, gradients);

            if step.is_multiple_of(training.ema_every) {
                let newest = net.valid();
                average =
                    if step < training.ema_start { newest } else { weights::blend(average, &newest, training.ema) };
            }
            let done = step + 1;
            if losses.unread() == READ_EVERY || done == training.steps {
                losses.read(LR, training.lr, checkpoints.last())?;
                if let Some(progress) = pace.progress(done, training.steps, training.lr, &losses.by_scale()) {
                    attempt.monitor.progress(progress);
                }
            }
        }
        Ok::<_, Failure>((average, losses))
    })?;

    let arrays = averaged(&average, LR)?;
    let record = DdpmRecord {
        training: training.clone(),
        images: squares.len() as u32,
        reals: squares.iter().map(traits).collect(),
        parameters: weights::parameters(&average),
        final_loss: losses.final_mean(),
        determinism: determinism(attempt.device),
    };
    for (number, square) in squares.iter().enumerate() {
        picture::save_png(&attempt.folder.output(&picture_path(number)), square)?;
    }
    finish(&arrays, &record, &losses, attempt.folder)
}

/// The optimiser, with the second moment of the port.
fn adam() -> Adam {
    optimizer::adam().with_beta_2(0.99).build()
}

/// The canvases of one class or of all, in the middle of squares of the colour of their
/// padding.
fn squares(folder: &Folder, size: u32) -> Result<Vec<RgbImage>, Failure> {
    let single = folder.input(InputName::Pad(None));
    let inputs = if single.exists() {
        vec![single]
    } else {
        Dataset::A.classes().map(|class| folder.input(InputName::Pad(Some(class)))).to_vec()
    };
    let mut squares = Vec::new();
    for input in inputs {
        let record = input.join(PadRecord::FILE);
        let colors = if record.exists() { files::read::<PadRecord>(&record)?.colors } else { vec![] };
        for (number, image) in folder::pictures(&input)?.iter().enumerate() {
            let color = colors.get(number).copied().unwrap_or_default();
            squares.push(resize(&canvas::framed(image, [size, size], color), size, size, Filter::Lanczos));
        }
    }
    Ok(squares)
}

/// The input of a step: it depends on the seed and the step alone.
struct Draw {
    times: Vec<u32>,
    images: Vec<RgbImage>,
    /// `[batch, 3, size, size]`
    noise: Vec<f32>,
}

impl Draw {
    fn new(training: &DdpmTraining, squares: &[RgbImage], seed: Seed, step: u32) -> Self {
        let mut rng = random::stream(seed, "train", u64::from(step));
        let mut below = |n: usize| random::below(&mut rng, n);
        let times = (0..training.batch).map(|_| below(training.timesteps as usize) as u32).collect();
        let image = |_| {
            let square = &squares[below(squares.len())];
            if training.flip && below(2) == 1 { imageops::flip_horizontal(square) } else { square.clone() }
        };
        let images: Vec<RgbImage> = (0..training.batch).map(image).collect();
        let count = 3 * training.batch as usize * (training.size * training.size) as usize;
        Self { times, images, noise: random::normals(&mut rng, count) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use domain::study::stage::{FailureCode, Monitor, Unwatched};

    use super::*;
    use crate::checkpoint::tests::changes_nothing;

    pub(crate) fn small() -> DdpmTraining {
        DdpmTraining {
            size: 8,
            timesteps: 20,
            dim: 8,
            mults: vec![1, 2],
            batch: 3,
            steps: 8,
            ema_every: 2,
            ema_start: 3,
            ..DdpmTraining::default()
        }
    }

    /// Trains on two textures in `root`.
    pub(crate) fn train(training: &DdpmTraining, root: &Path, monitor: &mut dyn Monitor) -> Result<Folder, Failure> {
        let folder = Folder::new(root);
        for k in [3, 5] {
            let texture = RgbImage::from_fn(21, 16, |x, y| image::Rgb([(x * y * k) as u8, (x * k) as u8, 90]));
            picture::save_png(&folder.input(InputName::Pad(None)).join(picture_path(k as usize)), &texture).unwrap();
        }
        let attempt = Attempt { seed: Seed(7), folder: &folder, monitor, device: &Device::flex(), memory: 0 };
        run(training, attempt)?;
        Ok(folder)
    }

    #[test]
    fn leaves_a_model_and_what_it_learnt_from() {
        let root = tempfile::tempdir().unwrap();
        let folder = train(&small(), root.path(), &mut Unwatched).unwrap();
        let record: DdpmRecord = files::read(&folder.output(DdpmRecord::FILE)).unwrap();
        assert_eq!((record.images, record.reals.len()), (2, 2));
        assert!(record.final_loss > 0.0 && record.final_loss < 3.0);
        let square = picture::open_rgb8(&folder.output("images/001.png")).unwrap().image;
        // The canvas is wider than high: the outer rows are mostly black.
        assert_eq!(square.dimensions(), (8, 8));
        assert!(square[(4, 0)].0[2] < 30 && square[(4, 4)].0[2] > 80, "{square:?}");
    }

    #[test]
    fn stopping_and_going_on_elsewhere_changes_no_byte() {
        changes_nothing(&[1, 3, 7], &|root, monitor| train(&small(), root, monitor));
    }

    #[test]
    fn a_loss_that_is_not_a_number_ends_the_attempt() {
        let root = tempfile::tempdir().unwrap();
        let wild = DdpmTraining { lr: 1e30, ..small() };
        let failure = train(&wild, root.path(), &mut Unwatched).unwrap_err();
        assert_eq!(failure.code, FailureCode::NotANumber);
        assert!(failure.message.contains("lower ddpm.training.lr"), "{failure}");
    }
}
