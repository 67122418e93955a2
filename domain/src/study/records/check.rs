//! What a record may hold. A record is a file: it may have been altered, damaged or made
//! by another program, and what a stage allocates and where it reads follow from it. Each
//! is checked as it is read, before anything is done with it.

use std::fmt::Display;

use crate::study::experiment::{InvalidKnob, SIDE_MAX, Sinddm};
use crate::study::paper;
use crate::study::results::{Cell, Results, SCHEMA_VERSION};
use crate::study::stage::Stage;
use crate::study::stone::{CLASSES, Class, Dataset};
use crate::study::trial::Split;
use serde::de::DeserializeOwned;

use super::gate::Traits;
use super::{
    ClassPatches, DdpmRecord, DriftRecord, HeatmapRecord, IDS_PER_CLASS, ImageList, ImageRef, Metrics, PadRecord,
    PatchesRecord, PropertyDrift, SamplesRecord, SifidRecord, SinddmRecord, Swin2srRecord, UpscaleRecord,
};

/// Most values of a layer's output for one picture, which a network computes as 32-bit
/// numbers: 16 GiB of them.
const ACTIVATION_MAX: u64 = 1 << 32;

/// Most parts that a network is made of, and most times as wide as its first layer that
/// any is, before its weights are looked at.
const PARTS_MAX: usize = 64;

/// Most folds of one dealing, and most dealings, as in a spec.
const FOLDS_MAX: u32 = 10;
const REPEATS_MAX: u32 = 1000;

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Misfit {
    /// The field, for instance `sizes[2]`.
    pub field: String,
    /// What it has to be.
    pub problem: String,
}

impl From<InvalidKnob> for Misfit {
    fn from(InvalidKnob { key, problem }: InvalidKnob) -> Self {
        Self { field: key, problem }
    }
}

type Checked = Result<(), Misfit>;

/// A form in which one stage leaves something for another.
pub trait Record: DeserializeOwned {
    /// Name of the file in the artifact of the stage that leaves it.
    const FILE: &str;

    /// Whether a stage can do with it what it does with those that were written here.
    ///
    /// # Errors
    /// The first field that cannot be.
    fn check(&self) -> Result<(), Misfit>;
}

fn refuse(field: impl Into<String>, problem: impl Into<String>) -> Checked {
    Err(Misfit { field: field.into(), problem: problem.into() })
}

fn within<T: PartialOrd + Display>(field: &str, value: T, low: T, high: T) -> Checked {
    if low <= value && value <= high {
        Ok(())
    } else {
        refuse(field, format!("is {value}, has to lie between {low} and {high}"))
    }
}

fn finite(field: &str, value: f64) -> Checked {
    if value.is_finite() { Ok(()) } else { refuse(field, format!("is {value}, which is no number")) }
}

/// A list with an entry for each of something else.
fn as_many(field: &str, found: usize, wanted: usize) -> Checked {
    if found == wanted { Ok(()) } else { refuse(field, format!("has {found} entries, has to have {wanted}")) }
}

/// The same, or none at all.
fn as_many_or_none(field: &str, found: usize, wanted: usize) -> Checked {
    if found == 0 { Ok(()) } else { as_many(field, found, wanted) }
}

/// Width and height of a picture.
fn size(field: &str, [width, height]: [u32; 2]) -> Checked {
    within(field, width, 1, SIDE_MAX)?;
    within(field, height, 1, SIDE_MAX)
}

fn each<'a, T: 'a>(
    field: &str,
    entries: impl IntoIterator<Item = &'a T>,
    check: impl Fn(&str, &T) -> Checked,
) -> Checked {
    entries.into_iter().enumerate().try_for_each(|(place, entry)| check(&format!("{field}[{place}]"), entry))
}

/// The number of an image within its data set and view.
fn id(field: &str, id: u32) -> Checked {
    within(field, id, 0, IDS_PER_CLASS * Dataset::A.classes().len() as u32 - 1)
}

/// A name that is joined to a folder.
fn file_name(field: &str, name: &str) -> Checked {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\\', '\0']) {
        return refuse(field, format!("is {name:?}, which is no plain name of a file"));
    }
    Ok(())
}

fn image(field: &str, image: &ImageRef) -> Checked {
    id(&format!("{field}.id"), image.id)
}

/// The knobs of a diffusion model, wherever they come from.
///
/// # Errors
/// The first that is out of range.
pub fn sinddm(sinddm: &Sinddm) -> Result<(), Misfit> {
    Ok(Stage::SinddmTrain { sinddm: sinddm.clone() }.check()?)
}

/// What a network of that width keeps of one picture.
fn activation(field: &str, [width, height]: [u32; 2], channels: u32) -> Checked {
    let pixels = u64::from(width) * u64::from(height);
    if pixels.saturating_mul(u64::from(channels)) > ACTIVATION_MAX {
        return refuse(field, format!("is {width}x{height}, too large for a network of {channels} channels"));
    }
    Ok(())
}

fn traits(field: &str, it: &Traits) -> Checked {
    let field = |name: &str| format!("{field}.{name}");
    within(&field("area"), it.area, 0.0, 1.0)?;
    within(&field("offset"), it.offset, 0.0, 1.0)?;
    within(&field("edge"), it.edge, 0.0, 1.0)?;
    within(&field("background"), it.background, -255.0, 255.0)?;
    within(&field("contrast"), it.contrast, -255.0, 255.0)
}

impl Record for ImageList {
    const FILE: &str = "images.json";

    fn check(&self) -> Checked {
        each("images", &self.images, |field, image| {
            id(&format!("{field}.id"), image.id)?;
            file_name(&format!("{field}.file"), &image.file)?;
            size(&format!("{field}.width, height"), [image.width, image.height])
        })
    }
}

impl Record for PadRecord {
    const FILE: &str = "pad.json";

    fn check(&self) -> Checked {
        size("canvas", self.canvas)?;
        each("images", &self.images, image)?;
        // Where no image is named, a place stands for each.
        let images = if self.images.is_empty() { self.places.len() } else { self.images.len() };
        as_many_or_none("places", self.places.len(), images)?;
        as_many_or_none("colors", self.colors.len(), images)?;
        as_many_or_none("black", self.black.len(), images)?;
        each("places", &self.places, |field, &[left, top, width, height]| {
            size(field, [width, height])?;
            within(field, u64::from(left) + u64::from(width), 1, u64::from(SIDE_MAX))?;
            within(field, u64::from(top) + u64::from(height), 1, u64::from(SIDE_MAX))
        })?;
        each("black", &self.black, |field, share| within(field, *share, 0.0, 1.0))
    }
}

impl Record for SinddmRecord {
    const FILE: &str = "training.json";

    fn check(&self) -> Checked {
        sinddm(&self.sinddm)?;
        let scales = self.sizes.len();
        within("sizes", scales, 1, PARTS_MAX)?;
        as_many("sampling_steps", self.sampling_steps.len(), scales)?;
        as_many("rescale_losses", self.rescale_losses.len(), scales - 1)?;
        let finest = self.sinddm.finest.size([SIDE_MAX; 2]);
        each("sizes", &self.sizes, |field, &[width, height]| {
            within(field, width, 1, finest[0])?;
            within(field, height, 1, finest[1])?;
            activation(field, [width, height], self.sinddm.dim)
        })?;
        if let Some(place) = self.sizes.windows(2).position(|pair| (0..2).any(|side| pair[0][side] > pair[1][side])) {
            return refuse(format!("sizes[{}]", place + 1), "is smaller than the scale before it");
        }
        within("scale_factor", self.scale_factor, 1.0, 64.0)?;
        each("rescale_losses", &self.rescale_losses, |field, loss| within(field, *loss, 0.0, 1e6))?;
        each("sampling_steps", &self.sampling_steps, |field, steps| within(field, *steps, 0, self.sinddm.timesteps))?;
        finite("final_loss", self.final_loss)?;
        for (scale, loss) in &self.loss_by_scale {
            within("loss_by_scale", *scale, 0, scales - 1)?;
            finite("loss_by_scale", *loss)?;
        }
        each("image_ids", &self.image_ids, |field, number| id(field, *number))?;
        each("reals", &self.reals, traits)
    }
}

impl Record for DdpmRecord {
    const FILE: &str = "training.json";

    fn check(&self) -> Checked {
        let training = &self.training;
        Stage::DdpmTrain { training: training.clone() }.check()?;
        activation("training.size", [training.size; 2], training.dim)?;
        finite("final_loss", self.final_loss)?;
        each("reals", &self.reals, traits)
    }
}

impl Record for Swin2srRecord {
    const FILE: &str = "training.json";

    fn check(&self) -> Checked {
        Stage::Swin2srTrain { size: [1, 1], training: self.training.clone() }.check()?;
        finite("final_loss", self.final_loss)?;
        for (field, near) in [("ours", self.ours), ("bicubic", self.bicubic)] {
            near.psnr.into_iter().chain(near.ssim).try_for_each(|score| finite(field, score))?;
        }
        Ok(())
    }
}

impl Record for UpscaleRecord {
    const FILE: &str = "upscale.json";

    fn check(&self) -> Checked {
        size("size", self.size)?;
        let Some([width, height]) = self.counts else { return Ok(()) };
        within("counts", width, 1, self.size[0])?;
        within("counts", height, 1, self.size[1])
    }
}

impl Record for SamplesRecord {
    const FILE: &str = "samples.json";

    fn check(&self) -> Checked {
        let samples = self.foreground.len();
        within("size", self.size[0].max(self.size[1]), 0, SIDE_MAX)?;
        each("foreground", &self.foreground, |field, share| within(field, *share, 0.0, 1.0))?;
        within("empty", self.empty as usize, 0, samples)?;
        as_many_or_none("passed", self.passed.len(), samples)?;
        as_many_or_none("draws", self.draws.len(), samples)?;
        each("draws", &self.draws, |field, draws| within(field, *draws, 1, 1000))?;
        match self.faults.keys().find(|number| **number >= samples) {
            Some(number) => refuse("faults", format!("names sample {number} of {samples}")),
            None => Ok(()),
        }
    }
}

impl Record for DriftRecord {
    const FILE: &str = "drift.json";

    fn check(&self) -> Checked {
        within("properties", self.properties.len(), 0, paper::DRIFT_PROPERTIES.len())?;
        each("properties", &self.properties, |field, found: &PropertyDrift| {
            let field = |name: &str| format!("{field}.{name}");
            as_many(&field("real"), found.real.len(), self.n_real as usize)?;
            as_many(&field("synthetic"), found.synthetic.len(), self.n_synthetic as usize)?;
            let scores = found.ks.iter().chain(&found.emd);
            let numbers = scores.chain(&found.ks_null).chain(&found.real).chain(&found.synthetic);
            numbers.copied().try_for_each(|number| finite(&field("numbers"), number))?;
            within(&field("ks"), found.ks.unwrap_or(0.0), 0.0, 1.0)
        })
    }
}

impl Record for HeatmapRecord {
    const FILE: &str = "heatmap.json";

    fn check(&self) -> Checked {
        size("size", self.size)?;
        within("mean_difference", self.mean_difference, 0.0, 255.0)?;
        within("foreground_real", self.foreground_real, 0.0, 1.0)?;
        within("foreground_synthetic", self.foreground_synthetic, 0.0, 1.0)
    }
}

impl Record for SifidRecord {
    const FILE: &str = "sifid.json";

    fn check(&self) -> Checked {
        finite("mean", self.mean)?;
        each("per_image", &self.per_image, |field, distance| finite(field, *distance))
    }
}

fn split(field: &str, Split { number: _, folds, fold }: Split) -> Checked {
    within(&format!("{field}.folds"), folds, 1, FOLDS_MAX)?;
    within(&format!("{field}.fold"), fold, 0, folds - 1)
}

impl Record for PatchesRecord {
    const FILE: &str = "patches.json";

    fn check(&self) -> Checked {
        split("split", self.split)?;
        within("size", self.size, 1, SIDE_MAX)?;
        let known = self.dataset.classes();
        within("classes", self.classes.len(), 0, known.len())?;
        each("classes", &self.classes, |field, of: &ClassPatches| {
            class(field, of.class, self.dataset)?;
            within(&format!("{field}.coverage"), of.coverage, 0.0, 1.0)
        })?;
        let patches = |side: fn(&ClassPatches) -> [u32; 2]| self.classes.iter().map(|of| u64::from(side(of)[1])).sum();
        within("classes.train", patches(|of| of.train), 0, u64::from(u32::MAX))?;
        within("classes.test", patches(|of| of.test), 0, u64::from(u32::MAX))?;
        each("train_images", &self.train_images, image)?;
        each("test_images", &self.test_images, image)
    }
}

fn class(field: &str, class: Class, dataset: Dataset) -> Checked {
    if !dataset.classes().contains(&class) {
        return refuse(format!("{field}.class"), format!("is {class}, which {dataset} does not have"));
    }
    Ok(())
}

impl Record for Metrics {
    const FILE: &str = "metrics.json";

    fn check(&self) -> Checked {
        for (field, share) in [
            ("accuracy", self.accuracy),
            ("image_accuracy", self.image_accuracy),
            ("image_accuracy_by_score", self.image_accuracy_by_score),
        ] {
            within(field, share, 0.0, 100.0)?;
        }
        finite("train_loss", self.train_loss)?;
        as_many_or_none("per_class", self.per_class.len(), CLASSES)?;
        as_many("labels", self.labels.len(), CLASSES)?;
        as_many("confusion", self.confusion.len(), CLASSES)?;
        each("confusion", &self.confusion, |field, row| as_many(field, row.len(), CLASSES))?;
        let counted: u64 = self.confusion.iter().flatten().map(|count| u64::from(*count)).sum();
        within("confusion", counted, 0, u32::MAX.into())?;
        each("images", &self.images, |field, image| {
            id(&format!("{field}.id"), image.id)?;
            for (name, label) in [("label", image.label), ("vote", image.vote), ("by_score", image.by_score)] {
                within(&format!("{field}.{name}"), label, 0, CLASSES as u8 - 1)?;
            }
            within(&format!("{field}.right"), image.right, 0.0, 1.0)
        })
    }
}

impl Record for Results {
    const FILE: &str = "results.json";

    fn check(&self) -> Checked {
        within("schema_version", self.schema_version, 1, SCHEMA_VERSION)?;
        within("repeats", self.repeats, 1, REPEATS_MAX)?;
        within("folds", self.folds, 1, FOLDS_MAX)?;
        let cells = self.cells.iter().chain(self.others.iter().flat_map(|table| &table.cells));
        each("cells", cells, |field, cell: &Cell| {
            within(&format!("{field}.n_asked"), cell.n_asked, 0, REPEATS_MAX * FOLDS_MAX)?;
            within(&format!("{field}.n"), cell.n, 0, cell.n_asked)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn diffusion() -> Value {
        json!({
            "sinddm": { "finest": [80, 60], "timesteps": 10, "dim": 8 }, "sizes": [[64, 48], [80, 60]],
            "scale_factor": 1.25, "rescale_losses": [0.5], "sampling_steps": [10, 4], "parameters": 9,
            "final_loss": 0.25, "loss_by_scale": { "1": 0.125 }, "image_ids": [1], "determinism": "bitwise",
        })
    }

    fn pad() -> Value {
        let image = json!({ "class": "Ia", "id": 1, "file": "1.png", "digest": "" });
        json!({ "class": "Ia", "canvas": [80, 60], "images": [image], "places": [[0, 0, 80, 60]], "black": [0.5] })
    }

    fn checked<T: Record>(record: &Value) -> Result<T, String> {
        let record: T = serde_json::from_value(record.clone()).map_err(|error| error.to_string())?;
        record.check().map_err(|misfit| misfit.to_string())?;
        Ok(record)
    }

    /// What is said of a record in which the entry at that place is another.
    fn altered<T: Record>(mut record: Value, place: &str, entry: Value) -> String {
        checked::<T>(&record).unwrap_or_else(|said| panic!("{said}"));
        *record.pointer_mut(place).unwrap() = entry;
        checked::<T>(&record).map(drop).unwrap_err()
    }

    #[test]
    fn an_altered_record_of_a_diffusion_model_is_refused_by_its_field() {
        let of = |place: &str, entry: Value| altered::<SinddmRecord>(diffusion(), place, entry);
        assert_eq!(of("/sinddm/dim", json!(0)), "sinddm.dim: is 0, has to lie between 2 and 2048");
        assert_eq!(
            of("/sinddm/timesteps", json!(4_000_000_000u32)),
            "sinddm.timesteps: is 4000000000, has to lie between 2 and 10000"
        );
        assert_eq!(of("/sizes", json!([])), "sizes: is 0, has to lie between 1 and 64");
        assert_eq!(of("/sizes/1/0", json!(81)), "sizes[1]: is 81, has to lie between 1 and 80");
        assert_eq!(of("/sizes/0/1", json!(0)), "sizes[0]: is 0, has to lie between 1 and 60");
        assert_eq!(of("/sizes/1", json!([60, 60])), "sizes[1]: is smaller than the scale before it");
        assert_eq!(of("/sampling_steps", json!([10])), "sampling_steps: has 1 entries, has to have 2");
        assert_eq!(of("/sampling_steps/1", json!(11)), "sampling_steps[1]: is 11, has to lie between 0 and 10");
        assert_eq!(of("/rescale_losses", json!([0.5, 0.5])), "rescale_losses: has 2 entries, has to have 1");
        assert_eq!(
            of("/rescale_losses/0", json!(-0.5)),
            "rescale_losses[0]: is -0.5, has to lie between 0 and 1000000"
        );
        assert_eq!(of("/loss_by_scale", json!({ "2": 1.0 })), "loss_by_scale: is 2, has to lie between 0 and 1");
        assert_eq!(of("/image_ids/0", json!(600_000)), "image_ids[0]: is 600000, has to lie between 0 and 599999");
        assert!(of("/final_loss", json!(null)).starts_with("invalid type: null, expected f64"));
    }

    #[test]
    fn a_model_that_no_machine_holds_is_refused() {
        let mut record = diffusion();
        record["sinddm"]["finest"] = json!([8192, 8192]);
        record["sinddm"]["dim"] = json!(128);
        let said = altered::<SinddmRecord>(record, "/sizes/1", json!([8192, 8192]));
        assert_eq!(said, "sizes[1]: is 8192x8192, too large for a network of 128 channels");
        let plain = |place: &str, entry: Value| {
            let training = crate::study::experiment::DdpmTraining::default();
            let record = json!({ "training": training, "images": 4, "parameters": 9, "final_loss": 0.5, "determinism": "bitwise" });
            altered::<DdpmRecord>(record, place, entry)
        };
        assert_eq!(plain("/training/dim", json!(0)), "ddpm.training.dim: is 0, has to lie between 8 and 1024");
        assert_eq!(
            plain("/training/mults/0", json!(1 << 30)),
            "ddpm.training.mults: is 1073741824, has to lie between 1 and 64"
        );
        assert!(plain("/training/mults", json!([])).starts_with("ddpm.training.mults: "));
        let swin = |place: &str, entry: Value| {
            let near = json!({ "psnr": null, "ssim": null });
            let record = json!({ "training": crate::study::experiment::Swin2srTraining::default(), "images": 4, "parameters": 9,
                "final_loss": 0.125, "held_out": 0, "ours": near, "bicubic": near, "determinism": "bitwise" });
            altered::<Swin2srRecord>(record, place, entry)
        };
        assert!(swin("/training/embed_dim", json!(0)).contains("training.embed_dim: is 0, has to "));
        assert!(swin("/training/depths", json!(vec![1; 65])).contains("training.depths: "));
    }

    #[test]
    fn altered_records_of_pictures_are_refused_by_their_fields() {
        let of = |place: &str, entry: Value| altered::<PadRecord>(pad(), place, entry);
        assert_eq!(of("/canvas/0", json!(0)), "canvas: is 0, has to lie between 1 and 32768");
        assert_eq!(of("/places/0/0", json!(u32::MAX)), "places[0]: is 4294967375, has to lie between 1 and 32768");
        assert_eq!(of("/places/0/2", json!(0)), "places[0]: is 0, has to lie between 1 and 32768");
        assert_eq!(of("/places", json!([[0, 0, 1, 1], [0, 0, 1, 1]])), "places: has 2 entries, has to have 1");
        assert_eq!(of("/black/0", json!(1.5)), "black[0]: is 1.5, has to lie between 0 and 1");
        let listed = json!({ "class": "Ia", "id": 1, "file": "1.png", "digest": "", "pixels": "", "width": 9, "height": 8,
            "color": "Rgb8", "generator": true, "testable": true });
        let list = json!({ "dataset": "A", "view": "SUR", "images": [listed] });
        let of = |place: &str, entry: Value| altered::<ImageList>(list.clone(), place, entry);
        assert_eq!(
            of("/images/0/file", json!("../x")),
            r#"images[0].file: is "../x", which is no plain name of a file"#
        );
        assert_eq!(of("/images/0/width", json!(0)), "images[0].width, height: is 0, has to lie between 1 and 32768");
        let samples =
            json!({ "size": [4, 4], "foreground": [0.25], "empty": 0, "faults": {}, "determinism": "bitwise" });
        let said = altered::<SamplesRecord>(samples, "/faults", json!({ "18446744073709551615": ["empty"] }));
        assert_eq!(said, "faults: names sample 18446744073709551615 of 1");
        let upscale = json!({ "method": "swin2sr", "size": [16, 8], "counts": [10, 6], "images": 1 });
        let said = altered::<UpscaleRecord>(upscale, "/counts/0", json!(17));
        assert_eq!(said, "counts: is 17, has to lie between 1 and 16");
    }
}
