//! Files in and out.

use std::io::{Read, Seek, SeekFrom};
use std::pin::Pin;

use domain::digest::Digest;
use proto::convert::{digest, invalid};
use proto::status::of_invalid;
use proto::transfer::CHUNK;
use proto::v1;
use proto::v1::artifact_service_server::ArtifactService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::blobs::Blobs;

/// The service.
#[derive(Debug)]
pub struct Artifacts {
    blobs: Blobs,
}

impl Artifacts {
    /// On that store.
    pub fn new(blobs: Blobs) -> Self {
        Self { blobs }
    }
}

/// Runs disk work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?
}

#[tonic::async_trait]
impl ArtifactService for Artifacts {
    async fn find_missing(
        &self,
        request: Request<v1::FindMissingRequest>,
    ) -> Result<Response<v1::FindMissingResponse>, Status> {
        let asked = request.into_inner().digests;
        let asked: Result<Vec<Digest>, _> = asked.iter().map(|text| digest("digests", text)).collect();
        let asked = asked.map_err(|error| of_invalid(&error))?;
        let blobs = self.blobs.clone();
        blocking(move || {
            let missing = asked.into_iter().filter(|digest| !blobs.has(*digest));
            Ok(Response::new(v1::FindMissingResponse { digests: missing.map(|digest| digest.to_string()).collect() }))
        })
        .await
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| of_invalid(&invalid("digest", "is missing")))?;
        let name = digest("digest", &first.digest).map_err(|error| of_invalid(&error))?;
        let blobs = self.blobs.clone();
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(4);
        let store = tokio::task::spawn_blocking(move || -> Result<(), Status> {
            let mut writer = blobs.writer(name)?;
            while let Some(data) = receiver.blocking_recv() {
                writer.write(&data)?;
            }
            writer.finish()?;
            Ok(())
        });
        let mut next = Some(first.data);
        while let Some(data) = next.take() {
            // A closed channel means that the store has given up; it says why below.
            if sender.send(data).await.is_err() {
                break;
            }
            // A broken stream drops the sender unfinished: the digest cannot match then.
            next = chunks.message().await?.map(|chunk| chunk.data);
        }
        drop(sender);
        store.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(v1::PutBlobResponse {}))
    }

    type GetBlobStream = Pin<Box<dyn Stream<Item = Result<v1::GetBlobResponse, Status>> + Send>>;

    async fn get_blob(&self, request: Request<v1::GetBlobRequest>) -> Result<Response<Self::GetBlobStream>, Status> {
        let request = request.into_inner();
        let name = digest("digest", &request.digest).map_err(|error| of_invalid(&error))?;
        let blobs = self.blobs.clone();
        let mut file = blocking(move || Ok(blobs.reader(name)?)).await?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let mut send_all = || -> std::io::Result<()> {
                file.seek(SeekFrom::Start(request.offset))?;
                loop {
                    let mut data = Vec::with_capacity(CHUNK);
                    (&mut file).take(CHUNK as u64).read_to_end(&mut data)?;
                    // A closed channel means that the client has gone away.
                    if data.is_empty() || sender.blocking_send(Ok(v1::GetBlobResponse { data })).is_err() {
                        return Ok(());
                    }
                }
            };
            if let Err(error) = send_all() {
                let _ = sender.blocking_send(Err(Status::internal(error.to_string())));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
