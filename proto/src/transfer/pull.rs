//! Files on their way from the coordinator.

use std::ffi::OsString;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use domain::artifact::{Entry, Manifest};
use domain::digest::Digest;
use tokio::fs;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{CHUNK, Error, MEMORY_MAX, Transfer, Tries, in_parallel, io_error};
use crate::channel::blob_call;
use crate::encoding::Encoding;
use crate::status::is_final;
use crate::v1;
use crate::v1::get_blob_response::Part as Down;

impl Transfer {
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
