//! Files on their way from the coordinator.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use domain::artifact::{Entry, MANIFEST_MAX, Manifest};
use domain::digest::Digest;
use domain::id::ArtifactId;
use tokio::fs;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tonic::Code;

use super::half::Half;
use super::{Error, MEMORY_MAX, Transfer, in_parallel, tries};
use crate::link::channel::blob_call;
use crate::link::encoding::Encoding;
use crate::path_error::io_error;
use crate::status::is_final;
use crate::v1;
use crate::v1::get_blob_response::Part as Down;

impl Transfer {
    /// Fetches the manifest of an artifact.
    ///
    /// # Errors
    /// If it is not stored or not a manifest.
    pub async fn manifest(&self, artifact: ArtifactId) -> Result<Manifest, Error> {
        let bytes = self.bytes_up_to(artifact.0, MANIFEST_MAX as u64).await?;
        Manifest::from_bytes(&bytes).map_err(|error| Error::NotAManifest { artifact, problem: error.to_string() })
    }

    /// Fetches a small file into memory.
    ///
    /// # Errors
    /// If it is not stored, damaged, or too large.
    pub async fn bytes(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        self.bytes_up_to(digest, MEMORY_MAX).await
    }

    async fn bytes_up_to(&self, digest: Digest, most: u64) -> Result<Vec<u8>, Error> {
        let mut tries = tries();
        loop {
            match self.bytes_once(digest, most).await {
                Err(Error::Rpc(status)) if !is_final(&status) => tries.again(Error::Rpc(status)).await?,
                ended => return ended,
            }
        }
    }

    async fn bytes_once(&self, digest: Digest, most: u64) -> Result<Vec<u8>, Error> {
        let (start, mut chunks) = self.get(digest, 0, Encoding::Raw).await?;
        let stored_max = start.encoding.stored_max(most);
        if start.stored_size > stored_max {
            return Err(Error::TooLarge { digest, most });
        }
        let mut stored = Vec::new();
        while let Some(data) = next(&mut chunks, digest).await? {
            stored.extend_from_slice(&data);
            if stored.len() as u64 > stored_max {
                return Err(Error::TooLarge { digest, most });
            }
        }
        let mut bytes = Vec::new();
        let damaged = |_| Error::Damaged { digest };
        let raw = start.encoding.decode(io::Cursor::new(stored)).map_err(damaged)?;
        raw.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 > most {
            Err(Error::TooLarge { digest, most })
        } else if Digest::of(&bytes) == digest {
            Ok(bytes)
        } else {
            Err(Error::Damaged { digest })
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
        Ok((Start { encoding, offset: start.offset, stored_size: start.stored_size }, chunks))
    }

    /// Writes a file to `path`: under another name first, so that a file that
    /// exists is whole. What an interruption leaves of it is used by the next call.
    ///
    /// # Errors
    /// If it is not stored, damaged, or cannot be written.
    pub async fn get_file(&self, digest: Digest, path: &Path) -> Result<(), Error> {
        let target = path.to_owned();
        let half = Arc::new(spawn_blocking(move || Half::take(digest, &target)).await??);
        let mut tries = tries();
        loop {
            let had = half.arrived();
            let ended = match self.get_rest(digest, &half, had).await {
                Ok(encoding) => {
                    let gathered = half.clone();
                    match spawn_blocking(move || gathered.publish(encoding)).await? {
                        // What was there before may have been spoilt, by a loss of power for instance.
                        Err(Error::Damaged { .. }) if had.1 > 0 => continue,
                        ended => return ended,
                    }
                }
                // More than is stored, perhaps: it was stored anew in another form.
                Err(Error::Rpc(status)) if status.code() == Code::InvalidArgument && had.1 > 0 => {
                    half.clear();
                    continue;
                }
                Err(Error::Rpc(status)) if !is_final(&status) => Error::Rpc(status),
                Err(error) => return Err(error),
            };
            if half.arrived().1 > had.1 {
                tries.reset();
            }
            tries.again(ended).await?;
        }
    }

    /// Fetches the bytes of a file that have not arrived yet; returns the form in which all bytes
    /// are there.
    async fn get_rest(
        &self,
        digest: Digest,
        half: &Arc<Half>,
        (had, offset): (Encoding, u64),
    ) -> Result<Encoding, Error> {
        let (start, mut chunks) = self.get(digest, offset, had).await?;
        let (gathering, name) = (half.clone(), half.name(start.encoding));
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(4);
        // Written while the next bytes are on their way.
        let writer = spawn_blocking(move || -> Result<(), Error> {
            let mut file = gathering.writer(start.encoding, start.offset)?;
            while let Some(data) = receiver.blocking_recv() {
                file.write_all(&data).map_err(io_error("write", &name))?;
            }
            Ok(())
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
        writer.await??;
        received?;
        Ok(start.encoding)
    }

    /// Writes an artifact's files below `root`, or those at the paths given.
    ///
    /// # Errors
    /// As [`Transfer::get_file`].
    pub async fn pull(&self, artifact: ArtifactId, only: &[String], root: &Path) -> Result<Manifest, Error> {
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
    stored_size: u64,
}

/// Receives the next bytes of a file; `None` at the end.
async fn next(chunks: &mut Chunks, digest: Digest) -> Result<Option<Vec<u8>>, Error> {
    match chunks.message().await?.map(|message| message.part) {
        None => Ok(None),
        Some(Some(Down::Data(data))) => Ok(Some(data)),
        Some(_) => Err(Error::Answer { digest, problem: "it starts twice".to_owned() }),
    }
}
