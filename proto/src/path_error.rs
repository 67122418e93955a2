//! What went wrong with a file or a folder.

use std::io;
use std::path::{Path, PathBuf};

/// A file or a folder that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub struct PathError {
    /// The operation: a verb.
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl PathError {
    /// The kind of the system's error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Says of an error what could not be done, and with which file.
pub fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PathError + use<> {
    let path = path.to_owned();
    move |source| PathError { what, path, source }
}
