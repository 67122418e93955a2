//! Which workers are connected and what they said last. Forgotten at a restart:
//! workers come back by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use domain::digest::Digest;
use domain::stage::Progress;
use domain::task::{FencingToken, WorkerId};
use proto::v1;
use tokio::sync::mpsc;

/// What a worker said of itself.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Its name for itself.
    pub worker: WorkerId,
    /// For people.
    pub name: String,
    /// Attempts it runs at once.
    pub slots: u32,
    /// Stages it can run, by name and version.
    pub stages: BTreeSet<(String, u32)>,
}

/// The way to a connected worker.
pub type Commands = mpsc::Sender<Result<v1::SessionResponse, tonic::Status>>;

/// One worker.
#[derive(Debug)]
pub struct Session {
    /// What it said of itself.
    pub hello: Hello,
    /// What its attempts said last.
    pub progress: BTreeMap<FencingToken, Progress>,
    /// Leases that it holds but did not name, and since when.
    unnamed: BTreeMap<FencingToken, Instant>,
    /// Present while it is connected.
    commands: Option<Commands>,
    /// Counts its connections, so that a late goodbye does not end a new one.
    number: u64,
    /// When it was heard last, or its connection broke.
    last: Instant,
}

/// All workers.
#[derive(Debug, Default)]
pub struct Sessions {
    workers: BTreeMap<WorkerId, Session>,
    opened: u64,
}

impl Sessions {
    /// A worker has connected; returns the connection's number.
    pub fn open(&mut self, hello: Hello, commands: Commands, now: Instant) -> u64 {
        self.opened += 1;
        let worker = hello.worker.clone();
        let progress = self.workers.remove(&worker).map(|session| session.progress).unwrap_or_default();
        let unnamed = BTreeMap::new();
        let session = Session { hello, progress, unnamed, commands: Some(commands), number: self.opened, last: now };
        self.workers.insert(worker, session);
        self.opened
    }

    /// A worker that holds these leases was heard. Names the leases that it has
    /// not named for `patience`: it has forgotten them, or never heard of them.
    pub fn beat(
        &mut self,
        worker: &WorkerId,
        held: &[FencingToken],
        progress: BTreeMap<FencingToken, Progress>,
        patience: Duration,
        now: Instant,
    ) -> Vec<FencingToken> {
        let Some(session) = self.workers.get_mut(worker) else { return vec![] };
        session.last = now;
        let unnamed = held.iter().filter(|token| !progress.contains_key(token));
        session.unnamed = unnamed.map(|token| (*token, session.unnamed.get(token).copied().unwrap_or(now))).collect();
        session.progress = progress;
        let forgotten = session.unnamed.iter().filter(|(_, since)| now.saturating_duration_since(**since) > patience);
        forgotten.map(|(token, _)| *token).collect()
    }

    /// A connection has ended.
    pub fn close(&mut self, worker: &WorkerId, number: u64, now: Instant) {
        if let Some(session) = self.workers.get_mut(worker)
            && session.number == number
        {
            session.commands = None;
            session.last = now;
        }
    }

    /// A worker that is or was connected.
    pub fn get(&self, worker: &WorkerId) -> Option<&Session> {
        self.workers.get(worker)
    }

    /// All workers by their names for themselves.
    pub fn iter(&self) -> impl Iterator<Item = (&WorkerId, &Session)> {
        self.workers.iter()
    }

    /// Number of connected workers.
    pub fn connected(&self) -> u32 {
        self.workers.values().filter(|session| session.is_connected()).count() as u32
    }

    /// Forgets workers that are silent for too long or did not come back, and
    /// names them.
    pub fn sweep(&mut self, lease_ttl: Duration, reattach: Duration, now: Instant) -> Vec<WorkerId> {
        let patience = |session: &Session| if session.is_connected() { lease_ttl } else { reattach };
        let gone = |session: &Session| now.saturating_duration_since(session.last) > patience(session);
        let gone: Vec<WorkerId> =
            self.workers.iter().filter(|(_, session)| gone(session)).map(|(worker, _)| worker.clone()).collect();
        for worker in &gone {
            self.workers.remove(worker);
        }
        gone
    }

    /// Tells every connected worker that there may be work.
    pub fn announce_work(&self) {
        for session in self.workers.values() {
            session.send(v1::session_response::Message::WorkAvailable(v1::WorkAvailable {}));
        }
    }
}

impl Session {
    /// Whether its stream is open.
    pub fn is_connected(&self) -> bool {
        self.commands.is_some()
    }

    /// Tells the worker that a lease is over.
    pub fn stop(&self, task: Digest, token: FencingToken) {
        let stop = v1::StopAttempt { task_key: task.to_string(), token: token.0 };
        self.send(v1::session_response::Message::StopAttempt(stop));
    }

    /// A worker that does not read its stream loses commands, not the
    /// coordinator its time: what matters is repeated at the next heartbeat.
    fn send(&self, message: v1::session_response::Message) {
        if let Some(commands) = &self.commands {
            let _ = commands.try_send(Ok(v1::SessionResponse { message: Some(message) }));
        }
    }
}
