//! Writes what people read: one page, tables and the numbers themselves.
//!
//! The same results give the same bytes, so nothing here knows the time, the
//! machine or how long anything took.

mod figures;
mod page;

use std::fs;
use std::path::Path;

use domain::results::{Results, export};
use domain::stage::{Failure, FailureCode, Folder};
use domain::stone::{Class, Dataset, View};

use super::Attempt;
use crate::records;

/// The maps of one view: file name and what it shows.
const MAPS: [(&str, &str); 3] =
    [("real", "mean real picture"), ("synthetic", "mean synthetic picture"), ("difference", "absolute difference")];

/// The pictures of the page, copied beside it. What a run did not leave is absent.
struct Pictures {
    /// Map, caption and path.
    maps: Vec<(View, &'static str, String)>,
    /// Samples of one class and their path.
    sheets: Vec<(View, Class, String)>,
}

/// Writes `index.html`, `table.md`, `table.csv`, `table.tex`, `results.json` and `pictures/`.
///
/// # Errors
/// If the results cannot be read or the files cannot be written.
pub fn run(attempt: Attempt<'_>) -> Result<(), Failure> {
    let folder = attempt.folder;
    let source = folder.input("results").join("results.json");
    let results: Results = records::read(&source)?;
    copy(&source, &folder.output("results.json"))?;
    let pictures = copy_pictures(folder)?;
    records::write_bytes(&folder.output("table.csv"), export::csv(&results).as_bytes())?;
    records::write_bytes(&folder.output("table.md"), export::markdown(&results).as_bytes())?;
    records::write_bytes(&folder.output("table.tex"), export::latex(&results).as_bytes())?;
    let html = page::render(&results, &pictures)
        .map_err(|error| Failure::new(FailureCode::Internal, format!("index.html: {error}")))?;
    records::write_bytes(&folder.output("index.html"), html.as_bytes())
}

fn copy_pictures(folder: &Folder) -> Result<Pictures, Failure> {
    let mut pictures = Pictures { maps: Vec::new(), sheets: Vec::new() };
    for view in View::ALL {
        for (map, caption) in MAPS {
            let source = folder.input(&format!("heatmap.{view}")).join(format!("{map}.png"));
            if let Some(path) = copy_picture(folder, &source, &format!("heatmap-{view}-{map}"))? {
                pictures.maps.push((view, caption, path));
            }
        }
        for class in Dataset::A.classes() {
            let source = folder.input(&format!("samples.{view}.{class}")).join("sheet.png");
            if let Some(path) = copy_picture(folder, &source, &format!("samples-{view}-{class}"))? {
                pictures.sheets.push((view, class, path));
            }
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

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let bytes = fs::read(from).map_err(|error| Failure::io("read", from, &error))?;
    records::write_bytes(to, &bytes)
}

#[cfg(test)]
mod tests;
