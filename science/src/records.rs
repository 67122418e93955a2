//! The JSON that one stage leaves for the next and for people.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::path::Path;

use domain::experiment::Fill;
use domain::results::Fault;
pub use domain::results::Nearness;
use domain::stage::{Failure, FailureCode};
use domain::stats::classification::Score;
use domain::stone::{Class, Dataset, View};
use domain::trial::Split;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::data::canvas;
use crate::data::gate::{Limits, Traits};

pub(crate) mod check;

pub use check::{Misfit, Record};

/// Largest record that is read, bytes: a hundred thousand pictures take a tenth of it.
const BYTES_MAX: u64 = 256 << 20;

/// `images.json` of `ingest`: the images of one view, by class in label order,
/// by file name within a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageList {
    /// A or C.
    pub dataset: Dataset,
    /// Which half of it.
    pub view: View,
    /// The images.
    pub images: Vec<ImageRecord>,
}

/// Images of a class are numbered from this many times its label, so that what a class
/// holds changes no number of another.
pub const IDS_PER_CLASS: u32 = domain::experiment::PICTURES_MAX;

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Names the image within its data set and view, in every later record: its place in
    /// its class counted from 0, plus [`IDS_PER_CLASS`] times its label.
    pub id: u32,
    /// Which class.
    pub class: Class,
    /// Name in the class folder.
    pub file: String,
    /// blake3 of the file.
    pub digest: String,
    /// blake3 of what it shows, whatever the file: see [`crate::data::picture::digest`].
    pub pixels: String,
    /// Width in pixels after applying the EXIF orientation.
    pub width: u32,
    /// Height in pixels after applying the EXIF orientation.
    pub height: u32,
    /// Colour type as stored, for instance `Rgb8`.
    pub color: String,
    /// Which stone of its class it shows; absent: one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stone: Option<u32>,
    /// Whether a mask says where the stone is.
    #[serde(default)]
    pub masked: bool,
    /// Whether a diffusion model learns from it.
    pub generator: bool,
    /// Whether a split may put it on the test side.
    pub testable: bool,
}

/// An image by what it shows: equal digests are the same picture under whatever
/// name, in whichever class, view or data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// Which class.
    pub class: Class,
    /// Names the image within its data set and view.
    pub id: u32,
    /// Name of its file.
    pub file: String,
    /// blake3 of its pixels, width and height: see [`crate::data::picture::digest`].
    pub digest: String,
}

/// `pad.json` of `pad`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PadRecord {
    /// Which class.
    pub class: Class,
    /// Width and height of the canvas, before it is extended.
    pub canvas: [u32; 2],
    /// The knobs by which pictures were brought to it.
    #[serde(default)]
    pub pad: domain::experiment::Pad,
    /// The images, in the order of the files written.
    pub images: Vec<ImageRef>,
    /// Left, top, width and height of each image on what was written.
    #[serde(default)]
    pub places: Vec<[u32; 4]>,
    /// The colour around each image.
    #[serde(default)]
    pub colors: Vec<[u8; 3]>,
    /// Share of exactly black pixels of each.
    pub black: Vec<f64>,
}

/// `training.json` of `sinddm.train`: with `model.safetensors`, all that sampling needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiffusionRecord {
    /// The knobs it was trained with.
    pub sinddm: domain::experiment::Sinddm,
    /// Width and height of each scale, coarsest first.
    pub sizes: Vec<[u32; 2]>,
    /// Factor between neighbouring scales.
    pub scale_factor: f64,
    /// Pooled rescale losses, one fewer than scales.
    pub rescale_losses: Vec<f64>,
    /// Sampling lengths t*, one per scale.
    pub sampling_steps: Vec<u32>,
    /// Parameters of the network.
    pub parameters: u64,
    /// Mean loss of the last tenth of the steps.
    pub final_loss: f64,
    /// Mean loss of the last steps of each scale.
    #[serde(default)]
    pub loss_by_scale: BTreeMap<usize, f64>,
    /// Ids of the images learnt from, as in `images.json` of the view.
    #[serde(default)]
    pub image_ids: Vec<u32>,
    /// What surrounded them; absent where nobody says.
    #[serde(default)]
    pub fill: Option<Fill>,
    /// What the gate measures of each picture learnt from, as it was framed for that;
    /// empty where nobody says.
    #[serde(default)]
    pub reals: Vec<Traits>,
    /// Whether the same training gives the same bytes.
    pub determinism: Determinism,
}

impl DiffusionRecord {
    /// A picture in the frame that the model has learnt: with the padding that pictures
    /// had around them there. Where nobody says what that was, as of models from
    /// elsewhere, the picture as it is: it is stretched to the model's size, as the
    /// published code does.
    pub fn framed(&self, image: &RgbImage) -> RgbImage {
        let color = self.fill.map_or([0; 3], |fill| canvas::color(fill, image));
        self.framed_in(image, color)
    }

    /// The same with that colour around the picture.
    pub fn framed_in(&self, image: &RgbImage, color: [u8; 3]) -> RgbImage {
        match self.sinddm.frame().filter(|_| self.fill.is_some()) {
            Some(frame) => canvas::framed(image, frame, color),
            None => image.clone(),
        }
    }
}

/// `training.json` of `ddpm.train`: with `model.safetensors`, all that sampling needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlainRecord {
    /// The knobs it was trained with.
    pub training: domain::experiment::DdpmTraining,
    /// Pictures learnt from.
    pub images: u32,
    /// What the gate measures of each picture learnt from, as it was framed for that;
    /// empty where nobody says.
    #[serde(default)]
    pub reals: Vec<Traits>,
    /// Parameters of the network.
    pub parameters: u64,
    /// Mean loss of the last tenth of the steps.
    pub final_loss: f64,
    /// Whether the same training gives the same bytes.
    pub determinism: Determinism,
}

/// `training.json` of `swin2sr.train`: with `model.safetensors`, all that enlarging needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swin2srRecord {
    /// The knobs it was trained with.
    pub training: domain::experiment::Swin2srTraining,
    /// Pictures learnt from.
    pub images: u32,
    /// Parameters of the network.
    pub parameters: u64,
    /// Mean loss of the last tenth of the steps.
    pub final_loss: f64,
    /// Pictures held out to see how good it is; without any, there are no scores.
    pub held_out: u32,
    /// How near they come when they are made smaller and enlarged by the network.
    pub ours: Nearness,
    /// The same by bicubic interpolation.
    pub bicubic: Nearness,
    /// Whether the same training gives the same bytes.
    pub determinism: Determinism,
}

/// What two runs of one task have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Determinism {
    /// Every bit: computed on a processor.
    Bitwise,
    /// The distribution of their results: computed on a GPU.
    Statistical,
}

/// `samples.json` of `sinddm.sample` and `ddpm.sample`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplesRecord {
    /// Width and height.
    pub size: [u32; 2],
    /// Share of foreground pixels of each sample.
    pub foreground: Vec<f64>,
    /// Samples whose foreground is below 2 %.
    pub empty: u32,
    /// Within which limits a sample passes the gate; absent where the model does not tell
    /// what it learnt from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Whether each sample passes; empty without limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<bool>,
    /// What is wrong with those that do not, by their number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<usize, Vec<Fault>>,
    /// How often each was drawn, the last time as it is here; empty unless those that do
    /// not pass were to be drawn again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draws: Vec<u32>,
    /// Whether the same sampling gives the same bytes.
    pub determinism: Determinism,
}

/// `upscale.json` of `upscale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpscaleRecord {
    /// The method used, as in the spec.
    pub method: domain::experiment::UpscaleMethod,
    /// Width and height.
    pub size: [u32; 2],
    /// Width and height of the sample itself in it, from the upper left: the rest is
    /// padding that the network needed and `upscale.crop` kept.
    #[serde(default)]
    pub counts: Option<[u32; 2]>,
    /// Pictures.
    pub images: u32,
}

/// `drift.json` of `evaluate.drift`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftRecord {
    /// Real pictures.
    pub n_real: u32,
    /// Synthetic pictures.
    pub n_synthetic: u32,
    /// In the order of `domain::paper::DRIFT_PROPERTIES`.
    pub properties: Vec<PropertyDrift>,
}

/// One property of [`DriftRecord`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PropertyDrift {
    /// Its name.
    pub property: String,
    /// Kolmogorov–Smirnov statistic; absent where there are too few pictures.
    pub ks: Option<f64>,
    /// Earth mover's distance; absent likewise.
    pub emd: Option<f64>,
    /// 5th, 50th and 95th percentile of the statistic for two samples of these
    /// sizes from one distribution.
    pub ks_null: [f64; 3],
    /// Value of each real picture.
    pub real: Vec<f64>,
    /// Value of each synthetic picture.
    pub synthetic: Vec<f64>,
    /// Why there is no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What an evaluation leaves in place of its record if there is nothing that can be scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    /// Why there is no score.
    pub absent: String,
}

/// `heatmap.json` of `evaluate.heatmap`; grey levels 0..255.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeatmapRecord {
    /// Width and height of the maps.
    pub size: [u32; 2],
    /// Mean absolute difference of the two mean pictures.
    pub mean_difference: f64,
    /// Share of pixels brighter than the background in the mean real picture.
    pub foreground_real: f64,
    /// The same of the mean synthetic picture.
    pub foreground_synthetic: f64,
}

/// `sifid.json` of `evaluate.sifid`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SifidRecord {
    /// Channels of the feature map.
    pub block: u32,
    /// Mean over synthetic pictures.
    pub mean: f64,
    /// Distance of each synthetic picture, by the spec's pairing.
    pub per_image: Vec<f64>,
}

/// `patches.json` of `patches`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PatchesRecord {
    /// Whose pictures.
    pub dataset: Dataset,
    /// Which half of it.
    pub view: View,
    /// Which images are on the test side.
    pub split: Split,
    /// Width and height of a patch.
    pub size: u32,
    /// Classes in label order.
    pub classes: Vec<ClassPatches>,
    /// The images on the training side, those included that gave no patch.
    pub train_images: Vec<ImageRef>,
    /// The images on the test side.
    pub test_images: Vec<ImageRef>,
}

/// One class of [`PatchesRecord`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassPatches {
    /// Which class.
    pub class: Class,
    /// Training images and patches.
    pub train: [u32; 2],
    /// Test images and patches.
    pub test: [u32; 2],
    /// Smallest coverage that had to be accepted.
    pub coverage: f64,
    /// Smallest stride that had to be used, in pixels.
    pub stride: u32,
    /// Patches cut from sibling images because an image had too few places.
    #[serde(default)]
    pub moved: u32,
    /// Images whose stone was found by a mask that came with them; in all others it
    /// was looked for.
    #[serde(default)]
    pub masks: u32,
}

/// `metrics.json` of `classify.train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Data sets learnt and tested.
    pub datasets: Vec<Dataset>,
    /// Which half of them.
    pub view: View,
    /// What computed it: `cpu`, or a GPU by its place.
    pub device: String,
    /// Optimiser steps.
    pub steps: u64,
    /// The epoch, from 1, whose weights were tested and passed on.
    pub epoch: u32,
    /// Mean training loss of the last epoch.
    pub train_loss: f64,
    /// Share of validation patches recognised after `epoch`; absent without validation.
    pub val_accuracy: Option<f64>,
    /// Test patches.
    pub test_patches: u32,
    /// Test images.
    pub test_images: u32,
    /// Share of test patches recognised, in percent.
    pub accuracy: f64,
    /// Share of test images whose patches' majority is right, in percent; of
    /// equally many votes the lowest label's count.
    pub image_accuracy: f64,
    /// Share of test images for whose true label the mean probability over their
    /// patches is highest, in percent.
    pub image_accuracy_by_score: f64,
    /// Training images and patches, those held out for validation included.
    pub train: [u32; 2],
    /// Precision, recall and F1 of each label, 0..1.
    pub per_class: Vec<Score>,
    /// Their mean over the labels that are tested.
    pub macro_average: Score,
    /// Their mean over labels, each counting by its test patches.
    pub weighted_average: Score,
    /// Each test image, by data set, then id.
    pub images: Vec<ImageOutcome>,
    /// Counts: row is the true label, column the predicted one.
    pub confusion: Vec<Vec<u32>>,
    /// Classes that carry each label in the data sets tested.
    pub labels: Vec<Vec<Class>>,
}

/// What became of one test image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageOutcome {
    /// Whose image.
    pub dataset: Dataset,
    /// Its id in that data set and view.
    pub id: u32,
    /// Its true label.
    pub label: u8,
    /// The label of most of its patches.
    pub vote: u8,
    /// The label of the highest mean probability.
    pub by_score: u8,
    /// Share of its patches that are recognised, 0..1.
    pub right: f64,
}

/// Reads a record of an input.
///
/// # Errors
/// If the file is missing, not of that form, or holds what no stage leaves; names the
/// file and the field.
pub fn read<T: Record>(path: &Path) -> Result<T, Failure> {
    let unread = |error: &std::io::Error| Failure::io("read", path, error);
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| unread(&error))?;
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unread(&error))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(unusable(path, format!("has more than {BYTES_MAX} bytes")));
    }
    let record = serde_json::from_slice(&bytes).map_err(|error| unusable(path, error))?;
    checked(record, path)
}

/// The record of that file, if it can be used.
///
/// # Errors
/// Names the file and the field that cannot be.
pub(crate) fn checked<T: Record>(record: T, path: &Path) -> Result<T, Failure> {
    match record.check() {
        Ok(()) => Ok(record),
        Err(misfit) => {
            Err(unusable(path, format!("{misfit}; the file was altered or damaged: run the task again that leaves it")))
        }
    }
}

/// What is wrong with the file of a record.
pub(crate) fn unusable(path: &Path, problem: impl Display) -> Failure {
    Failure::new(FailureCode::Internal, format!("{}: {problem}", path.display()))
}

/// Writes a record, its folders included.
///
/// # Errors
/// If the file cannot be written.
pub fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(record)
        .map_err(|error| Failure::new(FailureCode::Internal, format!("{}: {error}", path.display())))?;
    write_bytes(path, text.as_bytes())
}

/// Writes a file, its folders included.
///
/// # Errors
/// If the file cannot be written.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
    }
    fs::write(path, bytes).map_err(|error| Failure::io("write", path, &error))
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn a_picture_to_start_from_is_framed_as_the_model_has_learnt_pictures() {
        let record = |fill, fit: &str| -> DiffusionRecord {
            let json = serde_json::json!({
                "sinddm": { "finest": [40, 40], "fit": fit }, "sizes": [[40, 40]], "scale_factor": 1.4,
                "rescale_losses": [], "sampling_steps": [100], "parameters": 1, "final_loss": 0.5, "fill": fill,
                "determinism": "bitwise",
            });
            serde_json::from_value(json).unwrap()
        };
        let picture = RgbImage::from_pixel(20, 10, Rgb([90; 3]));
        let framed = record(Some(Fill::Rgb([1, 2, 3])), "letterbox").framed(&picture);
        assert_eq!((framed.dimensions(), framed[(0, 0)].0, framed[(10, 10)].0), ((20, 20), [1, 2, 3], [90; 3]));
        // What is stretched in training is stretched here, and so is what comes from elsewhere.
        assert_eq!(record(Some(Fill::Black), "stretch").framed(&picture), picture);
        assert_eq!(record(None, "letterbox").framed(&picture), picture);
        let mask = record(Some(Fill::BorderMedian), "letterbox").framed_in(&picture, [0; 3]);
        assert_eq!(mask[(0, 0)].0, [0; 3]);
    }
}
