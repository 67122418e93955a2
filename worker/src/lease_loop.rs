//! Asks for work while there are free slots.

use std::sync::Arc;
use std::time::Duration;

use domain::task::Grant;
use proto::channel::call;
use proto::status::{NO_SESSION, reason};
use proto::v1;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::{Shared, attempt};

/// How often to ask without having been told of work: a lost message costs this.
const ASK_ANYWAY: Duration = Duration::from_secs(2);

/// Leases and starts attempts until the worker drains; then waits for them.
pub(crate) async fn run(shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(shared.config.slots.max(1)));
    let attempts = TaskTracker::new();
    let mut request = 1;
    while !shared.draining.is_cancelled() {
        let free = tokio::select! {
            free = slots.clone().acquire_owned() => free,
            () = shared.draining.cancelled() => break,
        };
        let Ok(slot) = free else { break };
        match acquire(&shared, request).await {
            Ok(Some(grant)) => {
                request += 1;
                let shared = shared.clone();
                attempts.spawn(async move {
                    attempt::run(&shared, grant).await;
                    drop(slot);
                    shared.work.notify_one();
                });
            }
            answer => {
                if let Err(status) = answer
                    && reason(&status).as_deref() != Some(NO_SESSION)
                {
                    tracing::debug!(message = status.message(), "no lease");
                }
                drop(slot);
                tokio::select! {
                    () = shared.work.notified() => {}
                    () = tokio::time::sleep(ASK_ANYWAY) => {}
                    () = shared.draining.cancelled() => {}
                }
            }
        }
    }
    attempts.close();
    attempts.wait().await;
}

/// The number stays the same until a lease came of it, so that an answer lost on
/// its way is given again.
async fn acquire(shared: &Shared, request: u64) -> Result<Option<Grant>, Status> {
    let message = v1::AcquireLeaseRequest { worker_id: shared.id.0.clone(), request };
    let answer = WorkerServiceClient::new(shared.channel.clone()).acquire_lease(call(message)).await?;
    let Some(lease) = answer.into_inner().lease else { return Ok(None) };
    Grant::try_from(lease).map(Some).map_err(|error| {
        tracing::error!(%error, "a lease does not decode; is the coordinator newer than this worker?");
        Status::internal(error.to_string())
    })
}
