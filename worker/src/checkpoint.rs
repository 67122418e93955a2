//! Takes away what an attempt leaves to go on from.

use std::path::Path;

use domain::stage::Folder;
use domain::task::Grant;
use proto::channel::call;
use proto::transfer::{self, Transfer};
use proto::v1;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::attempt::retrying;

/// Uploads the newest checkpoint that was announced, again and again until
/// nobody announces any more. One that cannot be stored costs progress, not the
/// attempt.
pub(crate) async fn keep(
    shared: &Shared,
    grant: &Grant,
    folder: &Folder,
    revoked: &CancellationToken,
    mut announced: watch::Receiver<u64>,
) {
    let transfer = Transfer::new(shared.channel.clone());
    while announced.changed().await.is_ok() {
        let step = *announced.borrow_and_update();
        let files = folder.checkpoint_of(step);
        match retrying(shared, revoked, || save(shared, &transfer, grant, &files, step)).await {
            Some(Ok(())) => tracing::debug!(task = grant.label, step, "checkpoint"),
            Some(Err(error)) => tracing::warn!(task = grant.label, step, %error, "a checkpoint could not be stored"),
            None => return,
        }
        remove_up_to(folder, step).await;
    }
}

async fn save(
    shared: &Shared,
    transfer: &Transfer,
    grant: &Grant,
    files: &Path,
    step: u64,
) -> Result<(), transfer::Error> {
    let root = files.to_owned();
    let manifest = tokio::task::spawn_blocking(move || transfer::scan(&root)).await??;
    transfer.push_files(files, &manifest).await?;
    shared.store.keep(files, &manifest);
    let message = v1::SaveCheckpointRequest {
        task_key: grant.task.to_string(),
        token: grant.token.0,
        artifact: manifest.digest().to_string(),
        manifest: manifest.to_bytes(),
        step,
    };
    WorkerServiceClient::new(shared.channel.clone()).save_checkpoint(call(message)).await?;
    Ok(())
}

/// Removes a checkpoint that is stored, and older ones that were passed over.
/// What cannot be removed goes with the attempt's folder.
async fn remove_up_to(folder: &Folder, newest: u64) {
    let of_newest = folder.checkpoint_of(newest);
    let Some(all) = of_newest.parent() else { return };
    let Ok(mut entries) = tokio::fs::read_dir(all).await else { return };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let step = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
        if step.is_some_and(|step| step <= newest) {
            let _ = tokio::fs::remove_dir_all(entry.path()).await;
        }
    }
}
