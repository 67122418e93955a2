//! The long-lived stream: heartbeats up, commands down. It is opened again
//! whenever it breaks.

use std::sync::Arc;
use std::time::Duration;

use domain::id::TaskKey;
use domain::runner::task::FencingToken;
use domain::study::stage::Progress;
use proto::backoff::Backoff;
use proto::convert::token;
use proto::status::{is_final, refused};
use proto::v1;
use proto::v1::session_request::Message as Up;
use proto::v1::session_response::Message as Down;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::shared::Shared;

/// Pauses while the coordinator is away.
pub(crate) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Keeps a session open until `done`; ends with an error only if the coordinator
/// refuses this worker for good.
pub(crate) async fn run(shared: Arc<Shared>, done: CancellationToken) -> Result<(), Status> {
    let mut backoff = BACKOFF;
    let mut was_welcomed = false;
    loop {
        let mut welcomed = false;
        let ended = tokio::select! {
            ended = one_session(&shared, &mut welcomed) => ended,
            () = done.cancelled() => return Ok(()),
        };
        shared.set_connected(false);
        match ended {
            Err(status) if is_final(&status) => return Err(status),
            // At first somebody has to mend it; later what runs is worth a wait.
            Err(status) if refused(&status).is_some() && !(was_welcomed || welcomed) => return Err(status),
            Err(status) if refused(&status).is_some() => tracing::warn!(reason = status.message(), "waiting"),
            Err(status) => tracing::debug!(reason = status.message(), "no session"),
            Ok(()) => tracing::debug!("the coordinator ended the session"),
        }
        was_welcomed |= welcomed;
        if welcomed {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            () = done.cancelled() => return Ok(()),
        }
    }
}

async fn one_session(shared: &Shared, welcomed: &mut bool) -> Result<(), Status> {
    let (up, requests) = mpsc::channel(4);
    let offer = shared.config.offer();
    let hello = v1::Hello {
        worker_id: shared.id.0.clone(),
        name: shared.config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: proto::PROTOCOL,
        slots: offer.slots,
        stages: offer.stages.into_iter().map(|(name, version)| v1::StageVersion { name, version }).collect(),
        gpus: offer.gpus.into_iter().map(v1::Gpu::from).collect(),
        memory_mib: offer.memory_mib,
        labels: offer.labels.into_iter().collect(),
    };
    // The channel is empty: there is room.
    let _ = up.try_send(v1::SessionRequest { message: Some(Up::Hello(hello)) });
    let mut client = WorkerServiceClient::new(shared.channel.clone());
    let mut down = client.session(ReceiverStream::new(requests)).await?.into_inner();
    let mut heartbeat = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            message = down.message() => match message?.and_then(|response| response.message) {
                Some(Down::Welcome(welcome)) => {
                    *welcomed = true;
                    shared.set_connected(true);
                    heartbeat = tokio::time::interval(Duration::from_millis(u64::from(welcome.heartbeat_ms.max(10))));
                    shared.welcomed.notify_one();
                }
                Some(Down::StopAttempt(stop)) => {
                    if let Ok(token) = token(stop.token) {
                        shared.revoke(token);
                    }
                }
                Some(Down::PreemptAttempt(preempt)) => {
                    if let Ok(token) = token(preempt.token) {
                        shared.preempt(token);
                    }
                }
                Some(Down::Drain(_)) => shared.draining.cancel(),
                None => return Ok(()),
            },
            _ = heartbeat.tick() => {
                if up.send(beat(shared)).await.is_err() {
                    return Ok(());
                }
            }
            () = shared.news.notified() => {
                if up.send(beat(shared)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

fn beat(shared: &Shared) -> v1::SessionRequest {
    let attempt = |(token, task, progress): (FencingToken, TaskKey, Progress)| v1::AttemptProgress {
        task_key: task.to_string(),
        token: token.0,
        done: progress.done,
        total: progress.total,
        note: progress.note,
        values: progress.values.into(),
    };
    let attempts = shared.attempts().into_iter().map(attempt).collect();
    v1::SessionRequest { message: Some(Up::Heartbeat(v1::Heartbeat { attempts })) }
}
