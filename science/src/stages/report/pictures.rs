//! The pictures of the page, copied beside it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use domain::study::records::{Record, SinddmRecord};
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
    let model = folder.input(InputName::MilestonesOf(Model::Class(view, class)));
    if !model.is_dir() {
        return Ok(None);
    }
    let record: SinddmRecord = files::read(&model.join(SinddmRecord::FILE))?;
    let steps: Vec<u32> = spread_out(record.sinddm.sheets().into_iter().collect());
    let open = |step: &u32| picture::open_rgb8(&model.join(milestone_path(*step))).map(|picture| picture.image);
    let rows = steps.iter().map(open).collect::<Result<Vec<_>, _>>()?;
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
    fn of_many_milestones_the_first_the_last_and_some_between_are_shown() {
        let steps = |count: u32| (0..count).collect::<Vec<_>>();
        assert_eq!(spread_out(steps(6)), steps(6));
        assert_eq!(spread_out(steps(0)), steps(0));
        assert_eq!(spread_out(steps(50)), [0, 9, 19, 29, 39, 49]);
    }
}
