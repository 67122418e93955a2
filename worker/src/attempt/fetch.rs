//! What an attempt needs before its program starts.

use domain::study::stage::Stage;
use proto::path_error::io_error;
use proto::status::is_final;
use proto::transfer::Error;

use super::Attempt;
use crate::child::protocol::{ORDER, Order};

impl Attempt<'_> {
    /// Fetches the inputs and writes the order, which no program of others reads, in a
    /// folder made anew.
    pub(super) async fn prepare(&self) -> Result<(), Error> {
        let (grant, folder, store) = (self.grant, &self.folder, &self.shared.store);
        let root = folder.root();
        if root.exists() {
            tokio::fs::remove_dir_all(root).await.map_err(io_error("empty", root))?;
        }
        tokio::fs::create_dir_all(folder.outputs()).await.map_err(io_error("create", root))?;
        for input in &grant.inputs {
            store.materialise(&self.fetching, input.artifact, &input.only, &folder.inputs().join(&input.name)).await?;
        }
        if let Some(checkpoint) = grant.checkpoint
            && let Err(error) = store.materialise(&self.fetching, checkpoint, &[], &folder.checkpoint()).await
        {
            match &error {
                Error::Rpc(status) if !is_final(status) => return Err(error),
                // Without a checkpoint the result is the same, only later.
                _ => tracing::warn!(task = grant.label(), %error, "starts anew: the checkpoint cannot be fetched"),
            }
            tokio::fs::remove_dir_all(folder.checkpoint()).await.ok();
        }
        if let Stage::Command(_) = grant.stage {
            return Ok(());
        }
        let order = Order { stage: grant.stage.clone(), seed: grant.seed, checkpoint: self.shared.config.cadence };
        let bytes = serde_json::to_vec_pretty(&order).map_err(|error| io_error("write", root)(error.into()))?;
        let path = root.join(ORDER);
        Ok(tokio::fs::write(&path, bytes).await.map_err(io_error("write", &path))?)
    }
}
