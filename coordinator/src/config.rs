//! Where the coordinator's state lies and how patient it is.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of one coordinator.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of everything that survives a restart.
    pub state: PathBuf,
    /// Where blobs lie: a folder, or `s3://BUCKET/PREFIX`; in the state folder without it.
    pub blobs: Option<String>,
    /// How often to remove blobs that no task needs; never without it.
    pub gc_every: Option<Duration>,
    /// How long it waits for workers.
    pub patience: Patience,
}

/// How long the coordinator waits for workers.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How often workers send heartbeats.
    pub heartbeat: Duration,
    /// Silence after which a worker is held to be gone.
    pub lease_ttl: Duration,
    /// Least time in which a worker whose connection broke may come back and
    /// keep its leases.
    pub reattach: Duration,
    /// It may stay away longer the longer it has worked: by this part of that time.
    pub worth_waiting: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(2),
            lease_ttl: Duration::from_millis(4500),
            reattach: Duration::from_millis(25),
            worth_waiting: 200,
        }
    }
}

impl Config {
    /// The defaults, with state in that folder.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self { state: state.into(), blobs: None, gc_every: None, patience: Patience::default() }
    }
}
