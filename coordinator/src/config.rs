//! Where the coordinator's state lies and how patient it is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proto::window::LIFE;
use tokio::sync::Semaphore;

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
    /// What callers may make it hold.
    pub limits: Limits,
}

/// What callers may make the coordinator hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections without a certificate in each of three states: silent, in the TLS
    /// handshake, open.
    pub strangers: usize,
    /// Of these, those of one network.
    pub strangers_of_one: usize,
    /// Time in which a peer has to say something, and again for the TLS handshake.
    pub handshake: Duration,
    /// Life of a connection without a certificate.
    pub stranger_life: Duration,
    /// Connections of all who have joined, or of all on loopback in plaintext.
    pub connections: usize,
    /// Connections of one identity.
    pub connections_of_one: usize,
    /// Calls that are answered at once; more wait.
    pub calls: Share,
    /// Questions and decisions about runs, tasks and workers, which take the driver's time;
    /// more wait for `patience`.
    pub questions: Share,
    /// Submissions, each of which is in memory with its plan; more wait for `patience`.
    pub submissions: Share,
    /// What is kept for one submitter, who asked first for its runs: a task counts for 1,
    /// and each KiB of a command or spec for 1 more. All of it is in memory.
    pub kept_for_one: u64,
    /// Runs of one submitter that are not over: who asks for work looks at each of them.
    pub open_runs_of_one: usize,
    /// Calls of workers with lists of up to 16 MiB; more wait.
    pub lists: Share,
    /// Runs that are watched and logs that are read; more are refused.
    pub watches: Share,
    /// Sessions, calls for work, and what else takes its time; more are refused.
    pub streams: Share,
    /// Files on their way; more wait.
    pub transfers: Share,
    /// How long a question or a submission waits for others.
    pub patience: Duration,
    /// Time that a request may keep the coordinator waiting for its bytes, beyond that
    /// which they take at 4 KiB/s.
    pub request_pause: Duration,
    /// The same for a file from a caller, who may first have to read what has arrived of it.
    pub upload_pause: Duration,
    /// Time after which a reader that takes nothing of a file loses the stream.
    pub reader_pause: Duration,
}

/// Calls of one kind that may be under way at once.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Of one identity.
    pub of_one: usize,
    /// Of all identities together.
    pub of_all: usize,
    /// Of callers on this machine, who wait for no others.
    pub local: usize,
}

/// No other limit than that of connections.
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
    /// What the window may hold: a few probes and those who scrape.
    pub(crate) fn for_window(self) -> Self {
        let few = self.strangers.div_ceil(8);
        Self { strangers: few, strangers_of_one: few.div_ceil(2), connections: few, stranger_life: LIFE, ..self }
    }

    /// Less where the system gives fewer file handles: strangers get three
    /// sixteenths of them at most, connections of others six, transfers three. What
    /// is left is for the journal, for what is stored and for the Unix socket.
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

    /// Where the state folder notes how far a journal in PostgreSQL has come.
    pub fn postgres_mark(&self) -> PathBuf {
        self.state.join("journal.mark")
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
            limits: Limits::default(),
        }
    }
}
