//! The pictures of the page, copied beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use domain::study::stage::{Failure, Folder, InputName, milestone_path};
use domain::study::stone::{Class, Dataset, View};
use domain::study::system::{Model, System};
use image::{RgbImage, imageops};
use report::page::{Map, Milestones, Pictures, Samples};

use crate::data::picture;
use crate::files;

/// The maps of a view: file name and caption.
pub(super) const MAPS: [(&str, &str); 3] =
    [("real", "mean real picture"), ("synthetic", "mean synthetic picture"), ("difference", "absolute difference")];

/// The largest number of rows in a picture of [`Milestones`], so that the report stays small.
const ROWS: usize = 6;

/// Copies the pictures that the study left, and says where they are.
pub(super) fn copy_all(folder: &Folder) -> Result<Pictures, Failure> {
    let mut pictures = Pictures::default();
    for view in View::ALL {
        for (map, caption) in MAPS {
            let source =
                folder.input(InputName::HeatmapOf(System::Sinddm, Model::View(view))).join(format!("{map}.png"));
            let path = copy_picture(folder, &source, &format!("heatmap-{view}-{map}"))?;
            pictures.maps.extend(path.map(|path| Map { view, caption, path }));
        }
        for class in Dataset::A.classes() {
            let source =
                folder.input(InputName::SamplesOf(System::Sinddm, Model::Class(view, class))).join("sheet.png");
            let path = copy_picture(folder, &source, &format!("samples-{view}-{class}"))?;
            pictures.samples.extend(path.map(|path| Samples { view, class, path }));
            pictures.milestones.extend(milestones(folder, view, class)?);
        }
    }
    Ok(pictures)
}

/// Copies a picture if it exists, and gives its path as the page names it.
fn copy_picture(folder: &Folder, source: &Path, name: &str) -> Result<Option<String>, Failure> {
    if !source.is_file() {
        return Ok(None);
    }
    let path = format!("pictures/{name}.png");
    copy(source, &folder.output(&path))?;
    Ok(Some(path))
}

/// Puts the contact sheets of a model's milestones, if it has left any, into one picture.
fn milestones(folder: &Folder, view: View, class: Class) -> Result<Option<Milestones>, Failure> {
    let sheets = folder.input(InputName::MilestonesOf(Model::Class(view, class))).join("milestones");
    if !sheets.is_dir() {
        return Ok(None);
    }
    let (mut steps, mut rows) = (Vec::new(), Vec::new());
    let sheets: BTreeMap<u32, PathBuf> =
        picture::files(&sheets)?.into_iter().filter_map(|path| Some((step_of(&path)?, path))).collect();
    for (step, path) in spread_out(sheets.into_iter().collect()) {
        steps.push(step);
        rows.push(picture::open_rgb8(&path)?.image);
    }
    let width = rows.iter().map(RgbImage::width).max().unwrap_or(0);
    let mut all = RgbImage::new(width, rows.iter().map(RgbImage::height).sum());
    let mut top = 0;
    for row in &rows {
        imageops::replace(&mut all, row, 0, top);
        top += i64::from(row.height());
    }
    let path = format!("pictures/milestones-{view}-{class}.png");
    picture::save_png(&folder.output(&path), &all)?;
    Ok(Some(Milestones { view, class, steps, path }))
}

/// The step that a contact sheet was drawn after. The report is given no record of the
/// training, so the name that [`milestone_path`] gave the sheet is all that tells.
fn step_of(sheet: &Path) -> Option<u32> {
    let step = sheet.file_stem()?.to_str()?.parse().ok()?;
    sheet.ends_with(milestone_path(step)).then_some(step)
}

/// At most [`ROWS`] of `sheets`, evenly spaced, with the first and the last.
fn spread_out<T>(sheets: Vec<T>) -> Vec<T> {
    let (count, last) = (sheets.len(), sheets.len().saturating_sub(1));
    if count <= ROWS {
        return sheets;
    }
    let chosen: BTreeSet<usize> = (0..ROWS).map(|row| row * last / (ROWS - 1)).collect();
    sheets.into_iter().enumerate().filter(|(index, _)| chosen.contains(index)).map(|(_, sheet)| sheet).collect()
}

/// Copies a file.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let bytes = fs::read(from).map_err(|error| Failure::io("read", from, &error))?;
    files::write_bytes(to, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_is_known_by_the_name_that_its_training_gave_it() {
        for step in [200, 120_000, 1_234_567] {
            assert_eq!(step_of(&Path::new("inputs").join(milestone_path(step))), Some(step));
        }
        assert_eq!(step_of(Path::new("milestones/200.png")), None);
        assert_eq!(step_of(Path::new("milestones/sheet.png")), None);
    }

    #[test]
    fn of_many_milestones_the_first_the_last_and_some_between_are_shown() {
        let paths = |count: u32| (0..count).map(|step| PathBuf::from(step.to_string())).collect::<Vec<_>>();
        assert_eq!(spread_out(paths(6)), paths(6));
        assert_eq!(spread_out(paths(0)), paths(0));
        let shown: Vec<String> = spread_out(paths(50)).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(shown, ["0", "9", "19", "29", "39", "49"]);
    }
}
