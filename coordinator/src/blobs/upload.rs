//! A blob on its way in.
//!
//! It gathers in a file of its own, named by digest and session, so that two
//! clients that send the same bytes do not get into each other's way. When the
//! connection breaks, the file stays: the client asks how much has arrived and
//! goes on from there. Whatever else goes wrong, the file is removed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use domain::digest::Digest;
use proto::encoding::{Check, Encoding};

use super::{Error, io_error};

/// Room that an upload leaves on the disk, for the journal above all.
const RESERVE: u64 = 16 * 1024 * 1024;

/// Age at which an upload that was given up is removed when the store is opened.
const GIVEN_UP: Duration = Duration::from_secs(24 * 3600);

/// What a client announces.
#[derive(Clone, Debug)]
pub struct Start {
    /// The name.
    pub digest: Digest,
    /// Tells uploads of the same bytes apart.
    pub session: String,
    /// The form in which they come.
    pub encoding: Encoding,
    /// Length of the raw bytes.
    pub size: u64,
    /// Where the first bytes belong.
    pub offset: u64,
}

/// The folder where uploads gather.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    /// Files that a call is writing.
    open: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// A file that is written by one call at a time, until this is dropped.
#[derive(Debug)]
struct Turn {
    path: PathBuf,
    open: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.open).remove(&self.path);
    }
}

fn lock(open: &Mutex<BTreeSet<PathBuf>>) -> MutexGuard<'_, BTreeSet<PathBuf>> {
    // A set is whole after any panic.
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session name for bytes that this process stores itself.
pub fn own_session() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("own-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A session name as clients may choose it.
///
/// # Errors
/// If it is empty, too long or holds anything that a file name should not.
pub fn check_session(session: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match session.len() {
        1..=64 if session.bytes().all(plain) => Ok(()),
        _ => Err(Error::Invalid { field: "session", problem: "has to be 1 to 64 of a-z, 0-9 and -".to_owned() }),
    }
}

impl Staging {
    /// Opens or makes the folder. Uploads of late stay, so that they go on after a
    /// restart.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(folder: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
        let this = Self { folder, open: Arc::default() };
        this.remove_older(SystemTime::now() - GIVEN_UP, false)?;
        Ok(this)
    }

    fn path(&self, digest: Digest, session: &str, encoding: Encoding) -> PathBuf {
        self.folder.join(format!("{digest}.{session}{}", encoding.suffix()))
    }

    /// How much of an upload has arrived.
    pub fn arrived(&self, digest: Digest, session: &str, encoding: Encoding) -> u64 {
        fs::metadata(self.path(digest, session, encoding)).map_or(0, |meta| meta.len())
    }

    /// Begins an upload or goes on with one.
    ///
    /// # Errors
    /// If it is under way, does not go on where it stopped, or has no room.
    pub fn begin(&self, start: Start) -> Result<Upload, Error> {
        check_session(&start.session)?;
        let path = self.path(start.digest, &start.session, start.encoding);
        if !lock(&self.open).insert(path.clone()) {
            return Err(Error::Busy(start.digest));
        }
        let turn = Turn { path: path.clone(), open: self.open.clone() };
        let arrived = self.arrived(start.digest, &start.session, start.encoding);
        if start.offset > arrived {
            let problem = format!("is {}, but {arrived} bytes have arrived", start.offset);
            return Err(Error::Invalid { field: "offset", problem });
        }
        let free = free(&self.folder)?;
        let needed = start.size.saturating_sub(arrived).saturating_add(RESERVE);
        if needed > free {
            return Err(Error::NoRoom { digest: start.digest, needed, free, path: self.folder.clone() });
        }
        let open = || -> io::Result<(File, Check)> {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            file.set_len(start.offset)?;
            let mut check = Check::new(start.encoding, start.size)?;
            check.update_reader(&mut file)?;
            file.seek(SeekFrom::End(0))?;
            Ok((file, check))
        };
        match open() {
            Ok((file, check)) => Ok(Upload { start, file, check, turn }),
            Err(error) => {
                // What had arrived is of no use.
                let _ = fs::remove_file(&path);
                Err(of_write(&path, error))
            }
        }
    }

    /// Removes uploads that nothing was added to since; returns how many.
    ///
    /// # Errors
    /// If the disk says no.
    pub fn remove_older(&self, since: SystemTime, dry_run: bool) -> Result<u64, Error> {
        let mut removed = 0;
        for item in fs::read_dir(&self.folder).map_err(io_error("list", &self.folder))? {
            let path = item.map_err(io_error("list", &self.folder))?.path();
            let open = lock(&self.open);
            let old = fs::metadata(&path).and_then(|meta| meta.modified()).is_ok_and(|written| written < since);
            if !old || open.contains(&path) {
                continue;
            }
            removed += 1;
            if !dry_run {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(removed)
    }
}

/// An upload under way.
#[derive(Debug)]
pub struct Upload {
    start: Start,
    file: File,
    check: Check,
    turn: Turn,
}

/// An upload that holds what its digest names.
#[derive(Debug)]
pub struct Checked {
    /// Its name.
    pub digest: Digest,
    /// Its form.
    pub encoding: Encoding,
    /// Where it lies.
    pub path: PathBuf,
    turn: Turn,
}

impl Drop for Checked {
    fn drop(&mut self) {
        // Gone already if it was given its name.
        let _ = fs::remove_file(&self.turn.path);
    }
}

impl Upload {
    /// Adds bytes at the end.
    ///
    /// # Errors
    /// If they cannot be written, are no zstd stream, or are more than announced;
    /// nothing is kept then.
    pub fn write(&mut self, stored: &[u8]) -> Result<(), Error> {
        let path = self.turn.path.clone();
        let written = self.check.update(stored).and_then(|()| self.file.write_all(stored));
        written.map_err(|error| {
            self.discard();
            of_write(&path, error)
        })
    }

    /// Checks the whole.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes are others than the digest names; nothing
    /// is kept then.
    pub fn finish(self) -> Result<Checked, Error> {
        let Self { start, check, turn, .. } = self;
        let checked = Checked { digest: start.digest, encoding: start.encoding, path: turn.path.clone(), turn };
        let (got, size) = check.finish().map_err(|error| of_write(&checked.path, error))?;
        match got == start.digest {
            true if size == start.size => Ok(checked),
            true => Err(Error::Invalid { field: "size", problem: format!("is {}, but {size} bytes came", start.size) }),
            false => Err(Error::Mismatch { wanted: start.digest, got }),
        }
    }

    /// Removes what has arrived.
    pub fn discard(&mut self) {
        let _ = fs::remove_file(&self.turn.path);
    }
}

/// The bytes are wrong, or the disk says no.
fn of_write(path: &Path, error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, Other, UnexpectedEof};
    match error.kind() {
        InvalidData | Other | UnexpectedEof => Error::Invalid { field: "data", problem: error.to_string() },
        _ => io_error("write", path)(error),
    }
}

/// Bytes that can still be written below a folder.
#[cfg(unix)]
fn free(folder: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| io_error("ask for the room in", folder)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Not known beforehand: a full disk shows when it is written.
#[cfg(not(unix))]
fn free(_: &Path) -> Result<u64, Error> {
    Ok(u64::MAX)
}
