//! `patches`: splits one view of a data set by image and cuts it into patches of
//! stone (ALGORITHM 6). All patches of an image are on one side, and every class has
//! the same number of them whatever its number of images.

use std::path::PathBuf;

use domain::seed::Seed;
use domain::study::records::{ClassPatches, IDS_PER_CLASS, ImageList, ImageRecord, ImageRef, PatchesRecord, Record};
use domain::study::stage::{Failure, FailureCode, Folder, InputName, Patches};
use domain::study::stone::{Class, Dataset};
use domain::study::trial::Split;
use image::{Rgb, RgbImage, imageops};
use rand::seq::SliceRandom;
use report::tables::csv_of;

use super::Attempt;
use crate::data::batch;
use crate::data::canvas::{self, Placed};
use crate::data::foreground::{Coverage, Mask};
use crate::data::packed::{self, Row};
use crate::data::picture::{self, contact_sheet, files, open_rgb8, save_png};
use crate::data::resize::{Filter, resize};
use crate::data::split;
use crate::data::windows::{self, Search, Window};
use crate::files;
use crate::random;

/// The columns of `patches.csv`.
const COLUMNS: [&str; 8] = ["side", "class", "image_id", "file", "x", "y", "coverage", "stride"];

/// Patches of each class on the sheet.
const SHOWN: usize = 12;

/// Patches of each image on the sheet.
const SHOWN_OF_IMAGE: usize = 2;

/// Pixels along the longer side of the images of a preview.
const FRAMED: u32 = 240;

/// Images in a row of a preview.
const FRAMED_COLUMNS: usize = 12;

/// Images open at once, on however many threads: at the paper's size so many, and the
/// patches of a view, fit 2 GiB.
const OPEN_AT_ONCE: usize = 4;

/// Images too small for a patch that a message lists by name.
const LISTED: usize = 10;

/// An image to cut patches from.
struct Source {
    id: u32,
    class: Class,
    label: u8,
    path: PathBuf,
    /// The mask of the stone, if that is given.
    mask: Option<PathBuf>,
    /// The width and height of the canvas that the image is brought to, if it is.
    canvas: Option<[u32; 2]>,
    /// The digest of its pixels, where that is known before it is opened.
    pixels: Option<String>,
    test: bool,
}

/// The order of patches from one image.
struct Order<'a> {
    source: &'a Source,
    /// The image's share of the patches of its class and side.
    share: usize,
    /// The number of patches with those that it gives for siblings without room.
    count: usize,
}

/// The part that is kept of one image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// All patches.
    Patches,
    /// The first patches and a small picture with the places of all.
    Look,
}

/// The patches cut from one image.
struct Cut {
    windows: Vec<Window>,
    /// The patches in all windows, or in the first of them.
    patches: Vec<RgbImage>,
    /// The image with the places of its patches.
    framed: Option<RgbImage>,
    /// The digest of the image's pixels.
    pixels: String,
}

/// Runs the stage; see [`domain::study::stage::Stage::Patches`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if a class has too few images to split, if no image of a
/// side has room for a patch of stone, or if an image cannot be opened; the
/// message names the class and its images.
pub fn run(patches: &Patches, mut attempt: Attempt<'_>) -> Result<(), Failure> {
    let sources = sources(patches, &attempt)?;
    let work = cut_all(patches, &sources, Keep::Patches, &mut attempt)?;
    describe(patches, &work, attempt.folder)?;
    for (side, name) in [(false, "train"), (true, "test")] {
        let of_side = work.iter().filter(|(order, _)| order.source.test == side);
        let rows = of_side.flat_map(|(order, cut)| {
            let Source { label, id, .. } = *order.source;
            cut.patches.iter().map(move |patch| Row { patch, label, id })
        });
        let path = attempt.folder.output(&format!("{name}.safetensors"));
        packed::write(&path, &rows.collect::<Vec<_>>(), patches.patch.size as usize)?;
    }
    Ok(())
}

/// Does all that [`run`] does but to keep the patches. In their place it leaves
/// `windows.png`: the images, small, with the places that patches are cut from,
/// yellow on the training side and blue on the test side.
///
/// # Errors
/// As [`run`].
pub fn preview(patches: &Patches, mut attempt: Attempt<'_>) -> Result<PatchesRecord, Failure> {
    let sources = sources(patches, &attempt)?;
    let work = cut_all(patches, &sources, Keep::Look, &mut attempt)?;
    let mut framed: Vec<&RgbImage> = Vec::new();
    let blank = RgbImage::new(1, 1);
    for class in patches.dataset.classes() {
        framed.extend(work.iter().filter(|(order, _)| order.source.class == class).flat_map(|(_, cut)| &cut.framed));
        framed.resize(framed.len().next_multiple_of(FRAMED_COLUMNS), &blank);
    }
    let sheet = contact_sheet(framed, FRAMED_COLUMNS as u32, FRAMED);
    save_png(&attempt.folder.output("windows.png"), &sheet)?;
    describe(patches, &work, attempt.folder)
}

/// All images of the data set and view, on their sides.
fn sources(patches: &Patches, attempt: &Attempt<'_>) -> Result<Vec<Source>, Failure> {
    let sources = match patches.dataset {
        Dataset::A | Dataset::C => given(patches, attempt)?,
        Dataset::B => synthetic(patches, attempt)?,
    };
    if sources.iter().any(|source| source.test) {
        Ok(sources)
    } else {
        let Patches { dataset, view, split: Split { folds, fold, .. }, .. } = patches;
        let message = format!("no image of {dataset}/{view} is tested in fold {fold} of {folds}: lower tl.folds");
        Err(Failure::invalid_input(message))
    }
}

/// Cuts all images, training side first, by class in label order.
fn cut_all<'a>(
    patches: &Patches,
    sources: &'a [Source],
    keep: Keep,
    attempt: &mut Attempt<'_>,
) -> Result<Vec<(Order<'a>, Cut)>, Failure> {
    let mut orders = Vec::with_capacity(sources.len());
    for (side, class) in sides(patches) {
        let members: Vec<&Source> =
            sources.iter().filter(|source| source.test == side && source.class == class).collect();
        let counts = shares(quota(patches, side), members.len(), attempt.seed, class, side);
        orders.extend(members.into_iter().zip(counts).map(|(source, share)| Order { source, share, count: share }));
    }
    let cuts = cut_each(patches, &orders.iter().collect::<Vec<_>>(), "image", keep, attempt)?;
    let mut work: Vec<(Order<'a>, Cut)> = orders.into_iter().zip(cuts).collect();
    for (side, class) in sides(patches) {
        fill_up(patches, side, class, keep, &mut work, attempt)?;
    }
    Ok(work)
}

fn cut_each(
    patches: &Patches,
    orders: &[&Order<'_>],
    what: &str,
    keep: Keep,
    attempt: &mut Attempt<'_>,
) -> Result<Vec<Cut>, Failure> {
    let seed = attempt.seed;
    batch::map_at_most(OPEN_AT_ONCE, orders, what, attempt.monitor, |order| cut(patches, order, keep, seed))
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
    let list: ImageList = files::read(&attempt.folder.input(InputName::Ingest).join(ImageList::FILE))?;
    let classes = patches.dataset.classes();
    if let Some(image) = list.images.iter().find(|image| !classes.contains(&image.class)) {
        let (dataset, class) = (patches.dataset, image.class);
        let message = format!("images.json of {} lists class {class}, which {dataset} does not have", list.dataset);
        return Err(Failure::new(FailureCode::Internal, message));
    }
    large_enough(patches, &list.images)?;
    let mut sources = Vec::with_capacity(list.images.len());
    for (class, label) in classes.into_iter().zip(0..) {
        let images: Vec<&ImageRecord> = list.images.iter().filter(|image| image.class == class).collect();
        let stones: Vec<Option<u32>> = images.iter().map(|image| image.stone).collect();
        let testable: Vec<bool> = images.iter().map(|image| image.testable).collect();
        let folds = folds(patches, class, &stones, &testable, attempt.seed).ok_or_else(|| {
            Failure::invalid_input(format!(
                "class {}/{}/{class} has {} image(s), of which {} may be tested, too few to be split: add images",
                patches.dataset,
                patches.view,
                images.len(),
                testable.iter().filter(|testable| **testable).count(),
            ))
        })?;
        let masks = attempt.folder.input(InputName::Masks(class));
        // The canvas of `pad`, which knows the images of the class's generator only.
        let sizes: Vec<[u32; 2]> =
            images.iter().filter(|image| image.generator).map(|image| [image.width, image.height]).collect();
        let canvas = patches.pad.as_ref().map(|pad| pad.target.size(&sizes));
        sources.extend(images.into_iter().zip(folds).map(|(image, fold)| Source {
            id: image.id,
            class,
            label,
            path: attempt.folder.input(InputName::Raw(Some(class))).join(&image.file),
            mask: image.masked.then(|| masks.join(&image.file).with_extension("png")),
            canvas,
            pixels: Some(image.pixels.clone()),
            test: fold == Some(patches.split.fold),
        }));
    }
    Ok(sources)
}

/// Refuses images that a patch does not fit into: those of an earlier `ingest` were
/// looked at for patches of another size.
fn large_enough(patches: &Patches, images: &[ImageRecord]) -> Result<(), Failure> {
    let problem = |image: &ImageRecord| {
        let name = format!("{}/{}/{}/{}", patches.dataset, patches.view, image.class, image.file);
        windows::too_small(&name, [image.width, image.height], patches.patch.size)
    };
    let mut problems: Vec<String> = images.iter().filter_map(problem).collect();
    let more = problems.len().saturating_sub(LISTED);
    problems.truncate(LISTED);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::invalid_input(problems.join("\n"))) }
}

/// The images of B, all of which may be tested.
fn synthetic(patches: &Patches, attempt: &Attempt<'_>) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for (class, label) in patches.dataset.classes().into_iter().zip(0..) {
        let folder = attempt.folder.input(InputName::Synthetic(Some(class))).join("images");
        let found = files(&folder)?;
        let folds = folds(patches, class, &vec![None; found.len()], &vec![true; found.len()], attempt.seed)
            .ok_or_else(|| {
                Failure::invalid_input(format!(
                    "class B/{}/{class} has {} synthetic pictures in {}, but {} are needed to split them: \
                     raise sampling.per_model",
                    patches.view,
                    found.len(),
                    folder.display(),
                    split::FEWEST
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
fn cut(patches: &Patches, order: &Order<'_>, keep: Keep, seed: Seed) -> Result<Cut, Failure> {
    if let (0, Some(pixels)) = (order.count, &order.source.pixels) {
        return Ok(Cut { windows: Vec::new(), patches: Vec::new(), framed: None, pixels: pixels.clone() });
    }
    let mut image = open_rgb8(&order.source.path)?.image;
    let pixels = order.source.pixels.clone().unwrap_or_else(|| picture::digest(&image).to_string());
    let mut mask = match (&order.source.mask, patches.dataset) {
        (Some(mask), _) => picture::open_mask(mask, &order.source.path, [image.width(), image.height()])?,
        (None, Dataset::A | Dataset::B) => Mask::stone(&image),
        (None, Dataset::C) => Mask::stone_in_scope(&image),
    };
    if let (Some(canvas), Some(pad)) = (order.source.canvas, &patches.pad) {
        mask = mask.on_canvas(Placed::new(image.dimensions().into(), canvas, pad), canvas);
        image = canvas::paste(image, canvas, None, pad).image;
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
    let windows = search.choose(&Coverage::new(&mask), order.count, &mut rng);
    let kept = if keep == Keep::Look { SHOWN_OF_IMAGE } else { windows.len() };
    let crop = |at: &Window| imageops::crop_imm(&image, at.x, at.y, size, size).to_image();
    let patches = windows.iter().take(kept).map(crop).collect();
    let framed = (keep == Keep::Look).then(|| framed(&image, &windows, size, order.source.test));
    Ok(Cut { windows, patches, framed, pixels })
}

/// The image, small, with the borders of windows.
fn framed(image: &RgbImage, windows: &[Window], size: u32, test: bool) -> RgbImage {
    let color = Rgb(if test { [90, 200, 255] } else { [255, 220, 60] });
    let scale = (f64::from(FRAMED) / f64::from(image.width().max(image.height()))).min(1.0);
    let at = |pixels: u32| (f64::from(pixels) * scale) as u32;
    let [width, height] = [image.width(), image.height()].map(|side| at(side).max(1));
    let mut small = resize(image, width, height, Filter::Bilinear);
    for window in windows {
        let [left, right] = [at(window.x), at(window.x + size).min(width) - 1];
        let [top, bottom] = [at(window.y), at(window.y + size).min(height) - 1];
        (left..=right).for_each(|x| [top, bottom].into_iter().for_each(|y| small.put_pixel(x, y, color)));
        (top..=bottom).for_each(|y| [left, right].into_iter().for_each(|x| small.put_pixel(x, y, color)));
    }
    small
}

/// Has the siblings of images with too few places make up for them. A side may stay
/// short if no image has more.
fn fill_up(
    patches: &Patches,
    side: bool,
    class: Class,
    keep: Keep,
    work: &mut [(Order<'_>, Cut)],
    attempt: &mut Attempt<'_>,
) -> Result<(), Failure> {
    let of_it = |source: &Source| source.test == side && source.class == class;
    let members: Vec<usize> = (0..work.len()).filter(|i| of_it(work[*i].0.source)).collect();
    if side && members.is_empty() && patches.split.folds > 1 {
        // Fewer images than folds: this one tests none.
        attempt.monitor.log(&format!("class {class}: no image is tested in this fold"));
        return Ok(());
    }
    let wanted = quota(patches, side);
    loop {
        let found: usize = members.iter().map(|i| work[*i].1.windows.len()).sum();
        let missing = wanted - found.min(wanted);
        // Who gave all that was asked may have more.
        let is_rich = |(order, cut): &(Order<'_>, Cut)| cut.windows.len() == order.count;
        let rich: Vec<usize> = members.iter().copied().filter(|i| is_rich(&work[*i])).collect();
        if found == 0 && (rich.is_empty() || missing == 0) || members.is_empty() {
            return Err(no_place(patches, side, class, members.iter().map(|i| work[*i].0.source)));
        }
        if missing > 0 && rich.is_empty() {
            let side = if side { "test" } else { "training" };
            attempt.monitor.log(&format!("class {class}: room for {found} of {wanted} patches on the {side} side"));
        }
        if missing == 0 || rich.is_empty() {
            return Ok(());
        }
        for (i, member) in rich.iter().enumerate() {
            work[*member].0.count += missing / rich.len() + usize::from(i < missing % rich.len());
        }
        let again: Vec<&Order<'_>> = rich.iter().map(|member| &work[*member].0).collect();
        let new = cut_each(patches, &again, &format!("more patches of {class}"), keep, attempt)?;
        for (member, cut) in rich.into_iter().zip(new) {
            work[member].1 = cut;
        }
    }
}

/// No image of a side has a place for a patch.
fn no_place<'a>(
    patches: &Patches,
    side: bool,
    class: Class,
    members: impl ExactSizeIterator<Item = &'a Source>,
) -> Failure {
    let count = members.len();
    let names: Vec<String> = members.take(10).map(|source| source.path.display().to_string()).collect();
    let more = count - names.len();
    Failure::invalid_input(format!(
        "class {}/{}/{class}: no place of {size}x{size} pixels shows stone in any of its {count} {} image(s): {}{}; \
         use larger pictures of the stone or lower patch.size",
        patches.dataset,
        patches.view,
        if side { "test" } else { "training" },
        names.join(", "),
        if more > 0 { format!(" and {more} more") } else { String::new() },
        size = patches.patch.size
    ))
}

/// Writes what people read, and says what was cut.
fn describe(patches: &Patches, work: &[(Order<'_>, Cut)], folder: &Folder) -> Result<PatchesRecord, Failure> {
    let mut rows = Vec::new();
    let mut classes: Vec<ClassPatches> = patches
        .dataset
        .classes()
        .into_iter()
        .map(|class| ClassPatches {
            class,
            train: [0; 2],
            test: [0; 2],
            coverage: patches.patch.coverage,
            stride: patches.patch.size,
            moved: 0,
            masks: 0,
        })
        .collect();
    let mut shown: Vec<Vec<&RgbImage>> = vec![Vec::new(); classes.len()];
    let mut images = [Vec::new(), Vec::new()];
    for (order, cut) in work {
        let Source { id, class, label, path, mask, test, .. } = order.source;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let side = if *test { "test" } else { "train" };
        let of_class = &mut classes[usize::from(*label)];
        for Window { x, y, coverage, stride } in &cut.windows {
            let shown = format!("{coverage:.4}");
            let [number, left, top, step] = [id, x, y, stride].map(u32::to_string);
            rows.push([side.to_owned(), class.to_string(), number, name.clone(), left, top, shown, step]);
            of_class.coverage = of_class.coverage.min((coverage * 1e4).round() / 1e4);
            of_class.stride = of_class.stride.min(*stride);
        }
        of_class.masks += u32::from(mask.is_some());
        of_class.moved += cut.windows.len().saturating_sub(order.share) as u32;
        let counts = if *test { &mut of_class.test } else { &mut of_class.train };
        counts[0] += u32::from(!cut.windows.is_empty());
        counts[1] += cut.windows.len() as u32;
        let row = &mut shown[usize::from(*label)];
        let room = if *test { 0 } else { SHOWN - row.len() };
        row.extend(cut.patches.iter().take(SHOWN_OF_IMAGE.min(room)));
        images[usize::from(*test)].push(ImageRef { class: *class, id: *id, file: name, digest: cut.pixels.clone() });
    }
    // A row of the sheet per class, filled up with black.
    let blank = RgbImage::new(patches.patch.size, patches.patch.size);
    shown.iter_mut().for_each(|row| row.resize(SHOWN, &blank));
    let sheet = contact_sheet(shown.into_iter().flatten(), SHOWN as u32, patches.patch.size.min(96));
    save_png(&folder.output("sheet.png"), &sheet)?;
    files::write_bytes(&folder.output("patches.csv"), csv_of(&COLUMNS, rows).as_bytes())?;
    let Patches { dataset, view, split, ref patch, .. } = *patches;
    let [train_images, test_images] = images;
    let record = PatchesRecord { dataset, view, split, size: patch.size, classes, train_images, test_images };
    files::write(&folder.output(PatchesRecord::FILE), &record)?;
    Ok(record)
}

#[cfg(test)]
mod tests;
