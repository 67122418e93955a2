//! `evaluate.drift`: whether simple properties of synthetic pictures are
//! distributed as those of the real ones (ALGORITHM 4.1). Every pixel counts;
//! nothing is subsampled.

use std::path::PathBuf;

use domain::experiment::Drift;
use domain::paper::DRIFT_PROPERTIES;
use domain::seed::Seed;
use domain::stage::{Failure, Folder};
use domain::stats::distance::{earth_movers, kolmogorov_smirnov};
use domain::stats::quantile;
use domain::stone::Dataset;
use image::RgbImage;
use rand::RngExt;

use super::Attempt;
use crate::data::batch;
use crate::data::picture::{files, open_rgb8};
use crate::random;
use crate::records::{self, DriftRecord, PropertyDrift};

/// Simulated pairs of samples behind the null quantiles.
const DRAWS: u64 = 2000;

/// Runs the stage; see [`domain::stage::Stage::EvaluateDrift`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if a class has no pictures or one cannot be opened.
pub fn run(drift: &Drift, attempt: Attempt<'_>) -> Result<(), Failure> {
    let real = pictures(attempt.folder, "real")?;
    let synthetic = pictures(attempt.folder, "synthetic")?;
    let all: Vec<&PathBuf> = real.iter().chain(&synthetic).collect();
    let measured = batch::map(&all, "picture", attempt.monitor, |path| Ok(properties(&open_rgb8(path)?.image)))?;
    let ks_null = null(real.len(), synthetic.len(), attempt.seed);
    let properties = DRIFT_PROPERTIES
        .iter()
        .enumerate()
        .map(|(property, name)| {
            let values: Vec<f64> = measured.iter().map(|values| values[property]).collect();
            let (real, synthetic) = values.split_at(real.len());
            PropertyDrift {
                property: (*name).to_owned(),
                ks: kolmogorov_smirnov(real, synthetic),
                emd: earth_movers(real, synthetic, drift.margin),
                ks_null,
                real: real.to_vec(),
                synthetic: synthetic.to_vec(),
            }
        })
        .collect();
    let record = DriftRecord { n_real: real.len() as u32, n_synthetic: synthetic.len() as u32, properties };
    records::write(&attempt.folder.output("drift.json"), &record)
}

/// The pictures of one kind of input: of all classes, by class and name, unless
/// one input holds those of all.
///
/// # Errors
/// `InvalidInput` naming the folder if a class has none.
pub(super) fn pictures(folder: &Folder, kind: &str) -> Result<Vec<PathBuf>, Failure> {
    if folder.input(kind).exists() {
        return crate::data::folder::paths(&folder.input(kind));
    }
    let mut all = Vec::new();
    for class in Dataset::A.classes() {
        let folder = folder.input(&format!("{kind}.{class}")).join("images");
        let found = files(&folder)?;
        if found.is_empty() {
            return Err(Failure::invalid_input(format!(
                "{} has no pictures: nothing to compare for class {class}",
                folder.display()
            )));
        }
        all.extend(found);
    }
    Ok(all)
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

/// 5th, 50th and 95th percentile of the Kolmogorov–Smirnov statistic of two
/// samples of these sizes from one continuous distribution.
fn null(first: usize, second: usize, seed: Seed) -> [f64; 3] {
    let mut statistics: Vec<f64> = (0..DRAWS)
        .map(|draw| {
            let mut rng = random::stream(seed, "drift.null", draw);
            let mut sample = |size: usize| (0..size).map(|_| rng.random::<f64>()).collect::<Vec<f64>>();
            kolmogorov_smirnov(&sample(first), &sample(second))
        })
        .collect();
    statistics.sort_by(f64::total_cmp);
    [0.05, 0.5, 0.95].map(|share| quantile(&statistics, share))
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

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
    fn null_quantiles_are_those_of_the_specification() {
        let [low, median, high] = null(48, 150, Seed(3407));
        assert!((low - 0.080).abs() < 0.004 && (median - 0.132).abs() < 0.004 && (high - 0.219).abs() < 0.010);
        assert_eq!(null(48, 150, Seed(3407)), [low, median, high]);
    }
}

#[cfg(test)]
mod golden {
    mod drift {
        use std::{env, fs, path::PathBuf};

        use domain::paper::DRIFT_PROPERTIES;
        use serde_json::Value;

        use crate::data::picture::{files, open_rgb8};
        use crate::stages::drift::properties;
        use domain::stats::distance::{earth_movers, kolmogorov_smirnov};

        fn close(value: f64, expected: &Value, what: &str) {
            let expected = expected.as_f64().unwrap();
            assert!((value - expected).abs() < 1e-9, "{what}: {value} is not {expected}");
        }

        #[test]
        #[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
        fn properties_and_scores_equal_deepchecks() {
            let folder = PathBuf::from(env::var("LITHOGEN_GOLDEN").unwrap()).join("drift");
            let json: Value = serde_json::from_slice(&fs::read(folder.join("drift.json")).unwrap()).unwrap();
            for case in json["cases"].as_array().unwrap() {
                let measure = |side: &str| -> Vec<[f64; 5]> {
                    // `train:-5` is all but the last five of `train`; the count says so too.
                    let name = case[side].as_str().unwrap().split(':').next().unwrap();
                    let pictures = files(&folder.join(name)).unwrap();
                    let count = case[format!("n_{side}")].as_u64().unwrap() as usize;
                    pictures[..count].iter().map(|path| properties(&open_rgb8(path).unwrap().image)).collect()
                };
                let (train, test) = (measure("train"), measure("test"));
                for (i, name) in DRIFT_PROPERTIES.iter().enumerate() {
                    let what = format!("{} {name}", case["name"]);
                    for (side, values) in [("train", &train), ("test", &test)] {
                        let expected = case[format!("properties_{side}")][name].as_array().unwrap();
                        let scale = if i < 2 { 255.0 } else { 1.0 };
                        for (value, expected) in values.iter().zip(expected) {
                            close(value[i] * scale, expected, &what);
                        }
                    }
                    // Rounded as the expected scores were: where all values lie close
                    // together, rounding shows in the earth mover's distance.
                    let scale = if i < 2 { 255.0 } else { 1.0 };
                    let rounded = |values: &[f64; 5]| (values[i] * scale * 1e9).round() / 1e9;
                    let [train, test] = [&train, &test].map(|side| side.iter().map(rounded).collect::<Vec<f64>>());
                    let scores = &case["drift_of_values_rounded_1e-9"];
                    close(kolmogorov_smirnov(&train, &test), &scores["KS"][name], &what);
                    close(earth_movers(&train, &test, 0.025), &scores["EMD"][name], &what);
                }
            }
        }
    }
}
