//! Artifacts to and from folders, for whoever is not the coordinator.
//!
//! Files are streamed, so memory does not grow with their size, and every
//! digest is checked where the bytes arrive. A transfer that is cut off goes on
//! from the byte that arrived last.

mod half;
mod pull;
mod push;
mod scan;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::artifact::{InvalidManifest, Manifest};
use domain::digest::Digest;
use domain::id::ArtifactId;
use tokio::task::{JoinError, JoinSet};
use tonic::Status;
use tonic::transport::Channel;

use crate::clock::since_1970;
use crate::link::backoff::{Backoff, Tries};
use crate::path_error::PathError;
use crate::v1::artifact_service_client::ArtifactServiceClient;

pub use scan::{entry, scan};

/// Bytes per message.
pub const CHUNK: usize = 256 * 1024;

/// Digests in one question about what is missing.
pub const DIGESTS_MAX: usize = 10_000;

/// Files on their way at once.
const PARALLEL: usize = 8;

/// Interruptions in a row, without a byte between them, that a transfer lives
/// through.
const TRIES: u32 = 5;

/// Pauses after interruptions.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Largest file that is fetched into memory.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;

/// Why an artifact did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator refused or was not there.
    #[error("{}", .0.message())]
    Rpc(#[from] Status),
    /// A local file could not be read or written.
    #[error(transparent)]
    Io(#[from] PathError),
    /// The bytes are not those that the digest names.
    #[error("{} does not hold the bytes that its digest names", digest.short())]
    Damaged { digest: Digest },
    /// The folder cannot be an artifact.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// A stored manifest does not decode.
    #[error("{} is not a manifest: {problem}", artifact.short())]
    NotAManifest { artifact: ArtifactId, problem: String },
    /// A file is too large to be held in memory.
    #[error("{} is larger than {most} bytes, which is the most that is taken into memory", digest.short())]
    TooLarge {
        digest: Digest,
        /// The most bytes that are held in memory.
        most: u64,
    },
    /// The coordinator answered with something else than it promises.
    #[error("the coordinator's answer about {} cannot be used: {problem}", digest.short())]
    Answer { digest: Digest, problem: String },
    /// A transfer was cut off inside this program.
    #[error("a transfer was cut off: {0}")]
    Task(#[from] JoinError),
}

/// Called with every number of stored bytes that went out or came in.
type Moved = dyn Fn(u64) + Send + Sync;

/// A connection that moves artifacts.
#[derive(Clone)]
pub struct Transfer {
    client: ArtifactServiceClient<Channel>,
    /// A name that keeps these uploads apart from those of other clients.
    session: String,
    moved: Arc<Moved>,
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Interruptions that a transfer lives through.
fn tries() -> Tries {
    Tries::new(TRIES, BACKOFF)
}

impl Transfer {
    /// Moves artifacts over `channel`.
    pub fn new(channel: Channel) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let session = format!("{:x}-{}-{number}", since_1970().as_nanos(), std::process::id());
        Self { client: ArtifactServiceClient::new(channel), session, moved: Arc::new(|_| {}) }
    }

    /// Calls `moved` with every number of bytes that went out or came in.
    #[must_use]
    pub fn on_progress(mut self, moved: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.moved = Arc::new(moved);
        self
    }
}

fn files_of(root: &Path, manifest: &Manifest) -> impl Iterator<Item = (PathBuf, Digest)> + Clone {
    manifest.entries().iter().map(move |entry| (root.join(&entry.path), entry.digest))
}

/// Runs [`PARALLEL`] transfers at once; ends with the first error.
async fn in_parallel<T, F>(items: impl IntoIterator<Item = T>, transfer: impl Fn(T) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for item in items {
        if running.len() >= PARALLEL
            && let Some(done) = running.join_next().await
        {
            done??;
        }
        running.spawn(transfer(item));
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}
