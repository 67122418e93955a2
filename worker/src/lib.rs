//! The hand: leases tasks, runs each in a process of its own, commits results.
//!
//! A worker dials out to the coordinator and lives through its restarts: what
//! runs goes on, and is committed when the coordinator is back. It knows nothing
//! of what stages do; the program it starts for each attempt does.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | the coordinator, what is offered to it, the program to start |
//! | [`identity`] | joining an encrypted coordinator, and staying joined |
//! | [`session`] | the long-lived stream: heartbeats up, commands down |
//! | [`lease_loop`] | asks for work |
//! | [`attempt`] | one attempt: fetch, run, store, commit |
//! | [`reports`] | how attempts ended, several in one call |
//! | [`command`] | somebody's own program as an attempt |
//! | [`checkpoint`] | takes away what an attempt leaves to go on from |
//! | [`said`] | what an attempt says, as far as it is kept |
//! | [`lines`] | lines of a stream, of bounded length |
//! | [`logs`] | brings what an attempt says to the coordinator |
//! | [`environment`] | what the programs that it starts find in their environment |
//! | [`guard`] | ends commands whose worker is gone |
//! | [`child`] | the process of an attempt and the lines it speaks |
//! | [`devices`] | the machine's GPUs, and which of them an attempt sees |
//! | [`memory`] | how much there is, and whether it ran out |
//! | [`store`] | inputs by digest, kept for the next attempt |

pub mod attempt;
pub mod checkpoint;
pub mod child;
pub mod command;
pub mod config;
pub mod devices;
pub mod environment;
pub mod guard;
pub mod identity;
pub mod lease_loop;
pub mod lines;
pub mod logs;
pub mod memory;
pub mod reports;
pub mod said;
pub mod session;
pub mod store;

pub use config::Config;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::digest::Digest;
use domain::stage::Progress;
use domain::task::{FencingToken, WorkerId};
use proto::channel::Credentials;
use proto::private;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Why the worker could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is no URL.
    #[error(transparent)]
    Url(#[from] proto::address::InvalidUrl),
    /// It cannot join.
    #[error(transparent)]
    Identity(#[from] proto::identity::Error),
    /// The state folder cannot be used.
    #[error("cannot use the state folder: {0}")]
    State(#[source] private::Error),
    /// Another process has the state folder.
    #[error("{} is in use by another worker; give this one a folder of its own with --state", .0.display())]
    InUse(std::path::PathBuf),
    /// The coordinator does not want this worker.
    #[error("the coordinator refuses this worker: {}", .0.message())]
    Refused(tonic::Status),
}

impl From<private::Error> for Error {
    fn from(error: private::Error) -> Self {
        match error {
            private::Error::InUse(folder) => Self::InUse(folder),
            error => Self::State(error),
        }
    }
}

/// Reports that may wait before attempts have to.
const REPORTS: usize = 64;

/// What the parts of one worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) id: WorkerId,
    pub(crate) channel: tonic::transport::Channel,
    pub(crate) store: store::Store,
    pub(crate) guard: guard::Guard,
    /// Rung when a session has begun.
    pub(crate) welcomed: Notify,
    /// How attempts ended, on its way to the coordinator.
    pub(crate) reports: mpsc::Sender<reports::Report>,
    /// Rung when an attempt has something new to tell.
    pub(crate) news: Notify,
    /// No new work; what runs may end within the grace period.
    pub(crate) draining: CancellationToken,
    /// The machine wants this process gone: what can go on elsewhere is handed back.
    pub(crate) in_a_hurry: CancellationToken,
    /// The grace period is over: what runs is handed back.
    pub(crate) out_of_time: CancellationToken,
    running: Mutex<BTreeMap<FencingToken, Running>>,
}

#[derive(Debug)]
struct Running {
    task: Digest,
    progress: Progress,
    /// The lease is over: nobody wants the result.
    revoked: CancellationToken,
    /// The lease is wanted back.
    preempted: CancellationToken,
}

impl Shared {
    /// Notes an attempt for as long as what is returned lives.
    fn begin(&self, task: Digest, token: FencingToken) -> Listed<'_> {
        let (revoked, preempted) = (CancellationToken::new(), CancellationToken::new());
        let progress = Progress { done: 0, total: 0, note: String::new() };
        let running = Running { task, progress, revoked: revoked.clone(), preempted: preempted.clone() };
        self.lock().insert(token, running);
        Listed { shared: self, token, revoked, preempted }
    }

    /// Asks an attempt to leave a checkpoint and hand its lease back.
    fn preempt(&self, token: FencingToken) {
        if let Some(running) = self.lock().get(&token) {
            running.preempted.cancel();
        }
    }

    fn note(&self, token: FencingToken, progress: Progress) {
        if let Some(running) = self.lock().get_mut(&token) {
            running.progress = progress;
        }
    }

    fn revoke(&self, token: FencingToken) {
        if let Some(running) = self.lock().get(&token) {
            running.revoked.cancel();
        }
    }

    fn attempts(&self) -> Vec<(FencingToken, Digest, Progress)> {
        self.lock().iter().map(|(token, running)| (*token, running.task, running.progress.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<FencingToken, Running>> {
        // The map is whole after any panic: no call leaves it half changed.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that heartbeats name. Dropped, it is named no more, also when a
/// fault of ours ended it: the coordinator then takes its lease back.
struct Listed<'a> {
    shared: &'a Shared,
    token: FencingToken,
    /// Says when the lease is over.
    revoked: CancellationToken,
    /// Says when the lease is wanted back.
    preempted: CancellationToken,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.token);
    }
}

/// Works until `drain` is ready, then lets running attempts end within the grace
/// period, hands back the rest and returns.
///
/// # Errors
/// If the address or the state folder cannot be used, or the coordinator refuses
/// this worker for good. A coordinator that is away is waited for.
pub async fn run(config: Config, drain: impl Future<Output = ()>) -> Result<(), Error> {
    let addresses = proto::address::Address::parse_all(&config.coordinator)?;
    private::folder(&config.state)?;
    let _lock = private::lock(&config.state)?;
    let state_error = |source| Error::State(private::Error::Io { path: config.state.clone(), source });
    // Programs of others run in folders of their own and are told where theirs lie.
    let root = std::path::absolute(&config.state).map_err(state_error)?;
    let store = store::Store::open(&root, config.cache_bytes).map_err(state_error)?;
    let (reports, reported) = mpsc::channel(REPORTS);
    tokio::pin!(drain);
    let joined = tokio::select! {
        joined = identity::open(&addresses, &config) => joined?,
        () = &mut drain => return Ok(()),
    };
    let credentials = Credentials::default();
    let mut id = config.id.clone();
    if let Some(identity) = &joined {
        credentials.replace(identity.config()?);
        id = config::process_of(&identity.id);
    }
    let shared = Arc::new(Shared {
        id: WorkerId(id),
        channel: proto::channel::connect(&config.coordinator, &credentials)?,
        store,
        guard: guard::Guard::new(config.program.path.clone()),
        welcomed: Notify::new(),
        reports,
        news: Notify::new(),
        draining: CancellationToken::new(),
        in_a_hurry: CancellationToken::new(),
        out_of_time: CancellationToken::new(),
        running: Mutex::default(),
        config,
    });
    let done = CancellationToken::new();
    let session = tokio::spawn(session::run(shared.clone(), done.clone()));
    let leasing = tokio::spawn(lease_loop::run(shared.clone()));
    let reporting = tokio::spawn(reports::run(shared.clone(), reported));
    if let Some(identity) = joined {
        let renewing = identity::keep(identity, credentials, shared.channel.clone());
        tokio::spawn(done.clone().run_until_cancelled_owned(renewing));
    }
    tokio::pin!(session, leasing);
    let (refused, asked) = tokio::select! {
        () = &mut drain => (None, true),
        // The coordinator wants it to leave: what runs may end.
        () = shared.draining.cancelled() => (None, false),
        ended = &mut session => (ended.ok().and_then(Result::err), true),
    };
    shared.draining.cancel();
    let mut is_over = false;
    if !asked {
        is_over = tokio::select! {
            // A panic there has been reported; its attempts ended with it.
            _ = &mut leasing => true,
            () = &mut drain => false,
        };
    }
    if !is_over {
        shared.in_a_hurry.cancel();
        // Of one that is refused for good nobody takes a result.
        let grace = if refused.is_some() { Duration::ZERO } else { shared.config.grace };
        if tokio::time::timeout(grace, &mut leasing).await.is_err() {
            shared.out_of_time.cancel();
            let _ = leasing.await;
        }
    }
    reporting.abort();
    done.cancel();
    match refused {
        Some(status) => Err(Error::Refused(status)),
        None => {
            let _ = session.await;
            Ok(())
        }
    }
}
