//! `upscale`: enlarges the samples of one model by a fixed filter, which stands
//! in for the paper's Swin2SR (ALGORITHM 3).

use domain::experiment::{Upscale, UpscaleMethod};
use domain::stage::Failure;

use super::Attempt;
use crate::data::batch;
use crate::data::picture::{files, open_rgb8, save_png};
use crate::data::resize::{Filter, resize};
use crate::pretrained;
use crate::records::{self, UpscaleRecord};

/// Runs the stage; see [`domain::stage::Stage::Upscale`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if there is no sample or one cannot be opened.
pub fn run(upscale: &Upscale, attempt: Attempt<'_>) -> Result<(), Failure> {
    let folder = attempt.folder.input("samples").join("images");
    let samples: Vec<_> = files(&folder)?.into_iter().enumerate().collect();
    let filter = match upscale.method {
        UpscaleMethod::Lanczos => Filter::Lanczos,
        UpscaleMethod::Bicubic => Filter::Bicubic,
        UpscaleMethod::Swin2sr => return Err(pretrained::unbuilt(upscale.variant.weights())),
    };
    let outputs = attempt.folder;
    let sizes = batch::map(&samples, "picture", attempt.monitor, |(number, path)| {
        let small = open_rgb8(path)?.image;
        let size = [small.width(), small.height()].map(|side| side * upscale.factor);
        let large = resize(&small, size[0], size[1], filter);
        save_png(&outputs.output(&format!("images/{number:03}.png")), &large)?;
        Ok(size)
    })?;
    let Some(size) = sizes.first().copied() else {
        return Err(Failure::invalid_input(format!("{} has no pictures: sample some first", folder.display())));
    };
    let record = UpscaleRecord { method: upscale.method, size, images: sizes.len() as u32 };
    records::write(&outputs.output("upscale.json"), &record)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use domain::seed::Seed;
    use domain::stage::{Folder, Unwatched};
    use image::{Rgb, RgbImage};

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
}
