//! The thread that runs the reactor.
//!
//! The driver takes the messages that wait in a bounded queue and lets the reactor take a turn.
//! The events of the whole turn go to the journal, and only then are the answers sent: nobody
//! learns what is not on disk. If the journal cannot be written, the process ends; a restart
//! continues from what the journal holds.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::id::TaskKey;
use domain::resources::Offer;
use domain::runner::registry;
use domain::runner::scheduler::snapshot::Snapshot as SchedulerSnapshot;
use domain::runner::scheduler::{Reject, Request};
use domain::runner::task::{FencingToken, Grant, WorkerId};
use domain::study::stage::Progress;
use proto::clock::now_ms;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::config::Config;
use crate::history::Tail;
use crate::journal::snapshot::{self, Snapshot};
use crate::journal::{self, Journal, Tables};
use crate::reactor::{Knowledge, Message, Now, Reactor};
use crate::sessions::{Sessions, ToWorker};
use crate::telemetry;

/// Number of requests that may wait in the queue before callers have to wait.
const QUEUE: usize = 1024;

/// Most messages that share one write.
const BATCH: usize = 256;

/// Least number of events between two snapshots; with more tasks than this, the number of
/// tasks.
const SNAPSHOT_EVERY: u64 = 20_000;

/// The driver has ended, and the process is about to end.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the coordinator is shutting down")]
pub struct Gone;

/// Why the driver cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The operating system refuses a thread or a timer.
    #[error("cannot start the driver: {0}")]
    Start(#[from] io::Error),
    /// The driver panicked: a fault of the program.
    #[error(
        "the coordinator's driver panicked, which is a fault of the program; nothing that was answered is lost: start \
         again, and report what was said before"
    )]
    Panicked,
}

/// A cloneable handle that sends messages to the driver.
#[derive(Clone)]
pub struct Handle {
    messages: mpsc::Sender<Message>,
    changed: watch::Receiver<u64>,
    tables: Arc<Mutex<Box<dyn Tables>>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Has the driver decide a request; returns when the resulting events are on disk.
    ///
    /// # Errors
    /// Outer: the driver has ended. Inner: the request is refused.
    pub async fn request(&self, request: Request) -> Result<Result<(), Reject>, Gone> {
        self.requests(vec![request]).await?.pop().ok_or(Gone)
    }

    /// Has the driver decide several requests one after the other, in one write; otherwise like
    /// [`Handle::request`].
    ///
    /// # Errors
    /// The driver has ended.
    pub async fn requests(&self, requests: Vec<Request>) -> Result<Vec<Result<(), Reject>>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Requests(requests, reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Leases work to a worker; waits until there is some, or until `until`.
    ///
    /// # Errors
    /// Outer: the driver has ended. Inner: the request is refused.
    pub async fn acquire(
        &self,
        worker: WorkerId,
        call: u64,
        max: u32,
        wait: Duration,
    ) -> Result<Result<Vec<Grant>, Reject>, Gone> {
        let (reply, answer) = oneshot::channel();
        let until = Instant::now() + wait;
        self.messages.send(Message::Acquire { worker, call, max, until, reply }).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Has the driver decide a request about tokens or identities; returns when the resulting
    /// events are on disk.
    ///
    /// # Errors
    /// Outer: the driver has ended. Inner: the request is refused.
    pub async fn registry(&self, request: registry::Request) -> Result<Result<(), registry::Reject>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Registry(request, reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Reads the coordinator's state, no earlier than after all requests answered so far.
    ///
    /// # Errors
    /// The driver has ended.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Knowledge) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        let read = move |knowledge: &Knowledge| drop(reply.send(read(knowledge)));
        self.messages.send(Message::Read(Box::new(read))).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Queries the tables, on a thread that may wait for the disk.
    ///
    /// # Errors
    /// Outer: the driver has ended. Inner: the tables cannot be read.
    pub async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut dyn Tables) -> Result<T, journal::Error> + Send + 'static,
    ) -> Result<Result<T, journal::Error>, Gone> {
        // Who waits for others occupies no thread.
        let mut tables = self.tables.clone().lock_owned().await;
        let asked = tokio::task::spawn_blocking(move || ask(tables.as_mut()));
        asked.await.map_err(|_| Gone)
    }

    /// Registers a worker's new connection; returns the connection's number.
    ///
    /// # Errors
    /// The driver has ended.
    pub async fn open(&self, worker: WorkerId, name: String, offer: Offer, commands: ToWorker) -> Result<u64, Gone> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Open { worker, name, offer, commands, reply }).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Passes on a worker's heartbeat: the attempts that the worker runs.
    ///
    /// # Errors
    /// The driver has ended.
    pub async fn beat(&self, worker: WorkerId, attempts: Vec<(TaskKey, FencingToken, Progress)>) -> Result<(), Gone> {
        self.messages.send(Message::Beat(worker, attempts)).await.map_err(|_| Gone)
    }

    /// Reports that a worker's connection has ended.
    ///
    /// # Errors
    /// The driver has ended.
    pub async fn close(&self, worker: WorkerId, number: u64) -> Result<(), Gone> {
        self.messages.send(Message::Close(worker, number)).await.map_err(|_| Gone)
    }

    /// Ends the driver once everything asked before is answered. Connections that outlive the
    /// server also hold handles, and do not keep the driver running.
    pub async fn end(&self) {
        // One that has ended needs no telling.
        let _ = self.messages.send(Message::End).await;
    }

    /// A receiver whose value grows with every turn that changed something.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

/// Resolves when the driver has ended.
#[derive(Debug)]
pub struct End(oneshot::Receiver<Result<(), Error>>);

impl End {
    /// Waits until the driver has ended.
    ///
    /// # Errors
    /// If the journal could not be written, or the driver panicked.
    pub async fn wait(&mut self) -> Result<(), Error> {
        if self.0.is_terminated() {
            return Ok(()); // It was told before.
        }
        // A thread that panics says nothing more.
        (&mut self.0).await.unwrap_or(Err(Error::Panicked))
    }
}

/// Reads the journal and starts the driver on a thread of its own.
///
/// # Errors
/// If the journal cannot be read or the operating system refuses a thread.
pub fn start(config: &Config, mut journal: Box<dyn Journal>) -> Result<(Handle, End), Error> {
    let (scheduler, registry, from) = journal::replay::state(journal.as_mut())?;
    let mut tables = journal.tables()?;
    let tail = Tail::new(journal.last(), tables.open_attempts()?);
    let knowledge = Knowledge { scheduler, registry, sessions: Sessions::default(), tail };
    let (messages, queue) = mpsc::channel(QUEUE);
    let (bell, changed) = watch::channel(0);
    let (done, end) = oneshot::channel();
    let (packed, snapshots) = std::sync::mpsc::channel();
    let reactor = Reactor::new(config.patience, knowledge, now());
    let driver = Driver { reactor, journal, bell, snapshot_at: from, packing: false, packed, snapshots };
    let run = move || {
        // Nobody waits for the end of a server that is being torn down.
        let _ = done.send(driver.run(queue));
    };
    std::thread::Builder::new().name("driver".to_owned()).spawn(run)?;
    Ok((Handle { messages, changed, tables: Arc::new(Mutex::new(tables)) }, End(end)))
}

struct Driver {
    reactor: Reactor,
    journal: Box<dyn Journal>,
    bell: watch::Sender<u64>,
    /// Number of the last event in the newest snapshot.
    snapshot_at: u64,
    /// Whether another thread is packing a snapshot at the moment.
    packing: bool,
    packed: std::sync::mpsc::Sender<Result<Snapshot, snapshot::Error>>,
    snapshots: std::sync::mpsc::Receiver<Result<Snapshot, snapshot::Error>>,
}

impl Driver {
    fn run(mut self, mut queue: mpsc::Receiver<Message>) -> Result<(), Error> {
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let mut waiting = Vec::with_capacity(BATCH);
        loop {
            let wait = self.reactor.due().saturating_duration_since(Instant::now());
            let received =
                timer.block_on(async { tokio::time::timeout(wait, queue.recv_many(&mut waiting, BATCH)).await });
            if received == Ok(0) {
                return Ok(()); // every handle is gone
            }
            let now = now();
            let mut turn = self.reactor.turn(now, self.journal.last(), waiting.drain(..));
            if !turn.events.is_empty() {
                self.journal.append(now.ms, &turn.events, &turn.rows)?;
            }
            telemetry::count(std::mem::take(&mut turn.happened));
            let ends = turn.ends;
            if self.reactor.answer(turn) {
                self.bell.send_modify(|rings| *rings += 1);
            }
            if ends {
                return Ok(());
            }
            self.snapshot()?;
        }
    }

    /// Writes a finished snapshot; starts packing a new one when enough events have passed.
    fn snapshot(&mut self) -> Result<(), Error> {
        if let Ok(packed) = self.snapshots.try_recv() {
            self.packing = false;
            match packed {
                Ok(snapshot) => self.journal.save_snapshot(&snapshot)?,
                Err(error) => tracing::warn!(%error, "no snapshot; the next start takes longer"),
            }
        }
        let Knowledge { scheduler, registry, .. } = self.reactor.knowledge();
        let every = SNAPSHOT_EVERY.max(scheduler.tasks().len() as u64);
        let number = self.journal.last();
        if self.packing || number - self.snapshot_at < every {
            return Ok(());
        }
        let data = (SchedulerSnapshot::from(scheduler), registry.clone());
        let packed = self.packed.clone();
        let pack = move || {
            let bytes = serde_json::to_vec(&data).expect("a scheduler serialises to JSON");
            // A driver that has ended needs no snapshot.
            let _ = packed.send(Snapshot::pack(number, &bytes));
        };
        std::thread::Builder::new().name("snapshot".to_owned()).spawn(pack)?;
        (self.packing, self.snapshot_at) = (true, number);
        Ok(())
    }
}

fn now() -> Now {
    Now { instant: Instant::now(), ms: now_ms() }
}
