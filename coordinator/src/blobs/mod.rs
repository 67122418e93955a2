//! Files by the blake3 digest of their raw bytes.
//!
//! A blob is stored raw, or packed under a name that ends in `.zst`. Whatever it
//! is stored in, an upload gathers on the coordinator's own disk first, is
//! checked, and only then gets its name, so a blob that exists is whole.
//!
//! | module | what it holds |
//! |---|---|
//! | [`folder`] | blobs in a folder of this machine |
//! | [`bucket`] | blobs in a bucket that speaks S3 |
//! | [`upload`] | a blob on its way in |
//!
//! Nobody may rely on a blob that garbage collection is about to remove. So
//! whoever asks for one notes first that it is used, then looks whether it is
//! there; the collection looks at that note and removes under a lock that both
//! hold. What is noted stays for the grace period.

pub mod bucket;
pub mod folder;
pub mod upload;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use domain::artifact::Manifest;
use domain::digest::Digest;
use proto::encoding::Encoding;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::task::{JoinError, spawn_blocking};

use bucket::Bucket;
use folder::Folder;
use upload::{Staging, Start, Upload};

/// Blobs whose presence is looked up without leaving the caller's thread.
const FEW: usize = 16;

/// The file of a state folder that says where its blobs lie, if not in it.
const PLACE: &str = "blobs-place";

/// Largest blob that is read into memory: a manifest.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;

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
    /// What was sent is not what was announced.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field of the message.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The same upload goes on in another call.
    #[error("{} is being sent by another call of the same session; try again", .0.short())]
    Busy(Digest),
    /// There is no room for it.
    #[error(
        "the coordinator's disk is full: {} needs {needed} bytes, and {} has {free} free; make room there", digest.short(), path.display()
    )]
    NoRoom {
        /// What was to be stored.
        digest: Digest,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// Where.
        path: PathBuf,
    },
    /// What is stored is not what was put there.
    #[error(
        "what is stored as {digest} is damaged and was moved aside; store it again, and look for more with \
         `lithogen artifact verify`"
    )]
    Damaged {
        /// Its name.
        digest: Digest,
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
    /// The place given is neither a folder nor a bucket.
    #[error("{0:?} is no place for blobs; give a folder, or s3://BUCKET/PREFIX")]
    Place(String),
    /// The bucket says no.
    #[error("bucket {bucket}: cannot {what}: {source}")]
    Bucket {
        /// Its name.
        bucket: String,
        /// The operation.
        what: &'static str,
        /// Why.
        source: Box<object_store::Error>,
    },
    /// Work was cut off inside this program.
    #[error("cut off: {0}")]
    Task(#[from] JoinError),
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

/// A stored blob as it is listed.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Its name.
    pub digest: Digest,
    /// Its form.
    pub encoding: Encoding,
    /// Bytes of that form.
    pub size: u64,
    /// When it was last stored or asked for.
    pub used: SystemTime,
}

/// A stored blob to read from, where that may block.
pub struct Reader {
    /// The form of its bytes.
    pub encoding: Encoding,
    /// Bytes of that form.
    pub size: u64,
    /// They.
    pub bytes: Box<dyn Read + Send>,
}

#[derive(Debug)]
enum Backend {
    Folder(Folder),
    Bucket(Bucket),
}

/// The store.
#[derive(Clone, Debug)]
pub struct Blobs {
    backend: Arc<Backend>,
    staging: Arc<Staging>,
    /// Shared to note that a blob is used, exclusive to remove.
    gate: Arc<RwLock<()>>,
    /// Shared from a check for missing blobs until the journal names them.
    leases: Arc<RwLock<()>>,
}

/// Permission to rely on blobs that were found until the journal names them; a
/// garbage collection that begins meanwhile waits for its end.
#[derive(Debug)]
pub struct Lease(#[allow(dead_code, reason = "held, not read")] OwnedRwLockReadGuard<()>);

impl Blobs {
    /// Opens the store of a state folder: in `place` if given, a folder or
    /// `s3://BUCKET/PREFIX`; otherwise in the place given last, and in its folder
    /// `blobs` if none ever was.
    ///
    /// # Errors
    /// If the folder cannot be made or the bucket not be written.
    pub async fn open(state: &Path, place: Option<&str>) -> Result<Self, Error> {
        // Whoever opens the folder later, if only to ask a question, finds its files.
        let note = state.join(PLACE);
        let noted = match std::fs::read_to_string(&note) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(io_error("read", &note))?),
        };
        let place = place.or(noted.as_deref().map(str::trim_end));
        let (backend, staging) = match place {
            Some(url) if url.starts_with("s3://") => {
                (Backend::Bucket(Bucket::open(url).await?), state.join("blobs/partial"))
            }
            Some(other) if other.is_empty() || other.contains("://") => return Err(Error::Place(other.to_owned())),
            folder => {
                let root = folder.map_or_else(|| state.join("blobs"), PathBuf::from);
                // Beside the blobs, so that a name is all that a checked file needs.
                let staging = root.join("partial");
                (Backend::Folder(Folder::open(root)?), staging)
            }
        };
        let staging = Arc::new(Staging::open(staging)?);
        if let Some(place) = place {
            // A folder is meant as seen from where it was first said.
            let absolute = std::path::absolute(place).ok().filter(|_| !place.starts_with("s3://"));
            let place = absolute.map_or_else(|| place.to_owned(), |path| path.display().to_string());
            std::fs::write(&note, format!("{place}\n")).map_err(io_error("write", &note))?;
        }
        Ok(Self { backend: Arc::new(backend), staging, gate: Arc::default(), leases: Arc::default() })
    }

    /// To be held from [`Blobs::first_missing`] until the journal names the blobs.
    pub async fn lease(&self) -> Lease {
        Lease(self.leases.clone().read_owned().await)
    }

    /// Returns once all leases of before are over.
    pub(crate) async fn settle(&self) {
        drop(self.leases.write().await);
    }

    /// Whether it is stored; notes that it is used.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub async fn has(&self, digest: Digest) -> Result<bool, Error> {
        let _gate = self.gate.read().await;
        match &*self.backend {
            Backend::Folder(folder) => Ok(folder.touch(digest)),
            Backend::Bucket(bucket) => bucket.touch(digest).await,
        }
    }

    /// Those of these that are not stored; notes that the others are used.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, Error> {
        let gate = self.gate.clone().read_owned().await;
        if let Backend::Bucket(bucket) = &*self.backend {
            return bucket.missing(digests).await;
        }
        let few = digests.len() <= FEW;
        let backend = self.backend.clone();
        let look = move || {
            let _gate = gate;
            let Backend::Folder(folder) = &*backend else { return digests };
            digests.into_iter().filter(|digest| !folder.touch(*digest)).collect()
        };
        if few { Ok(look()) } else { Ok(spawn_blocking(look).await?) }
    }

    /// The first file of an artifact that is not stored; notes that all are used.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub async fn first_missing(&self, manifest: &Manifest) -> Result<Option<Digest>, Error> {
        let digests = manifest.entries().iter().map(|entry| entry.digest).collect();
        Ok(self.missing(digests).await?.first().copied())
    }

    /// The first blob of a stored artifact that is not stored, its manifest
    /// included; notes that all are used.
    ///
    /// # Errors
    /// If the manifest is damaged.
    pub async fn first_missing_of(&self, artifact: Digest) -> Result<Option<Digest>, Error> {
        if !self.has(artifact).await? {
            return Ok(Some(artifact));
        }
        self.first_missing(&self.manifest(artifact).await?).await
    }

    /// Stores bytes that are at hand; free if they are stored already. They are on
    /// disk when this returns.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes are others, or if they cannot be stored.
    pub async fn put_bytes(&self, digest: Digest, bytes: &[u8]) -> Result<(), Error> {
        let got = Digest::of(bytes);
        if got != digest {
            return Err(Error::Mismatch { wanted: digest, got });
        }
        if self.has(digest).await? {
            return Ok(());
        }
        let stored = (|| {
            let encoding = Encoding::choose(bytes)?;
            let mut stored = Vec::new();
            encoding.encode(io::Cursor::new(bytes.to_vec()))?.read_to_end(&mut stored)?;
            Ok((encoding, stored))
        })();
        let (encoding, stored) = stored.map_err(io_error("pack", Path::new("memory")))?;
        let size = bytes.len() as u64;
        let this = self.clone();
        let upload = spawn_blocking(move || {
            let mut upload = this.begin(Start { digest, session: upload::own_session(), encoding, size, offset: 0 })?;
            upload.write(&stored)?;
            Ok::<_, Error>(upload)
        });
        self.finish(upload.await??).await
    }

    /// How much of an upload has arrived.
    pub fn arrived(&self, digest: Digest, session: &str, encoding: Encoding) -> u64 {
        self.staging.arrived(digest, session, encoding)
    }

    /// Begins an upload or goes on with one. Blocks.
    ///
    /// # Errors
    /// If it is under way, does not go on where it stopped, or has no room.
    pub fn begin(&self, start: Start) -> Result<Upload, Error> {
        self.staging.begin(start)
    }

    /// Checks an upload and gives it its name.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes are others; nothing is kept then.
    pub async fn finish(&self, upload: Upload) -> Result<(), Error> {
        let checked = spawn_blocking(move || upload.finish()).await??;
        match &*self.backend {
            Backend::Bucket(bucket) => bucket.publish(&checked).await,
            Backend::Folder(_) => {
                let gate = self.gate.clone().read_owned().await;
                let backend = self.backend.clone();
                spawn_blocking(move || {
                    let _gate = gate;
                    match &*backend {
                        Backend::Folder(folder) => folder.publish(&checked),
                        Backend::Bucket(_) => Ok(()),
                    }
                })
                .await?
            }
        }
    }

    /// Opens a stored blob.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it is not stored.
    pub async fn reader(&self, digest: Digest) -> Result<Reader, Error> {
        match &*self.backend {
            Backend::Folder(folder) => folder.reader(digest),
            Backend::Bucket(bucket) => bucket.reader(digest).await,
        }
    }

    /// A stored blob in memory, checked.
    ///
    /// # Errors
    /// If it is not stored, damaged or far too large for a manifest.
    pub async fn bytes(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let reader = self.reader(digest).await?;
        let read = spawn_blocking(move || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            reader.encoding.decode(reader.bytes)?.take(MEMORY_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        match read.await? {
            Ok(bytes) if Digest::of(&bytes) == digest => Ok(bytes),
            _ => Err(self.damaged(digest).await),
        }
    }

    /// A stored manifest.
    ///
    /// # Errors
    /// If it is not stored, damaged or no manifest.
    pub async fn manifest(&self, digest: Digest) -> Result<Manifest, Error> {
        let bytes = self.bytes(digest).await?;
        serde_json::from_slice(&bytes).map_err(|error| Error::NotAManifest { digest, problem: error.to_string() })
    }

    /// Moves a blob aside whose bytes turned out to be others.
    pub async fn damaged(&self, digest: Digest) -> Error {
        let _gate = self.gate.write().await;
        let moved = match &*self.backend {
            Backend::Folder(folder) => folder.quarantine(digest),
            Backend::Bucket(bucket) => bucket.quarantine(digest).await,
        };
        tracing::error!(%digest, "a stored file is damaged");
        moved.err().unwrap_or(Error::Damaged { digest })
    }

    /// All that is stored.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub async fn list(&self) -> Result<Vec<Stored>, Error> {
        let backend = self.backend.clone();
        match &*self.backend {
            Backend::Bucket(bucket) => bucket.list().await,
            Backend::Folder(_) => {
                spawn_blocking(move || match &*backend {
                    Backend::Folder(folder) => folder.list(),
                    Backend::Bucket(_) => Ok(vec![]),
                })
                .await?
            }
        }
    }

    /// Removes those of these that were not used since; returns what went.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub(crate) async fn remove(&self, unused: &[Stored], since: SystemTime) -> Result<Vec<Stored>, Error> {
        let _gate = self.gate.write().await;
        match &*self.backend {
            Backend::Folder(folder) => folder.remove(unused, since),
            Backend::Bucket(bucket) => bucket.remove(unused, since).await,
        }
    }

    /// Removes uploads that nothing was added to since; returns how many.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub(crate) fn remove_uploads(&self, since: SystemTime, dry_run: bool) -> Result<u64, Error> {
        self.staging.remove_older(since, dry_run)
    }
}

#[cfg(test)]
mod tests;
