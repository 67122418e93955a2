//! Trains a Swin2SR on the study's own pictures, for sites that cannot get the
//! published weights (ALGORITHM 3; the training follows arXiv 2209.11345, section 4).

use std::thread;

use burn::module::Module;
use burn::optim::{Adam, GradientsParams};
use burn::tensor::{Device, Tensor};
use domain::seed::Seed;
use domain::study::experiment::{Reduction, Swin2srTraining};
use domain::study::records::{PadRecord, Record, Swin2srRecord};
use domain::study::results::Nearness;
use domain::study::stage::{Failure, Folder, InputName, Stage};
use domain::study::stone::Dataset;
use image::{Rgb, RgbImage, imageops};

use super::Attempt;
use crate::checkpoint::Checkpoints;
use crate::data::picture::open_rgb8;
use crate::data::quality::{psnr, ssim};
use crate::data::resize::{Filter, resize};
use crate::data::{batch, folder, tensors};
use crate::device::determinism;
use crate::files;
use crate::models::swin2sr::script::Script;
use crate::models::swin2sr::{SCALE, Swin2Sr, Swin2SrConfig};
use crate::training::pace::Pace;
use crate::training::{READ_EVERY, Training, ahead, averaged, finish, optimizer, state};
use crate::{random, weights};

const FACTOR: u32 = SCALE as u32;

/// The knob that the learning rate comes from.
const LR: &str = "upscale.training.lr";

/// Writes `model.safetensors` (the averaged weights), `training.json`, `loss.csv`.
/// `size` is that of a canvas as an enlarged sample.
///
/// # Errors
/// If the input cannot be used, the loss is not a number, or the attempt was
/// told to stop.
pub fn run(size: [u32; 2], training: &Swin2srTraining, attempt: Attempt<'_>) -> Result<(), Failure> {
    let device = attempt.device.clone().autodiff();
    let Pictures { learnt, held_out } = Pictures::read(size, training, attempt.folder)?;
    let config = Swin2SrConfig::trained(training);
    let blank = || Swin2Sr::new(&config, &device);
    let stage = Stage::Swin2srTrain { size, training: training.clone() };
    let mut checkpoints = Checkpoints::new(&stage, attempt.seed, attempt.folder)?;
    let resumed =
        checkpoints.resume(attempt.monitor, |step, mut state| Training::resume(blank(), adam(), step, &mut state));
    let begun = resumed.unwrap_or_else(|| Training::start(weights::initialise(blank(), attempt.seed), adam()));
    let Training { mut net, mut average, mut adam, mut losses } = begun;

    let steps = losses.steps()..training.steps;
    let mut pace = Pace::new(&steps, training.batch);
    let (seed, drawn) = (attempt.seed, &learnt);
    let (average, losses) = thread::scope(|scope| {
        for (step, draw) in ahead(scope, steps, move |step| Draw::new(training, drawn, seed, step)) {
            let (lr, kept) = (learning_rate(training, step), checkpoints.last());
            checkpoints.visit(u64::from(step), attempt.monitor, || {
                losses.read(LR, lr, kept)?;
                Ok(state(&net, &average, &adam, &losses))
            })?;

            let small = stack(&draw.small, &device); // [batch, 3, crop, crop]
            let large = stack(&draw.large, &device); // [batch, 3, 4 * crop, 4 * crop]
            let loss = (net.forward(small).picture - large).abs().mean();
            losses.push(0, loss.clone().inner());
            net = adam.step(lr, net.clone(), GradientsParams::from_grads(loss.backward(), &net));
            average = weights::blend(average, &net.valid(), training.ema);

            let done = step + 1;
            if losses.unread() == READ_EVERY || done == training.steps {
                losses.read(LR, lr, checkpoints.last())?;
                if let Some(progress) = pace.progress(done, training.steps, lr, &losses.by_scale()) {
                    attempt.monitor.progress(progress);
                }
            }
        }
        Ok::<_, Failure>((average, losses))
    })?;

    let arrays = averaged(&average, LR)?;
    let held_out = batch::map(&held_out, "picture held out", attempt.monitor, |large| {
        let small = reduced(large, training.reduction);
        let ours = average.enlarge(&small, Script::default(), attempt.device);
        let bicubic = resize(&small, large.width(), large.height(), Filter::Bicubic);
        let of = |picture| Scores { psnr: psnr(picture, large, FACTOR), ssim: ssim(picture, large, FACTOR) };
        Ok([of(&ours), of(&bicubic)])
    })?;
    let mean = |of: &dyn Fn(&[Scores; 2]) -> f64| {
        (!held_out.is_empty()).then(|| held_out.iter().map(of).sum::<f64>() / held_out.len() as f64)
    };
    let nearness =
        |side: usize| Nearness { psnr: mean(&|scores| scores[side].psnr), ssim: mean(&|scores| scores[side].ssim) };
    let (ours, bicubic) = (nearness(0), nearness(1));
    for (name, scores) in [("this network", ours), ("bicubic interpolation", bicubic)] {
        if let (Some(psnr), Some(ssim)) = (scores.psnr, scores.ssim) {
            attempt.monitor.log(&format!("{} pictures held out, {name}: {psnr:.2} dB, SSIM {ssim:.4}", held_out.len()));
        }
    }
    let record = Swin2srRecord {
        training: training.clone(),
        images: learnt.len() as u32,
        parameters: weights::parameters(&average),
        final_loss: losses.final_mean(),
        held_out: held_out.len() as u32,
        ours,
        bicubic,
        determinism: determinism(attempt.device),
    };
    finish(&arrays, &record, &losses, attempt.folder)
}

fn adam() -> Adam {
    optimizer::adam().with_beta_2(0.99).build()
}

/// The learning rate of a step: halved at the half, at 80, 90 and 95 of 100 steps, as the
/// published training does.
fn learning_rate(training: &Swin2srTraining, step: u32) -> f64 {
    let passed = [0.5, 0.8, 0.9, 0.95].iter().filter(|share| f64::from(step) >= *share * f64::from(training.steps));
    training.lr * 0.5f64.powi(passed.count() as i32)
}

/// The nearness of one enlarged picture to the true one.
struct Scores {
    psnr: f64,
    ssim: f64,
}

/// Pictures in the size that samples are to be enlarged to.
struct Pictures {
    learnt: Vec<RgbImage>,
    /// The last of each class that has several.
    held_out: Vec<RgbImage>,
}

impl Pictures {
    /// The pictures of all classes of a view, as large on their canvas as its samples will be,
    /// without what surrounds them there.
    fn read(size: [u32; 2], training: &Swin2srTraining, folder: &Folder) -> Result<Self, Failure> {
        let (mut learnt, mut held_out) = (vec![], vec![]);
        for class in Dataset::A.classes() {
            let input = folder.input(InputName::Pad(Some(class)));
            let mut pictures = vec![];
            let places = files::read::<PadRecord>(&input.join(PadRecord::FILE))?.places;
            for (path, place) in folder::paths(&input)?.iter().zip(places) {
                let canvas = open_rgb8(path)?.image;
                let [left, top, width, height] = place;
                if left + width > canvas.width() || top + height > canvas.height() {
                    let problem = format!("places: {place:?} is not on the canvas {}", path.display());
                    return Err(files::unusable(&input.join(PadRecord::FILE), problem));
                }
                let picture = inside(&canvas, place, size);
                let least = FACTOR * training.crop;
                if picture.width() < least || picture.height() < least {
                    return Err(Failure::invalid_input(format!(
                        "a picture of class {class} has {}x{} pixels in the size of enlarged samples, less than \
                         {least}: lower upscale.training.crop",
                        picture.width(),
                        picture.height()
                    )));
                }
                pictures.push(picture);
            }
            if pictures.len() > 1 {
                held_out.extend(pictures.pop());
            }
            learnt.append(&mut pictures);
        }
        Ok(Self { learnt, held_out })
    }
}

/// The picture on a canvas, at that place, in whole multiples of the factor, as large as
/// if the canvas were brought to `size` at most.
fn inside(canvas: &RgbImage, [left, top, width, height]: [u32; 4], size: [u32; 2]) -> RgbImage {
    let scale = (f64::from(size[0]) / f64::from(canvas.width())).min(f64::from(size[1]) / f64::from(canvas.height()));
    let side = |pixels: u32| ((f64::from(pixels) * scale / f64::from(FACTOR)).round() as u32).max(1) * FACTOR;
    let picture = imageops::crop_imm(canvas, left, top, width, height).to_image();
    resize(&picture, side(width), side(height), Filter::Lanczos)
}

/// The picture at a quarter of its width and height.
fn reduced(image: &RgbImage, reduction: Reduction) -> RgbImage {
    let (width, height) = (image.width() / FACTOR, image.height() / FACTOR);
    match reduction {
        Reduction::Bicubic => resize(image, width, height, Filter::Bicubic),
        Reduction::Area => RgbImage::from_fn(width, height, |x, y| {
            let square = imageops::crop_imm(image, x * FACTOR, y * FACTOR, FACTOR, FACTOR).to_image();
            let sum = |channel: usize| square.pixels().map(|pixel| u32::from(pixel[channel])).sum::<u32>();
            Rgb(std::array::from_fn(|channel| ((sum(channel) + FACTOR * FACTOR / 2) / (FACTOR * FACTOR)) as u8))
        }),
    }
}

/// The input of a step: it depends on the seed and the step alone.
struct Draw {
    small: Vec<RgbImage>,
    large: Vec<RgbImage>,
}

impl Draw {
    fn new(training: &Swin2srTraining, pictures: &[RgbImage], seed: Seed, step: u32) -> Self {
        let mut rng = random::stream(seed, "train", u64::from(step));
        let mut below = |n: u32| random::below(&mut rng, n as usize) as u32;
        let side = FACTOR * training.crop;
        let mut piece = || {
            let picture = &pictures[below(pictures.len() as u32) as usize];
            let [x, y] = [picture.width(), picture.height()].map(|length| below(length - side + 1));
            let mut piece = imageops::crop_imm(picture, x, y, side, side).to_image();
            if below(2) == 1 {
                imageops::flip_horizontal_in_place(&mut piece);
            }
            if below(2) == 1 {
                imageops::flip_vertical_in_place(&mut piece);
            }
            if below(2) == 1 { imageops::rotate90(&piece) } else { piece }
        };
        let large: Vec<RgbImage> = (0..training.batch).map(|_| piece()).collect();
        Self { small: large.iter().map(|image| reduced(image, training.reduction)).collect(), large }
    }
}

/// `[pictures, 3, height, width]`, pixels 0..1.
fn stack(images: &[RgbImage], device: &Device) -> Tensor<4> {
    Tensor::cat(images.iter().map(|image| tensors::unsigned(image, device)).collect(), 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::tests::changes_nothing;
    use crate::data::picture;
    use domain::study::stage::{FailureCode, Monitor, Unwatched, picture_path};

    pub(crate) fn small() -> Swin2srTraining {
        Swin2srTraining {
            embed_dim: 8,
            depths: vec![2],
            heads: 2,
            crop: 8,
            batch: 2,
            steps: 6,
            ..Swin2srTraining::default()
        }
    }

    /// Trains on two textures of each class in `root`.
    pub(crate) fn train(training: &Swin2srTraining, root: &Path, monitor: &mut dyn Monitor) -> Result<Folder, Failure> {
        let folder = Folder::new(root);
        for (number, class) in Dataset::A.classes().into_iter().enumerate() {
            let input = folder.input(InputName::Pad(Some(class)));
            for k in [2, 3] {
                let wave = |x: u32, y: u32| (f64::from(x * k + y * number as u32) / 9.0).sin() * 60.0 + 120.0;
                let texture = RgbImage::from_fn(80, 60, |x, y| Rgb([wave(x, y) as u8, wave(y, x) as u8, 90]));
                picture::save_png(&input.join(picture_path(k as usize)), &texture).unwrap();
            }
            let pad = serde_json::json!({ "class": class, "canvas": [80, 60], "images": [], "black": [],
                "places": [[0, 0, 80, 60], [0, 0, 80, 60]] });
            files::write(&input.join(PadRecord::FILE), &pad).unwrap();
        }
        let attempt = Attempt { seed: Seed(7), folder: &folder, monitor, device: &Device::flex(), memory: 0 };
        run([80, 60], training, attempt)?;
        Ok(folder)
    }

    #[test]
    fn leaves_a_network_and_how_good_it_is_beside_bicubic_interpolation() {
        let root = tempfile::tempdir().unwrap();
        let folder = train(&small(), root.path(), &mut Unwatched).unwrap();
        let record: Swin2srRecord = files::read(&folder.output(Swin2srRecord::FILE)).unwrap();
        assert_eq!((record.images, record.held_out), (6, 6));
        let Nearness { psnr: Some(psnr), ssim: Some(ssim) } = record.bicubic else { panic!("{record:?}") };
        assert!(psnr > 20.0 && ssim > 0.5, "{record:?}");
        assert!(record.ours.psnr.is_some_and(f64::is_finite));
        let net = Swin2Sr::open(&folder.outputs(), &Device::flex()).unwrap();
        let large = net.enlarge(&RgbImage::new(9, 7), Script::default(), &Device::flex());
        assert_eq!(large.dimensions(), (36, 28));
    }

    #[test]
    fn the_loss_falls() {
        let root = tempfile::tempdir().unwrap();
        let folder = train(&Swin2srTraining { steps: 60, ..small() }, root.path(), &mut Unwatched).unwrap();
        let csv = std::fs::read_to_string(folder.output("loss.csv")).unwrap();
        let losses: Vec<f64> =
            csv.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().parse().unwrap()).collect();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!(mean(&losses[50..]) < 0.7 * mean(&losses[..10]), "{losses:?}");
    }

    #[test]
    fn stopping_and_going_on_elsewhere_changes_no_byte() {
        changes_nothing(&[1, 4], &|root, monitor| train(&small(), root, monitor));
    }

    #[test]
    fn a_loss_that_is_not_a_number_ends_the_attempt() {
        let root = tempfile::tempdir().unwrap();
        let wild = Swin2srTraining { lr: 1e30, ..small() };
        let failure = train(&wild, root.path(), &mut Unwatched).unwrap_err();
        assert_eq!(failure.code, FailureCode::NotANumber);
        assert!(failure.message.contains("lower upscale.training.lr"), "{failure}");
    }

    #[test]
    fn pictures_that_are_smaller_than_a_piece_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let failure = train(&Swin2srTraining { crop: 16, ..small() }, root.path(), &mut Unwatched).unwrap_err();
        assert!(failure.message.contains("lower upscale.training.crop"), "{failure}");
    }

    #[test]
    fn what_surrounds_a_picture_is_left_out() {
        let canvas = RgbImage::from_fn(40, 20, |x, _| if (10..30).contains(&x) { Rgb([200; 3]) } else { Rgb([0; 3]) });
        let picture = inside(&canvas, [10, 0, 20, 20], [80, 80]);
        assert_eq!(picture.dimensions(), (40, 40));
        assert!(picture.pixels().all(|pixel| pixel.0 == [200; 3]));
        assert_eq!(reduced(&picture, Reduction::Area), RgbImage::from_pixel(10, 10, Rgb([200; 3])));
    }
}
