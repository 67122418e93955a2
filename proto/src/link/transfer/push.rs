//! Files on their way to the coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::artifact::Manifest;
use domain::digest::Digest;
use domain::id::ArtifactId;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{CHUNK, DIGESTS_MAX, Error, Transfer, files_of, in_parallel, tries};
use crate::link::channel::{blob_call, call};
use crate::link::encoding::{Encoding, TRIAL};
use crate::path_error::io_error;
use crate::status::is_final;
use crate::v1;
use crate::v1::put_blob_request::Part as Up;

/// Where the bytes of an upload come from.
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
            Self::File(path) => path,
            Self::Bytes(_) => Path::new("memory"),
        };
        io_error("read", path)(source).into()
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

impl Transfer {
    /// Stores what is missing of a folder, then its manifest; returns the
    /// artifact's name.
    ///
    /// # Errors
    /// If a file cannot be read, was changed meanwhile, or cannot be stored.
    pub async fn push(&self, root: &Path, manifest: &Manifest) -> Result<ArtifactId, Error> {
        self.push_many(&[(root.to_owned(), manifest.clone())]).await?;
        Ok(manifest.id())
    }

    /// Stores what is missing of several folders.
    ///
    /// # Errors
    /// As [`Transfer::push`].
    pub async fn push_many(&self, folders: &[(PathBuf, Manifest)]) -> Result<(), Error> {
        let files = folders.iter().flat_map(|(root, manifest)| files_of(root, manifest));
        let manifests = folders.iter().map(|(_, manifest)| manifest.id().0);
        let missing = self.missing(files.clone().map(|(_, digest)| digest).chain(manifests)).await?;
        self.put_missing(files, &missing).await?;
        // A manifest is stored after its files, so that one that exists is whole.
        for (_, manifest) in folders {
            if missing.contains(&manifest.id().0) {
                self.put(Source::Bytes(manifest.to_bytes().into()), manifest.id().0).await?;
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

    /// Asks which of these digests the coordinator does not have.
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

    /// Stores one file, and goes on after interruptions.
    async fn put(&self, source: Source, digest: Digest) -> Result<(), Error> {
        let looked = source.clone();
        let (encoding, size) = spawn_blocking(move || Ok::<_, Error>((looked.encoding()?, looked.size()?))).await??;
        let upload = Upload { source, digest, encoding, size };
        let (mut tries, mut offset) = (tries(), 0);
        loop {
            match self.put_from(&upload, offset).await {
                Err(Error::Rpc(status)) if !is_final(&status) || status.code() == Code::DataLoss && offset > 0 => {
                    // What had arrived may have been spoilt, by a loss of power for instance.
                    let spoilt = status.code() == Code::DataLoss;
                    tries.again(Error::Rpc(status)).await?;
                    // Unknown as long as the coordinator is away: the next try fails and asks again.
                    let arrived = if spoilt { 0 } else { self.arrived(&upload).await.unwrap_or(offset) };
                    if arrived > offset {
                        tries.reset();
                    }
                    offset = arrived;
                }
                ended => return ended,
            }
        }
    }

    /// Asks how many bytes of an upload the coordinator has.
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
}
