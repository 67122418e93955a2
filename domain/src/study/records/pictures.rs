//! Pictures as they come into the study: found, padded, cut into patches.

use serde::{Deserialize, Serialize};

use crate::study::experiment::{PICTURES_MAX, Pad};
use crate::study::stone::{Class, Dataset, View};
use crate::study::trial::Split;

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
pub const IDS_PER_CLASS: u32 = PICTURES_MAX;

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
    /// blake3 of what it shows, whatever the file: see `science::data::picture::digest`.
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
    /// blake3 of its pixels, width and height: see `science::data::picture::digest`.
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
    pub pad: Pad,
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
