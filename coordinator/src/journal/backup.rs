//! Copying a journal to one file, also while a coordinator uses the journal.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::mark::MarkFile;
use super::sqlite::{Sqlite, mark_file, remove_database};
use super::{Error, beside, mark, replay};

/// Copies the journal at `path` to a new file `to`; returns the number of the last event in the
/// copy. The copy holds all events acknowledged before the call, has been read as at a start,
/// and is on disk when this returns. Opening the copy requires no mark.
///
/// # Errors
/// If the journal cannot be read or may not be served, or the copy already exists or cannot be
/// written. No copy is left in these cases.
pub fn file(path: &Path, to: &Path) -> Result<u64, Error> {
    let failed = |cause: io::Error| Error::Copy { place: to.display().to_string(), cause: cause.into() };
    if to.exists() {
        return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "there is such a file already")));
    }
    let partial = beside(to, ".partial");
    remove_database(&partial).map_err(failed)?;
    // As secret as the journal: SQLite gives its other files the same mode.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(failed)?;
    let copied = copy_whole(path, &partial);
    if copied.is_err() {
        // Why there is no copy matters more.
        let _ = remove_database(&partial);
        return copied;
    }
    std::fs::rename(&partial, to).and_then(|()| mark::sync_folder_of(to)).map_err(failed)?;
    copied
}

fn copy_whole(path: &Path, partial: &Path) -> Result<u64, Error> {
    // What is acknowledged is in the journal by then.
    let mark = MarkFile::open(&mark_file(path))?;
    copy(path, partial)?;
    let mut journal = Sqlite::open_unmarked(partial)?;
    let place = || path.display().to_string();
    replay::check(&mut journal).map_err(|error| match error {
        Error::Damaged { problem, .. } => Error::Damaged { place: place(), problem },
        other => other,
    })?;
    if let Some(mark) = mark {
        journal.check(&mark.places).map_err(|error| match error {
            Error::Refused { refusal, .. } => Error::Refused { place: place(), refusal },
            other => other,
        })?;
    }
    journal.forget_mark()?;
    let last = journal.newest()?.number;
    journal.close()?;
    Ok(last)
}

/// Copies a database as it is at one moment, page by page.
pub(super) fn copy(path: &Path, to: &Path) -> Result<(), Error> {
    let read = |cause: rusqlite::Error| Error::Read { place: path.display().to_string(), cause: cause.into() };
    let write = |cause: rusqlite::Error| Error::Copy { place: to.display().to_string(), cause: cause.into() };
    let from = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(read)?;
    let mut to = Connection::open(to).map_err(write)?;
    // All at once: whoever writes meanwhile is not waited for, and not held up.
    match Backup::new(&from, &mut to).and_then(|backup| backup.step(-1)).map_err(write)? {
        StepResult::Done => Ok(()),
        _ => Err(write(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None))),
    }
}
