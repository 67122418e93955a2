//! Takes away what an attempt leaves to go on from.

use domain::study::stage::Folder;
use proto::channel::call;
use proto::transfer::{self, Error};
use proto::v1;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio::sync::watch;

use super::Attempt;

impl Attempt<'_> {
    /// Uploads the newest checkpoint that was announced, again and again until
    /// nobody announces any more. A checkpoint that cannot be stored costs progress,
    /// not the attempt.
    pub(super) async fn keep_checkpoints(&self, mut announced: watch::Receiver<u64>) {
        let task = self.grant.label();
        while announced.changed().await.is_ok() {
            let step = *announced.borrow_and_update();
            match self.retrying(|| self.save_checkpoint(step)).await {
                Some(Ok(())) => tracing::debug!(task, step, "checkpoint"),
                Some(Err(error)) => tracing::warn!(task, step, %error, "a checkpoint could not be stored"),
                None => return,
            }
            remove_up_to(&self.folder, step).await;
        }
    }

    async fn save_checkpoint(&self, step: u64) -> Result<(), Error> {
        let files = self.folder.checkpoint_of(step);
        let root = files.clone();
        let manifest = tokio::task::spawn_blocking(move || transfer::scan(&root)).await??;
        self.storing.push_files(&files, &manifest).await?;
        self.shared.store.keep(&files, &manifest);
        let message = v1::SaveCheckpointRequest {
            task_key: self.grant.task.to_string(),
            token: self.grant.token.0,
            artifact: manifest.id().to_string(),
            manifest: manifest.to_bytes(),
            step,
        };
        WorkerServiceClient::new(self.shared.channel.clone()).save_checkpoint(call(message)).await?;
        Ok(())
    }
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
