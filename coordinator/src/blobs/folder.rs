//! Blobs in a folder of this machine: `blobs/ab/cdef…`, compressed ones with the ending `.zst`.
//!
//! A file is written under another name, synced, then renamed, and its folder is synced, so
//! that an existing blob is complete and survives a loss of power. The file's modification time
//! says when the blob was last stored or asked for.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use domain::digest::Digest;
use proto::encoding::Encoding;
use proto::path_error::io_error;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use rustix::io::Errno;

use super::upload::Checked;
use super::{Error, Reader, Stored};

/// Folder for damaged blobs.
const QUARANTINE: &str = "quarantine";

/// A blob store in a folder.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Opens the folder, or creates it.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(root: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&root).map_err(io_error("create", &root))?;
        for number in 0..=u8::MAX {
            let folder = root.join(format!("{number:02x}"));
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("create", &folder)(error).into());
                }
                _ => {}
            }
        }
        // The names of these folders have to survive as well as those in them.
        sync(&root)?;
        Ok(Self { root })
    }

    /// Path of a blob, stored or not.
    pub fn path(&self, digest: Digest, encoding: Encoding) -> PathBuf {
        let name = digest.to_string();
        self.root.join(&name[..2]).join(format!("{}{}", &name[2..], encoding.suffix()))
    }

    /// Whether a blob is stored; also notes that the blob is used.
    ///
    /// # Errors
    /// If the file system cannot be asked.
    pub fn touch(&self, digest: Digest) -> Result<bool, Error> {
        // Not `UTIME_NOW`: the kernel's own "now" lags by up to a tick, so what is
        // used right after a collection has begun would seem unused since.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Timespec { tv_sec: now.as_secs() as i64, tv_nsec: i64::from(now.subsec_nanos()) };
        let now = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: now };
        for encoding in Encoding::ALL {
            let path = self.path(digest, encoding);
            match utimensat(CWD, &path, &now, AtFlags::empty()) {
                Ok(()) => return Ok(true),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(io_error("note the use of", &path)(error.into()).into()),
            }
        }
        Ok(false)
    }

    /// Opens a blob that is stored with that encoding; none if there is no such blob.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn reader(&self, digest: Digest, encoding: Encoding) -> Result<Option<Reader>, Error> {
        let path = self.path(digest, encoding);
        match File::open(&path).and_then(|file| Ok((file.metadata()?, file))) {
            Ok((meta, file)) => Ok(Some(Reader::new(encoding, meta.len(), Some(version(&meta)), file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path)(error).into()),
        }
    }

    /// Moves a checked file to the blob's path.
    ///
    /// # Errors
    /// If the file cannot be renamed or synced.
    pub fn publish(&self, checked: &Checked) -> Result<(), Error> {
        let path = self.path(checked.digest, checked.encoding);
        let partial = &checked.path;
        let sync_file = || {
            let file = File::options().write(true).open(partial)?;
            file.set_modified(SystemTime::now())?;
            file.sync_all()
        };
        sync_file().map_err(io_error("sync", partial))?;
        fs::rename(partial, &path).map_err(io_error("rename", partial))?;
        // The name has to survive as well as the bytes.
        sync(path.parent().unwrap_or(&self.root))
    }

    /// Moves a blob to quarantine if it still is of version `of`; returns whether it was moved.
    ///
    /// # Errors
    /// If the file cannot be moved.
    pub fn quarantine(&self, digest: Digest, encoding: Encoding, of: Option<&str>) -> Result<bool, Error> {
        let folder = self.root.join(QUARANTINE);
        fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
        let path = self.path(digest, encoding);
        let is_same = |meta: &fs::Metadata| of.is_none_or(|known| known == version(meta));
        let moved = fs::metadata(&path).and_then(|meta| {
            if !is_same(&meta) {
                return Ok(false);
            }
            fs::rename(&path, folder.join(format!("{digest}{}", encoding.suffix()))).map(|()| true)
        });
        match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            moved => Ok(moved.map_err(io_error("move", &path))?),
        }
    }

    /// All stored blobs.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut stored = Vec::new();
        for number in 0..=u8::MAX {
            let beginning = format!("{number:02x}");
            let folder = self.root.join(&beginning);
            for item in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
                let item = item.map_err(io_error("list", &folder))?;
                let name = format!("{beginning}{}", item.file_name().to_string_lossy());
                let Some((digest, encoding)) = parse(&name) else { continue };
                // It may have gone meanwhile.
                let Ok(meta) = item.metadata() else { continue };
                let used = meta.modified().map_err(io_error("read", &folder))?;
                stored.push(Stored { digest, encoding, size: meta.len(), used });
            }
        }
        Ok(stored)
    }

    /// Removes the blobs in `unused` that were not used since `since`; returns the removed
    /// ones.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn remove(&self, unused: &[Stored], since: SystemTime) -> Result<Vec<Stored>, Error> {
        let mut removed = Vec::new();
        for blob in unused {
            let path = self.path(blob.digest, blob.encoding);
            if fs::metadata(&path).and_then(|meta| meta.modified()).is_ok_and(|used| used < since) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
                removed.push(*blob);
            }
        }
        Ok(removed)
    }
}

/// Parses a blob's file name, without slashes.
pub(super) fn parse(name: &str) -> Option<(Digest, Encoding)> {
    let (digits, encoding) = match name.strip_suffix(Encoding::Zstd.suffix()) {
        Some(digits) => (digits, Encoding::Zstd),
        None => (name, Encoding::Raw),
    };
    Some((digits.parse().ok()?, encoding))
}

/// A text that tells a file from a later one of the same name, as long as the earlier one is
/// open.
fn version(meta: &fs::Metadata) -> String {
    format!("{}-{}", meta.dev(), meta.ino())
}

fn sync(folder: &Path) -> Result<(), Error> {
    Ok(File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))?)
}
