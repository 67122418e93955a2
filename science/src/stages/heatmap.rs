//! `evaluate.heatmap`: where the mean real and the mean synthetic picture are
//! bright (ALGORITHM 4.2), both at the size of the synthetic pictures.

use std::path::PathBuf;

use domain::stage::Failure;
use image::{GrayImage, Rgb, RgbImage};

use super::Attempt;
use super::drift::pictures;
use crate::data::batch;
use crate::data::foreground::{grey, otsu};
use crate::data::picture::{open_rgb8, save_png};
use crate::records::{self, HeatmapRecord};

/// Colours of the maps from dark to bright, evenly spaced.
const COLORS: [[u8; 3]; 6] = [[0, 0, 6], [74, 12, 107], [165, 44, 96], [229, 92, 48], [251, 165, 10], [252, 253, 191]];

/// Runs the stage; see [`domain::stage::Stage::EvaluateHeatmap`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if a class has no pictures or one cannot be opened.
pub fn run(attempt: Attempt<'_>) -> Result<(), Failure> {
    let real = pictures(attempt.folder, "real")?;
    let synthetic = pictures(attempt.folder, "synthetic")?;
    let size = open_rgb8(&synthetic[0])?.image.dimensions();
    let all: Vec<&PathBuf> = real.iter().chain(&synthetic).collect();
    let levels = batch::map(&all, "picture", attempt.monitor, |path| {
        Ok(resize_area(&grey(&open_rgb8(path)?.image), size.0, size.1))
    })?;
    let (real, synthetic) = levels.split_at(real.len());
    let (real, synthetic) = (mean(real), mean(synthetic));
    let difference: Vec<u8> = real.iter().zip(synthetic.iter()).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = difference.iter().map(|level| f64::from(*level)).sum();
    let record = HeatmapRecord {
        size: [size.0, size.1],
        mean_difference: sum / difference.len().max(1) as f64,
        foreground_real: foreground(&real),
        foreground_synthetic: foreground(&synthetic),
    };
    for (name, levels) in [("real", real.as_raw()), ("synthetic", synthetic.as_raw()), ("difference", &difference)] {
        save_png(&attempt.folder.output(&format!("{name}.png")), &colored(levels, size))?;
    }
    records::write(&attempt.folder.output("heatmap.json"), &record)
}

/// The mean of pictures of one size, truncated to whole grey levels.
fn mean(pictures: &[GrayImage]) -> GrayImage {
    let Some(first) = pictures.first() else { return GrayImage::default() };
    let mut sums = vec![0u64; first.len()];
    for picture in pictures {
        sums.iter_mut().zip(picture.iter()).for_each(|(sum, level)| *sum += u64::from(*level));
    }
    let count = pictures.len() as u64;
    let levels = sums.into_iter().map(|sum| (sum / count) as u8).collect();
    GrayImage::from_raw(first.width(), first.height(), levels).unwrap_or_default()
}

/// Share of pixels above Otsu's threshold.
fn foreground(levels: &GrayImage) -> f64 {
    let threshold = otsu(levels);
    levels.iter().filter(|level| **level > threshold).count() as f64 / levels.len().max(1) as f64
}

/// False colours.
fn colored(levels: &[u8], (width, height): (u32, u32)) -> RgbImage {
    let color = |level: u8| {
        let position = f64::from(level) / 255.0 * (COLORS.len() - 1) as f64;
        let (left, share) = (position as usize, position.fract());
        let right = (left + 1).min(COLORS.len() - 1);
        let mix = |channel: usize| {
            let [a, b] = [COLORS[left][channel], COLORS[right][channel]].map(f64::from);
            (a + (b - a) * share).round() as u8
        };
        Rgb([mix(0), mix(1), mix(2)])
    };
    RgbImage::from_fn(width, height, |x, y| color(levels[(y * width + x) as usize]))
}

/// Resizes by averaging over the area of each output pixel; where the picture
/// has to grow in either direction, by mixing neighbours instead, as OpenCV's
/// INTER_AREA does.
fn resize_area(picture: &GrayImage, width: u32, height: u32) -> GrayImage {
    if picture.dimensions() == (width, height) || picture.is_empty() {
        return picture.clone();
    }
    let shrinks = picture.width() >= width && picture.height() >= height;
    let taps = |from: u32, to: u32| -> Vec<Vec<(usize, f64)>> {
        (0..to).map(|i| if shrinks { area(from, to, i) } else { mix(from, to, i) }).collect()
    };
    let (across, down) = (taps(picture.width(), width), taps(picture.height(), height));
    let mut wide = Vec::with_capacity(width as usize * picture.height() as usize);
    for line in picture.chunks_exact(picture.width() as usize) {
        wide.extend(across.iter().map(|tap| tap.iter().map(|(x, weight)| f64::from(line[*x]) * weight).sum::<f64>()));
    }
    let mut levels = Vec::with_capacity(width as usize * height as usize);
    let mut sums = vec![0.0; width as usize];
    for tap in &down {
        sums.fill(0.0);
        for (y, weight) in tap {
            let line = &wide[y * width as usize..(y + 1) * width as usize];
            sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += value * weight);
        }
        levels.extend(sums.iter().map(|sum| sum.round_ties_even().clamp(0.0, 255.0) as u8));
    }
    GrayImage::from_raw(width, height, levels).unwrap_or_default()
}

/// The input pixels under output pixel `i`, by the share they cover of it.
fn area(from: u32, to: u32, i: u32) -> Vec<(usize, f64)> {
    let scale = f64::from(from) / f64::from(to);
    let (start, end) = (f64::from(i) * scale, (f64::from(i + 1) * scale).min(f64::from(from)));
    let (first, last) = (start.floor() as usize, (end.ceil() as usize).min(from as usize));
    (first..last)
        .map(|x| (x, ((end.min(x as f64 + 1.0) - start.max(x as f64)) / (end - start)).max(0.0)))
        .filter(|(_, weight)| *weight > 1e-9)
        .collect()
}

/// The two input pixels that output pixel `i` is mixed from.
fn mix(from: u32, to: u32, i: u32) -> Vec<(usize, f64)> {
    let scale = f64::from(from) / f64::from(to);
    let left = (f64::from(i) * scale).floor();
    let share = (f64::from(i) + 1.0) - (left + 1.0) / scale;
    let share = if share <= 0.0 { 0.0 } else { share.fract() };
    let last = from as usize - 1;
    let left = (left as usize).min(last);
    vec![(left, 1.0 - share), ((left + 1).min(last), share)]
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use domain::experiment::Drift;
    use domain::paper::DRIFT_PROPERTIES;
    use domain::seed::Seed;
    use domain::stage::{Folder, Stage, Unwatched};
    use domain::stone::Dataset;
    use image::Luma;

    use super::*;
    use crate::records::DriftRecord;

    #[test]
    fn equal_pictures_neither_differ_nor_drift() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let run_it = |stage: Stage| {
            let (monitor, device) = (&mut Unwatched, &Device::flex());
            super::super::run(&stage, Attempt { seed: Seed(1), folder: &folder, monitor, device, memory: 0 })
        };
        for class in Dataset::A.classes() {
            for (kind, count) in [("real", 2), ("synthetic", 4)] {
                for i in 0..count {
                    let level = 40 + 50 * (i % 2) as u8;
                    let picture = RgbImage::from_fn(12, 9, |x, _| Rgb(if x < 6 { [level, 80, 20] } else { [0; 3] }));
                    let path = folder.input(&format!("{kind}.{class}")).join(format!("images/{i:03}.png"));
                    save_png(&path, &picture).unwrap();
                }
            }
        }
        run_it(Stage::EvaluateHeatmap).unwrap();
        let record: HeatmapRecord = records::read(&folder.output("heatmap.json")).unwrap();
        assert_eq!((record.size, record.mean_difference), ([12, 9], 0.0));
        assert_eq!((record.foreground_real, record.foreground_synthetic), (0.5, 0.5));
        assert_eq!(open_rgb8(&folder.output("difference.png")).unwrap().image.dimensions(), (12, 9));
        run_it(Stage::EvaluateDrift { drift: Drift::default() }).unwrap();
        let record: DriftRecord = records::read(&folder.output("drift.json")).unwrap();
        assert_eq!((record.n_real, record.n_synthetic), (12, 24));
        assert_eq!(record.properties.len(), DRIFT_PROPERTIES.len());
        assert!(record.properties.iter().all(|property| property.ks < 1e-9 && property.emd < 1e-9));
        std::fs::remove_dir_all(folder.input("real.Va").join("images")).unwrap();
        std::fs::create_dir_all(folder.input("real.Va").join("images")).unwrap();
        let failure = run_it(Stage::EvaluateHeatmap).unwrap_err();
        assert!(failure.message.contains("real.Va") && failure.message.contains("no pictures"), "{failure}");
    }

    #[test]
    fn areas_are_averaged_and_growth_mixes_neighbours() {
        let picture = GrayImage::from_fn(4, 1, |x, _| Luma([[0, 100, 50, 200][x as usize]]));
        assert_eq!(resize_area(&picture, 2, 1).as_raw(), &[50, 125]);
        let flat = GrayImage::from_pixel(3, 5, Luma([77]));
        for (width, height) in [(1, 1), (2, 3), (7, 9), (9, 2)] {
            assert_eq!(resize_area(&flat, width, height), GrayImage::from_pixel(width, height, Luma([77])));
        }
    }

    #[test]
    fn means_are_truncated_and_the_bright_part_is_counted() {
        let picture = |level| GrayImage::from_fn(2, 2, |x, _| Luma([if x == 0 { 0 } else { level }]));
        let mean = mean(&[picture(200), picture(201)]);
        assert_eq!(mean, picture(200));
        assert_eq!(foreground(&mean), 0.5);
        assert_eq!(colored(&[0, 255], (2, 1)).as_raw()[..6], [0, 0, 6, 252, 253, 191]);
    }
}

#[cfg(test)]
mod golden {
    mod drift {
        use std::{env, fs, path::PathBuf};

        use image::GrayImage;
        use safetensors::SafeTensors;

        use crate::stages::heatmap::resize_area;

        #[test]
        #[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
        fn resized_grey_is_within_one_level_of_opencv() {
            let folder = PathBuf::from(env::var("LITHOGEN_GOLDEN").unwrap()).join("drift");
            let bytes = fs::read(folder.join("heatmaps.safetensors")).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let picture = |name: &str| {
                let tensor = tensors.tensor(name).unwrap();
                let [height, width] = *tensor.shape() else { panic!("{name}") };
                GrayImage::from_raw(width as u32, height as u32, tensor.data().to_vec()).unwrap()
            };
            let mut compared = 0;
            for name in tensors.names() {
                let Some((source, _)) = name.split_once(".area_") else { continue };
                let expected = picture(name);
                let result = resize_area(&picture(&format!("{source}.gray")), expected.width(), expected.height());
                let worst = result.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).max();
                assert!(worst <= Some(1), "{name}: {worst:?}");
                compared += 1;
            }
            assert!(compared > 3, "{compared}");
        }
    }
}
