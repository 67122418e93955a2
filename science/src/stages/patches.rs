//! `patches`: splits one view of a data set by image and cuts it into patches of
//! stone (ALGORITHM 6). All patches of an image are on one side, and every class has
//! the same number of them whatever its number of images.

use std::fmt::Write;
use std::path::PathBuf;

use domain::seed::Seed;
use domain::stage::{Failure, FailureCode, Patches, Split};
use domain::stone::{Class, Dataset};
use image::{RgbImage, imageops};
use rand::seq::SliceRandom;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::{Attempt, pad};
use crate::data::batch;
use crate::data::foreground::{Coverage, Mask};
use crate::data::picture::{self, contact_sheet, files, open_rgb8, save_png};
use crate::data::split;
use crate::data::windows::{Search, Window};
use crate::random;
use crate::records::{self, ClassPatches, ImageList, ImageRecord, ImageRef, PatchesRecord};

/// Patches of each class on the sheet.
const SHOWN: usize = 12;

/// Images of a class of B are numbered from this many times its label.
const IDS_PER_CLASS: u32 = 10_000;

/// An image to cut patches from.
struct Source {
    id: u32,
    class: Class,
    label: u8,
    path: PathBuf,
    /// Where the stone is, if that is given.
    mask: Option<PathBuf>,
    /// Width and height of the canvas that it is brought to, if it is.
    canvas: Option<[u32; 2]>,
    /// The digest of its pixels, where that is known before it is opened.
    pixels: Option<String>,
    test: bool,
}

/// What is to be cut from one image.
struct Order<'a> {
    source: &'a Source,
    count: usize,
}

/// What was cut from one image.
struct Cut {
    windows: Vec<Window>,
    patches: Vec<RgbImage>,
    /// The digest of the image's pixels.
    pixels: String,
}

/// Runs the stage; see [`domain::stage::Stage::Patches`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if a class has too few images to split, if no image of a
/// side has room for a patch of stone, or if an image cannot be opened; the
/// message names the class and its images.
pub fn run(patches: &Patches, mut attempt: Attempt<'_>) -> Result<(), Failure> {
    let sources = match patches.dataset {
        Dataset::A | Dataset::C => given(patches, &attempt)?,
        Dataset::B => synthetic(patches, &attempt)?,
    };
    let mut orders = Vec::with_capacity(sources.len());
    for (side, class) in sides(patches) {
        let members: Vec<&Source> =
            sources.iter().filter(|source| source.test == side && source.class == class).collect();
        let counts = shares(quota(patches, side), members.len(), attempt.seed, class, side);
        orders.extend(members.into_iter().zip(counts).map(|(source, count)| Order { source, count }));
    }
    let seed = attempt.seed;
    let mut cuts = batch::map(&orders, "image", attempt.monitor, |order| cut(patches, order, seed))?;
    let mut moved = Vec::new();
    for (side, class) in sides(patches) {
        moved.push(fill_up(patches, side, class, &mut orders, &mut cuts, &mut attempt)?);
    }
    write(patches, &orders, cuts, &moved, &attempt)
}

/// Every side of every class, training first, classes in label order.
fn sides(patches: &Patches) -> impl Iterator<Item = (bool, Class)> {
    let classes = patches.dataset.classes();
    [false, true].into_iter().flat_map(move |side| classes.into_iter().map(move |class| (side, class)))
}

/// Patches of each class on a side.
fn quota(patches: &Patches, test: bool) -> usize {
    let (train, tested) = patches.patch.quota();
    (if test { tested } else { train }) as usize
}

/// The fold in which each image of a class is tested, if any, from the stones that they
/// show and whether they may be tested; `None` if they are too few. It depends
/// on `patch.split_seed` or the seed of the task, which all splits of a study share, and
/// on the number of the split, not on the fold.
pub fn folds(
    patches: &Patches,
    class: Class,
    stones: &[Option<u32>],
    testable: &[bool],
    seed: Seed,
) -> Option<Vec<Option<u32>>> {
    let Patches { dataset, view, split: Split { number, folds, .. }, patch, .. } = patches;
    let seed = patch.split_seed.map_or(seed, Seed);
    let mut rng = random::stream(seed, &format!("patches.split.{dataset}.{view}.{class}"), u64::from(*number));
    split::deal(&split::numbered(stones), testable, *folds, patch.test_fraction, &mut rng)
}

/// The images of A or C, of which `ingest` says what they may be used for.
fn given(patches: &Patches, attempt: &Attempt<'_>) -> Result<Vec<Source>, Failure> {
    let list: ImageList = records::read(&attempt.folder.input("ingest").join("images.json"))?;
    let classes = patches.dataset.classes();
    if let Some(image) = list.images.iter().find(|image| !classes.contains(&image.class)) {
        let (dataset, class) = (patches.dataset, image.class);
        let message = format!("images.json of {} lists class {class}, which {dataset} does not have", list.dataset);
        return Err(Failure::new(FailureCode::Internal, message));
    }
    let mut sources = Vec::with_capacity(list.images.len());
    for (class, label) in classes.into_iter().zip(0..) {
        let images: Vec<&ImageRecord> = list.images.iter().filter(|image| image.class == class).collect();
        let stones: Vec<Option<u32>> = images.iter().map(|image| image.stone).collect();
        let testable: Vec<bool> = images.iter().map(|image| image.testable).collect();
        let folds = folds(patches, class, &stones, &testable, attempt.seed).ok_or_else(|| {
            Failure::invalid_input(format!(
                "class {}/{}/{class} has {} image(s), of which {} may be tested, too few for {} fold(s): add images \
                 or lower tl.folds",
                patches.dataset,
                patches.view,
                images.len(),
                testable.iter().filter(|testable| **testable).count(),
                patches.split.folds
            ))
        })?;
        let masks = attempt.folder.input(&format!("masks.{class}"));
        // The canvas of `pad`, which knows the images of the class's generator only.
        let sizes: Vec<[u32; 2]> =
            images.iter().filter(|image| image.generator).map(|image| [image.width, image.height]).collect();
        let canvas = patches.pad.as_ref().map(|pad| pad.target.size(&sizes));
        sources.extend(images.into_iter().zip(folds).map(|(image, fold)| Source {
            id: image.id,
            class,
            label,
            path: attempt.folder.input(&format!("raw.{class}")).join(&image.file),
            mask: image.masked.then(|| masks.join(&image.file).with_extension("png")),
            canvas,
            pixels: Some(image.pixels.clone()),
            test: fold == Some(patches.split.fold),
        }));
    }
    Ok(sources)
}

/// The images of B, all of which may be tested.
fn synthetic(patches: &Patches, attempt: &Attempt<'_>) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for (class, label) in patches.dataset.classes().into_iter().zip(0..) {
        let folder = attempt.folder.input(&format!("synthetic.{class}")).join("images");
        let found = files(&folder)?;
        let folds = folds(patches, class, &vec![None; found.len()], &vec![true; found.len()], attempt.seed)
            .ok_or_else(|| {
                Failure::invalid_input(format!(
                    "class B/{}/{class} has {} synthetic pictures in {}, but {} are needed to split them: \
                 raise sampling.per_model or lower tl.folds",
                    patches.view,
                    found.len(),
                    folder.display(),
                    split::fewest(0, patches.split.folds)
                ))
            })?;
        sources.extend(found.into_iter().zip(folds).zip(0..).map(|((path, fold), i)| Source {
            id: u32::from(label) * IDS_PER_CLASS + i,
            class,
            label,
            path,
            mask: None,
            canvas: None,
            pixels: None,
            test: fold == Some(patches.split.fold),
        }));
    }
    Ok(sources)
}

/// `quota` spread over `images` as evenly as can be; who gets one more is
/// drawn.
fn shares(quota: usize, images: usize, seed: Seed, class: Class, test: bool) -> Vec<usize> {
    let Some(even) = quota.checked_div(images) else { return Vec::new() };
    let mut counts: Vec<usize> = (0..images).map(|i| even + usize::from(i < quota % images)).collect();
    counts.shuffle(&mut random::stream(seed, &format!("patches.shares.{class}"), u64::from(test)));
    counts
}

/// Cuts one image. The choice depends on the image and on how many are wanted.
fn cut(patches: &Patches, order: &Order<'_>, seed: Seed) -> Result<Cut, Failure> {
    if let (0, Some(pixels)) = (order.count, &order.source.pixels) {
        return Ok(Cut { windows: Vec::new(), patches: Vec::new(), pixels: pixels.clone() });
    }
    let mut image = open_rgb8(&order.source.path)?.image;
    let pixels = order.source.pixels.clone().unwrap_or_else(|| picture::digest(&image).to_string());
    let mut mask = match (&order.source.mask, patches.dataset) {
        (Some(mask), _) => picture::open_mask(mask, &order.source.path, [image.width(), image.height()])?,
        (None, Dataset::A | Dataset::B) => Mask::stone(&image),
        (None, Dataset::C) => Mask::stone_in_scope(&image),
    };
    if let (Some(canvas), Some(pad)) = (order.source.canvas, &patches.pad) {
        mask = mask.on_canvas(pad::fitted(image.dimensions().into(), canvas), canvas);
        image = pad::paste(image, canvas, pad.fill).0;
    }
    let size = patches.patch.size;
    let search = Search {
        picture: [image.width(), image.height()],
        size,
        coverage: patches.patch.coverage,
        // A diffusion model may draw no stone at all: that is for the
        // classifier's numbers to say, not a reason to stop.
        anything: patches.dataset == Dataset::B,
        max_overlap: patches.patch.max_overlap,
        method: patches.patch.method,
    };
    let mut rng = random::stream(seed, "patches.choose", u64::from(order.source.id));
    let windows = search.choose(&Coverage::of(&mask), order.count, &mut rng);
    let patches = windows.iter().map(|at| imageops::crop_imm(&image, at.x, at.y, size, size).to_image()).collect();
    Ok(Cut { windows, patches, pixels })
}

/// Has the siblings of images with too few places make up for them. Returns
/// how many patches were moved so. A side may stay short if no image has more.
fn fill_up(
    patches: &Patches,
    side: bool,
    class: Class,
    orders: &mut [Order<'_>],
    cuts: &mut [Cut],
    attempt: &mut Attempt<'_>,
) -> Result<u32, Failure> {
    let members: Vec<usize> =
        (0..orders.len()).filter(|i| orders[*i].source.test == side && orders[*i].source.class == class).collect();
    let wanted = quota(patches, side);
    let mut moved = 0;
    loop {
        let found: usize = members.iter().map(|i| cuts[*i].windows.len()).sum();
        let missing = wanted - found.min(wanted);
        // Who gave all that was asked may have more.
        let rich: Vec<usize> = members.iter().copied().filter(|i| cuts[*i].windows.len() == orders[*i].count).collect();
        if found == 0 && (rich.is_empty() || missing == 0) || members.is_empty() {
            return Err(no_place(patches, side, class, orders, &members));
        }
        if missing > 0 && rich.is_empty() {
            let side = if side { "test" } else { "training" };
            attempt.monitor.log(&format!("class {class}: room for {found} of {wanted} patches on the {side} side"));
        }
        if missing == 0 || rich.is_empty() {
            return Ok(moved);
        }
        for (i, member) in rich.iter().enumerate() {
            orders[*member].count += missing / rich.len() + usize::from(i < missing % rich.len());
        }
        let again: Vec<&Order<'_>> = rich.iter().map(|member| &orders[*member]).collect();
        let seed = attempt.seed;
        let what = format!("more patches of {class}");
        let new = batch::map(&again, &what, attempt.monitor, |order| cut(patches, order, seed))?;
        for (member, cut) in rich.into_iter().zip(new) {
            moved += (cut.windows.len() - cuts[member].windows.len()) as u32;
            cuts[member] = cut;
        }
    }
}

/// No image of a side has a place for a patch.
fn no_place(patches: &Patches, side: bool, class: Class, orders: &[Order<'_>], members: &[usize]) -> Failure {
    let names: Vec<String> = members.iter().take(10).map(|i| orders[*i].source.path.display().to_string()).collect();
    let more = members.len().saturating_sub(names.len());
    Failure::invalid_input(format!(
        "class {}/{}/{class}: no place of {size}x{size} pixels shows stone in any of its {} {} image(s): {}{}; \
         use larger pictures of the stone or lower patch.size",
        patches.dataset,
        patches.view,
        members.len(),
        if side { "test" } else { "training" },
        names.join(", "),
        if more > 0 { format!(" and {more} more") } else { String::new() },
        size = patches.patch.size
    ))
}

/// Writes all outputs.
fn write(
    patches: &Patches,
    orders: &[Order<'_>],
    cuts: Vec<Cut>,
    moved: &[u32],
    attempt: &Attempt<'_>,
) -> Result<(), Failure> {
    let mut csv = "side,class,image_id,file,x,y,coverage,stride\n".to_owned();
    let classes = patches.dataset.classes();
    let mut record: Vec<ClassPatches> = classes
        .into_iter()
        .enumerate()
        .map(|(label, class)| ClassPatches {
            class,
            train: [0; 2],
            test: [0; 2],
            coverage: patches.patch.coverage,
            stride: patches.patch.size,
            moved: moved[label] + moved[label + classes.len()],
            masks: 0,
        })
        .collect();
    let mut shown: Vec<Vec<RgbImage>> = vec![Vec::new(); classes.len()];
    let mut tensors = [Tensors::default(), Tensors::default()];
    let mut images = [Vec::new(), Vec::new()];
    for (order, cut) in orders.iter().zip(cuts) {
        let Source { id, class, label, path, mask, test, .. } = order.source;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = quoted(&name);
        images[usize::from(*test)].push(ImageRef { class: *class, id: *id, file: name, digest: cut.pixels });
        let side = if *test { "test" } else { "train" };
        let class_record = &mut record[usize::from(*label)];
        for window in &cut.windows {
            let Window { x, y, coverage, stride } = window;
            // Writing to a string cannot fail.
            let _ = writeln!(csv, "{side},{class},{id},{file},{x},{y},{coverage:.4},{stride}");
            class_record.coverage = class_record.coverage.min((coverage * 1e4).round() / 1e4);
            class_record.stride = class_record.stride.min(*stride);
        }
        class_record.masks += u32::from(mask.is_some());
        let counts = if *test { &mut class_record.test } else { &mut class_record.train };
        counts[0] += u32::from(!cut.windows.is_empty());
        counts[1] += cut.windows.len() as u32;
        for (i, patch) in cut.patches.into_iter().enumerate() {
            tensors[usize::from(*test)].push(&patch, *label, *id);
            let row = &mut shown[usize::from(*label)];
            if i < 2 && row.len() < SHOWN && !*test {
                row.push(patch);
            }
        }
    }
    let folder = attempt.folder;
    // A row of the sheet per class, filled up with black.
    let blank = RgbImage::new(patches.patch.size, patches.patch.size);
    shown.iter_mut().for_each(|row| row.resize(SHOWN, blank.clone()));
    let sheet = contact_sheet(shown.iter().flatten(), SHOWN as u32, patches.patch.size.min(96));
    save_png(&folder.output("sheet.png"), &sheet)?;
    records::write_bytes(&folder.output("patches.csv"), csv.as_bytes())?;
    for (name, tensors) in ["train", "test"].into_iter().zip(tensors) {
        tensors.write(&folder.output(&format!("{name}.safetensors")), patches.patch.size as usize)?;
    }
    let Patches { dataset, view, split, patch, .. } = patches.clone();
    let [train_images, test_images] = images;
    let record = PatchesRecord { dataset, view, split, size: patch.size, classes: record, train_images, test_images };
    records::write(&folder.output("patches.json"), &record)
}

/// A field of a comma-separated file.
fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// The patches of one side as they are stored.
#[derive(Default)]
struct Tensors {
    /// `[n, 3, size, size]`
    images: Vec<u8>,
    /// `[n]`
    labels: Vec<u8>,
    /// `[n]`, little-endian u32
    image_ids: Vec<u8>,
}

impl Tensors {
    fn push(&mut self, patch: &RgbImage, label: u8, id: u32) {
        for channel in 0..3 {
            self.images.extend(patch.as_raw().iter().skip(channel).step_by(3));
        }
        self.labels.push(label);
        self.image_ids.extend(id.to_le_bytes());
    }

    fn write(&self, path: &std::path::Path, size: usize) -> Result<(), Failure> {
        let count = self.labels.len();
        let fault = |error: safetensors::SafeTensorError| {
            let message = format!("cannot write {}: {error}", path.display());
            Failure::new(FailureCode::Storage, message)
        };
        let views = [
            ("images", TensorView::new(Dtype::U8, vec![count, 3, size, size], &self.images).map_err(fault)?),
            ("labels", TensorView::new(Dtype::U8, vec![count], &self.labels).map_err(fault)?),
            ("image_ids", TensorView::new(Dtype::U32, vec![count], &self.image_ids).map_err(fault)?),
        ];
        safetensors::serialize_to_file(views, None, path).map_err(fault)
    }
}

#[cfg(test)]
mod tests;
