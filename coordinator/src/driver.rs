//! The one thread that owns the scheduler.
//!
//! It takes what waits in a bounded queue. For each request it decides and
//! applies; then it writes the events of the whole batch to the journal, and
//! only then replies: nobody learns what is not on disk. If the journal cannot
//! be written, the process ends and starts again from what is there.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use domain::digest::Digest;
use domain::event::Event;
use domain::scheduler::{Reject, Request, Scheduler};
use domain::stage::Progress;
use domain::task::{FencingToken, Released, State, WorkerId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::journal::{self, Journal, Tables};
use crate::sessions::{Commands, Hello, Sessions};
use crate::tables::{self, Row, Tail};

/// Requests that may wait before callers have to.
const QUEUE: usize = 1024;

/// Requests that share one write.
const BATCH: usize = 256;

/// How often silence is looked for.
const SWEEP: Duration = Duration::from_millis(200);

/// The driver has ended; the process is about to.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the coordinator is shutting down")]
pub struct Gone;

/// Why the driver cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The system gives it no thread or timer.
    #[error("cannot start the driver: {0}")]
    Start(#[from] io::Error),
}

/// Everything that the driver knows, to read from.
#[derive(Debug)]
pub struct Knowledge {
    /// Tasks, runs and leases.
    pub scheduler: Scheduler,
    /// Connected workers.
    pub sessions: Sessions,
    /// What happened lately.
    pub tail: Tail,
}

type Read = Box<dyn FnOnce(&Knowledge) + Send>;

enum Command {
    Request(Request, oneshot::Sender<Result<(), Reject>>),
    Read(Read),
    Open(Hello, Commands, oneshot::Sender<u64>),
    Beat(WorkerId, Vec<(Digest, FencingToken, Progress)>),
    Close(WorkerId, u64),
    End,
}

/// The way to the driver.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    changed: watch::Receiver<u64>,
    tables: Arc<Mutex<Box<dyn Tables>>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Has a request decided; returns when its events are on disk.
    ///
    /// # Errors
    /// Outer: the driver has ended. Inner: the request is refused.
    pub async fn request(&self, request: Request) -> Result<Result<(), Reject>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Request(request, reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Reads what is known, no earlier than all requests answered so far.
    ///
    /// # Errors
    /// The driver has ended.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Knowledge) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |knowledge| drop(reply.send(read(knowledge))));
        self.commands.send(Command::Read(read)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Asks the tables, on a thread that may wait for the disk.
    ///
    /// # Errors
    /// Outer: the driver has ended. Inner: the tables cannot be read.
    pub async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut dyn Tables) -> Result<T, journal::Error> + Send + 'static,
    ) -> Result<Result<T, journal::Error>, Gone> {
        let tables = self.tables.clone();
        let asked =
            tokio::task::spawn_blocking(move || ask(tables.lock().unwrap_or_else(PoisonError::into_inner).as_mut()));
        asked.await.map_err(|_| Gone)
    }

    /// A worker has connected; returns the connection's number.
    ///
    /// # Errors
    /// The driver has ended.
    pub async fn open(&self, hello: Hello, commands: Commands) -> Result<u64, Gone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Open(hello, commands, reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// A worker has told what it runs.
    ///
    /// # Errors
    /// The driver has ended.
    pub async fn beat(&self, worker: WorkerId, attempts: Vec<(Digest, FencingToken, Progress)>) -> Result<(), Gone> {
        self.commands.send(Command::Beat(worker, attempts)).await.map_err(|_| Gone)
    }

    /// A worker's connection has ended.
    ///
    /// # Errors
    /// The driver has ended.
    pub async fn close(&self, worker: WorkerId, number: u64) -> Result<(), Gone> {
        self.commands.send(Command::Close(worker, number)).await.map_err(|_| Gone)
    }

    /// Ends the driver once all that was asked before is answered. Connections that
    /// outlive the server hold handles too and cannot keep it.
    pub async fn end(&self) {
        // One that has ended needs no telling.
        let _ = self.commands.send(Command::End).await;
    }

    /// Follows changes: the value grows with every batch that changed something.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

/// Replays the journal and starts the driver on a thread of its own. The
/// receiver gets its end: an error if the journal could not be written.
///
/// # Errors
/// If the journal cannot be read or the system gives it no thread.
pub fn start(
    config: &Config,
    mut journal: Box<dyn Journal>,
) -> Result<(Handle, oneshot::Receiver<Result<(), Error>>), Error> {
    let mut scheduler = Scheduler::default();
    journal.replay(0, &mut |_, _, event| scheduler.apply(&event))?;
    let mut tables = journal.tables()?;
    let tail = Tail::new(journal.last(), tables.open_attempts()?);
    let knowledge = Knowledge { scheduler, sessions: Sessions::default(), tail };
    let (commands, queue) = mpsc::channel(QUEUE);
    let (bell, changed) = watch::channel(0);
    let (done, end) = oneshot::channel();
    let driver = Driver {
        // Leases of before the restart may be taken up again by their workers.
        orphans_until: Some(Instant::now() + config.lease_ttl),
        config: config.clone(),
        knowledge,
        journal,
        bell,
    };
    let run = move || {
        // Nobody waits for the end of a server that is being torn down.
        let _ = done.send(driver.run(queue));
    };
    std::thread::Builder::new().name("driver".to_owned()).spawn(run)?;
    Ok((Handle { commands, changed, tables: Arc::new(Mutex::new(tables)) }, end))
}

impl Knowledge {
    /// Lets an event happen; returns what it changes in the tables.
    fn note(&mut self, number: u64, at_ms: i64, event: &Event) -> Vec<Row> {
        let rows = tables::rows(number, at_ms, event, &self.scheduler);
        self.tail.note(number, &rows, &self.scheduler);
        self.scheduler.apply(event);
        rows
    }
}

struct Driver {
    config: Config,
    knowledge: Knowledge,
    journal: Box<dyn Journal>,
    bell: watch::Sender<u64>,
    orphans_until: Option<Instant>,
}

/// What shares one write.
struct Batch {
    /// Number of the first event.
    first: u64,
    /// Milliseconds since 1970.
    at_ms: i64,
    events: Vec<Event>,
    /// What the events change in the tables.
    rows: Vec<Row>,
}

/// What is owed after the events are on disk.
type Owed = Box<dyn FnOnce(&Knowledge)>;

impl Driver {
    fn run(mut self, mut queue: mpsc::Receiver<Command>) -> Result<(), Error> {
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let mut next_sweep = Instant::now() + SWEEP;
        let mut waiting = Vec::with_capacity(BATCH);
        loop {
            let wait = next_sweep.saturating_duration_since(Instant::now());
            let received =
                timer.block_on(async { tokio::time::timeout(wait, queue.recv_many(&mut waiting, BATCH)).await });
            if received == Ok(0) {
                return Ok(()); // every handle is gone
            }
            let mut batch = Batch { first: self.journal.last() + 1, at_ms: now_ms(), events: vec![], rows: vec![] };
            let mut owed: Vec<Owed> = Vec::with_capacity(waiting.len());
            let mut ends = false;
            for command in waiting.drain(..) {
                ends |= matches!(command, Command::End);
                self.take(command, &mut batch, &mut owed);
            }
            if Instant::now() >= next_sweep {
                self.sweep(&mut batch);
                next_sweep = Instant::now() + SWEEP;
            }
            if !batch.events.is_empty() {
                self.journal.append(batch.at_ms, &batch.events, &batch.rows)?;
            }
            for owed in owed {
                owed(&self.knowledge);
            }
            if !batch.events.is_empty() {
                self.bell.send_modify(|rings| *rings += 1);
                if self.knowledge.scheduler.has_work() {
                    self.knowledge.sessions.announce_work();
                }
            }
            if ends {
                return Ok(());
            }
        }
    }

    fn take(&mut self, command: Command, batch: &mut Batch, owed: &mut Vec<Owed>) {
        match command {
            Command::Request(request, reply) => {
                let decided = self.decide(request, batch);
                // A caller that has gone away needs no reply.
                owed.push(Box::new(move |_| drop(reply.send(decided))));
            }
            Command::Read(read) => owed.push(read),
            Command::Open(hello, commands, reply) => {
                let number = self.knowledge.sessions.open(hello, commands, Instant::now());
                owed.push(Box::new(move |_| {
                    // A caller that has gone away needs no reply.
                    let _ = reply.send(number);
                }));
            }
            Command::Beat(worker, attempts) => self.beat(&worker, attempts, batch),
            Command::Close(worker, number) => self.knowledge.sessions.close(&worker, number, Instant::now()),
            Command::End => {}
        }
    }

    fn decide(&mut self, request: Request, batch: &mut Batch) -> Result<(), Reject> {
        let decided = self.knowledge.scheduler.decide(request)?;
        let cancels = decided.iter().any(|event| matches!(event, Event::RunCancelled { .. }));
        let before = if cancels { self.leases() } else { vec![] };
        for event in decided {
            let number = batch.first + batch.events.len() as u64;
            batch.rows.extend(self.knowledge.note(number, batch.at_ms, &event));
            batch.events.push(event);
        }
        for (worker, task, token) in before {
            if !self.holds(task, token)
                && let Some(session) = self.knowledge.sessions.get(&worker)
            {
                session.stop(task, token);
            }
        }
        Ok(())
    }

    fn release(&mut self, task: Digest, token: FencingToken, batch: &mut Batch) {
        let release = Request::Release { task, token, why: Released::Lost };
        if let Err(reject) = self.decide(release, batch) {
            tracing::error!(%reject, "a current lease could not be released");
        }
    }

    fn leases(&self) -> Vec<(WorkerId, Digest, FencingToken)> {
        let lease = |(task, lease): (&domain::task::Task, &domain::task::Lease)| {
            (lease.worker.clone(), task.spec.key, lease.token)
        };
        self.knowledge.scheduler.leases().map(lease).collect()
    }

    fn holds(&self, task: Digest, token: FencingToken) -> bool {
        let task = self.knowledge.scheduler.task(task);
        task.is_ok_and(|task| matches!(&task.state, State::Leased(lease) if lease.token == token))
    }

    /// Notes what a worker runs, stops what it should not, and takes back what it
    /// does not run although it should.
    fn beat(&mut self, worker: &WorkerId, attempts: Vec<(Digest, FencingToken, Progress)>, batch: &mut Batch) {
        if let Some(session) = self.knowledge.sessions.get(worker) {
            for (task, token, _) in &attempts {
                if !self.holds(*task, *token) {
                    session.stop(*task, *token);
                }
            }
        }
        let progress = attempts.into_iter().map(|(_, token, progress)| (token, progress)).collect();
        let scheduler = &self.knowledge.scheduler;
        let held: Vec<(Digest, FencingToken)> =
            scheduler.leases_of(worker).map(|(task, lease)| (task.spec.key, lease.token)).collect();
        let tokens: Vec<FencingToken> = held.iter().map(|(_, token)| *token).collect();
        let patience = self.config.lease_ttl;
        let forgotten = self.knowledge.sessions.beat(worker, &tokens, progress, patience, Instant::now());
        for (task, token) in held.into_iter().filter(|(_, token)| forgotten.contains(token)) {
            self.release(task, token, batch);
        }
        self.bell.send_modify(|rings| *rings += 1);
    }

    /// Releases the leases of workers that are gone.
    fn sweep(&mut self, batch: &mut Batch) {
        let now = Instant::now();
        let gone = self.knowledge.sessions.sweep(self.config.lease_ttl, self.config.reattach, now);
        for worker in &gone {
            tracing::warn!(%worker, "worker is gone");
        }
        let orphans_may_wait = self.orphans_until.is_some_and(|until| now < until);
        for (worker, task, token) in self.leases() {
            let unknown = self.knowledge.sessions.get(&worker).is_none();
            if gone.contains(&worker) || unknown && !orphans_may_wait {
                self.release(task, token, batch);
            }
        }
        if !orphans_may_wait {
            self.orphans_until = None;
        }
    }
}

/// Milliseconds since 1970; never used to decide anything.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
