//! Where the coordinator's state lies and how patient it is.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of one coordinator.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of everything that survives a restart.
    pub state: PathBuf,
    /// How often workers send heartbeats.
    pub heartbeat: Duration,
    /// Silence after which a connected worker is held to be gone.
    pub lease_ttl: Duration,
    /// Time in which a worker whose connection broke may come back and keep its leases.
    pub reattach: Duration,
}

impl Config {
    /// The defaults, with state in that folder.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            heartbeat: Duration::from_secs(1),
            lease_ttl: Duration::from_secs(10),
            reattach: Duration::from_secs(2),
        }
    }
}
