//! Trains one diffusion model on all its pictures at once (ALGORITHM 2.5, 2.7).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::optim::{Adam, AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use domain::experiment::Sinddm;
use domain::stage::{Failure, FailureCode, Progress, Stage};

use super::Attempt;
use crate::checkpoint::Checkpoints;
use crate::data::pyramid::Pyramid;
use crate::data::{folder, tensors};
use crate::models::diffusion::Schedule;
use crate::models::sinddm::SinDdm;
use crate::optimizer::NamedOptimizer;
use crate::random;
use crate::records::{self, DiffusionRecord};
use crate::weights::{self, Array, Arrays};

/// Adam's guard against division by zero; burn's default is larger than the reference's.
const ADAM_EPSILON: f32 = 1e-8;

/// Steps between readings of the loss: each waits for the device.
const READ_EVERY: usize = 10;

/// Time between progress reports.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// Writes `model.safetensors` (the averaged weights), `training.json` and
/// `loss.csv`.
///
/// # Errors
/// If the input cannot be read, the loss is not a number, or the attempt was
/// told to stop.
pub fn run(sinddm: &Sinddm, attempt: Attempt<'_>) -> Result<(), Failure> {
    let device = attempt.device.clone().autodiff();
    let pictures = folder::pictures(&attempt.folder.input("pad"))?;
    let pyramid = Pyramid::new(&pictures, sinddm);
    let schedule = Schedule::new(sinddm.timesteps, &pyramid.rescale_losses);
    let scales: Vec<Scale> = pyramid.scales.iter().map(|scale| Scale::new(scale, &device)).collect();

    let blank = || SinDdm::new(sinddm.dim as usize, &device);
    let mut checkpoints =
        Checkpoints::new(&Stage::SinddmTrain { sinddm: sinddm.clone() }, attempt.seed, attempt.folder)?;
    let resumed = checkpoints.resume(attempt.monitor, |step, state| Training::resume(blank(), step, state));
    let training = resumed.unwrap_or_else(|| Training::start(weights::initialise(blank(), attempt.seed)));
    let Training { mut net, mut average, mut adam, mut losses } = training;
    let mut reported = Instant::now();

    for step in losses.steps()..sinddm.steps {
        checkpoints.visit(u64::from(step), attempt.monitor, || {
            losses.read(learning_rate(sinddm, step))?;
            Ok(state(&net, &average, &adam, &losses))
        })?;
        let lr = learning_rate(sinddm, step);
        let mut rng = random::stream(attempt.seed, "train", u64::from(step));
        let s = random::below(&mut rng, scales.len());
        let times: Vec<u32> =
            (0..sinddm.batch).map(|_| random::below(&mut rng, sinddm.timesteps as usize) as u32).collect();
        let (image, blurred) = scales[s].batch(sinddm.batch, step);
        let shape = image.dims();
        let noise = TensorData::new(random::normals(&mut rng, shape.iter().product()), shape);
        let noise = Tensor::<4>::from_data(noise, &device); // [batch, 3, height, width]

        let x = schedule.diffuse(image, blurred, s, &times, noise.clone());
        let loss = (net.forward(x, &times, s) - noise).abs().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = adam.step(lr, net, gradients);

        if step.is_multiple_of(sinddm.ema_every) {
            let newest = net.valid();
            average = if step < sinddm.ema_start { newest } else { weights::blend(average, &newest, sinddm.ema) };
        }
        losses.push(s, loss.inner());
        if losses.unread.len() == READ_EVERY || step + 1 == sinddm.steps {
            let newest = losses.read(lr)?;
            if reported.elapsed() >= REPORT_EVERY || step + 1 == sinddm.steps {
                reported = Instant::now();
                let note = format!("step {}/{} loss {newest:.3}", step + 1, sinddm.steps);
                attempt.monitor.progress(Progress { done: u64::from(step) + 1, total: u64::from(sinddm.steps), note });
            }
        }
    }

    let record = DiffusionRecord {
        sinddm: sinddm.clone(),
        sizes: pyramid.geometry.sizes,
        scale_factor: pyramid.geometry.factor,
        sampling_steps: schedule.sampling_steps(&pyramid.rescale_losses),
        rescale_losses: pyramid.rescale_losses,
        parameters: weights::parameters(&average),
        final_loss: losses.final_mean(),
    };
    weights::save(&average, &attempt.folder.output("model.safetensors"))?;
    records::write(&attempt.folder.output("training.json"), &record)?;
    records::write_bytes(&attempt.folder.output("loss.csv"), losses.csv().as_bytes())
}

/// What changes from step to step. With the parameters, the inputs and the seed,
/// the rest of the training depends on nothing else.
struct Training {
    net: SinDdm,
    /// Of the weights, without gradients.
    average: SinDdm,
    adam: NamedOptimizer<Adam>,
    losses: Losses,
}

impl Training {
    fn start(net: SinDdm) -> Self {
        let average = net.valid();
        Self { net, average, adam: NamedOptimizer::new(adam()), losses: Losses::default() }
    }

    /// Goes on from the [`state`] after so many steps.
    fn resume(blank: SinDdm, step: u64, mut state: Arrays) -> Result<Self, Failure> {
        let net = weights::restore(blank, weights::take(&mut state, "net"))?;
        let average = weights::restore(net.valid(), weights::take(&mut state, "average"))?;
        let adam = NamedOptimizer::restore(adam(), &net, weights::take(&mut state, "adam"))?;
        let losses = Losses::of(weights::take(&mut state, "losses"), step)?;
        Ok(Self { net, average, adam, losses })
    }
}

fn state(net: &SinDdm, average: &SinDdm, adam: &NamedOptimizer<Adam>, losses: &Losses) -> Arrays {
    let mut state = Arrays::new();
    weights::put(&mut state, "net", weights::collect(&net.valid()));
    weights::put(&mut state, "average", weights::collect(average));
    weights::put(&mut state, "adam", adam.collect(net));
    weights::put(&mut state, "losses", losses.arrays());
    state
}

fn adam() -> Adam {
    AdamConfig::new().with_epsilon(ADAM_EPSILON).build()
}

/// The learning rate of a step, counted from 0.
fn learning_rate(sinddm: &Sinddm, step: u32) -> f64 {
    let passed = sinddm.milestones.iter().filter(|&&milestone| milestone <= step).count();
    sinddm.lr * sinddm.lr_gamma.powi(passed as i32)
}

/// All pictures at one scale, on the device.
struct Scale {
    /// `[pictures, 3, height, width]`
    images: Tensor<4>,
    /// The same, or absent at the coarsest scale.
    blurred: Option<Tensor<4>>,
}

impl Scale {
    fn new(scale: &crate::data::pyramid::Scale, device: &Device) -> Self {
        let blurred = (!scale.blurred.is_empty()).then(|| tensors::signed(&scale.blurred, device));
        Self { images: tensors::signed(&scale.images, device), blurred }
    }

    /// The pictures in turn, so that each is seen equally often even where the
    /// batch is no multiple of their number.
    fn batch(&self, batch: u32, step: u32) -> (Tensor<4>, Option<Tensor<4>>) {
        let pictures = self.images.dims()[0] as u64;
        let first = u64::from(step) * u64::from(batch);
        let indices: Vec<i32> = (first..first + u64::from(batch)).map(|index| (index % pictures) as i32).collect();
        let indices = Tensor::<1, Int>::from_data(indices.as_slice(), &self.images.device());
        let select = |pictures: &Tensor<4>| pictures.clone().select(0, indices.clone());
        (select(&self.images), self.blurred.as_ref().map(select))
    }
}

/// The loss of every step.
#[derive(Default)]
struct Losses {
    /// Scale and loss of each step.
    read: Vec<(usize, f32)>,
    /// Still on the device.
    unread: Vec<(usize, Tensor<1>)>,
}

impl Losses {
    /// Those in [`Losses::arrays`], which have to be of so many steps.
    fn of(mut arrays: Arrays, steps: u64) -> Result<Self, Failure> {
        let mut column = |name| arrays.remove(name).map_or_else(Vec::new, |array| array.values);
        let (scales, losses) = (column("scale"), column("loss"));
        if scales.len() as u64 != steps || losses.len() as u64 != steps {
            return Err(Failure::invalid_input(format!("there are not {steps} losses")));
        }
        Ok(Self { read: scales.into_iter().map(|scale| scale as usize).zip(losses).collect(), unread: Vec::new() })
    }

    /// Those that are here.
    fn arrays(&self) -> Arrays {
        let scales = self.read.iter().map(|(scale, _)| *scale as f32).collect();
        let losses = self.read.iter().map(|(_, loss)| *loss).collect();
        let column = |values| Array { shape: vec![self.read.len()], values };
        Arrays::from([("scale".to_owned(), column(scales)), ("loss".to_owned(), column(losses))])
    }

    /// Steps done.
    fn steps(&self) -> u32 {
        (self.read.len() + self.unread.len()) as u32
    }

    fn push(&mut self, scale: usize, loss: Tensor<1>) {
        self.unread.push((scale, loss));
    }

    /// Brings the losses here; gives the mean of those that are new.
    fn read(&mut self, lr: f64) -> Result<f32, Failure> {
        let new = self.unread.len().max(1) as f32;
        let mut sum = 0.0;
        for (scale, loss) in self.unread.drain(..) {
            let loss = loss.into_scalar::<f32>();
            if !loss.is_finite() {
                let step = self.read.len();
                return Err(Failure::new(
                    FailureCode::NotANumber,
                    format!("loss is {loss} at step {step} (scale {scale}, lr {lr}): lower sinddm.lr"),
                ));
            }
            self.read.push((scale, loss));
            sum += loss;
        }
        Ok(sum / new)
    }

    /// Mean of the last tenth of the steps.
    fn final_mean(&self) -> f64 {
        let last = &self.read[self.read.len() - self.read.len().div_ceil(10)..];
        last.iter().map(|(_, loss)| f64::from(*loss)).sum::<f64>() / last.len().max(1) as f64
    }

    fn csv(&self) -> String {
        let mut text = String::from("step,scale,loss\n");
        for (step, (scale, loss)) in self.read.iter().enumerate() {
            let _ = writeln!(text, "{step},{scale},{loss}"); // writing to a String cannot fail
        }
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use domain::seed::Seed;
    use domain::stage::{Folder, Monitor, Unwatched};
    use image::RgbImage;
    use std::path::Path;

    use super::*;
    use crate::checkpoint::tests::{Notes, changes_nothing};

    /// Small enough for a test.
    pub(crate) fn small() -> Sinddm {
        Sinddm {
            finest: [21, 16],
            coarsest: Some(11),
            dim: 8,
            batch: 4,
            steps: 12,
            timesteps: 20,
            ema_start: 4,
            ema_every: 2,
            ..Sinddm::default()
        }
    }

    /// Trains on two textures in `root`.
    pub(crate) fn train(sinddm: &Sinddm, seed: u64, root: &Path, monitor: &mut dyn Monitor) -> Result<Folder, Failure> {
        let folder = Folder::new(root);
        let images = folder.input("pad").join("images");
        std::fs::create_dir_all(&images).unwrap();
        for k in [3, 5] {
            let texture = RgbImage::from_fn(42, 32, |x, y| image::Rgb([(x * y * k) as u8, (x * k) as u8, 90]));
            texture.save(images.join(format!("{k:03}.png"))).unwrap();
        }
        let attempt = Attempt { seed: Seed(seed), folder: &folder, monitor, device: &Device::flex() };
        run(sinddm, attempt)?;
        Ok(folder)
    }

    #[test]
    fn equal_seeds_give_equal_bytes_and_others_do_not() {
        let root = tempfile::tempdir().unwrap();
        let [a, b, c] = [("a", 7), ("b", 7), ("c", 8)].map(|(name, seed)| {
            let folder = train(&small(), seed, &root.path().join(name), &mut Unwatched).unwrap();
            std::fs::read(folder.output("model.safetensors")).unwrap()
        });
        assert!(a == b && a != c);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let [one, three] = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let root = root.path().join(threads.to_string());
            let folder = pool.install(|| train(&small(), 7, &root, &mut Unwatched)).unwrap();
            std::fs::read(folder.output("model.safetensors")).unwrap()
        });
        assert!(one == three);
    }

    #[test]
    fn leaves_a_record_and_every_loss() {
        let root = tempfile::tempdir().unwrap();
        let folder = train(&small(), 7, root.path(), &mut Unwatched).unwrap();
        let record: DiffusionRecord = records::read(&folder.output("training.json")).unwrap();
        assert_eq!(record.sizes, [[14, 11], [21, 16]]);
        assert_eq!(record.sampling_steps[0], 20);
        assert!(record.final_loss > 0.0 && record.final_loss < 2.0);
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
    fn stops_when_told() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(train(&small(), 7, root.path(), &mut Notes::until(0)).unwrap_err().code, FailureCode::Preempted);
    }

    #[test]
    fn stopping_and_going_on_elsewhere_changes_no_byte() {
        // Before, at and after the averaging begins, between two readings of the loss, and the last.
        changes_nothing(&[1, 4, 7, 11], &|root, monitor| train(&small(), 7, root, monitor));
    }

    #[test]
    fn the_learning_rate_halves_at_the_milestones() {
        let paper = Sinddm::default();
        for (step, lr) in [(0, 1e-3), (19_999, 1e-3), (20_000, 5e-4), (120_000, 1.5625e-5)] {
            assert_eq!(learning_rate(&paper, step), lr);
        }
    }
}
