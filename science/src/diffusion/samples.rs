//! Finished samples of any diffusion model.

use burn::tensor::Device;
use domain::study::records::{Record, SamplesRecord};
use domain::study::stage::{Failure, FailureCode, Folder, picture_path};
use image::RgbImage;

use crate::data::gate::Gate;
use crate::data::{foreground, picture};
use crate::{device, files};

/// Pictures in a row of the contact sheet, and pixels of each.
const SHEET: (u32, u32) = (5, 132);

/// Checks that samples are numbers.
///
/// # Errors
/// [`FailureCode::NotANumber`] if one of them is none; names the samples.
pub fn check(values: &[f32], numbers: &[u64]) -> Result<(), Failure> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let message = format!("samples {numbers:?} are not numbers: the model is not usable");
    Err(Failure::new(FailureCode::NotANumber, message))
}

/// Writes samples with their contact sheet and their record. `draws` says how often each
/// was drawn, if it may have been more than once.
///
/// # Errors
/// If a file cannot be written.
pub fn write(
    images: &[RgbImage],
    gate: &Gate,
    draws: Vec<u32>,
    device: &Device,
    folder: &Folder,
) -> Result<(), Failure> {
    for (i, image) in images.iter().enumerate() {
        picture::save_png(&folder.output(&picture_path(i)), image)?;
    }
    picture::save_png(&folder.output("sheet.png"), &picture::contact_sheet(images, SHEET.0, SHEET.1))?;
    let foreground: Vec<f64> = images.iter().map(foreground::share).collect();
    let empty = foreground.iter().filter(|share| **share < foreground::EMPTY_BELOW).count() as u32;
    let size = images.first().map_or([0, 0], |image| [image.width(), image.height()]);
    let determinism = device::determinism(device);
    let judged = gate.judge(images);
    let passed = judged.iter().flat_map(|faults| (0..images.len()).map(|number| !faults.contains_key(&number)));
    let record = SamplesRecord {
        size,
        foreground,
        empty,
        limits: gate.limits().cloned(),
        passed: passed.collect(),
        faults: judged.unwrap_or_default(),
        draws,
        determinism,
    };
    files::write(&folder.output(SamplesRecord::FILE), &record)
}
