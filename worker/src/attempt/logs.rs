//! Brings what an attempt says to the coordinator, while it runs and after it.

use std::path::Path;
use std::time::Duration;

use proto::channel::call;
use proto::v1;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Attempt;
use crate::child::protocol::LOG;

/// How often to look for more.
const LOOK: Duration = Duration::from_millis(500);

/// Bytes of one message.
const PIECE: usize = 256 * 1024;

impl Attempt<'_> {
    /// Sends what the attempt's log holds, and what is added to it until `ended`. A
    /// coordinator that is away after the end is not waited for: what people would
    /// read is lost, nothing else.
    pub(super) async fn follow_log(&self, ended: &CancellationToken) {
        let path = self.folder.root().join(LOG);
        let mut sent = 0;
        loop {
            let is_over = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                () = ended.cancelled() => true,
            };
            loop {
                let piece = read(&path, sent).await.unwrap_or_default();
                if piece.is_empty() {
                    break;
                }
                match self.append_log(sent, piece).await {
                    // Less than was sent if the coordinator lost some of it.
                    Ok(size) if size != sent => sent = size,
                    // Told again when the coordinator is back.
                    _ => break,
                }
            }
            if is_over {
                return;
            }
        }
    }

    async fn append_log(&self, offset: u64, bytes: Vec<u8>) -> Result<u64, Status> {
        let (task_key, token) = (self.grant.task.to_string(), self.grant.token.0);
        let message = v1::AppendLogRequest { task_key, token, offset, bytes };
        let answer = WorkerServiceClient::new(self.shared.channel.clone()).append_log(call(message)).await?;
        Ok(answer.into_inner().size)
    }
}

async fn read(path: &Path, from: u64) -> std::io::Result<Vec<u8>> {
    if tokio::fs::metadata(path).await?.len() <= from {
        return Ok(vec![]);
    }
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(std::io::SeekFrom::Start(from)).await?;
    let mut piece = vec![];
    file.take(PIECE as u64).read_to_end(&mut piece).await?;
    Ok(piece)
}
