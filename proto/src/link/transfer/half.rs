//! What has come of a file so far.
//!
//! It gathers beside the file's place under a name that no file of an artifact can
//! have: with a `:`. The name follows from digest and place, so that the next call finds
//! it; it has a number in it for as many processes as may fetch the same file to the
//! same place at once, each of which locks its own. Where the disk has no locks, the
//! number is the process's, and what it leaves is not found again.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use domain::digest::Digest;

use super::{CHUNK, Error};
use crate::link::encoding::Encoding;
use crate::path_error::io_error;

/// Processes that may fetch one file to one place at once.
const NUMBERS: u64 = 8;

/// A file that is on its way to its place, this process's own until it is dropped.
#[derive(Debug)]
pub(super) struct Half {
    digest: Digest,
    /// The path at which the file belongs.
    place: PathBuf,
    number: u64,
    /// The raw form of the file, locked.
    file: File,
}

/// Where the stored form of a file gathers.
fn name_of(digest: Digest, place: &Path, number: u64, encoding: Encoding) -> PathBuf {
    let name = place.file_name().unwrap_or_default().as_encoded_bytes();
    let key = Digest::of(&[digest.to_string().as_bytes(), name].concat());
    place.with_file_name(format!(".lithogen:{key}.{number}{}", encoding.suffix()))
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

fn open(path: &Path) -> Result<File, Error> {
    let mut options = File::options();
    Ok(options.read(true).write(true).create(true).truncate(false).open(path).map_err(io_error("create", path))?)
}

/// Whether a file still has that name: it may have been given its place meanwhile.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |(a, b): (std::fs::Metadata, std::fs::Metadata)| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().and_then(|open| Ok((open, std::fs::metadata(path)?))).is_ok_and(same)
}

/// Opens and locks a file.
fn lock(path: &Path) -> Result<Result<File, TryLockError>, Error> {
    loop {
        let file = open(path)?;
        match file.try_lock() {
            Err(refused) => return Ok(Err(refused)),
            Ok(()) if is_at(&file, path) => return Ok(Ok(file)),
            Ok(()) => {}
        }
    }
}

impl Half {
    /// Opens what has gathered of a file that belongs to `place`, which may be nothing yet.
    ///
    /// # Errors
    /// If the folder cannot be written, or many other processes fetch the same.
    pub(super) fn take(digest: Digest, place: &Path) -> Result<Self, Error> {
        for number in 0..NUMBERS {
            let half = |number, file| Self { digest, place: place.to_owned(), number, file };
            match lock(&name_of(digest, place, number, Encoding::Raw))? {
                Ok(file) => return Ok(half(number, file)),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(_)) => {
                    let own = NUMBERS + u64::from(std::process::id());
                    return Ok(half(own, open(&name_of(digest, place, own, Encoding::Raw))?));
                }
            }
        }
        let problem = format!("{NUMBERS} other processes are fetching it");
        Err(io_error("write", place)(io::Error::new(io::ErrorKind::ResourceBusy, problem)).into())
    }

    /// The path at which the file gathers in that form.
    pub(super) fn name(&self, encoding: Encoding) -> PathBuf {
        name_of(self.digest, &self.place, self.number, encoding)
    }

    /// The form in which the file gathers, and how many bytes have arrived.
    pub(super) fn arrived(&self) -> (Encoding, u64) {
        // What was being unpacked when a process ended is of no use.
        match length(&self.name(Encoding::Zstd)) {
            0 => (Encoding::Raw, length(&self.name(Encoding::Raw))),
            packed => (Encoding::Zstd, packed),
        }
    }

    /// Where more of that form is to be written, after the bytes up to `offset`. What has
    /// gathered in the other form goes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn writer(&self, encoding: Encoding, offset: u64) -> Result<File, Error> {
        let name = self.name(encoding);
        let mut file = match encoding {
            Encoding::Raw => {
                let _ = std::fs::remove_file(self.name(Encoding::Zstd));
                self.file.try_clone().map_err(io_error("open", &name))?
            }
            Encoding::Zstd => open(&name)?,
        };
        file.set_len(offset).map_err(io_error("write", &name))?;
        file.seek(SeekFrom::End(0)).map_err(io_error("read", &name))?;
        Ok(file)
    }

    /// Throws away what has gathered.
    pub(super) fn clear(&self) {
        // The raw form keeps its name: it is what is locked.
        let _ = self.file.set_len(0);
        let _ = std::fs::remove_file(self.name(Encoding::Zstd));
    }

    /// Gives what has gathered in that form its place, if it is what the digest names;
    /// otherwise throws it away. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not; if a file cannot be read or written.
    pub(super) fn publish(&self, encoding: Encoding) -> Result<(), Error> {
        let raw = self.name(Encoding::Raw);
        if encoding == Encoding::Zstd && !self.unpack()? {
            self.clear();
            return Err(Error::Damaged { digest: self.digest });
        }
        // As it lies there after the last byte was written.
        let hash = || {
            let mut file = &self.file;
            file.rewind()?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file)?;
            Ok(Digest::from(hasher.finalize()))
        };
        if hash().map_err(io_error("read", &raw))? != self.digest {
            self.clear();
            return Err(Error::Damaged { digest: self.digest });
        }
        std::fs::rename(&raw, &self.place).map_err(io_error("rename", &raw))?;
        let _ = std::fs::remove_file(self.name(Encoding::Zstd));
        self.clear_others();
        Ok(())
    }

    /// Unpacks to the raw form; returns whether it is a whole zstd stream.
    fn unpack(&self) -> Result<bool, Error> {
        let (packed, raw) = (self.name(Encoding::Zstd), self.name(Encoding::Raw));
        let stored = File::open(&packed).map_err(io_error("read", &packed))?;
        self.file.set_len(0).map_err(io_error("write", &raw))?;
        let mut file = &self.file;
        file.rewind().map_err(io_error("write", &raw))?;
        let mut buffer = vec![0; CHUNK];
        let Ok(mut unpacked) = Encoding::Zstd.decode(stored) else { return Ok(false) };
        loop {
            match unpacked.read(&mut buffer) {
                Err(_) => return Ok(false),
                Ok(0) => return Ok(true),
                Ok(length) => file.write_all(&buffer[..length]).map_err(io_error("write", &raw))?,
            }
        }
    }

    /// Removes what processes have left that fetched the same and were ended.
    fn clear_others(&self) {
        for number in (0..NUMBERS).filter(|number| *number != self.number) {
            let name = |encoding| name_of(self.digest, &self.place, number, encoding);
            let raw = name(Encoding::Raw);
            if raw.exists() && matches!(lock(&raw), Ok(Ok(_))) {
                for encoding in Encoding::ALL {
                    let _ = std::fs::remove_file(name(encoding));
                }
            }
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        let raw = self.name(Encoding::Raw);
        // Before it is unlocked: nothing to go on from.
        if self.arrived().1 == 0 && is_at(&self.file, &raw) {
            let _ = std::fs::remove_file(raw);
        }
    }
}
