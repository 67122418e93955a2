//! `upscale`: enlarges the samples of one model by Swin2SR, published or trained
//! here, or by a fixed filter, which stands in for it (ALGORITHM 3).

use std::path::PathBuf;

use burn::tensor::Device;
use domain::experiment::{Swin2srVariant, Upscale, UpscaleMethod};
use domain::plan::WEIGHTS_FILE;
use domain::stage::{Failure, FailureCode, Folder, Monitor, Progress};
use image::RgbImage;

use super::{Attempt, swin2sr_train};
use crate::data::batch;
use crate::data::picture::{files, open_rgb8, save_png};
use crate::data::resize::{Filter, resize};
use crate::models::swin2sr::script::{Script, Tiling};
use crate::models::swin2sr::{Swin2Sr, Swin2SrConfig, checkpoint};
use crate::records::{self, UpscaleRecord};
use crate::weights;

/// Runs the stage; see [`domain::stage::Stage::Upscale`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if there is no sample or one cannot be opened, or if the weights
/// are not those of the network.
pub fn run(upscale: &Upscale, attempt: Attempt<'_>) -> Result<(), Failure> {
    let folder = attempt.folder.input("samples").join("images");
    let samples: Vec<(usize, PathBuf)> = files(&folder)?.into_iter().enumerate().collect();
    let outputs = attempt.folder;
    let save = |number: usize, large: &RgbImage| {
        save_png(&outputs.output(&format!("images/{number:03}.png")), large)?;
        Ok([large.width(), large.height()])
    };
    let filtered = |filter: Filter, (number, path): &(usize, PathBuf)| {
        let small = open_rgb8(path)?.image;
        let size = [small.width(), small.height()].map(|side| side * upscale.factor);
        save(*number, &resize(&small, size[0], size[1], filter))
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
            one_by_one(&samples, attempt.monitor, |(number, path)| {
                save(*number, &net.enlarge(&open_rgb8(path)?.image, script, attempt.device))
            })?
        }
    };
    let Some(size) = sizes.first().copied() else {
        return Err(Failure::invalid_input(format!("{} has no pictures: sample some first", folder.display())));
    };
    let record = UpscaleRecord { method: upscale.method, size, images: sizes.len() as u32 };
    records::write(&outputs.output("upscale.json"), &record)
}

/// The network of the input `weights` or `model`.
fn network(upscale: &Upscale, folder: &Folder, device: &Device) -> Result<Swin2Sr, Failure> {
    if upscale.is_trained() {
        return swin2sr_train::open(&folder.input("model"), device);
    }
    let config = Swin2SrConfig { hf_compat: upscale.hf_compat, ..published(upscale.variant) };
    let arrays = weights::read(&folder.input("weights").join(WEIGHTS_FILE))?;
    Ok(checkpoint::network(&config, arrays, device)?.0)
}

/// The sizes of a published network.
pub(crate) fn published(variant: Swin2srVariant) -> Swin2SrConfig {
    match variant {
        Swin2srVariant::CompressedX4 => Swin2SrConfig::compressed(),
        Swin2srVariant::ClassicalX4 => Swin2SrConfig::classical(),
        Swin2srVariant::RealworldX4 => Swin2SrConfig::real_world(),
    }
}

/// One picture occupies all cores, so they follow each other: two at once would
/// need twice the memory and take as long.
fn one_by_one<T, R>(
    items: &[T],
    monitor: &mut dyn Monitor,
    work: impl Fn(&T) -> Result<R, Failure>,
) -> Result<Vec<R>, Failure> {
    let total = items.len();
    let each = |(done, item): (usize, &T)| {
        if monitor.stopping() {
            return Err(Failure::new(FailureCode::Preempted, format!("stopped at picture {done}/{total}")));
        }
        let result = work(item)?;
        let done = done + 1;
        monitor.progress(Progress { done: done as u64, total: total as u64, note: format!("picture {done}/{total}") });
        Ok(result)
    };
    items.iter().enumerate().map(each).collect()
}

#[cfg(test)]
mod tests {
    use domain::experiment::UpscaleWeights;
    use domain::seed::Seed;
    use domain::stage::Unwatched;
    use image::Rgb;

    use super::*;

    #[test]
    fn every_sample_grows_by_the_factor() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let run_it = || {
            let attempt =
                Attempt { seed: Seed(1), folder: &folder, monitor: &mut Unwatched, device: &Device::flex(), memory: 0 };
            run(&Upscale { method: UpscaleMethod::Bicubic, ..Upscale::default() }, attempt)
        };
        std::fs::create_dir_all(folder.input("samples").join("images")).unwrap();
        assert!(run_it().unwrap_err().message.contains("no pictures"));
        for i in 0..3 {
            let sample = RgbImage::from_pixel(7, 5, Rgb([i * 50; 3]));
            save_png(&folder.input("samples").join(format!("images/{i:03}.png")), &sample).unwrap();
        }
        run_it().unwrap();
        let record: UpscaleRecord = records::read(&folder.output("upscale.json")).unwrap();
        assert_eq!((record.size, record.images), ([28, 20], 3));
        let large = open_rgb8(&folder.output("images/002.png")).unwrap().image;
        assert_eq!(large, RgbImage::from_pixel(28, 20, Rgb([100; 3])));
    }

    #[test]
    fn a_network_trained_here_enlarges_whole_pictures_and_tiles() {
        let root = tempfile::tempdir().unwrap();
        let folder = swin2sr_train::tests::train(&swin2sr_train::tests::small(), root.path(), &mut Unwatched).unwrap();
        std::fs::rename(folder.outputs(), folder.input("model")).unwrap();
        let sample = RgbImage::from_fn(20, 13, |x, y| Rgb([(x * 12) as u8, (y * 18) as u8, 90]));
        save_png(&folder.input("samples").join("images/000.png"), &sample).unwrap();
        let of = |upscale: &Upscale| {
            let attempt =
                Attempt { seed: Seed(1), folder: &folder, monitor: &mut Unwatched, device: &Device::flex(), memory: 0 };
            run(upscale, attempt).unwrap();
            open_rgb8(&folder.output("images/000.png")).unwrap().image
        };
        let whole = Upscale { weights: UpscaleWeights::Trained, ..Upscale::default() };
        assert_eq!(of(&whole).dimensions(), (80, 52));
        assert_eq!(of(&Upscale { tile: 16, overlap: 8, ..whole.clone() }).dimensions(), (80, 52));
        assert_eq!(of(&Upscale { crop: false, ..whole }).dimensions(), (96, 64));
    }

    #[test]
    fn weights_of_another_network_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        save_png(&folder.input("samples").join("images/000.png"), &RgbImage::new(8, 8)).unwrap();
        let net = Swin2Sr::new(
            &Swin2SrConfig { depths: vec![1], heads: vec![2], embed_dim: 8, ..published(Swin2srVariant::ClassicalX4) },
            &Device::flex(),
        );
        weights::save(&net, &folder.input("weights").join(WEIGHTS_FILE)).unwrap();
        let attempt =
            Attempt { seed: Seed(1), folder: &folder, monitor: &mut Unwatched, device: &Device::flex(), memory: 0 };
        let failure = run(&Upscale::default(), attempt).unwrap_err();
        assert!(failure.message.contains("tensor"), "{failure}");
    }
}
