//! The patches of one side as they are stored, for [`super::patchset`] to read. They are
//! written one by one: those of a view are a gigabyte at the paper's size, which is in
//! memory once and not twice.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use domain::study::stage::Failure;
use image::RgbImage;
use serde_json::json;

/// One patch with what is known of it.
pub struct Row<'a> {
    /// The pixels of the patch.
    pub patch: &'a RgbImage,
    /// The place of its class in the order of labels.
    pub label: u8,
    /// The image that it was cut from.
    pub id: u32,
}

/// Writes `image_ids` u32 `[n]`, `images` u8 `[n, 3, size, size]` and `labels` u8
/// `[n]` as safetensors, in the order of the rows.
///
/// # Errors
/// `Storage` if the file cannot be written.
pub fn write(path: &Path, rows: &[Row<'_>], size: usize) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
    }
    File::create(path)
        .and_then(|file| write_to(BufWriter::new(file), rows, size))
        .map_err(|error| Failure::io("write", path, &error))
}

fn write_to(mut file: impl Write, rows: &[Row<'_>], size: usize) -> io::Result<()> {
    let (count, pixels) = (rows.len(), size * size);
    let images = 4 * count;
    let labels = images + count * 3 * pixels;
    let header = json!({
        "image_ids": { "dtype": "U32", "shape": [count], "data_offsets": [0, images] },
        "images": { "dtype": "U8", "shape": [count, 3, size, size], "data_offsets": [images, labels] },
        "labels": { "dtype": "U8", "shape": [count], "data_offsets": [labels, labels + count] },
    });
    // The format wants the data to begin at a multiple of eight bytes.
    let header = header.to_string();
    let header = format!("{header:width$}", width = header.len().next_multiple_of(8));
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for row in rows {
        file.write_all(&row.id.to_le_bytes())?;
    }
    let mut plane = vec![0; pixels];
    for row in rows {
        for channel in 0..3 {
            let levels = row.patch.as_raw().iter().skip(channel).step_by(3);
            plane.iter_mut().zip(levels).for_each(|(to, level)| *to = *level);
            file.write_all(&plane)?;
        }
    }
    for row in rows {
        file.write_all(&[row.label])?;
    }
    file.flush()
}
