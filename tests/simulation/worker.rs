//! A worker as the protocol wants it, without processes and sockets.

use std::collections::BTreeMap;

use coordinator::sessions::Message;
use domain::id::TaskKey;
use domain::runner::task::{FencingToken, Grant, WorkerId};
use tokio::sync::mpsc;

/// What a worker does with one lease.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) task: TaskKey,
    /// Steps left.
    pub(super) left: u64,
    pub(super) done: u64,
    /// How it ended: told again until the coordinator has answered.
    pub(super) end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Succeeded,
    Crashed,
    HandedBack,
}

/// One process.
pub(super) struct Worker {
    pub(super) id: WorkerId,
    /// The number of its connection, while it has one.
    pub(super) connection: Option<u64>,
    pub(super) commands: Option<mpsc::Receiver<Result<Message, tonic::Status>>>,
    pub(super) attempts: BTreeMap<FencingToken, Attempt>,
    pub(super) call: u64,
    /// Whether a call for work is out.
    pub(super) asking: bool,
    /// It does nothing until then, and does not know.
    pub(super) frozen_until: u64,
}

impl Worker {
    pub(super) fn new(id: String) -> Self {
        Self {
            id: WorkerId(id),
            connection: None,
            commands: None,
            attempts: BTreeMap::new(),
            call: 1,
            asking: false,
            frozen_until: 0,
        }
    }

    /// Takes what a call for work was answered with, if it is the call that is out.
    pub(super) fn granted(&mut self, call: u64, grants: Vec<Grant>, steps: impl Fn(&Grant) -> u64) {
        if call != self.call {
            return;
        }
        self.asking = false;
        self.call += 1;
        for grant in grants {
            let left = steps(&grant);
            self.attempts.insert(grant.token, Attempt { task: grant.task, left, done: 0, end: None });
        }
    }

    /// Hears the coordinator's commands.
    pub(super) fn listen(&mut self) {
        let Some(commands) = &mut self.commands else { return };
        while let Ok(Ok(message)) = commands.try_recv() {
            match message {
                Message::Stop { token, .. } => drop(self.attempts.remove(&token)),
                Message::Preempt { token, .. } => {
                    if let Some(attempt) = self.attempts.get_mut(&token) {
                        attempt.end.get_or_insert(End::HandedBack);
                    }
                }
                Message::Drain => {}
            }
        }
    }
}
