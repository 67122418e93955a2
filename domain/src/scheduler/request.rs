//! What somebody wants, and why it is refused.

use crate::digest::Digest;
use crate::plan::{TaskSpec, Work};
use crate::resources::Offer;
use crate::stage::Failure;
use crate::task::{FencingToken, Released, WorkerId};

/// What somebody wants. Each may be repeated: the second time nothing follows.
#[derive(Clone, Debug)]
pub enum Request {
    /// A run. Asking again for the same one gives failed tasks a new chance.
    Submit {
        /// What was planned.
        work: Work,
        /// Digest of the plan.
        run: Digest,
        /// Its tasks, each after all that it needs.
        tasks: Vec<TaskSpec>,
        /// Runs with more go first.
        priority: i32,
    },
    /// A run that nobody wants any more.
    Cancel {
        /// The run.
        run: Digest,
    },
    /// A run that shall wait: what runs of it is handed back.
    Pause {
        /// The run.
        run: Digest,
    },
    /// A paused run that shall go on.
    Resume {
        /// The run.
        run: Digest,
    },
    /// Tasks of a run that a search drops.
    Prune {
        /// The run.
        run: Digest,
        /// Their keys, with all that needs them.
        tasks: Vec<Digest>,
    },
    /// Results that are gone or shall count no more: their tasks are computed again.
    Invalidate {
        /// Keys of the tasks that made them.
        tasks: Vec<Digest>,
    },
    /// A worker is there, or says anew what it has.
    Join {
        /// Who.
        worker: WorkerId,
        /// For people.
        name: String,
        /// What it has.
        offer: Offer,
    },
    /// A worker is gone.
    Leave {
        /// Who.
        worker: WorkerId,
    },
    /// A worker shall get no more work.
    Drain {
        /// Who.
        worker: WorkerId,
    },
    /// A worker that was quarantined or draining shall get work again.
    Readmit {
        /// Who.
        worker: WorkerId,
    },
    /// Work for a worker.
    Acquire {
        /// Who.
        worker: WorkerId,
        /// Numbers the worker's calls: a repeated call has the same number, the
        /// call after one that was answered a larger one.
        request: u64,
        /// Most leases to grant.
        max: u32,
    },
    /// Where the next attempt can go on, its files already stored.
    Checkpoint {
        /// The task's key.
        task: Digest,
        /// Of the lease.
        token: FencingToken,
        /// The files.
        artifact: Digest,
        /// Steps done.
        step: u64,
    },
    /// The result of an attempt, its files already stored.
    Commit {
        /// The task's key.
        task: Digest,
        /// Of the lease.
        token: FencingToken,
        /// The result.
        artifact: Digest,
    },
    /// The failure of an attempt.
    Fail {
        /// The task's key.
        task: Digest,
        /// Of the lease.
        token: FencingToken,
        /// Why.
        failure: Failure,
    },
    /// A lease that its worker gives back or has lost.
    Release {
        /// The task's key.
        task: Digest,
        /// Of the lease.
        token: FencingToken,
        /// Why.
        why: Released,
    },
}

/// Why a request is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// No such task.
    #[error("unknown task {}", .0.short())]
    UnknownTask(Digest),
    /// No such run.
    #[error("unknown run {}", .0.short())]
    UnknownRun(Digest),
    /// No such worker.
    #[error("unknown worker {0}: it has no session, or has been silent for too long")]
    UnknownWorker(WorkerId),
    /// The lease is over: somebody else has the task, or it is done.
    #[error("lease {token} of task {} is over", task.short())]
    Fenced {
        /// The task's key.
        task: Digest,
        /// The lease.
        token: FencingToken,
    },
    /// A submitted task does not fit its key or the tasks before it.
    #[error("task {} of the plan is not consistent: {problem}", task.short())]
    InvalidPlan {
        /// The task's key.
        task: Digest,
        /// What is wrong.
        problem: &'static str,
    },
}
