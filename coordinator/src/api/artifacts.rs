//! The gRPC service for files: uploads, downloads, collection and checks.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use domain::digest::Digest;
use domain::runner::registry::IdentityId;
use proto::convert::{digest, invalid};
use proto::encoding::{Check, Encoding};
use proto::status::{Reason, again_in, reason, status};
use proto::transfer::{CHUNK, DIGESTS_MAX};
use proto::v1;
use proto::v1::artifact_service_server::{ArtifactService, ArtifactServiceServer};
use proto::v1::get_blob_response::Part as Down;
use proto::v1::put_blob_request::Part as Up;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::access::Caller;
use crate::api::internal;
use crate::background::Background;
use crate::blobs::upload::{Start, check_session};
use crate::blobs::{Blobs, Error, Reader};
use crate::config::Limits;
use crate::driver::Handle;
use crate::gc;
use crate::seats::Seat;
use crate::telemetry;

/// Largest piece of a file in one message, in bytes.
const PIECE_MAX: usize = 1024 * 1024;

/// Largest accepted message, in bytes: a full list of digests, or a piece of a file.
const MESSAGE_MAX: usize = 2 * 1024 * 1024;

/// Number of pieces that are buffered for a reader.
const PIECES: usize = 4;

/// Most digests that the answer to a collection names.
const NAMED: usize = 1000;

/// Suggested pause before a retry when another collection or check is under way.
const UPKEEP_PAUSE: Duration = Duration::from_secs(10);

/// Least time between two messages that only report progress.
const PROGRESS: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Artifacts {
    driver: Handle,
    blobs: Blobs,
    background: Background,
    /// Permits one call at a time to search for the task that made a lost blob.
    looking_back: Arc<Semaphore>,
    /// Time after which a reader that takes nothing loses its stream.
    reader_pause: Duration,
}

impl Artifacts {
    /// A service that uses this driver and this store.
    pub fn new(driver: Handle, blobs: Blobs, background: Background, limits: &Limits) -> Self {
        let looking_back = Arc::new(Semaphore::new(1));
        Self { driver, blobs, background, looking_back, reader_pause: limits.reader_pause }
    }

    /// The gRPC server of this service with its size limits.
    pub fn server(self) -> ArtifactServiceServer<Self> {
        ArtifactServiceServer::new(self).max_decoding_message_size(MESSAGE_MAX)
    }
}

/// The status for a blob that cannot be read. If the blob is lost, the status names the task
/// that made it, unless another call is searching for such a task.
async fn explain(driver: &Handle, blobs: &Blobs, turns: &Semaphore, digest: Digest, error: Error) -> Status {
    let is_lost = matches!(error, Error::Unknown(_) | Error::Damaged { .. });
    let refused = Status::from(error);
    let Ok(_turn) = turns.try_acquire() else { return refused };
    let way_back = if is_lost { gc::way_back(driver, blobs, digest).await } else { None };
    match (way_back, reason(&refused)) {
        (Some(hint), Some(reason)) => status(reason, format!("{}; {hint}", refused.message())),
        _ => refused,
    }
}

fn start(first: Option<v1::PutBlobRequest>, identity: Option<IdentityId>) -> Result<Start, Status> {
    let Some(Up::Start(start)) = first.and_then(|message| message.part) else {
        return Err(invalid("start", "has to come first").into());
    };
    let start = Start {
        digest: digest("digest", &start.digest)?,
        session: start.session,
        encoding: Encoding::decode_field(start.encoding)?,
        size: start.size,
        offset: start.offset,
        identity,
    };
    check_session(&start.session)?;
    Ok(start)
}

/// The next bytes of an upload; none at its end.
async fn next(messages: &mut Streaming<v1::PutBlobRequest>) -> Result<Option<Vec<u8>>, Status> {
    match messages.message().await?.map(|message| message.part) {
        None => Ok(None),
        Some(Some(Up::Data(data))) if data.len() <= PIECE_MAX => Ok(Some(data)),
        Some(Some(Up::Data(data))) => {
            Err(invalid("data", format!("has {} bytes, at most {PIECE_MAX} are taken at once", data.len())).into())
        }
        Some(Some(Up::Start(_))) => Err(invalid("start", "came twice").into()),
        Some(None) => Err(invalid("part", "is missing").into()),
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
            return Err(
                invalid("digests", format!("are {}, at most {DIGESTS_MAX} are taken at once", asked.len())).into()
            );
        }
        let asked = asked.iter().map(|text| digest("digests", text)).collect::<Result<Vec<Digest>, _>>()?;
        let missing = self.blobs.missing(asked).await?;
        Ok(Response::new(v1::FindMissingResponse { digests: missing.iter().map(Digest::to_string).collect() }))
    }

    async fn get_upload_offset(
        &self,
        request: Request<v1::GetUploadOffsetRequest>,
    ) -> Result<Response<v1::GetUploadOffsetResponse>, Status> {
        let request = request.into_inner();
        let (digest, encoding) = (digest("digest", &request.digest)?, Encoding::decode_field(request.encoding)?);
        check_session(&request.session)?;
        let offset = self.blobs.arrived(digest, &request.session, encoding);
        Ok(Response::new(v1::GetUploadOffsetResponse { offset }))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        let identity = Caller::of(&request).identity();
        let mut messages = request.into_inner();
        let start = start(messages.message().await?, identity)?;
        if self.blobs.has(start.digest).await? {
            return Ok(Response::new(v1::PutBlobResponse {}));
        }
        let blobs = self.blobs.clone();
        let mut upload = spawn_blocking(move || blobs.begin(start)).await.map_err(internal)??;
        // A thread is taken for each piece, not for the file: a client may be slow.
        loop {
            match next(&mut messages).await {
                Ok(None) => break,
                Ok(Some(data)) => {
                    telemetry::came_in(data.len());
                    let write = move || upload.write(&data).map(|()| upload);
                    upload = spawn_blocking(write).await.map_err(internal)??;
                }
                // After a broken stream, what has arrived stays for the next call; of what
                // makes no sense, nothing is kept.
                Err(status) => {
                    if matches!(status.code(), Code::InvalidArgument | Code::OutOfRange) {
                        upload.discard();
                    }
                    return Err(status);
                }
            }
        }
        self.blobs.finish(upload).await?;
        Ok(Response::new(v1::PutBlobResponse {}))
    }

    type GetBlobStream = Pin<Box<dyn Stream<Item = Result<v1::GetBlobResponse, Status>> + Send>>;

    async fn get_blob(&self, request: Request<v1::GetBlobRequest>) -> Result<Response<Self::GetBlobStream>, Status> {
        let seat = Seat::of(&request);
        let request = request.into_inner();
        let name = digest("digest", &request.digest)?;
        let had = match request.offset {
            0 => None,
            _ => Some(Encoding::decode_field(request.encoding)?),
        };
        let (driver, blobs, turns) = (self.driver.clone(), self.blobs.clone(), self.looking_back.clone());
        let reader = match blobs.reader(name).await {
            Err(error) => return Err(explain(&driver, &blobs, &turns, name, error).await),
            Ok(reader) => reader,
        };
        let offset = if had == Some(reader.encoding) { request.offset } else { 0 };
        if offset > reader.size {
            return Err(invalid("offset", format!("is {offset}, but {} bytes are stored", reader.size)).into());
        }
        let start =
            v1::GetBlobStart { encoding: v1::Encoding::from(reader.encoding).into(), stored_size: reader.size, offset };
        let file = Outgoing::new(reader, name, offset).map_err(internal)?;
        let (sender, receiver) = mpsc::channel(PIECES);
        let pause = self.reader_pause;
        self.background.spawn(async move {
            let sent = file.send(start, &sender, pause).await;
            if let Some(seat) = seat {
                seat.make_way();
            }
            let refused = match sent {
                Ok(()) => return,
                Err(Unsent::Suspect) => explain(&driver, &blobs, &turns, name, blobs.suspect(name).await).await,
                Err(Unsent::Failed(error)) => Status::unavailable(format!("{}: {error}", name.short())),
                Err(Unsent::Slow) => {
                    let problem = format!("nothing of {} was taken for {} s", name.short(), pause.as_secs());
                    status(Reason::TooSlow, problem)
                }
            };
            // A client that has gone away needs no reason.
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
        let turn = blobs.upkeep().ok_or_else(under_way)?;
        let (sender, receiver) = mpsc::channel(4);
        self.background.spawn(async move {
            let mut last = gc::Scan::default();
            let mut told = std::time::Instant::now();
            let tell = |progress: gc::Scan| {
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
            // Not held by a client that does not read the end.
            drop(turn);
            let _ = sender.send(end).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectGarbageRequest>,
    ) -> Result<Response<v1::CollectGarbageResponse>, Status> {
        let v1::CollectGarbageRequest { grace_seconds, dry_run } = request.into_inner();
        let _turn = self.blobs.upkeep().ok_or_else(under_way)?;
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

/// Why a file was not sent to its end.
enum Unsent {
    /// The bytes read do not match the digest.
    Suspect,
    /// The file cannot be read.
    Failed(io::Error),
    /// The client reads nothing.
    Slow,
}

/// A stored file that is being sent to a client and checked meanwhile.
struct Outgoing {
    reader: Reader,
    name: Digest,
    check: Check,
    /// Stored bytes that the client has and that have not been read for the check.
    known: u64,
}

impl Outgoing {
    fn new(reader: Reader, name: Digest, offset: u64) -> io::Result<Self> {
        let check = Check::new(reader.encoding, u64::MAX)?;
        Ok(Self { reader, name, check, known: offset })
    }

    /// Sends the file as fast as the client reads, until the end or until the client has gone.
    /// No thread waits meanwhile: one is taken for each piece.
    async fn send(
        mut self,
        start: v1::GetBlobStart,
        pieces: &mpsc::Sender<Result<v1::GetBlobResponse, Status>>,
        pause: Duration,
    ) -> Result<(), Unsent> {
        let mut part = Down::Start(start);
        loop {
            let room = tokio::time::timeout(pause, pieces.reserve()).await.map_err(|_| Unsent::Slow)?;
            // A closed channel means that the client has gone away.
            let Ok(room) = room else { return Ok(()) };
            room.send(Ok(v1::GetBlobResponse { part: Some(part) }));
            let read = move || {
                let piece = self.next();
                (self, piece)
            };
            let (this, piece) = spawn_blocking(read).await.map_err(|error| Unsent::Failed(error.into()))?;
            match piece? {
                Some(data) => {
                    telemetry::went_out(data.len());
                    part = Down::Data(data);
                }
                None => return this.end(),
            }
            self = this;
        }
    }

    /// The next bytes that the client does not have; none at the end. Blocks.
    fn next(&mut self) -> Result<Option<Vec<u8>>, Unsent> {
        loop {
            let mut data = Vec::with_capacity(CHUNK);
            (&mut self.reader).take(CHUNK as u64).read_to_end(&mut data).map_err(Unsent::Failed)?;
            if data.is_empty() {
                return Ok(None);
            }
            self.check.update(&data).map_err(|_| Unsent::Suspect)?;
            let known = usize::try_from(self.known).unwrap_or(usize::MAX).min(data.len());
            self.known -= known as u64;
            match known {
                0 => return Ok(Some(data)),
                _ if known < data.len() => return Ok(Some(data.split_off(known))),
                _ => {}
            }
        }
    }

    /// Checks that all bytes read match the digest.
    fn end(self) -> Result<(), Unsent> {
        match self.check.finish() {
            Ok((digest, _)) if digest == self.name => Ok(()),
            _ => Err(Unsent::Suspect),
        }
    }
}

/// The status for a second collection or check, which would only interfere with the one under
/// way.
fn under_way() -> Status {
    again_in(UPKEEP_PAUSE, "a collection or a check of stored files is under way; try again when it has ended")
}

fn verified(progress: gc::Scan) -> v1::VerifyArtifactsResponse {
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
        gc::Damage::Corrupt => "corrupt",
        gc::Damage::Missing => "missing",
        gc::Damage::Unreadable => "unreadable",
    };
    v1::ArtifactProblem {
        digest: problem.digest.to_string(),
        kind: kind.to_owned(),
        tasks: problem.tasks,
        makers: problem.makers.iter().map(ToString::to_string).collect(),
        why: problem.why,
    }
}
