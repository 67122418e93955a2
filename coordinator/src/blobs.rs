//! Files by digest in a folder: `blobs/ab/cdef…`.
//!
//! A file is written under another name, synced, then renamed, so one that
//! exists is whole and survives a crash.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use domain::artifact::Manifest;
use domain::digest::Digest;

/// Why a blob cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not stored.
    #[error("{} is not stored", .0.short())]
    Unknown(Digest),
    /// The bytes given are not those that the digest names.
    #[error("the bytes sent for {} have digest {}", wanted.short(), got.short())]
    Mismatch {
        /// The name given.
        wanted: Digest,
        /// What they are.
        got: Digest,
    },
    /// A stored manifest does not decode.
    #[error("{} is not a manifest: {problem}", digest.short())]
    NotAManifest {
        /// Its name.
        digest: Digest,
        /// Why.
        problem: String,
    },
    /// The disk says no.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

/// The store.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// Opens the store in that folder, making it if need be. What an earlier
    /// process left half written is removed.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(root: PathBuf) -> Result<Self, Error> {
        let partial = root.join("partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial).map_err(io_error("empty", &partial))?;
        }
        std::fs::create_dir_all(&partial).map_err(io_error("create", &partial))?;
        Ok(Self { root })
    }

    /// Where a blob lies, stored or not.
    pub fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join(&name[..2]).join(&name[2..])
    }

    /// Whether it is stored.
    pub fn has(&self, digest: Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Begins to store a blob.
    ///
    /// # Errors
    /// If no file can be made.
    pub fn writer(&self, digest: Digest) -> Result<Writer, Error> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let partial = self.root.join("partial").join(format!("{digest}-{number}"));
        let file = std::fs::File::create(&partial).map_err(io_error("create", &partial))?;
        Ok(Writer { digest, partial, path: self.path(digest), file, hasher: blake3::Hasher::new() })
    }

    /// Opens a stored blob.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it is not stored.
    pub fn reader(&self, digest: Digest) -> Result<std::fs::File, Error> {
        let path = self.path(digest);
        std::fs::File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Unknown(digest),
            _ => io_error("read", &path)(error),
        })
    }

    /// Reads a stored manifest.
    ///
    /// # Errors
    /// If it is not stored or not a manifest.
    pub fn manifest(&self, digest: Digest) -> Result<Manifest, Error> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut self.reader(digest)?, &mut bytes).map_err(io_error("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::NotAManifest { digest, problem: error.to_string() })
    }

    /// The first file of an artifact that is not stored, its manifest included.
    ///
    /// # Errors
    /// If the manifest is damaged.
    pub fn first_missing(&self, artifact: Digest) -> Result<Option<Digest>, Error> {
        match self.manifest(artifact) {
            Ok(manifest) => Ok(manifest.entries().iter().map(|entry| entry.digest).find(|digest| !self.has(*digest))),
            Err(Error::Unknown(digest)) => Ok(Some(digest)),
            Err(error) => Err(error),
        }
    }
}

/// A blob on its way in. Dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    digest: Digest,
    partial: PathBuf,
    path: PathBuf,
    file: std::fs::File,
    hasher: blake3::Hasher,
}

impl Writer {
    /// Appends bytes.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(io_error("write", &self.partial))
    }

    /// Checks, syncs and publishes the blob.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes are others; nothing is stored then.
    pub fn finish(self) -> Result<(), Error> {
        let got = Digest::from(self.hasher.finalize());
        if got != self.digest {
            return Err(Error::Mismatch { wanted: self.digest, got });
        }
        let folder = self.path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        self.file.sync_all().map_err(io_error("sync", &self.partial))?;
        std::fs::rename(&self.partial, &self.path).map_err(io_error("rename", &self.partial))?;
        // The name has to survive as well as the bytes.
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Gone already if it was published.
        let _ = std::fs::remove_file(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    use domain::artifact::Entry;

    use super::*;

    fn store() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path().join("blobs")).unwrap();
        (folder, blobs)
    }

    fn put(blobs: &Blobs, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut writer = blobs.writer(digest).unwrap();
        writer.write(bytes).unwrap();
        writer.finish().unwrap();
        digest
    }

    #[test]
    fn what_is_stored_comes_back() {
        let (_folder, blobs) = store();
        let digest = put(&blobs, b"stone");
        assert!(blobs.has(digest));
        assert_eq!(std::fs::read(blobs.path(digest)).unwrap(), b"stone");
        assert!(matches!(blobs.reader(Digest::of(b"other")), Err(Error::Unknown(_))));
    }

    #[test]
    fn other_bytes_than_named_are_refused_and_leave_nothing() {
        let (folder, blobs) = store();
        let digest = Digest::of(b"stone");
        let mut writer = blobs.writer(digest).unwrap();
        writer.write(b"sand").unwrap();
        assert!(matches!(writer.finish(), Err(Error::Mismatch { .. })));
        assert!(!blobs.has(digest));
        assert_eq!(std::fs::read_dir(folder.path().join("blobs/partial")).unwrap().count(), 0);
    }

    #[test]
    fn an_artifact_is_whole_only_with_all_its_files() {
        let (_folder, blobs) = store();
        let file = Digest::of(b"late");
        let manifest = Manifest::new(vec![Entry { path: "a".to_owned(), digest: file, size: 4 }]).unwrap();
        assert_eq!(blobs.first_missing(manifest.digest()).unwrap(), Some(manifest.digest()));
        let artifact = put(&blobs, &manifest.to_bytes());
        assert_eq!(blobs.first_missing(artifact).unwrap(), Some(file));
        put(&blobs, b"late");
        assert_eq!(blobs.first_missing(artifact).unwrap(), None);
    }
}
