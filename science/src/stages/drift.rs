//! `evaluate.drift`: whether simple properties of synthetic pictures are
//! distributed as those of the real ones (ALGORITHM 4.1), in one frame.

use domain::seed::Seed;
use domain::study::experiment::{DriftPath, UpscaleMethod};
use domain::study::paper::DRIFT_PROPERTIES;
use domain::study::records::{DriftRecord, PropertyDrift, Record};
use domain::study::stage::{EvaluateDrift, Failure, Seen};
use domain::study::stats::distance::{VALUES_MIN, earth_movers, kolmogorov_smirnov};
use domain::study::stats::kolmogorov::ks_quantile;
use image::{Rgb, RgbImage};

use super::Attempt;
use crate::data::batch;
use crate::data::compared::{self, Compared};
use crate::data::resize::{Filter, resize};
use crate::files;
use crate::random;

/// Runs the stage; see [`domain::study::stage::Stage::EvaluateDrift`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if a class has no pictures or one cannot be opened.
pub fn run(drift: &EvaluateDrift, attempt: Attempt<'_>) -> Result<(), Failure> {
    let real = compared::real(attempt.folder, drift.mosaic)?;
    let synthetic = compared::synthetic(attempt.folder)?;
    let all: Vec<(u64, &Compared)> = (0..).zip(real.iter().chain(&synthetic)).collect();
    let seed = attempt.seed;
    let reals = real.len() as u64;
    let measured = batch::map(&all, "picture", attempt.monitor, |(number, picture)| {
        let image = picture.open()?;
        let image = match drift.seen {
            Some(seen) if *number < reals => as_seen(&image, seen),
            Some(_) | None => image,
        };
        Ok(properties(&match drift.path {
            DriftPath::Full => image,
            DriftPath::Sampled10000 => sampled(&image, seed, *number),
        }))
    })?;
    let ks_null = [0.05, 0.5, 0.95].map(|share| ks_quantile(real.len(), synthetic.len(), share));
    let fewest = real.len().min(synthetic.len());
    let why = (fewest < VALUES_MIN).then(|| format!("needs at least {VALUES_MIN} values of each, has {fewest}"));
    let properties = DRIFT_PROPERTIES
        .iter()
        .enumerate()
        .map(|(property, name)| {
            let values: Vec<f64> = measured.iter().map(|values| values[property]).collect();
            let (real, synthetic) = values.split_at(real.len());
            PropertyDrift {
                property: (*name).to_owned(),
                ks: why.is_none().then(|| kolmogorov_smirnov(real, synthetic)),
                emd: earth_movers(real, synthetic, drift.margin).filter(|_| why.is_none()),
                ks_null,
                real: real.to_vec(),
                synthetic: synthetic.to_vec(),
                why: why.clone(),
            }
        })
        .collect();
    let record = DriftRecord { n_real: real.len() as u32, n_synthetic: synthetic.len() as u32, properties };
    files::write(&attempt.folder.output(DriftRecord::FILE), &record)
}

/// A real picture as a perfect generator would show it: shrunk to the finest scale as for
/// training, and enlarged as samples are.
fn as_seen(image: &RgbImage, Seen { finest, factor, method }: Seen) -> RgbImage {
    let [width, height] = finest.size(image.dimensions().into());
    let small = resize(image, width, height, Filter::Lanczos);
    let filter = if method == UpscaleMethod::Bicubic { Filter::Bicubic } else { Filter::Lanczos };
    resize(&small, width * factor, height * factor, filter)
}

/// The number of pixels of a picture that are measured where they are drawn.
const SAMPLED: u32 = 10_000;

/// [`SAMPLED`] pixels of a picture, each drawn from all, as a picture of one row.
fn sampled(image: &RgbImage, seed: Seed, number: u64) -> RgbImage {
    let (pixels, _) = image.as_chunks::<3>();
    let mut rng = random::stream(seed, "drift.pixels", number);
    RgbImage::from_fn(SAMPLED, 1, |_, _| {
        pixels.get(random::below(&mut rng, pixels.len())).map_or(Rgb([0; 3]), |pixel| Rgb(*pixel))
    })
}

/// The properties of one picture, in the order of [`DRIFT_PROPERTIES`]: mean
/// and population standard deviation of grey (0 to 1), and each channel's mean
/// share of its pixel's sum (0 where the pixel is black). Rounded to twelve
/// digits, since flat pictures would otherwise differ by rounding alone.
pub fn properties(image: &RgbImage) -> [f64; 5] {
    let count = (image.width() as f64 * image.height() as f64).max(1.0);
    let grey = |pixel: &[u8; 3]| {
        let [red, green, blue] = pixel.map(f64::from);
        (0.2125 * red + 0.7154 * green + 0.0721 * blue) / 255.0
    };
    let mut brightness = 0.0;
    let mut relative = [0.0; 3];
    for pixel in image.pixels() {
        brightness += grey(&pixel.0);
        let sum: f64 = pixel.0.iter().map(|value| f64::from(*value)).sum();
        if sum > 0.0 {
            relative.iter_mut().zip(pixel.0).for_each(|(share, value)| *share += f64::from(value) / sum);
        }
    }
    brightness /= count;
    let spread: f64 = image.pixels().map(|pixel| (grey(&pixel.0) - brightness).powi(2)).sum();
    let [red, green, blue] = relative.map(|share| share / count);
    [brightness, (spread / count).sqrt(), red, green, blue].map(|value| (value * 1e12).round() / 1e12)
}

#[cfg(test)]
mod tests {
    use domain::study::stage::{Folder, InputName, Unwatched, picture_path};

    use super::*;
    use crate::data::picture::save_png;

    fn close(values: [f64; 5], expected: [f64; 5]) {
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-7, "{values:?}");
        }
    }

    #[test]
    fn properties_of_the_specification() {
        let mut image = RgbImage::new(2, 2);
        for (pixel, color) in image.pixels_mut().zip([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]) {
            *pixel = Rgb(color);
        }
        close(properties(&image), [0.26823137, 0.26442280, 0.2916667, 0.3333333, 0.375]);
        image.put_pixel(0, 0, Rgb([0; 3]));
        close(properties(&image), [0.21510637, 0.29035784, 0.0416667, 0.3333333, 0.375]);
    }

    #[test]
    fn ten_thousand_drawn_pixels_say_nearly_what_all_do() {
        let image = RgbImage::from_fn(300, 200, |x, y| Rgb([(x % 251) as u8, (y % 199) as u8, (x * y % 97) as u8]));
        let (all, some) = (properties(&image), properties(&sampled(&image, Seed(1), 0)));
        // The standard error of a mean of 10 000 values in 0..1 is at most 0.005.
        assert!(all.iter().zip(some).all(|(all, some)| (all - some).abs() < 0.02), "{all:?} {some:?}");
        assert_ne!(some, properties(&sampled(&image, Seed(1), 1)));
        assert_eq!(some, properties(&sampled(&image, Seed(1), 0)));
    }

    #[test]
    fn few_pictures_have_no_score_but_a_reason() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        for (name, count) in [(InputName::Real(None), 10), (InputName::Synthetic(None), 2)] {
            for i in 0..count {
                let path = folder.input(name).join(picture_path(i));
                save_png(&path, &RgbImage::from_pixel(4, 4, Rgb([i as u8 * 20, 60, 90]))).unwrap();
            }
        }
        let scores = |folder: &Folder| -> DriftRecord {
            let device = burn::tensor::Device::flex();
            let attempt = Attempt { seed: Seed(1), folder, monitor: &mut Unwatched, device: &device, memory: 0 };
            run(&EvaluateDrift::default(), attempt).unwrap();
            files::read(&folder.output(DriftRecord::FILE)).unwrap()
        };
        let record = scores(&folder);
        assert_eq!((record.n_real, record.n_synthetic, record.properties.len()), (10, 2, 5));
        for found in &record.properties {
            assert_eq!((found.ks, found.emd), (None, None));
            assert_eq!(found.why.as_deref(), Some("needs at least 10 values of each, has 2"));
        }
        for i in 2..10 {
            let path = folder.input(InputName::Synthetic(None)).join(picture_path(i));
            save_png(&path, &RgbImage::from_pixel(4, 4, Rgb([i as u8 * 20, 60, 90]))).unwrap();
        }
        let found = &scores(&folder).properties[0];
        assert_eq!((found.ks, found.emd, &found.why), (Some(0.0), Some(0.0), &None));
    }
}
