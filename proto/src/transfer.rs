//! Artifacts to and from folders, for whoever is not the coordinator.
//!
//! Files are streamed, so memory does not grow with their size, and every
//! digest is checked where the bytes arrive.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use domain::artifact::{Entry, InvalidManifest, Manifest};
use domain::digest::Digest;
use tokio::fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::channel::{blob_call, call};
use crate::v1;
use crate::v1::artifact_service_client::ArtifactServiceClient;

/// Bytes per message.
pub const CHUNK: usize = 256 * 1024;

/// Files on their way at once.
const PARALLEL: usize = 8;

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

fn hash(file: std::fs::File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().into())
}

/// A connection that moves artifacts.
#[derive(Clone, Debug)]
pub struct Transfer {
    client: ArtifactServiceClient<Channel>,
}

impl Transfer {
    /// Over that connection.
    pub fn new(channel: Channel) -> Self {
        Self { client: ArtifactServiceClient::new(channel) }
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

    /// Stores what is missing of several folders, with one question about what is.
    ///
    /// # Errors
    /// As [`Transfer::push`].
    pub async fn push_many(&self, folders: &[(PathBuf, Manifest)]) -> Result<(), Error> {
        let mut files: Vec<(PathBuf, Digest)> = Vec::new();
        for (root, manifest) in folders {
            files.extend(manifest.entries().iter().map(|entry| (root.join(&entry.path), entry.digest)));
        }
        let mut digests: Vec<Digest> = files.iter().map(|(_, digest)| *digest).collect();
        digests.extend(folders.iter().map(|(_, manifest)| manifest.digest()));
        let missing = self.missing(digests).await?;
        self.put_files(files, &missing).await?;
        // A manifest is stored after its files, so that one that exists is whole.
        for (_, manifest) in folders {
            if missing.contains(&manifest.digest()) {
                self.put_bytes(manifest.to_bytes(), manifest.digest()).await?;
            }
        }
        Ok(())
    }

    /// Stores what is missing of a folder, but not its manifest.
    ///
    /// # Errors
    /// As [`Transfer::push`].
    pub async fn push_files(&self, root: &Path, manifest: &Manifest) -> Result<(), Error> {
        if manifest.entries().is_empty() {
            return Ok(());
        }
        let missing = self.missing(manifest.entries().iter().map(|entry| entry.digest).collect()).await?;
        let files = manifest.entries().iter().map(|entry| (root.join(&entry.path), entry.digest)).collect();
        self.put_files(files, &missing).await
    }

    async fn put_files(&self, files: Vec<(PathBuf, Digest)>, missing: &BTreeSet<Digest>) -> Result<(), Error> {
        let mut sent = BTreeSet::new();
        let mut uploads = JoinSet::new();
        for (path, digest) in files {
            if !missing.contains(&digest) || !sent.insert(digest) {
                continue;
            }
            if uploads.len() >= PARALLEL
                && let Some(done) = uploads.join_next().await
            {
                done??;
            }
            let this = self.clone();
            uploads.spawn(async move { this.put_file(&path, digest).await });
        }
        while let Some(done) = uploads.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Which of these the coordinator does not have.
    async fn missing(&self, digests: Vec<Digest>) -> Result<BTreeSet<Digest>, Error> {
        let digests = digests.iter().map(Digest::to_string).collect();
        let answer = self.client.clone().find_missing(call(v1::FindMissingRequest { digests })).await?;
        Ok(answer.into_inner().digests.iter().filter_map(|text| text.parse().ok()).collect())
    }

    async fn put_file(&self, path: &Path, digest: Digest) -> Result<(), Error> {
        let mut file = fs::File::open(path).await.map_err(io_error("read", path))?;
        let (sender, receiver) = mpsc::channel(4);
        let read = async {
            let sender = sender;
            let mut name = digest.to_string();
            loop {
                let mut data = vec![0; CHUNK];
                let length = file.read(&mut data).await.map_err(io_error("read", path))?;
                data.truncate(length);
                let last = length == 0;
                let digest = std::mem::take(&mut name);
                let sent = sender.send(v1::PutBlobRequest { digest, data }).await;
                // A closed channel means that the call has ended; its status says why.
                if last || sent.is_err() {
                    return Ok::<(), Error>(());
                }
            }
        };
        let mut client = self.client.clone();
        let put = client.put_blob(blob_call(ReceiverStream::new(receiver)));
        let (read, put) = tokio::join!(read, put);
        read?;
        put?;
        Ok(())
    }

    async fn put_bytes(&self, bytes: Vec<u8>, digest: Digest) -> Result<(), Error> {
        let mut digest = digest.to_string();
        let chunks = bytes
            .chunks(CHUNK)
            .map(|data| v1::PutBlobRequest { digest: std::mem::take(&mut digest), data: data.to_vec() });
        let chunks: Vec<_> = chunks.collect();
        self.client.clone().put_blob(blob_call(tokio_stream::iter(chunks))).await?;
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
    /// If it is not stored or damaged.
    pub async fn bytes(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let request = v1::GetBlobRequest { digest: digest.to_string(), offset: 0 };
        let mut chunks = self.client.clone().get_blob(blob_call(request)).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            bytes.extend_from_slice(&chunk.data);
        }
        match Digest::of(&bytes) == digest {
            true => Ok(bytes),
            false => Err(Error::Damaged { digest }),
        }
    }

    /// Writes a file to `path`: under another name first, so that a file that
    /// exists is whole.
    ///
    /// # Errors
    /// If it is not stored, damaged, or cannot be written.
    pub async fn get_file(&self, digest: Digest, path: &Path) -> Result<(), Error> {
        let partial = path.with_extension("partial");
        let mut file = fs::File::create(&partial).await.map_err(io_error("create", &partial))?;
        let request = v1::GetBlobRequest { digest: digest.to_string(), offset: 0 };
        let mut chunks = self.client.clone().get_blob(blob_call(request)).await?.into_inner();
        let mut hasher = blake3::Hasher::new();
        while let Some(chunk) = chunks.message().await? {
            hasher.update(&chunk.data);
            file.write_all(&chunk.data).await.map_err(io_error("write", &partial))?;
        }
        file.flush().await.map_err(io_error("write", &partial))?;
        drop(file);
        if Digest::from(hasher.finalize()) != digest {
            return Err(Error::Damaged { digest });
        }
        fs::rename(&partial, path).await.map_err(io_error("rename", &partial))
    }

    /// Writes an artifact's files below `root`, or those at the paths given.
    ///
    /// # Errors
    /// As [`Transfer::get_file`].
    pub async fn pull(&self, artifact: Digest, only: &[String], root: &Path) -> Result<Manifest, Error> {
        let manifest = self.manifest(artifact).await?;
        let wanted = |entry: &&Entry| only.is_empty() || only.contains(&entry.path);
        for entry in manifest.entries().iter().filter(wanted) {
            let path = root.join(&entry.path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).await.map_err(io_error("create", folder))?;
            }
            self.get_file(entry.digest, &path).await?;
        }
        Ok(manifest)
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
