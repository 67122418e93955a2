//! Writes what people read: one page, tables and the numbers themselves.
//!
//! The same results give the same bytes, so nothing here knows the time, the
//! machine or how long anything took.

mod figures;
mod page;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use domain::results::{Results, export};
use domain::stage::{Failure, FailureCode, Folder, InputName};
use domain::stone::{Class, Dataset, View};
use domain::system::{Model, System};
use image::{RgbImage, imageops};

use super::Attempt;
use crate::data::picture;
use crate::files;

/// The maps of one view: file name and what it shows.
const MAPS: [(&str, &str); 3] =
    [("real", "mean real picture"), ("synthetic", "mean synthetic picture"), ("difference", "absolute difference")];

/// The pictures of the page, copied beside it. What a run did not leave is absent.
struct Pictures {
    /// Map, caption and path.
    maps: Vec<(View, &'static str, String)>,
    /// Samples of one class and their path.
    sheets: Vec<(View, Class, String)>,
    milestones: Vec<Milestones>,
}

/// Samples of one diffusion model while it learnt, a row for each milestone.
struct Milestones {
    view: View,
    class: Class,
    /// Optimiser steps before each row, from top to bottom.
    steps: Vec<u32>,
    path: String,
}

/// Rows of [`Milestones`] at most: the report stays small.
const ROWS: usize = 6;

/// Writes `index.html`, `table.md`, `table.csv`, `table.tex`, `scores.csv`, `claims.csv`,
/// `results.json` and `pictures/`.
///
/// # Errors
/// If the results cannot be read or the files cannot be written.
pub fn run(attempt: Attempt<'_>) -> Result<(), Failure> {
    let folder = attempt.folder;
    let source = folder.input(InputName::Results).join(Results::FILE);
    let results: Results = files::read(&source)?;
    copy(&source, &folder.output(Results::FILE))?;
    let pictures = copy_pictures(folder)?;
    files::write_bytes(&folder.output("table.csv"), export::csv(&results).as_bytes())?;
    files::write_bytes(&folder.output("scores.csv"), export::scores_csv(&results).as_bytes())?;
    files::write_bytes(&folder.output("claims.csv"), export::claims_csv(&results).as_bytes())?;
    files::write_bytes(&folder.output("table.md"), export::markdown(&results).as_bytes())?;
    files::write_bytes(&folder.output("table.tex"), export::latex(&results).as_bytes())?;
    let html = page::render(&results, &pictures)
        .map_err(|error| Failure::new(FailureCode::Internal, format!("index.html: {error}")))?;
    files::write_bytes(&folder.output("index.html"), html.as_bytes())
}

fn copy_pictures(folder: &Folder) -> Result<Pictures, Failure> {
    let mut pictures = Pictures { maps: Vec::new(), sheets: Vec::new(), milestones: Vec::new() };
    for view in View::ALL {
        for (map, caption) in MAPS {
            let source =
                folder.input(InputName::HeatmapOf(System::Sinddm, Model::View(view))).join(format!("{map}.png"));
            if let Some(path) = copy_picture(folder, &source, &format!("heatmap-{view}-{map}"))? {
                pictures.maps.push((view, caption, path));
            }
        }
        for class in Dataset::A.classes() {
            let source =
                folder.input(InputName::SamplesOf(System::Sinddm, Model::Class(view, class))).join("sheet.png");
            if let Some(path) = copy_picture(folder, &source, &format!("samples-{view}-{class}"))? {
                pictures.sheets.push((view, class, path));
            }
            pictures.milestones.extend(milestones(folder, view, class)?);
        }
    }
    Ok(pictures)
}

/// Copies a picture if it is there; gives its path as the page names it.
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
    for path in spread_out(picture::files(&sheets)?) {
        steps.extend(path.file_stem().and_then(|name| name.to_str()?.parse::<u32>().ok()));
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

/// At most [`ROWS`] of them, evenly, the first and the last included.
fn spread_out(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let (count, last) = (paths.len(), paths.len().saturating_sub(1));
    let chosen: BTreeSet<usize> = match count > ROWS {
        true => (0..ROWS).map(|row| row * last / (ROWS - 1)).collect(),
        false => (0..count).collect(),
    };
    paths.into_iter().enumerate().filter(|(place, _)| chosen.contains(place)).map(|(_, path)| path).collect()
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let bytes = fs::read(from).map_err(|error| Failure::io("read", from, &error))?;
    files::write_bytes(to, &bytes)
}

#[cfg(test)]
mod tests;
