//! The numbered pictures of an artifact: `images/000.png`, `images/001.png`, …

use std::fs;
use std::path::{Path, PathBuf};

use domain::study::stage::Failure;
use image::RgbImage;

use super::picture;

/// The pictures of `<input>/images` in the order of their numbers.
///
/// # Errors
/// If there are none or one cannot be decoded.
pub fn pictures(input: &Path) -> Result<Vec<RgbImage>, Failure> {
    paths(input)?.iter().map(|path| Ok(picture::open_rgb8(path)?.image)).collect()
}

/// The paths of [`pictures`].
///
/// # Errors
/// If there are none.
pub fn paths(input: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = input.join("images");
    let entries = fs::read_dir(&folder).map_err(|error| Failure::io("list", &folder, &error))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|error| Failure::io("list", &folder, &error))?.path());
    }
    // Behind `999.png` comes `1000.png`.
    paths.sort_by(|a, b| (a.as_os_str().len(), a).cmp(&(b.as_os_str().len(), b)));
    if paths.is_empty() {
        Err(Failure::invalid_input(format!("{} holds no pictures", folder.display())))
    } else {
        Ok(paths)
    }
}
