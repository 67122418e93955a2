//! Artifacts to and from folders, for whoever is not the coordinator.
//!
//! Files are streamed, so memory does not grow with their size, and every
//! digest is checked where the bytes arrive. A transfer that is cut off goes on
//! from the byte that arrived last.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::artifact::{Entry, InvalidManifest, Manifest};
use domain::digest::Digest;
use tokio::fs;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::channel::{blob_call, call};
use crate::encoding::{Encoding, TRIAL};
use crate::status::is_final;
use crate::v1;
use crate::v1::artifact_service_client::ArtifactServiceClient;
use crate::v1::get_blob_response::Part as Down;
use crate::v1::put_blob_request::Part as Up;

/// Bytes per message.
pub const CHUNK: usize = 256 * 1024;

/// Digests in one question about what is missing.
pub const DIGESTS_MAX: usize = 10_000;

/// Files on their way at once.
const PARALLEL: usize = 8;

/// Interruptions in a row, without a byte between them, that a transfer lives
/// through.
const TRIES: u32 = 5;

/// First pause after an interruption; doubled at each further one.
const PAUSE: Duration = Duration::from_millis(50);

/// Largest file that is fetched into memory: a manifest of a million files.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;

/// Why an artifact did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator refused or was not there.
    #[error("{}", .0.message())]
    Rpc(#[from] Status),
    /// A local file could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes are not those that the digest names.
    #[error("{} does not hold the bytes that its digest names", digest.short())]
    Damaged {
        /// The digest asked for.
        digest: Digest,
    },
    /// The folder cannot be an artifact.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// A stored manifest does not decode.
    #[error("{} is not a manifest: {problem}", artifact.short())]
    NotAManifest {
        /// The digest asked for.
        artifact: Digest,
        /// Why.
        problem: String,
    },
    /// A file is too large to be held in memory.
    #[error("{} is larger than {MEMORY_MAX} bytes; it cannot be a manifest", digest.short())]
    TooLarge {
        /// The digest asked for.
        digest: Digest,
    },
    /// The coordinator answered with something else than it promises.
    #[error("the coordinator's answer about {} cannot be used: {problem}", digest.short())]
    Answer {
        /// The digest asked for.
        digest: Digest,
        /// What is wrong.
        problem: String,
    },
    /// A transfer was cut off inside this program.
    #[error("a transfer was cut off: {0}")]
    Task(#[from] JoinError),
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

/// The files below a folder, with their digests. Symbolic links are followed.
///
/// # Errors
/// If a file cannot be read, or its name is not UTF-8 or not plain.
pub fn scan(root: &Path) -> Result<Manifest, Error> {
    let mut entries = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder).map_err(io_error("list", &folder))? {
            let path = item.map_err(io_error("list", &folder))?.path();
            let meta = std::fs::metadata(&path).map_err(io_error("read", &path))?;
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            let file = std::fs::File::open(&path).map_err(io_error("read", &path))?;
            let digest = hash(file).map_err(io_error("read", &path))?;
            let relative: Option<Vec<&str>> = path
                .strip_prefix(root)
                .ok()
                .map(|rest| rest.iter().map(|part| part.to_str()).collect())
                .unwrap_or(None);
            let relative = relative.ok_or_else(|| InvalidManifest::Path(path.display().to_string()))?.join("/");
            entries.push(Entry { path: relative, digest, size: meta.len() });
        }
    }
    Ok(Manifest::new(entries)?)
}

/// A single file under its own name, as the only one of an artifact.
///
/// # Errors
/// If it cannot be read, or its name is not UTF-8.
pub fn entry(path: &Path) -> Result<Entry, Error> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| InvalidManifest::Path(path.display().to_string()))?;
    let file = std::fs::File::open(path).map_err(io_error("read", path))?;
    let size = file.metadata().map_err(io_error("read", path))?.len();
    let digest = hash(file).map_err(io_error("read", path))?;
    Ok(Entry { path: name.to_owned(), digest, size })
}

fn hash(file: std::fs::File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().into())
}

/// Called with every number of stored bytes that went out or came in.
type Moved = dyn Fn(u64) + Send + Sync;

/// A connection that moves artifacts.
#[derive(Clone)]
pub struct Transfer {
    client: ArtifactServiceClient<Channel>,
    /// Keeps these uploads apart from those of other clients.
    session: String,
    moved: Arc<Moved>,
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("session", &self.session).finish_non_exhaustive()
    }
}

/// What to send.
#[derive(Clone, Debug)]
enum Source {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

impl Source {
    fn open(&self) -> Result<Box<dyn Read + Send>, Error> {
        Ok(match self {
            Self::File(path) => Box::new(std::fs::File::open(path).map_err(io_error("read", path))?),
            Self::Bytes(bytes) => Box::new(io::Cursor::new(bytes.clone())),
        })
    }

    fn size(&self) -> Result<u64, Error> {
        match self {
            Self::File(path) => Ok(std::fs::metadata(path).map_err(io_error("read", path))?.len()),
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn error(&self, source: io::Error) -> Error {
        let path = match self {
            Self::File(path) => path.clone(),
            Self::Bytes(_) => PathBuf::from("memory"),
        };
        Error::Io { what: "read", path, source }
    }

    fn encoding(&self) -> Result<Encoding, Error> {
        let mut beginning = Vec::new();
        let read = self.open()?.take(TRIAL as u64).read_to_end(&mut beginning);
        read.and_then(|_| Encoding::choose(&beginning)).map_err(|error| self.error(error))
    }
}

/// One file on its way up.
#[derive(Clone, Debug)]
struct Upload {
    source: Source,
    digest: Digest,
    encoding: Encoding,
    size: u64,
}

/// Counts interruptions.
struct Tries {
    left: u32,
    pause: Duration,
}

impl Tries {
    fn new() -> Self {
        Self { left: TRIES, pause: PAUSE }
    }

    /// Waits, unless it happened too often: then gives the error back.
    async fn again(&mut self, error: Error) -> Result<(), Error> {
        if self.left == 0 {
            return Err(error);
        }
        tokio::time::sleep(self.pause).await;
        self.left -= 1;
        self.pause *= 2;
        Ok(())
    }
}

impl Transfer {
    /// Over that connection.
    pub fn new(channel: Channel) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let session = format!("{:x}-{}-{number}", since.as_nanos(), std::process::id());
        Self { client: ArtifactServiceClient::new(channel), session, moved: Arc::new(|_| {}) }
    }

    /// Calls `moved` with every number of bytes that went out or came in.
    #[must_use]
    pub fn on_progress(mut self, moved: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.moved = Arc::new(moved);
        self
    }

    /// Stores what is missing of a folder, then its manifest; returns the
    /// artifact's name.
    ///
    /// # Errors
    /// If a file cannot be read, was changed meanwhile, or cannot be stored.
    pub async fn push(&self, root: &Path, manifest: &Manifest) -> Result<Digest, Error> {
        self.push_many(&[(root.to_owned(), manifest.clone())]).await?;
        Ok(manifest.digest())
    }

    /// Stores what is missing of several folders.
    ///
    /// # Errors
    /// As [`Transfer::push`].
    pub async fn push_many(&self, folders: &[(PathBuf, Manifest)]) -> Result<(), Error> {
        let files = folders.iter().flat_map(|(root, manifest)| files_of(root, manifest));
        let manifests = folders.iter().map(|(_, manifest)| manifest.digest());
        let missing = self.missing(files.clone().map(|(_, digest)| digest).chain(manifests)).await?;
        self.put_missing(files, &missing).await?;
        // A manifest is stored after its files, so that one that exists is whole.
        for (_, manifest) in folders {
            if missing.contains(&manifest.digest()) {
                self.put(Source::Bytes(manifest.to_bytes().into()), manifest.digest()).await?;
            }
        }
        Ok(())
    }

    /// Stores what is missing of a folder's files, for whoever hands the manifest
    /// in by another call.
    ///
    /// # Errors
    /// As [`Transfer::push`].
    pub async fn push_files(&self, root: &Path, manifest: &Manifest) -> Result<(), Error> {
        let files = files_of(root, manifest);
        let missing = self.missing(files.clone().map(|(_, digest)| digest)).await?;
        self.put_missing(files, &missing).await
    }

    async fn put_missing(
        &self,
        files: impl Iterator<Item = (PathBuf, Digest)>,
        missing: &BTreeSet<Digest>,
    ) -> Result<(), Error> {
        let wanted: BTreeMap<Digest, PathBuf> =
            files.filter(|(_, digest)| missing.contains(digest)).map(|(path, digest)| (digest, path)).collect();
        in_parallel(wanted, |(digest, path)| {
            let this = self.clone();
            async move { this.put(Source::File(path), digest).await }
        })
        .await
    }

    /// Which of these the coordinator does not have.
    async fn missing(&self, digests: impl Iterator<Item = Digest>) -> Result<BTreeSet<Digest>, Error> {
        let asked: Vec<Digest> = digests.collect::<BTreeSet<_>>().into_iter().collect();
        let mut missing = BTreeSet::new();
        for some in asked.chunks(DIGESTS_MAX) {
            let digests = some.iter().map(Digest::to_string).collect();
            let answer = self.client.clone().find_missing(call(v1::FindMissingRequest { digests })).await?;
            missing.extend(answer.into_inner().digests.iter().filter_map(|text| text.parse::<Digest>().ok()));
        }
        Ok(missing)
    }

    /// Stores one file, whatever interrupts it.
    async fn put(&self, source: Source, digest: Digest) -> Result<(), Error> {
        let looked = source.clone();
        let (encoding, size) = spawn_blocking(move || Ok::<_, Error>((looked.encoding()?, looked.size()?))).await??;
        let upload = Upload { source, digest, encoding, size };
        let (mut tries, mut offset) = (Tries::new(), 0);
        loop {
            match self.put_from(&upload, offset).await {
                Err(Error::Rpc(status)) if !is_final(&status) || status.code() == Code::DataLoss && offset > 0 => {
                    // What had arrived may have been spoilt, by a loss of power for instance.
                    let spoilt = status.code() == Code::DataLoss;
                    tries.again(status.into()).await?;
                    // Unknown as long as the coordinator is away: the next try fails and asks again.
                    let arrived = if spoilt { 0 } else { self.arrived(&upload).await.unwrap_or(offset) };
                    if arrived > offset {
                        tries = Tries::new();
                    }
                    offset = arrived;
                }
                ended => return ended,
            }
        }
    }

    /// How much of an upload the coordinator has.
    async fn arrived(&self, upload: &Upload) -> Result<u64, Error> {
        let request = v1::GetUploadOffsetRequest {
            digest: upload.digest.to_string(),
            session: self.session.clone(),
            encoding: v1::Encoding::from(upload.encoding).into(),
        };
        Ok(self.client.clone().get_upload_offset(call(request)).await?.into_inner().offset)
    }

    async fn put_from(&self, upload: &Upload, offset: u64) -> Result<(), Error> {
        let (sender, receiver) = mpsc::channel(4);
        let start = v1::PutBlobStart {
            digest: upload.digest.to_string(),
            session: self.session.clone(),
            encoding: v1::Encoding::from(upload.encoding).into(),
            size: upload.size,
            offset,
        };
        let (upload, moved) = (upload.clone(), self.moved.clone());
        let read = spawn_blocking(move || -> Result<(), Error> {
            // A closed channel means that the call has ended; its status says why.
            let send = |part: Up| sender.blocking_send(v1::PutBlobRequest { part: Some(part) }).is_ok();
            if !send(Up::Start(start)) {
                return Ok(());
            }
            let read_error = |error| upload.source.error(error);
            let mut stored = upload.encoding.encode(upload.source.open()?).map_err(read_error)?;
            // The same bytes come out of it each time.
            io::copy(&mut (&mut stored).take(offset), &mut io::sink()).map_err(read_error)?;
            loop {
                let mut data = Vec::with_capacity(CHUNK);
                (&mut stored).take(CHUNK as u64).read_to_end(&mut data).map_err(read_error)?;
                let length = data.len() as u64;
                if length == 0 || !send(Up::Data(data)) {
                    return Ok(());
                }
                moved(length);
            }
        });
        let put = self.client.clone().put_blob(blob_call(ReceiverStream::new(receiver))).await;
        read.await??;
        put?;
        Ok(())
    }

    /// The manifest of an artifact.
    ///
    /// # Errors
    /// If it is not stored or not a manifest.
    pub async fn manifest(&self, artifact: Digest) -> Result<Manifest, Error> {
        let bytes = self.bytes(artifact).await?;
        serde_json::from_slice(&bytes).map_err(|error| Error::NotAManifest { artifact, problem: error.to_string() })
    }

    /// A small file, whole.
    ///
    /// # Errors
    /// If it is not stored, damaged, or too large.
    pub async fn bytes(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let mut tries = Tries::new();
        loop {
            match self.bytes_once(digest).await {
                Err(Error::Rpc(status)) if !is_final(&status) => tries.again(status.into()).await?,
                ended => return ended,
            }
        }
    }

    async fn bytes_once(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let (start, mut chunks) = self.get(digest, 0, Encoding::Raw).await?;
        let mut stored = Vec::new();
        while let Some(data) = next(&mut chunks, digest).await? {
            stored.extend_from_slice(&data);
            if stored.len() as u64 > MEMORY_MAX {
                return Err(Error::TooLarge { digest });
            }
        }
        let mut bytes = Vec::new();
        let damaged = |_| Error::Damaged { digest };
        let raw = start.encoding.decode(io::Cursor::new(stored)).map_err(damaged)?;
        raw.take(MEMORY_MAX + 1).read_to_end(&mut bytes).map_err(damaged)?;
        match Digest::of(&bytes) == digest {
            true => Ok(bytes),
            false if bytes.len() as u64 > MEMORY_MAX => Err(Error::TooLarge { digest }),
            false => Err(Error::Damaged { digest }),
        }
    }

    async fn get(&self, digest: Digest, offset: u64, encoding: Encoding) -> Result<(Start, Chunks), Error> {
        let encoding = v1::Encoding::from(encoding).into();
        let request = v1::GetBlobRequest { digest: digest.to_string(), offset, encoding };
        let mut chunks = self.client.clone().get_blob(blob_call(request)).await?.into_inner();
        let first = chunks.message().await?.and_then(|message| message.part);
        let problem = |problem: String| Error::Answer { digest, problem };
        let Some(Down::Start(start)) = first else { return Err(problem("it has no start".to_owned())) };
        let encoding = Encoding::decode_field(start.encoding).map_err(|error| problem(error.to_string()))?;
        if start.offset > offset {
            return Err(problem("it begins too late".to_owned()));
        }
        Ok((Start { encoding, offset: start.offset }, chunks))
    }

    /// Writes a file to `path`: under another name first, so that a file that
    /// exists is whole. What an interruption leaves of it is used by the next call.
    ///
    /// # Errors
    /// If it is not stored, damaged, or cannot be written.
    pub async fn get_file(&self, digest: Digest, path: &Path) -> Result<(), Error> {
        let mut tries = Tries::new();
        loop {
            let had = partial(path).1;
            let ended = match self.get_rest(digest, path).await {
                Ok(rest) => {
                    let target = path.to_owned();
                    match spawn_blocking(move || publish(digest, rest, &target)).await? {
                        // What was there before may have been another file's.
                        Err(Error::Damaged { .. }) if rest.offset > 0 => continue,
                        ended => return ended,
                    }
                }
                Err(Error::Rpc(status)) if !is_final(&status) => Error::Rpc(status),
                Err(error) => return Err(error),
            };
            if partial(path).1 > had {
                tries = Tries::new();
            }
            tries.again(ended).await?;
        }
    }

    /// Fetches what is not there yet.
    async fn get_rest(&self, digest: Digest, path: &Path) -> Result<Rest, Error> {
        let (had, offset) = partial(path);
        let (start, mut chunks) = self.get(digest, offset, had).await?;
        let name = partial_name(path, start.encoding);
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(4);
        // Written and hashed while the next bytes are on their way.
        let writer = spawn_blocking(move || -> Result<Option<Digest>, Error> {
            let mut open = std::fs::OpenOptions::new();
            let file = open.read(true).write(true).create(true).truncate(false).open(&name);
            let mut file = file.map_err(io_error("create", &name))?;
            file.set_len(start.offset).map_err(io_error("write", &name))?;
            // What is packed is hashed when it is unpacked.
            let mut hasher = (start.encoding == Encoding::Raw).then(blake3::Hasher::new);
            if let Some(hasher) = &mut hasher {
                hasher.update_reader(&mut file).map_err(io_error("read", &name))?;
            }
            file.seek(SeekFrom::End(0)).map_err(io_error("read", &name))?;
            while let Some(data) = receiver.blocking_recv() {
                file.write_all(&data).map_err(io_error("write", &name))?;
                hasher.as_mut().map(|hasher| hasher.update(&data));
            }
            Ok(hasher.map(|hasher| hasher.finalize().into()))
        });
        let received = loop {
            match next(&mut chunks, digest).await {
                Err(error) => break Err(error),
                Ok(None) => break Ok(()),
                Ok(Some(data)) => {
                    (self.moved)(data.len() as u64);
                    // A closed channel means that the disk says no; it says why below.
                    if sender.send(data).await.is_err() {
                        break Ok(());
                    }
                }
            }
        };
        drop(sender);
        // In any case: the next try begins where this one stopped writing.
        let hashed = writer.await??;
        received?;
        Ok(Rest { encoding: start.encoding, offset: start.offset, hashed })
    }

    /// Writes an artifact's files below `root`, or those at the paths given.
    ///
    /// # Errors
    /// As [`Transfer::get_file`].
    pub async fn pull(&self, artifact: Digest, only: &[String], root: &Path) -> Result<Manifest, Error> {
        let manifest = self.manifest(artifact).await?;
        let wanted = |entry: &&Entry| only.is_empty() || only.contains(&entry.path);
        fs::create_dir_all(root).await.map_err(io_error("create", root))?;
        in_parallel(manifest.entries().iter().filter(wanted).cloned().collect::<Vec<_>>(), |entry| {
            let (this, path) = (self.clone(), root.join(&entry.path));
            async move {
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder).await.map_err(io_error("create", folder))?;
                }
                this.get_file(entry.digest, &path).await
            }
        })
        .await?;
        Ok(manifest)
    }
}

type Chunks = tonic::Streaming<v1::GetBlobResponse>;

struct Start {
    encoding: Encoding,
    offset: u64,
}

/// A file that has gathered, if it is what it should be.
#[derive(Clone, Copy)]
struct Rest {
    encoding: Encoding,
    /// Where the last call began.
    offset: u64,
    /// Of the whole, unless it is packed.
    hashed: Option<Digest>,
}

/// The next bytes; none at the end.
async fn next(chunks: &mut Chunks, digest: Digest) -> Result<Option<Vec<u8>>, Error> {
    match chunks.message().await?.map(|message| message.part) {
        None => Ok(None),
        Some(Some(Down::Data(data))) => Ok(Some(data)),
        Some(_) => Err(Error::Answer { digest, problem: "it starts twice".to_owned() }),
    }
}

fn files_of(root: &Path, manifest: &Manifest) -> impl Iterator<Item = (PathBuf, Digest)> + Clone {
    manifest.entries().iter().map(move |entry| (root.join(&entry.path), entry.digest))
}

/// Runs [`PARALLEL`] transfers at once; ends with the first error.
async fn in_parallel<T, F>(items: impl IntoIterator<Item = T>, transfer: impl Fn(T) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for item in items {
        if running.len() >= PARALLEL
            && let Some(done) = running.join_next().await
        {
            done??;
        }
        running.spawn(transfer(item));
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

/// Where the stored form of a file gathers.
fn partial_name(path: &Path, encoding: Encoding) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".partial");
    name.push(encoding.suffix());
    path.with_file_name(name)
}

/// What has gathered of a file so far, and in which form.
fn partial(path: &Path) -> (Encoding, u64) {
    let length = |encoding| std::fs::metadata(partial_name(path, encoding)).map_or(0, |meta| meta.len());
    let some = Encoding::ALL.into_iter().find(|encoding| length(*encoding) > 0);
    some.map_or((Encoding::Raw, 0), |encoding| (encoding, length(encoding)))
}

/// Makes a file of what has gathered, if that is what the digest names.
fn publish(digest: Digest, rest: Rest, path: &Path) -> Result<(), Error> {
    let raw = partial_name(path, Encoding::Raw);
    let whole = match rest.encoding {
        Encoding::Raw => rest.hashed == Some(digest),
        Encoding::Zstd => {
            let packed = partial_name(path, Encoding::Zstd);
            let file = std::fs::File::open(&packed).map_err(io_error("read", &packed))?;
            unpack(file, &raw)? == Some(digest)
        }
    };
    if whole {
        std::fs::rename(&raw, path).map_err(io_error("rename", &raw))?;
    }
    for encoding in Encoding::ALL {
        // Gone already if it was renamed.
        let _ = std::fs::remove_file(partial_name(path, encoding));
    }
    if whole { Ok(()) } else { Err(Error::Damaged { digest }) }
}

/// Unpacks a file to another; returns the digest of what came out, none if it
/// is no whole zstd stream.
fn unpack(packed: std::fs::File, path: &Path) -> Result<Option<Digest>, Error> {
    let mut file = std::fs::File::create(path).map_err(io_error("create", path))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let Ok(mut raw) = Encoding::Zstd.decode(packed) else { return Ok(None) };
    loop {
        match raw.read(&mut buffer) {
            Err(_) => return Ok(None),
            Ok(0) => return Ok(Some(hasher.finalize().into())),
            Ok(length) => {
                hasher.update(&buffer[..length]);
                file.write_all(&buffer[..length]).map_err(io_error("write", path))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_scanned_with_its_subfolders() {
        let root = std::env::temp_dir().join(format!("lithogen-scan-{}", std::process::id()));
        std::fs::create_dir_all(root.join("b")).unwrap();
        std::fs::write(root.join("b/c.txt"), b"two").unwrap();
        std::fs::write(root.join("a.txt"), b"one").unwrap();
        let manifest = scan(&root).unwrap();
        let paths: Vec<&str> = manifest.entries().iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["a.txt", "b/c.txt"]);
        assert_eq!(manifest.entries()[1].digest, Digest::of(b"two"));
        assert_eq!(manifest.size(), 6);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
