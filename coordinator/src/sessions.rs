//! The connected workers and their latest heartbeats. Nothing of this survives a restart:
//! workers reconnect by themselves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use domain::id::TaskKey;
use domain::runner::task::{FencingToken, WorkerId};
use domain::study::stage::Progress;
use tokio::sync::mpsc;
use tonic::Status;

/// What a connected worker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The lease is over: the worker ends the attempt and forgets its result.
    Stop { task: TaskKey, token: FencingToken },
    /// The worker hands the lease back, with a checkpoint.
    Preempt { task: TaskKey, token: FencingToken },
    /// The worker takes no more work, ends what it runs, and leaves.
    Drain,
}

/// The channel of messages to a connected worker. A worker that breaks the protocol is told an
/// error instead.
pub type ToWorker = mpsc::Sender<Result<Message, Status>>;

/// The connection state of one worker.
#[derive(Debug)]
pub struct Session {
    /// Progress of each attempt by its last heartbeat.
    pub progress: BTreeMap<FencingToken, Progress>,
    /// Leases that the worker holds but did not name in its heartbeats, and since when.
    unnamed: BTreeMap<FencingToken, Instant>,
    link: Link,
    /// Number of the worker's connection, so that a late goodbye does not end a new one.
    number: u64,
    /// When the worker was heard last, or when its connection broke.
    last: Instant,
}

#[derive(Debug)]
enum Link {
    Up(ToWorker),
    /// The worker's connection broke.
    Broken,
    /// The worker was there before the coordinator restarted and has not reconnected.
    Expected,
}

/// The sessions of all workers.
#[derive(Debug, Default)]
pub struct Sessions {
    workers: BTreeMap<WorkerId, Session>,
    opened: u64,
}

impl Sessions {
    /// Notes that a worker from before the restart is expected to reconnect.
    pub fn expect(&mut self, worker: WorkerId, now: Instant) {
        self.workers.insert(worker, Session::new(Link::Expected, 0, now));
    }

    /// Notes a worker's new connection; returns the connection's number.
    pub fn open(&mut self, worker: WorkerId, commands: ToWorker, now: Instant) -> u64 {
        self.opened += 1;
        let progress = self.workers.remove(&worker).map(|session| session.progress).unwrap_or_default();
        let session = Session { progress, ..Session::new(Link::Up(commands), self.opened, now) };
        self.workers.insert(worker, session);
        self.opened
    }

    /// Notes a heartbeat of a worker that holds these leases; returns whether it contained
    /// anything new. Leases that the heartbeat does not name are noted.
    pub fn beat(
        &mut self,
        worker: &WorkerId,
        held: &[FencingToken],
        progress: BTreeMap<FencingToken, Progress>,
        now: Instant,
    ) -> bool {
        let Some(session) = self.workers.get_mut(worker) else { return false };
        session.last = now;
        let unnamed = held.iter().filter(|token| !progress.contains_key(token));
        session.unnamed = unnamed.map(|token| (*token, session.unnamed.get(token).copied().unwrap_or(now))).collect();
        let is_news = session.progress != progress;
        session.progress = progress;
        is_news
    }

    /// Notes that a connection has ended.
    pub fn close(&mut self, worker: &WorkerId, number: u64, now: Instant) {
        if let Some(session) = self.workers.get_mut(worker)
            && session.number == number
        {
            session.link = Link::Broken;
            session.last = now;
        }
    }

    /// Forgives all workers the time `deaf` in which the coordinator could hear nobody.
    pub fn forgive(&mut self, deaf: Duration) {
        for session in self.workers.values_mut() {
            session.last += deaf;
            session.unnamed.values_mut().for_each(|since| *since += deaf);
        }
    }

    /// Forgets a worker that is gone for good.
    pub fn remove(&mut self, worker: &WorkerId) {
        self.workers.remove(worker);
    }

    /// The session of a worker that is or was connected.
    pub fn get(&self, worker: &WorkerId) -> Option<&Session> {
        self.workers.get(worker)
    }

    /// All sessions, by worker.
    pub fn iter(&self) -> impl Iterator<Item = (&WorkerId, &Session)> {
        self.workers.iter()
    }

    /// Number of connected workers.
    pub fn connected(&self) -> u32 {
        self.workers.values().filter(|session| session.is_connected()).count() as u32
    }
}

impl Session {
    fn new(link: Link, number: u64, last: Instant) -> Self {
        Self { progress: BTreeMap::new(), unnamed: BTreeMap::new(), link, number, last }
    }

    /// Whether the worker's stream is open.
    pub fn is_connected(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Whether the worker's connection broke and the worker has not reconnected.
    pub fn is_broken(&self) -> bool {
        matches!(self.link, Link::Broken)
    }

    /// Time since the worker was heard last, or since its connection broke.
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }

    /// Leases that the worker has not named for `patience`: the worker has forgotten them, or
    /// never heard of them.
    pub fn forgotten(&self, patience: Duration, now: Instant) -> impl Iterator<Item = FencingToken> {
        let long = move |since: &Instant| now.saturating_duration_since(*since) > patience;
        self.unnamed.iter().filter(move |(_, since)| long(since)).map(|(token, _)| *token)
    }

    /// Tells the worker that a lease is over.
    pub fn stop(&self, task: TaskKey, token: FencingToken) {
        self.send(Message::Stop { task, token });
    }

    /// Asks the worker to hand a lease back.
    pub fn preempt(&self, task: TaskKey, token: FencingToken) {
        self.send(Message::Preempt { task, token });
    }

    /// Asks the worker to leave once it has ended what it runs.
    pub fn drain(&self) {
        self.send(Message::Drain);
    }

    /// Sends a message without waiting: a worker that does not read its stream loses messages,
    /// and what matters is repeated at the next heartbeat.
    fn send(&self, message: Message) {
        if let Link::Up(commands) = &self.link {
            let _ = commands.try_send(Ok(message));
        }
    }
}
