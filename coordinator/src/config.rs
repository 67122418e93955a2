//! Settings: where the coordinator's state lies and how patient the coordinator is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proto::window::LIFE;
use tokio::sync::Semaphore;

use crate::journal::Location;

/// Settings of one coordinator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of everything that survives a restart.
    pub state: PathBuf,
    /// Where the journal is kept.
    pub journal: Location,
    /// Address of this coordinator that a standby tells its callers; by default the address
    /// that this coordinator listens on.
    pub advertise: Option<String>,
    /// Where blobs are stored: a folder, or `s3://BUCKET/PREFIX`; by default in the state
    /// folder.
    pub blobs: Option<String>,
    /// How often to remove blobs that no task needs; by default never.
    pub gc_every: Option<Duration>,
    /// Whether loopback too is encrypted and asks for certificates. Other addresses always do.
    pub tls_always: bool,
    /// Host names of this machine, the best name first.
    pub tls_names: Vec<String>,
    /// Lifetime of the certificates of those who join; certificates are renewed after two
    /// thirds of it.
    pub certificate_life: Duration,
    /// How long the coordinator waits for workers.
    pub patience: Patience,
    /// Limits on what callers may make the coordinator hold.
    pub limits: Limits,
}

/// Limits on what callers may make the coordinator hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections without a certificate in each of three states: silent, in the TLS handshake,
    /// open.
    pub strangers: usize,
    /// Connections without a certificate of one network, in each state.
    pub strangers_of_one: usize,
    /// Time for the first byte of a connection, and again for the TLS handshake.
    pub handshake: Duration,
    /// Lifetime of a connection without a certificate.
    pub stranger_life: Duration,
    /// Connections of all identities, or of all callers on loopback in plaintext.
    pub connections: usize,
    /// Connections of one identity.
    pub connections_of_one: usize,
    /// Calls that are answered at once; more calls wait.
    pub calls: Share,
    /// Queries and decisions about runs, tasks and workers, which take the driver's time; more
    /// calls wait for `patience`.
    pub questions: Share,
    /// Submissions, each of which is in memory with its plan; more calls wait for `patience`.
    pub submissions: Share,
    /// Weight of all that is kept for one submitter, who asked first for its runs: a task
    /// counts for 1, and each KiB of a command or spec for 1 more. All of it is in memory.
    pub kept_for_one: u64,
    /// Unfinished runs of one submitter: every call for work looks at each of them.
    pub open_runs_of_one: usize,
    /// Calls of workers with lists of up to 16 MiB; more calls wait.
    pub lists: Share,
    /// Runs that are watched and logs that are read; more calls are refused.
    pub watches: Share,
    /// Sessions, calls for work, and other calls of any length; more calls are refused.
    pub streams: Share,
    /// Files being transferred; more calls wait.
    pub transfers: Share,
    /// How long a query or a submission waits for others.
    pub patience: Duration,
    /// Time that a request may keep the coordinator waiting for its bytes, beyond the time that
    /// these bytes take at 4 KiB/s.
    pub request_pause: Duration,
    /// The same time for an upload, before which the caller may have to read what has arrived
    /// of the file.
    pub upload_pause: Duration,
    /// Time after which a client that reads nothing of a file loses the stream.
    pub reader_pause: Duration,
}

/// Limits on the calls of one kind that are under way at once.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Calls of one identity.
    pub of_one: usize,
    /// Calls of all identities together.
    pub of_all: usize,
    /// Calls of callers on this machine, who wait for no others.
    pub local: usize,
}

/// No limit beside that of connections.
pub(crate) const UNLIMITED: usize = Semaphore::MAX_PERMITS;

impl Default for Limits {
    fn default() -> Self {
        Self {
            strangers: 256,
            strangers_of_one: 64,
            handshake: Duration::from_secs(10),
            stranger_life: Duration::from_secs(30),
            connections: 24 * 1024,
            connections_of_one: 16,
            calls: Share { of_one: 16, of_all: UNLIMITED, local: UNLIMITED },
            questions: Share { of_one: 8, of_all: 64, local: 8 },
            submissions: Share { of_one: 1, of_all: 2, local: 1 },
            kept_for_one: 1_000_000,
            open_runs_of_one: 1000,
            lists: Share { of_one: 4, of_all: UNLIMITED, local: UNLIMITED },
            watches: Share { of_one: 32, of_all: 1024, local: 64 },
            streams: Share { of_one: 32, of_all: UNLIMITED, local: UNLIMITED },
            transfers: Share { of_one: 32, of_all: 512, local: 128 },
            patience: Duration::from_secs(20),
            request_pause: Duration::from_secs(30),
            upload_pause: Duration::from_secs(600),
            // At 10 kB/s, eight files at once are taken a piece of 256 KiB each in 210 s.
            reader_pause: Duration::from_secs(300),
        }
    }
}

impl Limits {
    /// Limits of the window: a few probes and scrapers.
    pub(crate) fn for_window(self) -> Self {
        let few = self.strangers.div_ceil(8);
        Self { strangers: few, strangers_of_one: few.div_ceil(2), connections: few, stranger_life: LIFE, ..self }
    }

    /// Lowers the limits where the operating system gives fewer file handles: strangers get at
    /// most three sixteenths of them, connections of others six, transfers three. The rest is
    /// for the journal, the stores and the Unix socket.
    pub(crate) fn within(self, handles: usize) -> Self {
        let of = |sixteenths: usize| (handles / 16 * sixteenths).max(1);
        let strangers = self.strangers.min(of(1));
        Self {
            strangers,
            strangers_of_one: self.strangers_of_one.min(strangers.div_ceil(2)),
            connections: self.connections.min(of(6)),
            transfers: Share {
                of_all: self.transfers.of_all.min(of(2)),
                local: self.transfers.local.min(of(1)),
                ..self.transfers
            },
            ..self
        }
    }
}

/// How long the coordinator waits for workers.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Interval of the workers' heartbeats.
    pub heartbeat: Duration,
    /// Silence after which a worker counts as gone.
    pub lease_ttl: Duration,
    /// Least time in which a worker whose connection broke may reconnect and keep its leases.
    pub reattach: Duration,
    /// Divisor of the time a worker has worked on a task: the worker may stay away for that
    /// part of it, within `reattach` and `lease_ttl`.
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
    /// Whether an address can be reached by this machine only, so that nothing has to be
    /// encrypted.
    pub fn is_plain(&self, address: SocketAddr) -> bool {
        address.ip().is_loopback() && !self.tls_always
    }

    /// The file in the state folder that notes how far a journal in PostgreSQL has come.
    pub fn postgres_mark(&self) -> PathBuf {
        self.state.join("journal.mark")
    }

    /// The default settings with the given state folder.
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
            limits: Limits::default(),
        }
    }
}
