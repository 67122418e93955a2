//! What the journal holds. The one domain type that is a stored format: fields
//! are added with defaults, never renamed or removed.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::experiment::Experiment;
use crate::plan::{Data, TaskSpec};
use crate::stage::Failure;
use crate::task::{Attempt, FencingToken, Released, WorkerId};

/// Something that happened. The state is what remains after applying all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Somebody asked for a study, for the first time or again. Tasks that had
    /// failed or were cancelled get a new chance.
    RunSubmitted {
        /// Digest of the plan.
        run: Digest,
        /// The spec it was planned from.
        experiment: Box<Experiment>,
        /// The data it was planned for.
        data: Data,
        /// Its tasks, each after all that it needs.
        tasks: Vec<TaskSpec>,
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
}
