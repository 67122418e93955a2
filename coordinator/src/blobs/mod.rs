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

use domain::artifact::{MANIFEST_MAX, Manifest};
use domain::digest::Digest;
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

/// The file of a state folder that says where its blobs lie, if not in it.
const PLACE: &str = "blobs-place";

/// Blobs read into memory at once, each a manifest. Others wait.
const IN_MEMORY: usize = 8;

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
        "the coordinator's disk is full: {} needs {needed} bytes, and {} has {free} that are free and promised to no \
         other upload; make room there", digest.short(), path.display()
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
    /// It could not be read to its end, which says nothing about what is stored.
    #[error("{} cannot be read: {problem}; it stays where it is", digest.short())]
    Unreadable {
        /// Its name.
        digest: Digest,
        /// Why.
        problem: String,
    },
    /// A stored blob is no manifest.
    #[error("{} is not a manifest: {problem}", digest.short())]
    NotAManifest {
        /// Its name.
        digest: Digest,
        /// Why.
        problem: String,
    },
    /// The disk says no.
    #[error(transparent)]
    Io(#[from] PathError),
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

/// A stored blob to read from, where that may block. It fails where the store ends
/// it early.
pub struct Reader {
    /// The form of its bytes.
    pub encoding: Encoding,
    /// Bytes of that form.
    pub size: u64,
    /// Tells it from what gets the same name later, if the store can.
    version: Option<String>,
    left: u64,
    bytes: Box<dyn Read + Send>,
}

impl Reader {
    fn new(encoding: Encoding, size: u64, version: Option<String>, bytes: impl Read + Send + 'static) -> Self {
        Self { encoding, size, version, left: size, bytes: Box::new(bytes) }
    }

    /// The digest of the raw bytes, all of which are read.
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

/// What reading all of a stored blob has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is what its name says.
    Whole,
    /// It was not, and was moved aside.
    Damaged,
    /// It is not there, or was replaced meanwhile.
    Gone,
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
    holds: Arc<RwLock<()>>,
    in_memory: Arc<Semaphore>,
    /// Held to look at all blobs.
    upkeep: Arc<Mutex<()>>,
}

/// Permission to rely on blobs that were found until the journal names them; a
/// garbage collection that begins meanwhile waits for its end.
#[derive(Debug)]
pub struct Hold(#[allow(dead_code, reason = "held, not read")] OwnedRwLockReadGuard<()>);

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
            private::write(&note, &format!("{place}\n")).map_err(io_error("write", &note))?;
        }
        Ok(Self::of(backend, staging))
    }

    fn of(backend: Backend, staging: Arc<Staging>) -> Self {
        Self {
            backend: Arc::new(backend),
            staging,
            gate: Arc::default(),
            holds: Arc::default(),
            in_memory: Arc::new(Semaphore::new(IN_MEMORY)),
            upkeep: Arc::default(),
        }
    }

    /// To be held from [`Blobs::first_missing`] until the journal names the blobs.
    pub async fn hold(&self) -> Hold {
        Hold(self.holds.clone().read_owned().await)
    }

    /// To be held while all blobs are collected or checked, which is done once at a time;
    /// nothing if that is under way.
    pub(crate) fn upkeep(&self) -> Option<OwnedMutexGuard<()>> {
        self.upkeep.clone().try_lock_owned().ok()
    }

    /// Returns once all holds of before are over.
    pub(crate) async fn settle(&self) {
        drop(self.holds.write().await);
    }

    /// Whether it is stored; notes that it is used.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub async fn has(&self, digest: Digest) -> Result<bool, Error> {
        let _gate = self.gate.read().await;
        match &*self.backend {
            Backend::Folder(folder) => folder.touch(digest),
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
            let Backend::Folder(folder) = &*backend else { return Ok(digests) };
            let missing = |digest| folder.touch(digest).map(|there| (!there).then_some(digest));
            digests.into_iter().filter_map(|digest| missing(digest).transpose()).collect()
        };
        if few { look() } else { spawn_blocking(look).await? }
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
    /// If the manifest cannot be read, or is none.
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
            let session = upload::own_session();
            let mut upload = this.begin(Start { digest, session, encoding, size, offset: 0, identity: None })?;
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
        for encoding in Encoding::ALL {
            if let Some(reader) = self.reader_in(digest, encoding).await? {
                return Ok(reader);
            }
        }
        self.forget(digest);
        Err(Error::Unknown(digest))
    }

    /// Has the store asked the next time whether a blob is there.
    pub(crate) fn forget(&self, digest: Digest) {
        if let Backend::Bucket(bucket) = &*self.backend {
            bucket.forget(digest);
        }
    }

    async fn reader_in(&self, digest: Digest, encoding: Encoding) -> Result<Option<Reader>, Error> {
        match &*self.backend {
            Backend::Folder(folder) => folder.reader(digest, encoding),
            Backend::Bucket(bucket) => bucket.reader(digest, encoding).await,
        }
    }

    /// A stored blob in memory, checked.
    ///
    /// # Errors
    /// If it is not stored or damaged; [`Error::NotAManifest`] if it is larger than one
    /// can be, which is found out without reading it.
    pub async fn bytes(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let mut reader = self.reader(digest).await?;
        let too_long = |size: u64| {
            let problem = format!("it has {size} bytes, and a list of files has at most {MANIFEST_MAX}");
            Error::NotAManifest { digest, problem }
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

    /// A stored manifest.
    ///
    /// # Errors
    /// If it is not stored, damaged or no manifest.
    pub async fn manifest(&self, digest: Digest) -> Result<Manifest, Error> {
        let bytes = self.bytes(digest).await?;
        Manifest::from_bytes(&bytes).map_err(|error| Error::NotAManifest { digest, problem: error.to_string() })
    }

    /// Reads all of a stored blob, and moves it aside if its bytes are others than its
    /// name says. Nothing else is a reason to: what cannot be read to its end stays.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if it could not be read; if the store says no.
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
        let moved = match &*self.backend {
            Backend::Folder(folder) => folder.quarantine(digest, encoding, reader.version.as_deref())?,
            Backend::Bucket(bucket) => bucket.quarantine(digest, encoding, reader.version.as_deref()).await?,
        };
        if moved {
            tracing::error!(%digest, "a stored file is damaged");
        }
        Ok(if moved { Looked::Damaged } else { Looked::Gone })
    }

    /// Looks again at a blob whose bytes seemed to be others; says what to answer.
    pub async fn suspect(&self, digest: Digest) -> Error {
        let mut damaged = false;
        for encoding in Encoding::ALL {
            match self.look(digest, encoding).await {
                Ok(looked) => damaged |= looked == Looked::Damaged,
                Err(error) => return error,
            }
        }
        match damaged {
            true => Error::Damaged { digest },
            false => Error::Unreadable { digest, problem: "other bytes came than are stored; try again".to_owned() },
        }
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
