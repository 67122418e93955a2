//! Files that stages read and write, records above all.

use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::path::Path;

use domain::study::records::Record;
use domain::study::stage::{Failure, FailureCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Largest record that is read, bytes: a hundred thousand pictures take a tenth of it.
const BYTES_MAX: u64 = 256 << 20;

/// Reads a record of an input.
///
/// # Errors
/// If the file is missing, not of that form, or holds what no stage leaves; names the
/// file and the field.
pub fn read<T: Record>(path: &Path) -> Result<T, Failure> {
    checked(parse(path)?, path)
}

/// Reads a record that may be absent or of several forms.
///
/// # Errors
/// If the file is missing or holds no JSON.
pub fn value(path: &Path) -> Result<Value, Failure> {
    parse(path)
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let unread = |error: &std::io::Error| Failure::io("read", path, error);
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| unread(&error))?;
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unread(&error))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(unusable(path, format!("has more than {BYTES_MAX} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|error| unusable(path, error))
}

/// The record of that file, if it can be used.
///
/// # Errors
/// Names the file and the field that cannot be.
pub(crate) fn checked<T: Record>(record: T, path: &Path) -> Result<T, Failure> {
    match record.check() {
        Ok(()) => Ok(record),
        Err(misfit) => {
            Err(unusable(path, format!("{misfit}; the file was altered or damaged: run the task again that leaves it")))
        }
    }
}

/// The failure that says why the file of a record cannot be used.
pub(crate) fn unusable(path: &Path, problem: impl Display) -> Failure {
    Failure::new(FailureCode::Internal, format!("{}: {problem}", path.display()))
}

/// Writes a record, its folders included.
///
/// # Errors
/// If the file cannot be written.
pub fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(record)
        .map_err(|error| Failure::new(FailureCode::Internal, format!("{}: {error}", path.display())))?;
    write_bytes(path, text.as_bytes())
}

/// Writes a file, its folders included.
///
/// # Errors
/// If the file cannot be written.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
    }
    fs::write(path, bytes).map_err(|error| Failure::io("write", path, &error))
}
