//! Files by the blake3 digest of their raw bytes.
//!
//! A blob is stored raw, or compressed under a name that ends in `.zst`. In every kind of
//! store, an upload is first written to the coordinator's own disk, is checked, and only then
//! gets its name, so that an existing blob is complete.
//!
//! | module | what it holds |
//! |---|---|
//! | [`folder`] | blobs in a folder of this machine |
//! | [`bucket`] | blobs in a bucket that speaks S3 |
//! | [`upload`] | uploads of blobs |
//!
//! Nobody may rely on a blob that garbage collection is about to remove. So whoever asks for a
//! blob first notes its use and then looks whether the blob is stored; the collection looks at
//! that note and removes under a lock that both hold. A blob whose use is noted stays for the
//! grace period.

pub mod bucket;
pub mod folder;
pub mod upload;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use domain::artifact::{MANIFEST_MAX, Manifest};
use domain::digest::Digest;
use domain::id::ArtifactId;
use proto::encoding::{Check, CheckError, Encoding, Invalid};
use proto::path_error::{PathError, io_error};
use proto::private;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedRwLockReadGuard, RwLock, Semaphore};
use tokio::task::{JoinError, spawn_blocking};

use bucket::Bucket;
use folder::Folder;
use upload::{Staging, Start, Upload};

/// Blobs whose presence is looked up without leaving the caller's thread.
const FEW: usize = 16;

/// File of a state folder that says where its blobs lie, if outside that folder.
const PLACE: &str = "blobs-place";

/// Most blobs, all of them manifests, that are read into memory at once. Other readers wait.
const IN_MEMORY: usize = 8;

/// Why a blob cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob is not stored.
    #[error("{} is not stored", .0.short())]
    Unknown(Digest),
    /// The bytes given do not have the digest given.
    #[error("the bytes sent for {} have digest {}", wanted.short(), got.short())]
    Mismatch {
        /// The digest given.
        wanted: Digest,
        /// The digest of the bytes.
        got: Digest,
    },
    /// The announcement of an upload is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field of the message.
        field: &'static str,
        problem: String,
    },
    /// Another call is writing the same upload.
    #[error("{} is being sent by another call of the same session; try again", .0.short())]
    Busy(Digest),
    /// There is no room for the blob.
    #[error(
        "the coordinator's disk is full: {} needs {needed} bytes, and {} has {free} that are free and promised to no \
         other upload; make room there", digest.short(), path.display()
    )]
    NoRoom {
        /// Digest of the blob that was to be stored.
        digest: Digest,
        /// Bytes that the upload needs.
        needed: u64,
        /// Bytes that are free and not promised to other uploads.
        free: u64,
        /// Folder of unfinished uploads.
        path: PathBuf,
    },
    /// The stored bytes do not have the blob's digest.
    #[error(
        "what is stored as {digest} is damaged and was moved aside; store it again, and look for more with \
         `lithogen artifact verify`"
    )]
    Damaged { digest: Digest },
    /// The blob could not be read to its end, which says nothing about the stored bytes.
    #[error("{} cannot be read: {problem}; it stays where it is", digest.short())]
    Unreadable { digest: Digest, problem: String },
    /// A stored blob is not a manifest.
    #[error("{} is not a manifest: {problem}", artifact.short())]
    NotAManifest { artifact: ArtifactId, problem: String },
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] PathError),
    /// The given location is neither a folder nor a bucket.
    #[error("{0:?} is no place for blobs; give a folder, or s3://BUCKET/PREFIX")]
    Place(String),
    /// An operation of the bucket failed.
    #[error("bucket {bucket}: cannot {what}: {source}")]
    Bucket {
        /// Name of the bucket.
        bucket: String,
        /// Name of the operation.
        what: &'static str,
        source: Box<object_store::Error>,
    },
    /// A background operation of this program was cut off.
    #[error("cut off: {0}")]
    Task(#[from] JoinError),
}

/// A stored blob in a list.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub digest: Digest,
    pub encoding: Encoding,
    /// Length of the encoded bytes.
    pub size: u64,
    /// When the blob was last stored or asked for.
    pub used: SystemTime,
}

/// Reads a stored blob; reading may block. Fails if the store ends the blob early.
pub struct Reader {
    /// Encoding of the stored bytes.
    pub encoding: Encoding,
    /// Length of the encoded bytes.
    pub size: u64,
    /// Tells the blob from a later one of the same name, if the store can.
    version: Option<String>,
    left: u64,
    bytes: Box<dyn Read + Send>,
}

impl Reader {
    fn new(encoding: Encoding, size: u64, version: Option<String>, bytes: impl Read + Send + 'static) -> Self {
        Self { encoding, size, version, left: size, bytes: Box::new(bytes) }
    }

    /// Reads the whole blob and returns the digest of its raw bytes.
    fn digest(&mut self) -> Result<Digest, CheckError> {
        let mut check = Check::new(self.encoding, u64::MAX).map_err(CheckError::Read)?;
        check.update_reader(self)?;
        Ok(check.finish()?.0)
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.bytes.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            let problem = format!("it ended {} bytes before its end", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// The outcome of reading a whole blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// The bytes match the digest.
    Whole,
    /// The bytes did not match the digest, and the blob was moved to quarantine.
    Damaged,
    /// The blob is not stored, or was replaced meanwhile.
    Gone,
}

#[derive(Clone, Debug)]
enum Backend {
    Folder(Arc<Folder>),
    Bucket(Arc<Bucket>),
}

/// A blob store.
#[derive(Clone, Debug)]
pub struct Blobs {
    backend: Backend,
    staging: Arc<Staging>,
    /// Shared to note that a blob is used, exclusive to remove blobs.
    gate: Arc<RwLock<()>>,
    /// Shared from a check for missing blobs until the journal names the blobs.
    holds: Arc<RwLock<()>>,
    in_memory: Arc<Semaphore>,
    /// Held while all blobs are collected or checked.
    upkeep: Arc<Mutex<()>>,
}

/// Permission to rely on blobs that were found, until the journal names them; a garbage
/// collection that begins meanwhile waits for its end.
#[derive(Debug)]
pub struct Hold(#[allow(dead_code, reason = "held, not read")] OwnedRwLockReadGuard<()>);

impl Blobs {
    /// Opens the store of a state folder: at `place` if given, a folder or
    /// `s3://BUCKET/PREFIX`; otherwise at the place given last, or in the folder `blobs` of the
    /// state folder if none was ever given.
    ///
    /// # Errors
    /// If the folder cannot be made or the bucket is not writable.
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
                (Backend::Bucket(Bucket::open(url).await?.into()), state.join("blobs/partial"))
            }
            Some(other) if other.is_empty() || other.contains("://") => return Err(Error::Place(other.to_owned())),
            folder => {
                let root = folder.map_or_else(|| state.join("blobs"), PathBuf::from);
                // Beside the blobs, so that a name is all that a checked file needs.
                let staging = root.join("partial");
                (Backend::Folder(Folder::open(root)?.into()), staging)
            }
        };
        let staging = Arc::new(Staging::open(staging)?);
        if let Some(place) = place {
            // A folder is meant as seen from where it was first said.
            let absolute = std::path::absolute(place).ok().filter(|_| !place.starts_with("s3://"));
            let place = absolute.map_or_else(|| place.to_owned(), |path| path.display().to_string());
            private::write(&note, &format!("{place}\n")).map_err(io_error("write", &note))?;
        }
        Ok(Self::of(backend, staging))
    }

    fn of(backend: Backend, staging: Arc<Staging>) -> Self {
        Self {
            backend,
            staging,
            gate: Arc::default(),
            holds: Arc::default(),
            in_memory: Arc::new(Semaphore::new(IN_MEMORY)),
            upkeep: Arc::default(),
        }
    }

    /// Takes the permission to hold from [`Blobs::first_missing`] until the journal names the
    /// blobs.
    pub async fn hold(&self) -> Hold {
        Hold(self.holds.clone().read_owned().await)
    }

    /// Takes the lock for collecting or checking all blobs, which is done one at a time; none
    /// if such an operation is under way.
    pub(crate) fn upkeep(&self) -> Option<OwnedMutexGuard<()>> {
        self.upkeep.clone().try_lock_owned().ok()
    }

    /// Waits until all holds from before this call have ended.
    pub(crate) async fn settle(&self) {
        drop(self.holds.write().await);
    }

    /// Whether a blob is stored; also notes that the blob is used.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub async fn has(&self, digest: Digest) -> Result<bool, Error> {
        let _gate = self.gate.read().await;
        match &self.backend {
            Backend::Folder(folder) => folder.touch(digest),
            Backend::Bucket(bucket) => bucket.touch(digest).await,
        }
    }

    /// The digests whose blobs are not stored; notes that the other blobs are used.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, Error> {
        let gate = self.gate.clone().read_owned().await;
        let folder = match &self.backend {
            Backend::Bucket(bucket) => return bucket.missing(digests).await,
            Backend::Folder(folder) => folder.clone(),
        };
        let few = digests.len() <= FEW;
        let look = move || {
            let _gate = gate;
            let missing = |digest| folder.touch(digest).map(|there| (!there).then_some(digest));
            digests.into_iter().filter_map(|digest| missing(digest).transpose()).collect()
        };
        if few { look() } else { spawn_blocking(look).await? }
    }

    /// The first file of an artifact that is not stored; notes that all files are used.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub async fn first_missing(&self, manifest: &Manifest) -> Result<Option<Digest>, Error> {
        let digests = manifest.entries().iter().map(|entry| entry.digest).collect();
        Ok(self.missing(digests).await?.first().copied())
    }

    /// The first blob of a stored artifact that is not stored, including the artifact's
    /// manifest; notes that all of its blobs are used.
    ///
    /// # Errors
    /// If the manifest cannot be read, or is not a manifest.
    pub async fn first_missing_of(&self, artifact: ArtifactId) -> Result<Option<Digest>, Error> {
        if !self.has(artifact.0).await? {
            return Ok(Some(artifact.0));
        }
        self.first_missing(&self.manifest(artifact).await?).await
    }

    /// Stores bytes in memory, unless the blob is stored already. The bytes are on disk when
    /// this returns.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes do not have the digest; other errors if they cannot be
    /// stored.
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
            let session = upload::own_session();
            let mut upload = this.begin(Start { digest, session, encoding, size, offset: 0, identity: None })?;
            upload.write(&stored)?;
            Ok::<_, Error>(upload)
        });
        self.finish(upload.await??).await
    }

    /// Number of bytes of an upload that have arrived.
    pub fn arrived(&self, digest: Digest, session: &str, encoding: Encoding) -> u64 {
        self.staging.arrived(digest, session, encoding)
    }

    /// Begins an upload or continues one. Blocks.
    ///
    /// # Errors
    /// If the upload is under way in another call, does not continue where it stopped, or has
    /// no room.
    pub fn begin(&self, start: Start) -> Result<Upload, Error> {
        self.staging.begin(start)
    }

    /// Checks a complete upload and moves it to its name.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes do not match the digest; nothing of the upload is kept
    /// then.
    pub async fn finish(&self, upload: Upload) -> Result<(), Error> {
        let checked = spawn_blocking(move || upload.finish()).await??;
        match &self.backend {
            Backend::Bucket(bucket) => bucket.publish(&checked).await,
            Backend::Folder(folder) => {
                let (gate, folder) = (self.gate.clone().read_owned().await, folder.clone());
                spawn_blocking(move || {
                    let _gate = gate;
                    folder.publish(&checked)
                })
                .await?
            }
        }
    }

    /// Opens a stored blob.
    ///
    /// # Errors
    /// [`Error::Unknown`] if the blob is not stored.
    pub async fn reader(&self, digest: Digest) -> Result<Reader, Error> {
        for encoding in Encoding::ALL {
            if let Some(reader) = self.reader_in(digest, encoding).await? {
                return Ok(reader);
            }
        }
        self.forget(digest);
        Err(Error::Unknown(digest))
    }

    /// Forgets a blob, so that the store is asked the next time whether it is stored.
    pub(crate) fn forget(&self, digest: Digest) {
        if let Backend::Bucket(bucket) = &self.backend {
            bucket.forget(digest);
        }
    }

    async fn reader_in(&self, digest: Digest, encoding: Encoding) -> Result<Option<Reader>, Error> {
        match &self.backend {
            Backend::Folder(folder) => folder.reader(digest, encoding),
            Backend::Bucket(bucket) => bucket.reader(digest, encoding).await,
        }
    }

    /// Reads a stored blob into memory and checks it.
    ///
    /// # Errors
    /// If the blob is not stored or is damaged; [`Error::NotAManifest`] if it is larger than a
    /// manifest can be, which is found out without reading the blob.
    pub async fn bytes(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let mut reader = self.reader(digest).await?;
        let too_long = |size: u64| {
            let problem = format!("it has {size} bytes, and a list of files has at most {MANIFEST_MAX}");
            Error::NotAManifest { artifact: ArtifactId(digest), problem }
        };
        let (size, encoding) = (reader.size, reader.encoding);
        if size > encoding.stored_max(MANIFEST_MAX as u64) {
            return Err(too_long(size));
        }
        let _place = self.in_memory.acquire().await;
        let read = spawn_blocking(move || {
            let mut stored = Vec::new();
            reader.read_to_end(&mut stored).map(|_| stored)
        });
        let unreadable = |error: io::Error| Error::Unreadable { digest, problem: error.to_string() };
        let stored = read.await?.map_err(unreadable)?;
        let unpack = spawn_blocking(move || {
            let mut bytes = Vec::new();
            encoding.decode(io::Cursor::new(stored))?.take(MANIFEST_MAX as u64 + 1).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        });
        match unpack.await? {
            Ok(bytes) if bytes.len() > MANIFEST_MAX => Err(too_long(bytes.len() as u64)),
            Ok(bytes) if Digest::of(&bytes) == digest => Ok(bytes),
            _ => Err(self.suspect(digest).await),
        }
    }

    /// Reads a stored manifest.
    ///
    /// # Errors
    /// If the blob is not stored, is damaged or is not a manifest.
    pub async fn manifest(&self, artifact: ArtifactId) -> Result<Manifest, Error> {
        let bytes = self.bytes(artifact.0).await?;
        Manifest::from_bytes(&bytes).map_err(|error| Error::NotAManifest { artifact, problem: error.to_string() })
    }

    /// Reads a whole stored blob, and moves it to quarantine if its bytes do not match its
    /// digest. A blob that cannot be read to its end stays in place.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if the blob could not be read; other errors if the store fails.
    pub async fn look(&self, digest: Digest, encoding: Encoding) -> Result<Looked, Error> {
        let Some(mut reader) = self.reader_in(digest, encoding).await? else { return Ok(Looked::Gone) };
        // Open until the end, so that no other file can be taken for it.
        let (reader, read) = spawn_blocking(move || {
            let read = reader.digest();
            (reader, read)
        })
        .await?;
        match read {
            Ok(found) if found == digest => return Ok(Looked::Whole),
            Ok(_) | Err(CheckError::Invalid(Invalid::Stream(_))) => {}
            Err(error) => return Err(Error::Unreadable { digest, problem: error.to_string() }),
        }
        let _gate = self.gate.write().await;
        let moved = match &self.backend {
            Backend::Folder(folder) => folder.quarantine(digest, encoding, reader.version.as_deref())?,
            Backend::Bucket(bucket) => bucket.quarantine(digest, encoding, reader.version.as_deref()).await?,
        };
        if moved {
            tracing::error!(%digest, "a stored file is damaged");
        }
        Ok(if moved { Looked::Damaged } else { Looked::Gone })
    }

    /// Checks a blob again whose bytes seemed wrong; returns the error to report.
    pub async fn suspect(&self, digest: Digest) -> Error {
        let mut damaged = false;
        for encoding in Encoding::ALL {
            match self.look(digest, encoding).await {
                Ok(looked) => damaged |= looked == Looked::Damaged,
                Err(error) => return error,
            }
        }
        if damaged {
            Error::Damaged { digest }
        } else {
            Error::Unreadable { digest, problem: "other bytes came than are stored; try again".to_owned() }
        }
    }

    /// All stored blobs.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub async fn list(&self) -> Result<Vec<Stored>, Error> {
        match &self.backend {
            Backend::Bucket(bucket) => bucket.list().await,
            Backend::Folder(folder) => {
                let folder = folder.clone();
                spawn_blocking(move || folder.list()).await?
            }
        }
    }

    /// Removes the blobs in `unused` that were not used since `since`; returns the removed
    /// ones.
    ///
    /// # Errors
    /// If a blob cannot be removed.
    pub(crate) async fn remove(&self, unused: &[Stored], since: SystemTime) -> Result<Vec<Stored>, Error> {
        let _gate = self.gate.write().await;
        match &self.backend {
            Backend::Folder(folder) => folder.remove(unused, since),
            Backend::Bucket(bucket) => bucket.remove(unused, since).await,
        }
    }

    /// Removes uploads to which nothing was added since `since`; returns their number.
    ///
    /// # Errors
    /// If an upload cannot be removed.
    pub(crate) fn remove_uploads(&self, since: SystemTime, dry_run: bool) -> Result<u64, Error> {
        self.staging.remove_older(since, dry_run)
    }
}

#[cfg(test)]
mod tests;
