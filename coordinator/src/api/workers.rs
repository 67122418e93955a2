//! Work for workers.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use domain::digest::Digest;
use domain::plan::Source;
use domain::scheduler;
use domain::stage::Progress;
use domain::task::{FencingToken, Grant, GrantedInput, Released, State, WorkerId};
use proto::convert::{self, InvalidField, digest, invalid, token, worker_id};
use proto::status::{INCOMPATIBLE, NO_SESSION, of_invalid, of_reject, status};
use proto::v1;
use proto::v1::session_request::Message;
use proto::v1::worker_service_server::WorkerService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::blobs::Blobs;
use crate::driver::{Handle, Knowledge};
use crate::sessions::Hello;

/// Commands that may wait for a worker that does not read.
const COMMANDS: usize = 64;

/// The service.
#[derive(Debug)]
pub struct Workers {
    driver: Handle,
    blobs: Blobs,
    heartbeat: Duration,
    closing: CancellationToken,
}

impl Workers {
    /// On that driver and store.
    pub fn new(driver: Handle, blobs: Blobs, heartbeat: Duration, closing: CancellationToken) -> Self {
        Self { driver, blobs, heartbeat, closing }
    }

    async fn decide(&self, request: scheduler::Request) -> Result<(), Status> {
        self.driver.request(request).await?.map_err(|reject| of_reject(&reject))
    }
}

fn hello(message: v1::Hello) -> Result<Hello, Status> {
    if message.protocol != proto::PROTOCOL {
        let upgrade = if message.protocol < proto::PROTOCOL { "the worker" } else { "the coordinator" };
        let problem = format!(
            "worker {} {} speaks protocol {}, this coordinator {} speaks {}; upgrade {upgrade}",
            message.name,
            message.version,
            message.protocol,
            env!("CARGO_PKG_VERSION"),
            proto::PROTOCOL
        );
        return Err(status(Code::FailedPrecondition, INCOMPATIBLE, problem));
    }
    let worker = worker_id(&message.worker_id).map_err(|error| of_invalid(&error))?;
    let stages = message.stages.into_iter().map(|stage| (stage.name, stage.version)).collect::<BTreeSet<_>>();
    let name = message.name.chars().filter(|c| !c.is_control()).take(100).collect();
    Ok(Hello { worker, name, slots: message.slots, stages })
}

fn progress(attempt: v1::AttemptProgress) -> Result<(Digest, FencingToken, Progress), InvalidField> {
    let note = attempt.note.chars().filter(|c| !c.is_control()).take(200).collect();
    let progress = Progress { done: attempt.done, total: attempt.total, note };
    Ok((digest("task_key", &attempt.task_key)?, token(attempt.token)?, progress))
}

/// The lease that a call was answered with, its inputs known by artifact.
fn granted(knowledge: &Knowledge, worker: &WorkerId, request: u64) -> Option<Grant> {
    let (task, lease) = knowledge.scheduler.lease_for(worker, request)?;
    let artifact = |source: Source| match source {
        Source::Artifact(artifact) => Some(artifact),
        Source::Task(key) => match knowledge.scheduler.task(key).ok()?.state {
            State::Committed { artifact, .. } => Some(artifact),
            _ => None,
        },
    };
    let input = |(name, input): (&String, &domain::plan::Input)| {
        Some(GrantedInput { name: name.clone(), artifact: artifact(input.from)?, only: input.only.clone() })
    };
    Some(Grant {
        task: task.spec.key,
        token: lease.token,
        attempt: lease.attempt,
        label: task.spec.label(),
        stage: task.spec.stage.clone(),
        seed: task.spec.seed,
        inputs: task.spec.inputs.iter().map(input).collect::<Option<_>>()?,
    })
}

#[tonic::async_trait]
impl WorkerService for Workers {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|request| request.message);
        let Some(Message::Hello(message)) = first else {
            return Err(of_invalid(&invalid("hello", "has to come first")));
        };
        let hello = hello(message)?;
        let worker = hello.worker.clone();
        let (commands, outgoing) = mpsc::channel(COMMANDS);
        let welcome = v1::session_response::Message::Welcome(v1::Welcome {
            heartbeat_ms: u32::try_from(self.heartbeat.as_millis()).unwrap_or(u32::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        // The channel is empty: there is room.
        let _ = commands.try_send(Ok(v1::SessionResponse { message: Some(welcome) }));
        let number = self.driver.open(hello, commands).await?;
        let (driver, closing) = (self.driver.clone(), self.closing.clone());
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = incoming.message() => message,
                    () = closing.cancelled() => break,
                };
                let Ok(Some(request)) = message else { break };
                let Some(Message::Heartbeat(beat)) = request.message else { continue };
                let Ok(attempts) = beat.attempts.into_iter().map(progress).collect() else { break };
                if driver.beat(worker.clone(), attempts).await.is_err() {
                    break;
                }
            }
            // A driver that has ended knows of no sessions.
            let _ = driver.close(worker, number).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn acquire_lease(
        &self,
        request: Request<v1::AcquireLeaseRequest>,
    ) -> Result<Response<v1::AcquireLeaseResponse>, Status> {
        let v1::AcquireLeaseRequest { worker_id: id, request } = request.into_inner();
        let worker = worker_id(&id).map_err(|error| of_invalid(&error))?;
        let asked = worker.clone();
        let stages = self
            .driver
            .read(move |knowledge| knowledge.sessions.get(&asked).map(|session| session.hello.stages.clone()))
            .await?;
        let stages = stages.ok_or_else(|| {
            status(Code::FailedPrecondition, NO_SESSION, format!("worker {worker} has no session; open one first"))
        })?;
        self.decide(scheduler::Request::Acquire { worker: worker.clone(), request, stages }).await?;
        let grant = self.driver.read(move |knowledge| granted(knowledge, &worker, request)).await?;
        Ok(Response::new(v1::AcquireLeaseResponse { lease: grant.map(v1::Lease::from) }))
    }

    async fn commit_task(
        &self,
        request: Request<v1::CommitTaskRequest>,
    ) -> Result<Response<v1::CommitTaskResponse>, Status> {
        let message = request.into_inner();
        let decode = || -> Result<_, InvalidField> {
            Ok((digest("task_key", &message.task_key)?, token(message.token)?, digest("artifact", &message.artifact)?))
        };
        let (task, token, artifact) = decode().map_err(|error| of_invalid(&error))?;
        let blobs = self.blobs.clone();
        let missing = tokio::task::spawn_blocking(move || blobs.first_missing(artifact))
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        if let Some(missing) = missing {
            let problem = format!("file {} of the result is not stored", missing.short());
            return Err(status(Code::FailedPrecondition, "MISSING_BLOB", problem));
        }
        self.decide(scheduler::Request::Commit { task, token, artifact }).await?;
        Ok(Response::new(v1::CommitTaskResponse {}))
    }

    async fn fail_task(&self, request: Request<v1::FailTaskRequest>) -> Result<Response<v1::FailTaskResponse>, Status> {
        let message = request.into_inner();
        let (task, token) = lease(&message.task_key, message.token)?;
        let failure = convert::failure(&message.code, &message.message);
        self.decide(scheduler::Request::Fail { task, token, failure }).await?;
        Ok(Response::new(v1::FailTaskResponse {}))
    }

    async fn release_task(
        &self,
        request: Request<v1::ReleaseTaskRequest>,
    ) -> Result<Response<v1::ReleaseTaskResponse>, Status> {
        let message = request.into_inner();
        let (task, token) = lease(&message.task_key, message.token)?;
        self.decide(scheduler::Request::Release { task, token, why: Released::Preempted }).await?;
        Ok(Response::new(v1::ReleaseTaskResponse {}))
    }
}

fn lease(task_key: &str, number: u64) -> Result<(Digest, FencingToken), Status> {
    let decode = || Ok((digest("task_key", task_key)?, token(number)?));
    decode().map_err(|error: InvalidField| of_invalid(&error))
}
