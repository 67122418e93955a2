//! Asks for work. The coordinator knows what is free: one call waits there at all
//! times and is answered when there is something that fits.

use std::sync::Arc;
use std::time::Duration;

use domain::runner::task::Grant;
use proto::channel::CALL_DEADLINE;
use proto::convert::LEASES_MAX;
use proto::v1;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status};
use tracing::Instrument;

use crate::session::BACKOFF;
use crate::shared::Shared;
use crate::{attempt, telemetry};

/// How long a call for work waits at the coordinator.
const WAIT: Duration = Duration::from_secs(30);

/// Most bytes of an answer: leases of commands hold what was handed in.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// Leases and starts attempts until the worker drains; then waits for them.
pub(crate) async fn run(shared: Arc<Shared>) {
    let attempts = TaskTracker::new();
    let mut call = 1;
    let mut backoff = BACKOFF;
    while !shared.draining.is_cancelled() {
        let answer = tokio::select! {
            answer = acquire(&shared, call, LEASES_MAX, WAIT) => answer,
            () = shared.draining.cancelled() => break,
        };
        match answer {
            Ok(grants) => {
                backoff.reset();
                // The number stays the same until an answer came, so that one lost on
                // its way is given again.
                call += 1;
                for grant in grants {
                    let (shared, span) = (shared.clone(), telemetry::span(&shared.id, &grant));
                    attempts.spawn(async move { attempt::run(&shared, grant).await }.instrument(span));
                }
            }
            Err(status) => {
                tracing::debug!(reason = status.message(), "no lease");
                tokio::select! {
                    () = tokio::time::sleep(backoff.pause()) => {}
                    () = shared.welcomed.notified() => backoff.reset(),
                    () = shared.draining.cancelled() => {}
                }
            }
        }
    }
    // Leases may have been on their way to the call that was given up.
    if let Some(Ok(grants)) = shared.out_of_time.run_until_cancelled(acquire(&shared, call, 0, Duration::ZERO)).await {
        for grant in grants {
            let (shared, span) = (shared.clone(), telemetry::span(&shared.id, &grant));
            attempts.spawn(async move { attempt::hand_back(&shared, &grant).await }.instrument(span));
        }
    }
    attempts.close();
    attempts.wait().await;
}

async fn acquire(shared: &Shared, call: u64, max: u32, wait: Duration) -> Result<Vec<Grant>, Status> {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let worker_id = shared.id.0.clone();
    let mut message = Request::new(v1::AcquireLeasesRequest { worker_id, call, max, wait_ms });
    message.set_timeout(wait + CALL_DEADLINE);
    let mut client = WorkerServiceClient::new(shared.channel.clone()).max_decoding_message_size(MESSAGE_MAX);
    let answer = client.acquire_leases(message).await?;
    answer.into_inner().leases.into_iter().map(Grant::try_from).collect::<Result<_, _>>().map_err(|error| {
        tracing::error!(%error, "a lease does not decode; is the coordinator newer than this worker?");
        Status::internal(error.to_string())
    })
}
