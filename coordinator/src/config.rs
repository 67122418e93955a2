//! Where the coordinator's state lies and how patient it is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::journal::Location;

/// Settings of one coordinator.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of everything that survives a restart.
    pub state: PathBuf,
    /// Where the journal is.
    pub journal: Location,
    /// Where others reach this coordinator, to be told to those who ask one that
    /// stands by. Without it, what it listens on.
    pub advertise: Option<String>,
    /// Where blobs lie: a folder, or `s3://BUCKET/PREFIX`; in the state folder without it.
    pub blobs: Option<String>,
    /// How often to remove blobs that no task needs; never without it.
    pub gc_every: Option<Duration>,
    /// Encrypt and ask for certificates on loopback too. Elsewhere it always does.
    pub tls_always: bool,
    /// What other machines call this one, the best name first.
    pub tls_names: Vec<String>,
    /// Life of the certificates of those who join; they renew them at two thirds of it.
    pub certificate_life: Duration,
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
    /// Whether only this machine can reach what listens there, so that nothing has
    /// to be encrypted.
    pub fn is_plain(&self, address: SocketAddr) -> bool {
        address.ip().is_loopback() && !self.tls_always
    }

    /// The defaults, with state in that folder.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        let state = state.into();
        Self {
            journal: Location::File(state.join("journal.sqlite")),
            advertise: None,
            state,
            blobs: None,
            gc_every: None,
            tls_always: false,
            tls_names: vec![],
            certificate_life: Duration::from_secs(30 * 86_400),
            patience: Patience::default(),
        }
    }
}
