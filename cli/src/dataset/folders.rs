//! The class folders of a data set, as a person lays them out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use domain::artifact::Manifest;
use domain::digest::Digest;
use domain::study::paper;
use domain::study::plan::{Data, RawClass};
use domain::study::stone::{Class, Dataset, View};
use proto::transfer;
use serde::Deserialize;

use super::stones::{Place, Stones};
use crate::exit::{self, Problem};

/// Endings of the files that count as pictures; all others are passed over.
const PICTURES: [&str; 3] = ["png", "jpg", "jpeg"];

/// Data found on disk.
#[derive(Debug)]
pub struct Found {
    /// The data to plan with.
    pub data: Data,
    /// The folders to upload.
    pub folders: Vec<(PathBuf, Manifest)>,
    /// What a person may want to know, one line each.
    pub remarks: Vec<String>,
}

/// The marker of data that stand in for real ones: `dataset.toml`.
#[derive(Deserialize)]
struct Marker {
    #[serde(default)]
    stand_in: bool,
    #[serde(default)]
    what: String,
}

/// The folders of a data set as a person named them.
pub struct Layout {
    /// The folder that holds `A` and `C`.
    pub raw: PathBuf,
    /// The folder of each class; where there is none, what it would be called.
    pub folders: Vec<(Place, PathBuf)>,
    /// Folders that are of no class or of one that another folder is of, one line each.
    pub problems: Vec<String>,
}

/// Finds the class folders below `root/raw` (or `root`).
///
/// # Errors
/// Exit code 4 if `root` is no folder.
pub fn layout(root: &Path) -> anyhow::Result<Layout> {
    let raw = if root.join("raw").is_dir() { root.join("raw") } else { root.to_owned() };
    if !raw.is_dir() {
        return Err(Problem::new(exit::DATA, format!("{} is not a folder", root.display())).into());
    }
    let mut problems = Vec::new();
    let mut named = BTreeMap::new();
    for (dataset, view) in [Dataset::A, Dataset::C].into_iter().flat_map(|set| View::ALL.map(|view| (set, view))) {
        let parent = raw.join(dataset.to_string()).join(view.code());
        for (name, folder) in folders_in(&parent) {
            let class = Class::from_name(&name).filter(|class| dataset.classes().contains(class));
            let Some(class) = class else {
                let known = dataset.classes().map(Class::code).join(", ");
                problems.push(format!("{}: no class of {dataset}; it has {known}", folder.display()));
                continue;
            };
            if let Some(other) = named.insert((dataset, view, class), folder.clone()) {
                problems.push(format!("{} and {}: both are of class {class}", other.display(), folder.display()));
            }
        }
    }
    let folder = |(dataset, view, class): (Dataset, View, Class)| {
        let usual = || raw.join(dataset.to_string()).join(view.code()).join(class.code());
        ((dataset, view, class), named.remove(&(dataset, view, class)).unwrap_or_else(usual))
    };
    let folders = Data::folders().map(folder).collect();
    Ok(Layout { raw, folders, problems })
}

/// The folders in a folder that are not hidden, by name; none if it cannot be read,
/// which shows as classes that are missing.
fn folders_in(parent: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    let mut folders: Vec<_> = named.filter(|(name, path)| !name.starts_with('.') && path.is_dir()).collect();
    folders.sort();
    folders
}

/// Looks at every class folder below `root/raw` (or `root`) and hashes its pictures.
///
/// # Errors
/// Exit code 4, naming every folder that is missing, of no class, empty, has one
/// picture or the same picture twice, and every line of `manifest.csv` that cannot be
/// used.
pub fn find(root: &Path) -> anyhow::Result<Found> {
    let Layout { raw, folders: wanted, mut problems } = layout(root)?;
    let scanned = in_parallel(&wanted, |(_, folder)| folder.is_dir().then(|| pictures(folder)));
    let places = wanted.iter().cloned().collect();
    let (mut classes, mut folders) = (Vec::new(), Vec::new());
    for (((dataset, view, class), folder), manifest) in wanted.into_iter().zip(scanned) {
        let place = folder.display();
        match manifest {
            None => problems.push(format!("{place}: missing; every class needs a folder")),
            Some(Err(error)) => problems.push(error.to_string()),
            Some(Ok(manifest)) => match manifest.entries().len() {
                0 => problems.push(format!("{place}: holds no pictures ({})", PICTURES.join(", "))),
                1 => problems.push(format!(
                    "{place}: holds one picture; a class needs two at least, one to learn from and one to test on"
                )),
                images => {
                    let images = u32::try_from(images).unwrap_or(u32::MAX);
                    classes.push(RawClass::new((dataset, view, class), manifest.id(), images));
                    folders.push((folder, manifest));
                }
            },
        }
    }
    problems.extend(repeated(&folders));
    let pictures = classes.iter().zip(&folders).map(|(class, (_, manifest))| {
        let names = manifest.entries().iter().map(|entry| entry.path.clone()).collect();
        ((class.dataset, class.view, class.class), names)
    });
    let stones = stones(&raw, &pictures.collect(), &places);
    problems.extend(stones.problems.iter().cloned());
    let mut masks = Vec::new();
    for (class, (folder, manifest)) in classes.iter_mut().zip(&folders) {
        let place = (class.dataset, class.view, class.class);
        class.stones = stones.numbers(place);
        let own = masks_of(&raw, place, folder);
        match own.is_dir().then(|| drawn(&own, manifest)).transpose() {
            Err(error) => problems.push(error.to_string()),
            Ok(Some(drawn)) if !drawn.entries().is_empty() => {
                class.masks = Some(drawn.id());
                masks.push((own, drawn));
            }
            Ok(_) => {}
        }
    }
    if !problems.is_empty() {
        let message = format!("the data in {} cannot be used:\n  {}", root.display(), problems.join("\n  "));
        return Err(Problem::new(exit::DATA, message).into());
    }
    let data = Data { classes, stand_in: stand_in(&raw)?, ..Data::default() };
    let mut remarks = remarks(&data);
    let drawn: usize = masks.iter().map(|(_, manifest)| manifest.entries().len()).sum();
    if drawn > 0 {
        remarks.push(format!("masks of {drawn} pictures"));
    }
    let [named, count] = stones.counts();
    if named > 0 {
        remarks.push(format!("manifest.csv names {count} stones of {named} pictures"));
    }
    folders.extend(masks);
    Ok(Found { data, folders, remarks })
}

/// What `manifest.csv` says of the pictures, whose names are given by class.
pub fn stones(raw: &Path, pictures: &BTreeMap<Place, Vec<String>>, folders: &BTreeMap<Place, PathBuf>) -> Stones {
    let mask_of = |place: Place, picture: &str| {
        let folder = folders.get(&place).map(|folder| masks_of(raw, place, folder)).unwrap_or_default();
        folder.join(Path::new(picture).with_extension("png"))
    };
    Stones::read(&beside(raw, "manifest.csv"), pictures, mask_of)
}

/// The masks in a folder of those that are there for one of the pictures.
fn drawn(folder: &Path, pictures: &Manifest) -> Result<Manifest, transfer::Error> {
    let names: BTreeSet<PathBuf> =
        pictures.entries().iter().map(|picture| Path::new(&picture.path).with_extension("png")).collect();
    let all = transfer::scan(folder)?;
    let entries = all.entries().iter().filter(|entry| names.contains(Path::new(&entry.path))).cloned().collect();
    Ok(Manifest::new(entries)?)
}

fn pictures(folder: &Path) -> Result<Manifest, transfer::Error> {
    let is_picture = |path: &str| {
        let ending = Path::new(path).extension().and_then(|ending| ending.to_str()).unwrap_or("").to_lowercase();
        PICTURES.contains(&ending.as_str()) && !path.contains('/') && !path.starts_with('.')
    };
    let all = transfer::scan(folder)?;
    let entries = all.entries().iter().filter(|entry| is_picture(&entry.path)).cloned().collect();
    Ok(Manifest::new(entries)?)
}

/// Pictures that stand twice in a class: one could be learnt from and the other
/// tested on.
fn repeated(folders: &[(PathBuf, Manifest)]) -> Vec<String> {
    let mut repeated = Vec::new();
    for (folder, manifest) in folders {
        for (earlier, path) in same_files(manifest.entries().iter().map(|entry| (entry.digest, &entry.path))) {
            repeated.push(format!("{}: {earlier} and {path} are the same file; remove one", folder.display()));
        }
    }
    repeated
}

/// Files with the same bytes: each with the one before it.
pub fn same_files<T: Copy>(files: impl Iterator<Item = (Digest, T)>) -> Vec<(T, T)> {
    let mut seen = BTreeMap::new();
    files.filter_map(|(digest, file)| Some((seen.insert(digest, file)?, file))).collect()
}

/// What lies beside `raw`, or beside `A` and `C`.
fn beside(raw: &Path, name: &str) -> PathBuf {
    if raw.ends_with("raw") { raw.with_file_name(name) } else { raw.join(name) }
}

/// The folder of masks of a class: under `masks` as the pictures are under `raw`,
/// called as theirs or by the code.
pub fn masks_of(raw: &Path, (dataset, view, class): Place, folder: &Path) -> PathBuf {
    let masks = beside(raw, "masks").join(dataset.to_string()).join(view.code());
    let own = folder.file_name().map(|name| masks.join(name)).filter(|own| own.is_dir());
    own.unwrap_or_else(|| masks.join(class.code()))
}

/// What the marker beside the folder `raw` says, however the data were named.
pub fn stand_in(raw: &Path) -> anyhow::Result<Option<String>> {
    let raw = raw.canonicalize().unwrap_or_else(|_| raw.to_owned());
    let beside = raw.parent().filter(|_| raw.ends_with("raw")).unwrap_or(&raw);
    let path = beside.join("dataset.toml");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    let marker: Marker = toml::from_str(&text)
        .map_err(|error| Problem::new(exit::DATA, format!("{}: {}", path.display(), error.message())))?;
    Ok(marker.stand_in.then_some(marker.what))
}

fn remarks(data: &Data) -> Vec<String> {
    let count = |dataset: Dataset| -> u32 {
        data.classes.iter().filter(|raw| raw.dataset == dataset).map(|raw| raw.images).sum()
    };
    let mut remarks = vec![format!(
        "{} CCD and {} endoscopic pictures, 2 views, 6 classes each",
        count(Dataset::A),
        count(Dataset::C)
    )];
    let fewest = data.classes.iter().min_by_key(|raw| raw.images);
    if let Some(raw) = fewest.filter(|raw| raw.images < 10) {
        let earlier = paper::image_count(raw.dataset, raw.view, raw.class).unwrap_or(0);
        remarks.push(format!(
            "{} {} {} has {} pictures (earlier work: {earlier}): one picture more or less recognised moves its accuracy a lot",
            raw.dataset, raw.view, raw.class, raw.images
        ));
    }
    remarks.extend(data.stand_in.is_none().then(|| data.unlike_earlier_work()).flatten());
    remarks
}

/// Applies a function to each item on all cores; results in order.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(cores).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            items.chunks(share).map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<R>>())).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap_or_default()).collect()
    })
}
