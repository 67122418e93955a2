//! `evaluate.heatmap`: where the mean real and the mean synthetic picture are
//! bright (ALGORITHM 4.2), in one frame and at one size.

use domain::study::experiment::HeatmapSize;
use domain::study::records::{HeatmapRecord, Record};
use domain::study::stage::{EvaluateHeatmap, Failure};
use image::{GrayImage, Rgb, RgbImage};

use super::Attempt;
use crate::data::batch;
use crate::data::compared::{self, Compared};
use crate::data::foreground::{grey, otsu};
use crate::data::picture::save_png;
use crate::data::resize::resize_area;
use crate::files;

/// Colours of the maps from dark to bright, evenly spaced.
const COLORS: [[u8; 3]; 6] = [[0, 0, 6], [74, 12, 107], [165, 44, 96], [229, 92, 48], [251, 165, 10], [252, 253, 191]];

/// Runs the stage; see [`domain::study::stage::Stage::EvaluateHeatmap`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if a class has no pictures or one cannot be opened.
pub fn run(heatmap: &EvaluateHeatmap, attempt: Attempt<'_>) -> Result<(), Failure> {
    let real = compared::real(attempt.folder, heatmap.mosaic)?;
    let synthetic = compared::synthetic(attempt.folder)?;
    let sized = match heatmap.size {
        HeatmapSize::Synthetic => &synthetic[0],
        HeatmapSize::Reference => &real[0],
    };
    let size = sized.open()?.dimensions();
    let all: Vec<&Compared> = real.iter().chain(&synthetic).collect();
    let levels = batch::map(&all, "picture", attempt.monitor, |picture| {
        Ok(resize_area(&grey(&picture.open()?), size.0, size.1))
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
    files::write(&attempt.folder.output(HeatmapRecord::FILE), &record)
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

/// The levels in false colours.
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use domain::seed::Seed;
    use domain::study::paper::DRIFT_PROPERTIES;
    use domain::study::stage::{EvaluateDrift, Folder, InputName, Stage, Unwatched, picture_path};
    use domain::study::stone::Dataset;
    use image::Luma;

    use super::*;
    use crate::data::picture::open_rgb8;
    use domain::study::records::{Absent, DriftRecord};

    #[test]
    fn equal_pictures_neither_differ_nor_drift() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let run_it = |stage: Stage| {
            let (monitor, device) = (&mut Unwatched, &Device::flex());
            super::super::run(&stage, Attempt { seed: Seed(1), folder: &folder, monitor, device, memory: 0 })
        };
        for class in Dataset::A.classes() {
            for (named, count) in [(InputName::Real as fn(_) -> _, 2), (InputName::Synthetic, 4)] {
                for i in 0..count {
                    let level = 40 + 50 * (i % 2) as u8;
                    let picture = RgbImage::from_fn(12, 9, |x, _| Rgb(if x < 6 { [level, 80, 20] } else { [0; 3] }));
                    let path = folder.input(named(Some(class))).join(picture_path(i));
                    save_png(&path, &picture).unwrap();
                }
            }
        }
        run_it(Stage::EvaluateHeatmap(EvaluateHeatmap::default())).unwrap();
        let record: HeatmapRecord = files::read(&folder.output(HeatmapRecord::FILE)).unwrap();
        assert_eq!((record.size, record.mean_difference), ([12, 9], 0.0));
        assert_eq!((record.foreground_real, record.foreground_synthetic), (0.5, 0.5));
        assert_eq!(open_rgb8(&folder.output("difference.png")).unwrap().image.dimensions(), (12, 9));
        run_it(Stage::EvaluateDrift(EvaluateDrift::default())).unwrap();
        let record: DriftRecord = files::read(&folder.output(DriftRecord::FILE)).unwrap();
        assert_eq!((record.n_real, record.n_synthetic), (12, 24));
        assert_eq!(record.properties.len(), DRIFT_PROPERTIES.len());
        assert!(record.properties.iter().all(|property| property.ks == Some(0.0) && property.emd == Some(0.0)));
        std::fs::remove_dir_all(folder.input(InputName::Real(Some(domain::study::stone::Class::Va))).join("images"))
            .unwrap();
        std::fs::create_dir_all(folder.input(InputName::Real(Some(domain::study::stone::Class::Va))).join("images"))
            .unwrap();
        run_it(Stage::EvaluateHeatmap(EvaluateHeatmap::default())).unwrap();
        let path = folder.output(HeatmapRecord::FILE);
        let Absent { absent } = serde_json::from_value(files::value(&path).unwrap()).unwrap();
        assert!(absent.contains("real.Va") && absent.contains("no pictures"), "{absent}");
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
