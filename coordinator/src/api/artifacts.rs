//! Files in and out.

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use domain::digest::Digest;
use proto::convert::{InvalidField, digest, invalid};
use proto::encoding::{Check, Encoding};
use proto::status::{of_invalid, reason, status};
use proto::transfer::{CHUNK, DIGESTS_MAX};
use proto::v1;
use proto::v1::artifact_service_server::{ArtifactService, ArtifactServiceServer};
use proto::v1::get_blob_response::Part as Down;
use proto::v1::put_blob_request::Part as Up;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::blobs::upload::{Start, check_session};
use crate::blobs::{Blobs, Error, Reader};
use crate::driver::Handle;
use crate::gc;

/// Largest piece of a file in one message.
const PIECE_MAX: usize = 1024 * 1024;

/// Largest message taken: a full question about digests, or a piece of a file.
const MESSAGE_MAX: usize = 2 * 1024 * 1024;

/// Files on their way at once, up and down. Each has a thread that may block on
/// a client; they must not use up all that do the other disk work.
const STREAMS: usize = 128;

/// Digests named in the answer to a collection.
const NAMED: usize = 1000;

/// Silence after which an upload gives up its thread and the room promised to it. It
/// can go on later.
const SILENCE: Duration = Duration::from_secs(60);

/// Least time between two messages that only tell progress.
const PROGRESS: Duration = Duration::from_millis(200);

/// The service.
#[derive(Debug)]
pub struct Artifacts {
    driver: Handle,
    blobs: Blobs,
    streams: Arc<Semaphore>,
    /// One call at a time looks for the task that made what is lost.
    looking_back: Arc<Semaphore>,
}

impl Artifacts {
    /// On that driver and store.
    pub fn new(driver: Handle, blobs: Blobs) -> Self {
        let (streams, looking_back) = (Arc::new(Semaphore::new(STREAMS)), Arc::new(Semaphore::new(1)));
        Self { driver, blobs, streams, looking_back }
    }

    /// With its limits.
    pub fn server(self) -> ArtifactServiceServer<Self> {
        ArtifactServiceServer::new(self).max_decoding_message_size(MESSAGE_MAX)
    }
}

/// What to say of a blob that cannot be had. If it is lost, that names the task that
/// made it, unless another call is just looking for one.
async fn explain(driver: &Handle, blobs: &Blobs, turns: &Semaphore, digest: Digest, error: Error) -> Status {
    let is_lost = matches!(error, Error::Unknown(_) | Error::Damaged { .. });
    let refused = Status::from(error);
    let Ok(_turn) = turns.try_acquire() else { return refused };
    let way_back = if is_lost { gc::way_back(driver, blobs, digest).await } else { None };
    match way_back {
        Some(hint) => {
            let why = reason(&refused).unwrap_or_default();
            status(refused.code(), &why, format!("{}; {hint}", refused.message()))
        }
        None => refused,
    }
}

fn refuse(field: &'static str, problem: impl ToString) -> Status {
    of_invalid(&invalid(field, problem))
}

fn start(first: Option<v1::PutBlobRequest>) -> Result<Start, Status> {
    let Some(Up::Start(start)) = first.and_then(|message| message.part) else {
        return Err(refuse("start", "has to come first"));
    };
    let decode = || -> Result<Start, InvalidField> {
        Ok(Start {
            digest: digest("digest", &start.digest)?,
            session: start.session.clone(),
            encoding: Encoding::decode_field(start.encoding)?,
            size: start.size,
            offset: start.offset,
        })
    };
    let start = decode().map_err(|error| of_invalid(&error))?;
    check_session(&start.session)?;
    Ok(start)
}

/// The next bytes of a file; none at its end.
async fn next(messages: &mut Streaming<v1::PutBlobRequest>) -> Result<Option<Vec<u8>>, Status> {
    match messages.message().await?.map(|message| message.part) {
        None => Ok(None),
        Some(Some(Up::Data(data))) if data.len() <= PIECE_MAX => Ok(Some(data)),
        Some(Some(Up::Data(data))) => {
            Err(refuse("data", format!("has {} bytes, at most {PIECE_MAX} are taken at once", data.len())))
        }
        Some(Some(Up::Start(_))) => Err(refuse("start", "came twice")),
        Some(None) => Err(refuse("part", "is missing")),
    }
}

#[tonic::async_trait]
impl ArtifactService for Artifacts {
    async fn find_missing(
        &self,
        request: Request<v1::FindMissingRequest>,
    ) -> Result<Response<v1::FindMissingResponse>, Status> {
        let asked = request.into_inner().digests;
        if asked.len() > DIGESTS_MAX {
            return Err(refuse("digests", format!("are {}, at most {DIGESTS_MAX} are taken at once", asked.len())));
        }
        let asked: Result<Vec<Digest>, _> = asked.iter().map(|text| digest("digests", text)).collect();
        let asked = asked.map_err(|error| of_invalid(&error))?;
        let missing = self.blobs.missing(asked).await?;
        Ok(Response::new(v1::FindMissingResponse { digests: missing.iter().map(Digest::to_string).collect() }))
    }

    async fn get_upload_offset(
        &self,
        request: Request<v1::GetUploadOffsetRequest>,
    ) -> Result<Response<v1::GetUploadOffsetResponse>, Status> {
        let request = request.into_inner();
        let decode = || Ok((digest("digest", &request.digest)?, Encoding::decode_field(request.encoding)?));
        let (digest, encoding) = decode().map_err(|error: InvalidField| of_invalid(&error))?;
        check_session(&request.session)?;
        let offset = self.blobs.arrived(digest, &request.session, encoding);
        Ok(Response::new(v1::GetUploadOffsetResponse { offset }))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        let mut messages = request.into_inner();
        let start = start(messages.message().await?)?;
        if self.blobs.has(start.digest).await? {
            return Ok(Response::new(v1::PutBlobResponse {}));
        }
        let _permit = self.streams.acquire().await.map_err(|error| Status::internal(error.to_string()))?;
        let blobs = self.blobs.clone();
        let (sender, mut receiver) = mpsc::channel::<Result<Vec<u8>, ()>>(4);
        let store = tokio::task::spawn_blocking(move || {
            let mut upload = blobs.begin(start)?;
            while let Some(data) = receiver.blocking_recv() {
                match data {
                    Ok(data) => upload.write(&data)?,
                    Err(()) => upload.discard(),
                }
            }
            Ok::<_, Error>(upload)
        });
        let received = loop {
            let silent = |_| Err(Status::unavailable(format!("no bytes came for {} seconds", SILENCE.as_secs())));
            match tokio::time::timeout(SILENCE, next(&mut messages)).await.unwrap_or_else(silent) {
                Ok(None) => break Ok(()),
                // A closed channel means that the store has given up; it says why below.
                Ok(Some(data)) => {
                    if sender.send(Ok(data)).await.is_err() {
                        break Ok(());
                    }
                }
                Err(status) => {
                    if status.code() == tonic::Code::InvalidArgument || status.code() == tonic::Code::OutOfRange {
                        // What the client sends makes no sense: nothing of it is kept. A send
                        // fails if the store has given up and kept nothing.
                        let _ = sender.send(Err(())).await;
                    }
                    break Err(status);
                }
            }
        };
        drop(sender);
        let upload = store.await.map_err(|error| Status::internal(error.to_string()))??;
        // After a broken stream, what has arrived stays for the next call.
        received?;
        self.blobs.finish(upload).await?;
        Ok(Response::new(v1::PutBlobResponse {}))
    }

    type GetBlobStream = Pin<Box<dyn Stream<Item = Result<v1::GetBlobResponse, Status>> + Send>>;

    async fn get_blob(&self, request: Request<v1::GetBlobRequest>) -> Result<Response<Self::GetBlobStream>, Status> {
        let request = request.into_inner();
        let name = digest("digest", &request.digest).map_err(|error| of_invalid(&error))?;
        let had = match request.offset {
            0 => None,
            _ => Some(Encoding::decode_field(request.encoding).map_err(|error| of_invalid(&error))?),
        };
        let permit = self.streams.clone().acquire_owned().await.map_err(|error| Status::internal(error.to_string()))?;
        let (driver, blobs, turns) = (self.driver.clone(), self.blobs.clone(), self.looking_back.clone());
        let reader = match blobs.reader(name).await {
            Err(error) => return Err(explain(&driver, &blobs, &turns, name, error).await),
            Ok(reader) => reader,
        };
        let offset = if had == Some(reader.encoding) { request.offset } else { 0 };
        if offset > reader.size {
            return Err(refuse("offset", format!("is {offset}, but {} bytes are stored", reader.size)));
        }
        let start =
            v1::GetBlobStart { encoding: v1::Encoding::from(reader.encoding).into(), stored_size: reader.size, offset };
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            // A closed channel means that the client has gone away.
            if sender.send(Ok(v1::GetBlobResponse { part: Some(Down::Start(start)) })).await.is_err() {
                return;
            }
            let pieces = sender.clone();
            let sent = tokio::task::spawn_blocking(move || send(reader, name, offset, &pieces)).await;
            drop(permit);
            let refused = match sent {
                Ok(Sent::Whole | Sent::Unwanted) => return,
                Ok(Sent::Suspect) => explain(&driver, &blobs, &turns, name, blobs.suspect(name).await).await,
                Ok(Sent::Failed(error)) => Status::unavailable(format!("{}: {error}", name.short())),
                Err(error) => Status::internal(error.to_string()),
            };
            let _ = sender.send(Err(refused)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type VerifyArtifactsStream = Pin<Box<dyn Stream<Item = Result<v1::VerifyArtifactsResponse, Status>> + Send>>;

    async fn verify_artifacts(
        &self,
        _: Request<v1::VerifyArtifactsRequest>,
    ) -> Result<Response<Self::VerifyArtifactsStream>, Status> {
        let (driver, blobs) = (self.driver.clone(), self.blobs.clone());
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut last = gc::Progress::default();
            let mut told = std::time::Instant::now();
            let tell = |progress: gc::Progress| {
                last = progress;
                if told.elapsed() >= PROGRESS {
                    told = std::time::Instant::now();
                    // A client that is behind hears of a later one.
                    let _ = sender.try_send(Ok(verified(progress)));
                }
                !sender.is_closed()
            };
            let end = match gc::verify(&driver, &blobs, tell).await {
                Ok(problems) => {
                    let problems = problems.into_iter().map(problem).collect();
                    Ok(v1::VerifyArtifactsResponse { problems, done: true, ..verified(last) })
                }
                Err(error) => Err(error.into()),
            };
            // A client that has gone away wants no more.
            let _ = sender.send(end).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectGarbageRequest>,
    ) -> Result<Response<v1::CollectGarbageResponse>, Status> {
        let v1::CollectGarbageRequest { grace_seconds, dry_run } = request.into_inner();
        let grace = Duration::from_secs(grace_seconds);
        let collected = gc::collect(&self.driver, &self.blobs, grace, dry_run).await?;
        Ok(Response::new(v1::CollectGarbageResponse {
            removed_files: collected.removed.len() as u64,
            removed_bytes: collected.removed.iter().map(|blob| blob.size).sum(),
            kept_files: collected.kept_files,
            kept_bytes: collected.kept_bytes,
            removed_uploads: collected.removed_uploads,
            digests: collected.removed.iter().take(NAMED).map(|blob| blob.digest.to_string()).collect(),
        }))
    }
}

/// How sending a file ended.
enum Sent {
    Whole,
    /// The client has gone away.
    Unwanted,
    /// What was read is not what the digest names.
    Suspect,
    Failed(std::io::Error),
}

/// Sends stored bytes from an offset on and checks all of them meanwhile. Blocks.
fn send(
    mut reader: Reader,
    name: Digest,
    offset: u64,
    pieces: &mpsc::Sender<Result<v1::GetBlobResponse, Status>>,
) -> Sent {
    let mut check = match Check::new(reader.encoding, u64::MAX) {
        Ok(check) => check,
        Err(error) => return Sent::Failed(error),
    };
    let mut position = 0;
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        if let Err(error) = (&mut reader).take(CHUNK as u64).read_to_end(&mut data) {
            return Sent::Failed(error);
        }
        if data.is_empty() {
            break;
        }
        if check.update(&data).is_err() {
            return Sent::Suspect;
        }
        let known = usize::try_from(offset.saturating_sub(position)).unwrap_or(usize::MAX).min(data.len());
        position += data.len() as u64;
        let data = if known == 0 { data } else { data.split_off(known) };
        if !data.is_empty() && pieces.blocking_send(Ok(v1::GetBlobResponse { part: Some(Down::Data(data)) })).is_err() {
            return Sent::Unwanted;
        }
    }
    match check.finish() {
        Ok((digest, _)) if digest == name => Sent::Whole,
        _ => Sent::Suspect,
    }
}

fn verified(progress: gc::Progress) -> v1::VerifyArtifactsResponse {
    v1::VerifyArtifactsResponse {
        checked_files: progress.checked_files,
        total_files: progress.total_files,
        checked_bytes: progress.checked_bytes,
        problems: vec![],
        done: false,
    }
}

fn problem(problem: gc::Problem) -> v1::ArtifactProblem {
    let kind = match problem.kind {
        gc::Kind::Corrupt => "corrupt",
        gc::Kind::Missing => "missing",
        gc::Kind::Unreadable => "unreadable",
    };
    v1::ArtifactProblem {
        digest: problem.digest.to_string(),
        kind: kind.to_owned(),
        tasks: problem.tasks,
        makers: problem.makers.iter().map(Digest::to_string).collect(),
        why: problem.why,
    }
}
