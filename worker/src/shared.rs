//! What the parts of one worker share: its settings, the way to the coordinator, and the
//! attempts that run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::id::TaskKey;
use domain::runner::task::{FencingToken, Grant, WorkerId};
use domain::study::stage::Progress;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::config::Config;
use crate::reaper::Reaper;
use crate::reports::Report;
use crate::store::Store;

/// What the parts of one worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) id: WorkerId,
    pub(crate) channel: Channel,
    pub(crate) store: Store,
    pub(crate) reaper: Reaper,
    /// Notified when a session has begun.
    pub(crate) welcomed: Notify,
    /// How attempts ended, on the way to the coordinator.
    pub(crate) reports: mpsc::Sender<Report>,
    /// Notified when an attempt has something new to tell.
    pub(crate) news: Notify,
    /// No new work; what runs may end within the grace period.
    pub(crate) draining: CancellationToken,
    /// The machine wants this process gone: what can go on elsewhere is handed back.
    pub(crate) in_a_hurry: CancellationToken,
    /// The grace period is over: what runs is handed back.
    pub(crate) out_of_time: CancellationToken,
    /// Whether a session has begun that has not ended.
    connected: AtomicBool,
    running: Mutex<BTreeMap<FencingToken, Running>>,
}

#[derive(Debug)]
struct Running {
    task: TaskKey,
    slots: u32,
    progress: Progress,
    revoked: CancellationToken,
    preempted: CancellationToken,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        id: WorkerId,
        channel: Channel,
        store: Store,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            id,
            channel,
            store,
            reaper: Reaper::new(config.program.path.clone()),
            welcomed: Notify::new(),
            reports,
            news: Notify::new(),
            draining: CancellationToken::new(),
            in_a_hurry: CancellationToken::new(),
            out_of_time: CancellationToken::new(),
            connected: AtomicBool::new(false),
            running: Mutex::default(),
            config,
        }
    }

    /// Lists an attempt among those that run, for as long as what is returned lives.
    pub(crate) fn begin(&self, grant: &Grant) -> Listed<'_> {
        let (task, token, slots) = (grant.task, grant.token, grant.slots);
        let (revoked, preempted) = (CancellationToken::new(), CancellationToken::new());
        let progress = Progress::default();
        let running = Running { task, slots, progress, revoked: revoked.clone(), preempted: preempted.clone() };
        self.lock().insert(token, running);
        Listed { shared: self, token, revoked, preempted }
    }

    /// Asks an attempt to leave a checkpoint and hand its lease back.
    pub(crate) fn preempt(&self, token: FencingToken) {
        if let Some(running) = self.lock().get(&token) {
            running.preempted.cancel();
        }
    }

    /// Tells an attempt that its lease is over.
    pub(crate) fn revoke(&self, token: FencingToken) {
        if let Some(running) = self.lock().get(&token) {
            running.revoked.cancel();
        }
    }

    /// Notes how far an attempt is.
    pub(crate) fn note(&self, token: FencingToken, progress: Progress) {
        if let Some(running) = self.lock().get_mut(&token) {
            running.progress = progress;
        }
    }

    /// All attempts that run, and how far each is.
    pub(crate) fn attempts(&self) -> Vec<(FencingToken, TaskKey, Progress)> {
        self.lock().iter().map(|(token, running)| (*token, running.task, running.progress.clone())).collect()
    }

    /// Slots of all attempts that run.
    pub(crate) fn slots_used(&self) -> u64 {
        self.lock().values().map(|running| u64::from(running.slots)).sum()
    }

    /// Notes that a session has begun, or that there is none.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Whether there is a session.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FencingToken, Running>> {
        // The map is whole after any panic: no call leaves it half changed.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that heartbeats name. Dropped, it is named no more, also when a
/// fault of ours ended it: the coordinator then takes its lease back.
pub(crate) struct Listed<'a> {
    shared: &'a Shared,
    token: FencingToken,
    /// The lease is over: nobody wants the result.
    pub(crate) revoked: CancellationToken,
    /// The lease is wanted back.
    pub(crate) preempted: CancellationToken,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.token);
    }
}
