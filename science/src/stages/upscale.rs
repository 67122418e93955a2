//! `upscale`: enlarges the samples of one model by Swin2SR, published or trained
//! here, or by a fixed filter, which stands in for it (ALGORITHM 3).

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use domain::study::experiment::SIDE_MAX;
use domain::study::experiment::{Swin2srVariant, Upscale, UpscaleMethod};
use domain::study::plan::WEIGHTS_FILE;
use domain::study::records::{Record, UpscaleRecord};
use domain::study::stage::{Failure, Folder, InputName, picture_path};
use image::RgbImage;

use super::Attempt;
use crate::data::batch;
use crate::data::picture::{files, open_rgb8, save_png, size};
use crate::data::resize::{Filter, resize};
use crate::files;
use crate::models::swin2sr::script::{Script, Tiling};
use crate::models::swin2sr::{Swin2Sr, Swin2SrConfig, checkpoint};
use crate::weights;

/// Memory that a pixel of a small picture takes at the peak: 423 MiB were measured for
/// 264×200 in the network for compressed pictures; the others were not measured.
const PIXEL_BYTES: u64 = 8600;

/// Runs the stage; see [`domain::study::stage::Stage::Upscale`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if there is no sample or one cannot be opened, or if the weights
/// are not those of the network.
pub fn run(upscale: &Upscale, attempt: Attempt<'_>) -> Result<(), Failure> {
    let folder = attempt.folder.input(InputName::Samples).join("images");
    let samples: Vec<(usize, PathBuf)> = files(&folder)?.into_iter().enumerate().collect();
    for (_, path) in &samples {
        small_enough(path, upscale.factor)?;
    }
    let outputs = attempt.folder;
    let save = |number: usize, large: &RgbImage| {
        save_png(&outputs.output(&picture_path(number)), large)?;
        Ok([large.width(), large.height()])
    };
    let enlarged = |[width, height]: [u32; 2]| [width * upscale.factor, height * upscale.factor];
    let filtered = |filter: Filter, (number, path): &(usize, PathBuf)| {
        let small = open_rgb8(path)?.image;
        let [width, height] = enlarged(small.dimensions().into());
        save(*number, &resize(&small, width, height, filter))
    };
    let sizes = match upscale.method {
        UpscaleMethod::Lanczos => {
            batch::map(&samples, "picture", attempt.monitor, |sample| filtered(Filter::Lanczos, sample))?
        }
        UpscaleMethod::Bicubic => {
            batch::map(&samples, "picture", attempt.monitor, |sample| filtered(Filter::Bicubic, sample))?
        }
        UpscaleMethod::Swin2sr => {
            let tiling = match upscale.tile {
                0 => None,
                tile => Some(Tiling::new(tile as usize, upscale.overlap as usize)?),
            };
            let script = Script { crop: upscale.crop, tiling };
            let net = network(upscale, attempt.folder, attempt.device)?;
            let (at_once, device) = (at_once(&samples, upscale, &attempt)?, attempt.device);
            batch::map_at_most(at_once, &samples, "picture", attempt.monitor, |(number, path)| {
                save(*number, &net.enlarge(&open_rgb8(path)?.image, script, device))
            })?
        }
    };
    let Some(size) = sizes.first().copied() else {
        return Err(Failure::invalid_input(format!("{} has no pictures: sample some first", folder.display())));
    };
    let counts = samples.first().map(|(_, path)| self::size(path)).transpose()?.map(enlarged);
    let record = UpscaleRecord { method: upscale.method, size, counts, images: sizes.len() as u32 };
    files::write(&outputs.output(UpscaleRecord::FILE), &record)
}

/// Refuses a sample that would be larger than what is opened.
fn small_enough(path: &Path, factor: u32) -> Result<(), Failure> {
    let [width, height] = size(path)?;
    if u64::from(width.max(height)) * u64::from(factor) <= u64::from(SIDE_MAX) {
        Ok(())
    } else {
        Err(Failure::invalid_input(format!(
            "{} has {width}x{height} pixels: {factor} times as wide and high it has more than {SIDE_MAX} a side",
            path.display()
        )))
    }
}

/// The network of the input `weights` or `model`.
fn network(upscale: &Upscale, folder: &Folder, device: &Device) -> Result<Swin2Sr, Failure> {
    if upscale.is_trained() {
        return Swin2Sr::open(&folder.input(InputName::Model(None)), device);
    }
    let config = Swin2SrConfig { hf_compat: upscale.hf_compat, ..published(upscale.variant) };
    let arrays = weights::read(&folder.input(InputName::Weights).join(WEIGHTS_FILE))?;
    Ok(checkpoint::network(&config, arrays, device)?.0)
}

/// The sizes of a published network.
fn published(variant: Swin2srVariant) -> Swin2SrConfig {
    match variant {
        Swin2srVariant::CompressedX4 => Swin2SrConfig::compressed(),
        Swin2srVariant::ClassicalX4 => Swin2SrConfig::classical(),
        Swin2srVariant::RealworldX4 => Swin2SrConfig::real_world(),
    }
}

/// The number of pictures that are enlarged at once: on a processor as many as there are
/// threads and room for, since one picture keeps two cores busy and leaves others idle. A GPU
/// is busy with one.
fn at_once(samples: &[(usize, PathBuf)], upscale: &Upscale, attempt: &Attempt<'_>) -> Result<usize, Failure> {
    if *attempt.device != Device::flex() {
        return Ok(1);
    }
    let mut largest = 0;
    for (_, path) in samples {
        let [width, height] = size(path)?;
        let pixels = match upscale.tile {
            0 => u64::from(width) * u64::from(height),
            tile => u64::from(tile).pow(2),
        };
        largest = largest.max(pixels);
    }
    let room = attempt.memory / (largest * PIXEL_BYTES).max(1);
    Ok(usize::try_from(room).unwrap_or(usize::MAX).clamp(1, rayon::current_num_threads()))
}

#[cfg(test)]
mod tests {
    use domain::seed::Seed;
    use domain::study::experiment::UpscaleWeights;
    use domain::study::stage::Unwatched;
    use image::Rgb;

    use super::super::swin2sr_train;
    use super::*;

    #[test]
    fn a_sample_that_would_be_too_large_is_refused_before_it_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("000.png");
        save_png(&path, &RgbImage::new(9000, 1)).unwrap();
        small_enough(&path, 3).unwrap();
        let message = small_enough(&path, 4).unwrap_err().message;
        assert!(message.ends_with("000.png has 9000x1 pixels: 4 times as wide and high it has more than 32768 a side"));
    }

    #[test]
    fn every_sample_grows_by_the_factor() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let run_it = || {
            let attempt =
                Attempt { seed: Seed(1), folder: &folder, monitor: &mut Unwatched, device: &Device::flex(), memory: 0 };
            run(&Upscale { method: UpscaleMethod::Bicubic, ..Upscale::default() }, attempt)
        };
        std::fs::create_dir_all(folder.input(InputName::Samples).join("images")).unwrap();
        assert!(run_it().unwrap_err().message.contains("no pictures"));
        for i in 0..3 {
            let sample = RgbImage::from_pixel(7, 5, Rgb([i * 50; 3]));
            save_png(&folder.input(InputName::Samples).join(picture_path(usize::from(i))), &sample).unwrap();
        }
        run_it().unwrap();
        let record: UpscaleRecord = files::read(&folder.output(UpscaleRecord::FILE)).unwrap();
        assert_eq!((record.size, record.images), ([28, 20], 3));
        let large = open_rgb8(&folder.output("images/002.png")).unwrap().image;
        assert_eq!(large, RgbImage::from_pixel(28, 20, Rgb([100; 3])));
    }

    #[test]
    fn a_network_trained_here_enlarges_whole_pictures_and_tiles() {
        let root = tempfile::tempdir().unwrap();
        let folder = swin2sr_train::tests::train(&swin2sr_train::tests::small(), root.path(), &mut Unwatched).unwrap();
        std::fs::rename(folder.outputs(), folder.input(InputName::Model(None))).unwrap();
        let sample = RgbImage::from_fn(20, 13, |x, y| Rgb([(x * 12) as u8, (y * 18) as u8, 90]));
        save_png(&folder.input(InputName::Samples).join("images/000.png"), &sample).unwrap();
        let with = |memory: u64, upscale: &Upscale| {
            let attempt =
                Attempt { seed: Seed(1), folder: &folder, monitor: &mut Unwatched, device: &Device::flex(), memory };
            run(upscale, attempt).unwrap();
            open_rgb8(&folder.output("images/000.png")).unwrap().image
        };
        let of = |upscale: &Upscale| with(0, upscale);
        let whole = Upscale { weights: UpscaleWeights::Trained, ..Upscale::default() };
        assert_eq!(of(&whole).dimensions(), (80, 52));
        assert_eq!(of(&Upscale { tile: 16, overlap: 8, ..whole.clone() }).dimensions(), (80, 52));
        assert_eq!(of(&Upscale { crop: false, ..whole.clone() }).dimensions(), (96, 64));

        // Several at once, as memory allows, are the same to the byte.
        let alone = of(&whole);
        let other = RgbImage::from_fn(20, 13, |x, y| Rgb([(y * 18) as u8, 30, (x * 12) as u8]));
        save_png(&folder.input(InputName::Samples).join("images/001.png"), &other).unwrap();
        assert_eq!(with(u64::MAX, &whole), alone);
    }

    #[test]
    fn weights_of_another_network_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        save_png(&folder.input(InputName::Samples).join("images/000.png"), &RgbImage::new(8, 8)).unwrap();
        let net = Swin2Sr::new(
            &Swin2SrConfig { depths: vec![1], heads: vec![2], embed_dim: 8, ..published(Swin2srVariant::ClassicalX4) },
            &Device::flex(),
        );
        weights::save(&net, &folder.input(InputName::Weights).join(WEIGHTS_FILE)).unwrap();
        let attempt =
            Attempt { seed: Seed(1), folder: &folder, monitor: &mut Unwatched, device: &Device::flex(), memory: 0 };
        let failure = run(&Upscale::default(), attempt).unwrap_err();
        assert!(failure.message.contains("tensor"), "{failure}");
    }
}
