//! What the journal holds. The one domain type that is a stored format: fields
//! are added with defaults, never renamed or removed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::plan::{TaskSpec, Work};
use crate::registry::IdentityId;
use crate::resources::{GpuPart, Offer};
use crate::stage::Failure;
use crate::task::{Attempt, FencingToken, Released, WorkerId};

/// Something that happened. The state is what remains after applying all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Somebody asked for work, for the first time or again. Tasks that had
    /// failed or were cancelled get a new chance.
    RunSubmitted {
        /// Digest of the plan.
        run: Digest,
        /// What was planned.
        #[serde(flatten)]
        work: Work,
        /// Its first tasks, each after all that it needs. More may follow.
        tasks: Vec<Arc<TaskSpec>>,
        /// How many follow; older programs did not say.
        #[serde(default, skip_serializing_if = "is_zero")]
        more: u64,
        /// Runs with more go first.
        #[serde(default, skip_serializing_if = "is_zero")]
        priority: i32,
        /// Who asked; nobody if that was the coordinator's own machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<IdentityId>,
    },
    /// Somebody asked again for a run that goes on or is done: it is the one submitted
    /// last from now on.
    RunSubmittedAgain {
        /// The run.
        run: Digest,
    },
    /// More tasks of a run that was just submitted: a plan of many does not have
    /// to fit one event.
    TasksAdded {
        /// The run.
        run: Digest,
        /// The tasks, each after all that it needs.
        tasks: Vec<Arc<TaskSpec>>,
        /// Who asked; nobody if that was the coordinator's own machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<IdentityId>,
    },
    /// A worker may work on a task.
    LeaseGranted {
        /// The task's key.
        task: Digest,
        /// Who.
        worker: WorkerId,
        /// Larger than any before.
        token: FencingToken,
        /// Which attempt it is.
        attempt: Attempt,
        /// The call that asked for it.
        request: u64,
        /// When, milliseconds since 1970.
        #[serde(default)]
        at_ms: i64,
        /// The parts of the worker's GPUs that go with it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<GpuPart>,
    },
    /// The next attempt can go on from here.
    CheckpointSaved {
        /// The task's key.
        task: Digest,
        /// The lease under which it was made.
        token: FencingToken,
        /// Its files.
        artifact: Digest,
        /// Steps done.
        step: u64,
    },
    /// A task's result exists from now on.
    TaskCommitted {
        /// The task's key.
        task: Digest,
        /// The lease that won.
        token: FencingToken,
        /// The result.
        artifact: Digest,
    },
    /// An attempt ended by the task's own fault.
    AttemptFailed {
        /// The task's key.
        task: Digest,
        /// The lease that ended.
        token: FencingToken,
        /// Why.
        failure: Failure,
        /// Whether the task is given up.
        last: bool,
        /// Whether it failed fast and not through its data: the worker may be at fault.
        #[serde(default)]
        suspect: bool,
    },
    /// A lease ended without fault of the task.
    LeaseReleased {
        /// The task's key.
        task: Digest,
        /// The lease that ended.
        token: FencingToken,
        /// Why.
        why: Released,
    },
    /// Nobody wants the run any more. Tasks that no other run needs are cancelled.
    RunCancelled {
        /// The run.
        run: Digest,
    },
    /// The run waits. Tasks that no other run needs are not handed out.
    RunPaused {
        /// The run.
        run: Digest,
    },
    /// The run goes on.
    RunResumed {
        /// The run.
        run: Digest,
    },
    /// A search has dropped tasks of a run. What another run needs goes on.
    TasksPruned {
        /// The run.
        run: Digest,
        /// Their keys.
        tasks: Vec<Digest>,
    },
    /// Results that are gone or hold no more. Their tasks are computed again; so are tasks under
    /// way that read one of them, once it is there again.
    ResultsInvalidated {
        /// Keys of the tasks that made them.
        tasks: Vec<Digest>,
    },
    /// A worker is there, or says anew what it has.
    WorkerJoined {
        /// Who.
        worker: WorkerId,
        /// For people.
        name: String,
        /// What it has.
        offer: Offer,
    },
    /// A worker is gone. Its leases have ended before.
    WorkerLeft {
        /// Who.
        worker: WorkerId,
    },
    /// A worker gets no more work; what it runs it may end.
    WorkerDraining {
        /// Who.
        worker: WorkerId,
    },
    /// A worker gets no more work: it seems to be what makes tasks fail.
    WorkerQuarantined {
        /// Who.
        worker: WorkerId,
        /// Why.
        why: String,
    },
    /// A worker that was quarantined or draining gets work again.
    WorkerReadmitted {
        /// Who.
        worker: WorkerId,
    },
    /// Events that followed were lost with a damaged disk. Workers may still hold what
    /// they granted.
    HistoryLost {
        /// How many, at most.
        events: u64,
    },
    /// Something changed about who may speak.
    Registry(crate::registry::Event),
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}
