//! The journal's events. [`Event`] is a stored format: fields are added with defaults, never
//! renamed or removed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{ArtifactId, RunId, TaskKey};
use crate::resources::{GpuPart, Offer};
use crate::runner::registry::IdentityId;
use crate::runner::task::{Attempt, FencingToken, Released, WorkerId};
use crate::runner::work::Work;
use crate::study::plan::TaskSpec;
use crate::study::stage::Failure;

/// Something that happened. The coordinator's state is the result of applying all events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run was submitted, for the first time or again. Its tasks that had failed or were
    /// cancelled get a new chance.
    RunSubmitted {
        /// Digest of the run's plan.
        run: RunId,
        #[serde(flatten)]
        work: Work,
        /// The first tasks of the run, each after all that it needs. More may follow.
        tasks: Vec<Arc<TaskSpec>>,
        /// Number of tasks that follow; 0 if written by an older program.
        #[serde(default, skip_serializing_if = "is_zero")]
        more: u64,
        /// Runs with a higher priority go first.
        #[serde(default, skip_serializing_if = "is_zero")]
        priority: i32,
        /// The submitter; none if the coordinator's own machine asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<IdentityId>,
    },
    /// A run that is active or done was submitted again: from now on, it counts as the run
    /// submitted last.
    RunSubmittedAgain { run: RunId },
    /// More tasks of a run that was just submitted: a large plan does not have to fit one
    /// event.
    TasksAdded {
        run: RunId,
        /// The tasks, each after all that it needs.
        tasks: Vec<Arc<TaskSpec>>,
        /// The submitter; none if the coordinator's own machine asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<IdentityId>,
    },
    /// A worker got a lease on a task.
    LeaseGranted {
        /// Key of the task.
        task: TaskKey,
        worker: WorkerId,
        /// The new lease's fencing token, larger than any before.
        token: FencingToken,
        attempt: Attempt,
        /// Number of the worker's call that asked for the lease.
        #[serde(rename = "request")]
        call: u64,
        /// When the lease was granted, in milliseconds since 1970.
        #[serde(default)]
        at_ms: i64,
        /// The parts of the worker's GPUs that the attempt has.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<GpuPart>,
    },
    /// A checkpoint was stored from which the next attempt can continue.
    CheckpointSaved {
        /// Key of the task.
        task: TaskKey,
        /// Fencing token of the lease under which the checkpoint was made.
        token: FencingToken,
        /// Digest of the checkpoint's manifest.
        artifact: ArtifactId,
        /// Number of steps done at the checkpoint.
        step: u64,
    },
    /// A task's result was accepted.
    TaskCommitted {
        /// Key of the task.
        task: TaskKey,
        /// Fencing token of the lease whose result counts.
        token: FencingToken,
        /// Digest of the result's manifest.
        artifact: ArtifactId,
    },
    /// An attempt failed by the task's own fault.
    AttemptFailed {
        /// Key of the task.
        task: TaskKey,
        /// Fencing token of the lease that ended.
        token: FencingToken,
        failure: Failure,
        /// Whether the task is given up.
        last: bool,
        /// Whether the attempt failed fast and not because of its data, so that the worker may
        /// be at fault.
        #[serde(default)]
        suspect: bool,
    },
    /// A lease ended without the task's fault.
    LeaseReleased {
        /// Key of the task.
        task: TaskKey,
        /// Fencing token of the lease that ended.
        token: FencingToken,
        why: Released,
    },
    /// A run was cancelled. Its tasks that no other run needs are cancelled.
    RunCancelled { run: RunId },
    /// A run was paused. Its tasks that no other run needs are not handed out.
    RunPaused { run: RunId },
    /// A paused run was resumed.
    RunResumed { run: RunId },
    /// Tasks of a run were pruned. Tasks that another run needs go on.
    TasksPruned {
        run: RunId,
        /// Keys of the tasks.
        tasks: Vec<TaskKey>,
    },
    /// Results are lost or no longer valid. Their tasks are computed again; tasks under way
    /// that read one of these results are computed again once it is there.
    ResultsInvalidated {
        /// Keys of the tasks that made the results.
        tasks: Vec<TaskKey>,
    },
    /// A worker joined, or updated what it offers.
    WorkerJoined {
        worker: WorkerId,
        /// Display name, not necessarily unique.
        name: String,
        /// What the worker offers.
        offer: Offer,
    },
    /// A worker is gone. Its leases have ended before.
    WorkerLeft { worker: WorkerId },
    /// A worker gets no more work, and may finish what it runs.
    WorkerDraining { worker: WorkerId },
    /// A worker gets no more work, as it seems to be what makes tasks fail.
    WorkerQuarantined { worker: WorkerId, why: String },
    /// A worker that was quarantined or draining gets work again.
    WorkerReadmitted { worker: WorkerId },
    /// Events that followed were lost with a damaged disk. Workers may still hold leases from
    /// these events.
    HistoryLost {
        /// Most events that may have been lost.
        events: u64,
    },
    /// A change of join tokens or identities.
    Registry(crate::runner::registry::Event),
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}
