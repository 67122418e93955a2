//! Requests to the scheduler, and why a request is refused.

use crate::id::{ArtifactId, RunId, TaskKey};
use crate::resources::Offer;
use crate::runner::registry::IdentityId;
use crate::runner::task::{FencingToken, Released, WorkerId};
use crate::runner::work::Work;
use crate::study::plan::{Plan, TaskSpec};
use crate::study::stage::Failure;

/// A request to the scheduler. Each may be repeated: the second time, no event follows.
#[derive(Clone, Debug)]
pub enum Request {
    /// Submits a run. Submitting the same run again gives failed tasks a new chance. See
    /// [`Request::submission`].
    Submit {
        work: Work,
        /// Digest of the run's plan.
        run: RunId,
        /// The first tasks of the run, each after all that it needs.
        tasks: Vec<TaskSpec>,
        /// Number of tasks that follow.
        more: usize,
        /// Runs with a higher priority go first.
        priority: i32,
        /// The submitter; none if the coordinator's own machine asks.
        by: Option<IdentityId>,
    },
    /// Adds tasks to a run that is being submitted.
    AddTasks {
        run: RunId,
        /// The tasks, each after all that it needs.
        tasks: Vec<TaskSpec>,
        /// The submitter; none if the coordinator's own machine asks.
        by: Option<IdentityId>,
    },
    /// Cancels a run.
    Cancel { run: RunId },
    /// Pauses a run: workers hand back what they run of it.
    Pause { run: RunId },
    /// Resumes a paused run.
    Resume { run: RunId },
    /// Prunes tasks of a run, for a sweep or a person.
    Prune {
        run: RunId,
        /// Keys of the tasks; all tasks that need them are pruned too.
        tasks: Vec<TaskKey>,
    },
    /// Invalidates results that are lost or no longer trusted: their tasks are computed again.
    Invalidate {
        /// Keys of the tasks that made the results.
        tasks: Vec<TaskKey>,
    },
    /// Adds a worker, or updates what a worker offers.
    Join {
        worker: WorkerId,
        /// Display name, not necessarily unique.
        name: String,
        /// What the worker offers.
        offer: Offer,
    },
    /// Removes a worker that is gone.
    Leave { worker: WorkerId },
    /// Gives a worker no more work.
    Drain { worker: WorkerId },
    /// Gives work again to a worker that was quarantined or draining.
    Readmit { worker: WorkerId },
    /// Asks for work for a worker.
    Acquire {
        worker: WorkerId,
        /// Number of the call among the worker's calls: a repeated call has the same number,
        /// and a call after one that was answered has a larger one.
        call: u64,
        /// Most leases to grant.
        max: u32,
    },
    /// Stores a checkpoint from which the next attempt can continue. Its files are already
    /// stored.
    Checkpoint {
        /// Key of the task.
        task: TaskKey,
        /// Fencing token of the lease.
        token: FencingToken,
        /// Digest of the checkpoint's manifest.
        artifact: ArtifactId,
        /// Number of steps done at the checkpoint.
        step: u64,
    },
    /// Commits the result of an attempt. Its files are already stored.
    Commit {
        /// Key of the task.
        task: TaskKey,
        /// Fencing token of the lease.
        token: FencingToken,
        /// Digest of the result's manifest.
        artifact: ArtifactId,
    },
    /// Reports the failure of an attempt.
    Fail {
        /// Key of the task.
        task: TaskKey,
        /// Fencing token of the lease.
        token: FencingToken,
        failure: Failure,
    },
    /// Gives back a lease, or reports that its worker has lost it.
    Release {
        /// Key of the task.
        task: TaskKey,
        /// Fencing token of the lease.
        token: FencingToken,
        why: Released,
    },
}

impl Request {
    /// Most tasks of a submission that are decided at once, with at most [`Self::PART_BYTES`]
    /// before the last of them: no other request is decided meanwhile.
    pub const PART: usize = 1000;

    /// Bytes that workers are told about the tasks of one part; see [`TaskSpec::told_bytes`].
    pub const PART_BYTES: u64 = 1 << 20;

    /// The requests that submit a plan part by part. Each is decided after the one before.
    pub fn submission(work: Work, plan: Plan, priority: i32, by: Option<IdentityId>) -> impl Iterator<Item = Self> {
        let run = plan.id();
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

/// Why a request is refused. A refused request changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// No task has that key.
    #[error("unknown task {}", .0.short())]
    UnknownTask(TaskKey),
    /// No run has that digest.
    #[error("unknown run {}", .0.short())]
    UnknownRun(RunId),
    /// The run was cancelled while it was being submitted.
    #[error("run {} was cancelled meanwhile; submit it again", .0.short())]
    Cancelled(RunId),
    /// No worker has that id.
    #[error("unknown worker {0}: it has no session, or has been silent for too long")]
    UnknownWorker(WorkerId),
    /// The lease is over: another worker has the task, or the task is done.
    #[error("lease {token} of task {} is over", task.short())]
    Fenced {
        /// Key of the task.
        task: TaskKey,
        /// Fencing token of the lease.
        token: FencingToken,
    },
    /// A submitted task does not match its key or the tasks before it.
    #[error("task {} of the plan is not consistent: {problem}", task.short())]
    InvalidPlan {
        /// Key of the task.
        task: TaskKey,
        problem: &'static str,
    },
}
