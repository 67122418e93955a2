//! The JSON that one stage leaves for the next and for people.

pub mod gate;

mod check;
mod classification;
mod evaluation;
mod generators;
mod pictures;

pub use check::{Misfit, Record, sinddm};
pub use classification::{ImageOutcome, Metrics};
pub use evaluation::{Absent, DriftRecord, HeatmapRecord, PropertyDrift, SifidRecord};
pub use generators::{DdpmRecord, Determinism, SamplesRecord, SinddmRecord, Swin2srRecord, UpscaleRecord};
pub use pictures::{ClassPatches, IDS_PER_CLASS, ImageList, ImageRecord, ImageRef, PadRecord, PatchesRecord};
