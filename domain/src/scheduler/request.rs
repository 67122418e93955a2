//! What somebody wants, and why it is refused.

use crate::digest::Digest;
use crate::plan::{Plan, TaskSpec, Work};
use crate::registry::IdentityId;
use crate::resources::Offer;
use crate::stage::Failure;
use crate::task::{FencingToken, Released, WorkerId};

/// What somebody wants. Each may be repeated: the second time nothing follows.
#[derive(Clone, Debug)]
pub enum Request {
    /// A run. Asking again for the same one gives failed tasks a new chance. See
    /// [`Request::submission`].
    Submit {
        /// What was planned.
        work: Work,
        /// Digest of the plan.
        run: Digest,
        /// Its first tasks, each after all that it needs.
        tasks: Vec<TaskSpec>,
        /// How many come after these.
        more: usize,
        /// Runs with more go first.
        priority: i32,
        /// Who asks; nobody if that is the coordinator's own machine.
        by: Option<IdentityId>,
    },
    /// More tasks of a run that is being submitted.
    AddTasks {
        /// The run.
        run: Digest,
        /// The tasks, each after all that it needs.
        tasks: Vec<TaskSpec>,
        /// Who asks; nobody if that is the coordinator's own machine.
        by: Option<IdentityId>,
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

impl Request {
    /// Tasks of a submission that are decided at once, with at most [`Self::PART_BYTES`]
    /// beside the last: nobody else has a turn meanwhile.
    pub const PART: usize = 1000;

    /// What workers are told of those tasks, in bytes; see [`TaskSpec::told_bytes`].
    pub const PART_BYTES: u64 = 1 << 20;

    /// What submits a plan, part by part. Each is decided after the one before.
    pub fn submission(work: Work, plan: Plan, priority: i32, by: Option<IdentityId>) -> impl Iterator<Item = Self> {
        let run = plan.digest();
        let mut tasks = plan.tasks.into_iter().peekable();
        let mut head = Some(work);
        std::iter::from_fn(move || {
            if head.is_none() && tasks.peek().is_none() {
                return None;
            }
            let mut room = Self::PART_BYTES;
            let mut part = vec![];
            while part.len() < Self::PART && room > 0 {
                let Some(task) = tasks.next() else { break };
                room = room.saturating_sub(task.told_bytes());
                part.push(task);
            }
            Some(match head.take() {
                Some(work) => Self::Submit { work, run, tasks: part, more: tasks.len(), priority, by: by.clone() },
                None => Self::AddTasks { run, tasks: part, by: by.clone() },
            })
        })
    }
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
    /// The run was called off while it was being submitted.
    #[error("run {} was called off meanwhile; submit it again", .0.short())]
    CalledOff(Digest),
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
