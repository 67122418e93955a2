//! The gRPC service for workers: sessions, leases, results.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::time::Duration;

use domain::id::{ArtifactId, TaskKey};
use domain::resources::Offer;
use domain::runner::scheduler;
use domain::runner::task::{FencingToken, Released, WorkerId};
use proto::convert::{self, InvalidField, LEASES_MAX, digest, invalid, plain, token, worker_id};
use proto::status::{Reason, of_reject, status, verdict};
use proto::v1;
use proto::v1::attempt_end::End;
use proto::v1::session_request::Message;
use proto::v1::worker_service_server::WorkerService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::access::Caller;
use crate::api::internal;
use crate::background::Background;
use crate::blobs::Blobs;
use crate::driver::{Gone, Handle};
use crate::logs::Logs;
use crate::reactor::Knowledge;
use crate::sessions::ToWorker;

/// Messages that may wait for a worker that does not read.
const COMMANDS: usize = 64;

/// Longest time that a call for work waits.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Workers {
    driver: Handle,
    blobs: Blobs,
    logs: Logs,
    heartbeat: Duration,
    background: Background,
}

impl Workers {
    /// A service that uses this driver and these stores.
    pub fn new(driver: Handle, blobs: Blobs, logs: Logs, heartbeat: Duration, background: Background) -> Self {
        Self { driver, blobs, logs, heartbeat, background }
    }

    async fn decide(&self, request: scheduler::Request) -> Result<(), Status> {
        self.driver.request(request).await?.map_err(of_reject)
    }

    /// Checks that attempts, under way or over, are the caller's. Nothing can be changed about
    /// attempts whose holder is no longer known.
    async fn holds(&self, caller: &Caller, tokens: Vec<FencingToken>) -> Result<(), Status> {
        let caller = caller.clone();
        let held = move |knowledge: &Knowledge| {
            let holders = tokens.into_iter().filter_map(|token| knowledge.scheduler.holder(token));
            holders.map(|(_, worker)| worker).try_for_each(|worker| caller.speaks_for(worker))
        };
        self.driver.read(held).await?
    }

    /// The request that follows from an attempt's end, with its files stored. `whole` are
    /// artifacts that were found complete under the same hold on the blobs.
    async fn ending(
        &self,
        attempt: v1::AttemptEnd,
        whole: &mut BTreeMap<String, ArtifactId>,
    ) -> Result<scheduler::Request, Status> {
        let (task, token) = lease(&attempt.task_key, attempt.token)?;
        match attempt.end {
            Some(End::Succeeded(v1::Succeeded { artifact, manifest })) => {
                let artifact = match whole.get(&artifact) {
                    Some(known) => *known,
                    None => {
                        let found = self.stored(&artifact, manifest).await?;
                        whole.insert(artifact, found);
                        found
                    }
                };
                Ok(scheduler::Request::Commit { task, token, artifact })
            }
            Some(End::Failed(v1::Failed { code, message })) => {
                let failure = convert::failure(&code, &message);
                Ok(scheduler::Request::Fail { task, token, failure })
            }
            Some(End::Released(_)) => Ok(scheduler::Request::Release { task, token, why: Released::Preempted }),
            None => Err(invalid("end", "is missing").into()),
        }
    }

    /// The digest of a complete artifact, whose manifest is stored first if it came along.
    async fn stored(&self, artifact: &str, bytes: Vec<u8>) -> Result<ArtifactId, Status> {
        let artifact = digest("artifact", artifact)?;
        let manifest = convert::manifest(artifact, &bytes)?;
        let missing = match &manifest {
            Some(manifest) => self.blobs.first_missing(manifest).await?,
            None => self.blobs.first_missing_of(artifact).await?,
        };
        if let Some(missing) = missing {
            let problem = format!("file {} of the artifact is not stored", missing.short());
            return Err(status(Reason::MissingBlob, problem));
        }
        if manifest.is_some() {
            self.blobs.put_bytes(artifact.0, &bytes).await?;
        }
        Ok(artifact)
    }
}

fn hello(message: v1::Hello) -> Result<(WorkerId, String, Offer), Status> {
    if message.protocol != proto::PROTOCOL {
        let upgrade = if message.protocol < proto::PROTOCOL { "the worker" } else { "the coordinator" };
        let problem = format!(
            "worker {} {} speaks protocol {}, this coordinator {} speaks {}; upgrade {upgrade}",
            plain(&message.name),
            plain(&message.version),
            message.protocol,
            env!("CARGO_PKG_VERSION"),
            proto::PROTOCOL
        );
        return Err(status(Reason::Incompatible, problem));
    }
    let worker = worker_id(&message.worker_id)?;
    Ok((worker, plain(&message.name), convert::offer(message)))
}

#[tonic::async_trait]
impl WorkerService for Workers {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = Caller::of(&request);
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|request| request.message);
        let Some(Message::Hello(message)) = first else {
            return Err(invalid("hello", "has to come first").into());
        };
        let (worker, name, mut offer) = hello(message)?;
        caller.speaks_for(&worker)?;
        if let Caller::Joined { identity, .. } = &caller {
            let identity = identity.clone();
            let known = move |knowledge: &Knowledge| Some(knowledge.registry.identity(&identity).ok()?.labels.clone());
            // What an administrator said of it counts for more than what it says.
            offer.labels.extend(self.driver.read(known).await?.unwrap_or_default());
        }
        let (commands, outgoing): (ToWorker, _) = mpsc::channel(COMMANDS);
        let welcome = v1::session_response::Message::Welcome(v1::Welcome {
            heartbeat_ms: u32::try_from(self.heartbeat.as_millis()).unwrap_or(u32::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        let welcome = tokio_stream::once(Ok(v1::SessionResponse { message: Some(welcome) }));
        let outgoing = ReceiverStream::new(outgoing).map(|message| message.map(v1::SessionResponse::from));
        // The stream ends when the driver lets go of the worker, so nobody else holds on to it.
        let to_worker = commands.downgrade();
        let number = self.driver.open(worker.clone(), name, offer, commands).await?;
        let driver = self.driver.clone();
        let closed = self.background.closed();
        self.background.spawn(async move {
            let mut closed = pin!(closed);
            loop {
                let message = tokio::select! {
                    message = incoming.message() => message,
                    () = &mut closed => break,
                };
                let Ok(Some(request)) = message else { break };
                let Some(Message::Heartbeat(beat)) = request.message else { continue };
                let attempts = match convert::beat(beat) {
                    Ok(attempts) => attempts,
                    Err(error) => {
                        if let Some(commands) = to_worker.upgrade() {
                            // A worker that does not read learns nothing.
                            let _ = commands.try_send(Err(error.into()));
                        }
                        break;
                    }
                };
                if driver.beat(worker.clone(), attempts).await.is_err() {
                    break;
                }
            }
            // A driver that has ended knows of no sessions.
            let _ = driver.close(worker, number).await;
        });
        Ok(Response::new(Box::pin(welcome.chain(outgoing))))
    }

    async fn acquire_leases(
        &self,
        request: Request<v1::AcquireLeasesRequest>,
    ) -> Result<Response<v1::AcquireLeasesResponse>, Status> {
        let caller = Caller::of(&request);
        let v1::AcquireLeasesRequest { worker_id: id, call, max, wait_ms } = request.into_inner();
        let worker = worker_id(&id)?;
        caller.speaks_for(&worker)?;
        let wait = Duration::from_millis(u64::from(wait_ms)).min(WAIT_MAX);
        let grants = tokio::select! {
            grants = self.driver.acquire(worker, call, max.min(LEASES_MAX), wait) => grants?,
            () = self.background.closed() => return Err(Status::unavailable("the coordinator is shutting down")),
        };
        let leases = grants.map_err(of_reject)?.into_iter().map(v1::Lease::from).collect();
        Ok(Response::new(v1::AcquireLeasesResponse { leases }))
    }

    async fn end_attempts(
        &self,
        request: Request<v1::EndAttemptsRequest>,
    ) -> Result<Response<v1::EndAttemptsResponse>, Status> {
        let caller = Caller::of(&request);
        let attempts = convert::ends(request.into_inner())?;
        self.holds(&caller, attempts.iter().filter_map(|attempt| token(attempt.token).ok()).collect()).await?;
        // What is found now must not be collected before the journal names it.
        let _hold = self.blobs.hold().await;
        let (mut requests, mut refusals, mut whole) = (vec![], vec![], BTreeMap::new());
        for attempt in attempts {
            match self.ending(attempt, &mut whole).await {
                Ok(request) => {
                    requests.push(request);
                    refusals.push(Ok(()));
                }
                Err(refused) => refusals.push(Err(refused)),
            }
        }
        let mut decided = self.driver.requests(requests).await?.into_iter();
        let mut decision = || decided.next().ok_or(Gone)?.map_err(of_reject);
        let verdicts = refusals.into_iter().map(|refusal| verdict(refusal.and_then(|()| decision()))).collect();
        Ok(Response::new(v1::EndAttemptsResponse { verdicts }))
    }

    async fn save_checkpoint(
        &self,
        request: Request<v1::SaveCheckpointRequest>,
    ) -> Result<Response<v1::SaveCheckpointResponse>, Status> {
        let caller = Caller::of(&request);
        let v1::SaveCheckpointRequest { task_key, token, artifact, manifest, step } = request.into_inner();
        let (task, token) = lease(&task_key, token)?;
        self.holds(&caller, vec![token]).await?;
        let _hold = self.blobs.hold().await;
        let artifact = self.stored(&artifact, manifest).await?;
        self.decide(scheduler::Request::Checkpoint { task, token, artifact, step }).await?;
        Ok(Response::new(v1::SaveCheckpointResponse {}))
    }

    async fn append_log(
        &self,
        request: Request<v1::AppendLogRequest>,
    ) -> Result<Response<v1::AppendLogResponse>, Status> {
        let caller = Caller::of(&request);
        let v1::AppendLogRequest { task_key, token, offset, bytes } = request.into_inner();
        let (task, token) = lease(&task_key, token)?;
        self.holds(&caller, vec![token]).await?;
        // Also of attempts that have ended: the last lines come after the result.
        let known = self.driver.read(move |knowledge| {
            knowledge.scheduler.task(task)?;
            match knowledge.scheduler.holder(token) {
                Some((held, _)) if held == task => Ok(()),
                _ => Err(scheduler::Reject::Fenced { task, token }),
            }
        });
        known.await?.map_err(of_reject)?;
        let logs = self.logs.clone();
        let appended = tokio::task::spawn_blocking(move || logs.append(task, token, offset, &bytes)).await;
        let size = appended.map_err(internal)??;
        Ok(Response::new(v1::AppendLogResponse { size }))
    }
}

fn lease(task_key: &str, number: u64) -> Result<(TaskKey, FencingToken), InvalidField> {
    Ok((digest("task_key", task_key)?, token(number)?))
}
