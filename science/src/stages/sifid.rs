//! Single-image Fréchet distance between the real and the synthetic pictures
//! of one class (ALGORITHM 4.3; Rott Shaham et al., ICCV 2019).
//!
//! Every position of a feature map is a sample: two pictures are close if their
//! textures are. By default real pictures are first brought to the size of the synthetic
//! ones, each pixel the mean of the area that it covers, so that both show textures at
//! one resolution.

use burn::tensor::{Device, Tensor};
use domain::study::experiment::{Features, Pairing, SifidRule, SifidSize};
use domain::study::plan::WEIGHTS_FILE;
use domain::study::records::{Record, SifidRecord};
use domain::study::stage::{EvaluateSifid, Failure, FailureCode, Folder, InputName};
use image::RgbImage;
use nalgebra::DMatrix;
use rayon::prelude::*;

use super::Attempt;
use crate::data::compared;
use crate::data::resize::resize_area;
use crate::data::tensors;
use crate::files;
use crate::frechet::{Rooted, Statistics};
use crate::models::inception::{Block, Inception, Variant};
use crate::progress::Watch;
use crate::weights;

/// Smallest width and height that the stem can look at, in pixels.
const SIDE_MIN: u32 = 23;

/// Writes `sifid.json`.
///
/// # Errors
/// If a picture cannot be used, a distance is not a number, or the attempt was
/// told to stop.
pub fn run(sifid: &EvaluateSifid, attempt: Attempt<'_>) -> Result<(), Failure> {
    let block = if sifid.block == 64 { Block::C64 } else { Block::C192 };
    let stem = stem(sifid.features, attempt.folder, attempt.device)?;
    let of = |image| samples(stem.forward(tensors::signed(&[image], attempt.device), block));
    let reals = compared::real(attempt.folder, sifid.mosaic)?;
    let synthetics = compared::synthetic(attempt.folder)?;
    let mut watch = Watch::new(attempt.monitor, (reals.len() + synthetics.len()) as u64);

    // Reals first: their statistics are needed for every synthetic picture.
    let (width, height) = synthetics[0].open()?.dimensions();
    let least = if let SifidSize::Size([width, height]) = sifid.size { width.min(height) } else { width.min(height) };
    if least < SIDE_MIN {
        let message = format!("synthetic pictures of {width}×{height} pixels are too small: at least {SIDE_MIN}");
        return Err(Failure::invalid_input(message));
    }
    // The size that a picture is looked at, by where it comes from.
    let sized = |image: RgbImage, is_real: bool| match sifid.size {
        SifidSize::Size([width, height]) => resize_area(&image, width, height),
        SifidSize::Rule(SifidRule::RealResizedToFake) if is_real => resize_area(&image, width, height),
        SifidSize::Rule(SifidRule::RealResizedToFake | SifidRule::Native) => image,
    };
    let mut real = Vec::new();
    for picture in &reals {
        step(&mut watch)?;
        real.push(Rooted::from_samples(of(sized(picture.open()?, true))));
    }

    let mut per_image = Vec::new();
    for (i, picture) in synthetics.iter().enumerate() {
        step(&mut watch)?;
        let image = picture.open()?;
        if image.dimensions() != (width, height) {
            let message = format!("{} is not of {width}×{height} pixels like the first", picture.name());
            return Err(Failure::invalid_input(message));
        }
        let synthetic = Statistics::from_samples(of(sized(image, false)));
        let distances: Vec<f64> = match sifid.pairing {
            Pairing::Index => vec![real[i % real.len()].distance(&synthetic)],
            Pairing::AllPairs | Pairing::Nearest => real.par_iter().map(|real| real.distance(&synthetic)).collect(),
        };
        let distance = match sifid.pairing {
            Pairing::Nearest => distances.iter().copied().fold(f64::INFINITY, f64::min),
            Pairing::AllPairs | Pairing::Index => distances.iter().sum::<f64>() / distances.len() as f64,
        };
        if !distance.is_finite() {
            let message = format!("the distance of {} is not a number", picture.name());
            return Err(Failure::new(FailureCode::NotANumber, message));
        }
        per_image.push(distance);
    }
    let mean = per_image.iter().sum::<f64>() / per_image.len() as f64;
    files::write(&attempt.folder.output(SifidRecord::FILE), &SifidRecord { block: sifid.block, mean, per_image })
}

/// The layers whose features are compared.
fn stem(features: Features, folder: &Folder, device: &Device) -> Result<Inception, Failure> {
    match features {
        Features::Random => Ok(Inception::fixed(device)),
        Features::Imagenet => {
            let path = folder.input(InputName::Weights).join(WEIGHTS_FILE);
            Ok(Inception::published(Variant::Torchvision, weights::read(&path)?, device)?.stem())
        }
    }
}

/// The features of one picture, every position a sample: `[1, channels, height,
/// width]` to `[channels, positions]`.
pub(crate) fn samples(features: Tensor<4>) -> DMatrix<f64> {
    let [_, channels, height, width] = features.dims();
    let values = features.into_data();
    DMatrix::from_row_iterator(channels, height * width, values.iter::<f32>().map(f64::from))
}

/// Counts a picture before it is looked at.
fn step(watch: &mut Watch<'_>) -> Result<(), Failure> {
    if watch.monitor.stopping() {
        return Err(Failure::new(FailureCode::Preempted, "told to stop between two pictures"));
    }
    watch.done += 1;
    let note = format!("picture {}/{}", watch.done, watch.total);
    watch.report(note);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use domain::seed::Seed;
    use domain::study::stage::{Folder, Unwatched, picture_path};

    use super::*;
    use crate::data::picture;

    fn texture(k: u32) -> RgbImage {
        RgbImage::from_fn(48, 36, |x, y| image::Rgb([(x * y * k) as u8, (x * k) as u8, (y * 7) as u8]))
    }

    fn distances(pairing: Pairing, root: &Path) -> SifidRecord {
        let folder = Folder::new(root);
        for (name, ks) in [(InputName::Real(None), vec![2, 3]), (InputName::Synthetic(None), vec![3, 9])] {
            for k in ks {
                let path = folder.input(name).join(picture_path(k as usize));
                picture::save_png(&path, &texture(k)).unwrap();
            }
        }
        let device = Device::flex();
        let attempt = Attempt { seed: Seed(1), folder: &folder, monitor: &mut Unwatched, device: &device, memory: 0 };
        let sifid = EvaluateSifid { features: Features::Random, block: 64, pairing, ..EvaluateSifid::default() };
        run(&sifid, attempt).unwrap();
        files::read(&folder.output(SifidRecord::FILE)).unwrap()
    }

    #[test]
    fn a_picture_is_nearest_to_itself_and_pairings_differ_as_named() {
        let root = tempfile::tempdir().unwrap();
        let all = distances(Pairing::AllPairs, &root.path().join("all"));
        let nearest = distances(Pairing::Nearest, &root.path().join("nearest"));
        let index = distances(Pairing::Index, &root.path().join("index"));
        assert!(nearest.per_image[0].abs() < 1e-6, "{}", nearest.per_image[0]);
        assert!(all.per_image[0] > 1e-3 && all.per_image[1] >= nearest.per_image[1]);
        assert!((index.per_image[0] / 2.0 - all.per_image[0]).abs() < 1e-6); // the other pair is at distance 0
        assert!((all.mean - (all.per_image[0] + all.per_image[1]) / 2.0).abs() < 1e-12);
    }
}
