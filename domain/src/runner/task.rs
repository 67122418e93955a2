//! The life of one task.

use std::fmt;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{ArtifactId, RunId, TaskKey};
use crate::resources::GpuPart;
use crate::seed::Seed;
use crate::study::plan::TaskSpec;
use crate::study::stage::{Failure, Stage};

/// Names one worker process for as long as it lives; the process chooses the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

/// A number that grows with every lease ever granted and survives restarts. The coordinator
/// refuses messages with an older token than the task's current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(pub u64);

/// One leased execution of a task, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A worker's right to one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub worker: WorkerId,
    /// Fencing token of results under the lease.
    pub token: FencingToken,
    pub attempt: Attempt,
    /// Number of the worker's call, so that a repeated call gets the same lease.
    #[serde(rename = "request")]
    pub call: u64,
    /// When the lease was granted, in milliseconds since 1970.
    pub granted_ms: i64,
    /// The parts of the worker's GPUs that the attempt has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuPart>,
}

/// The state of a task. Each variant carries only data that exist in that state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Some inputs of the task do not exist yet.
    Waiting {
        /// Number of missing inputs.
        unmet: usize,
    },
    /// The task may be leased.
    Ready,
    /// A worker has a lease on the task.
    Leased(Box<Lease>),
    /// The task's result exists.
    Committed {
        /// Fencing token of the lease whose result counts.
        token: FencingToken,
        /// Digest of the result's manifest.
        artifact: ArtifactId,
    },
    /// The task is given up: it will not be tried again unless somebody asks.
    Failed(Box<Failure>),
    /// Nobody wants the task any more.
    Cancelled,
    /// The task was pruned: its result would not change what is chosen.
    Pruned,
}

/// Why a lease ended without a result and without fault of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Released {
    /// The worker vanished.
    Lost,
    /// The worker was told to stop and gave it back.
    Preempted,
}

/// Progress inside one task, kept across attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Digest of the checkpoint's manifest.
    pub artifact: ArtifactId,
    /// Number of steps done at the checkpoint.
    pub step: u64,
    /// The worker that made the checkpoint and has its files.
    pub worker: WorkerId,
}

/// A task of some run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub spec: Arc<TaskSpec>,
    pub state: State,
    /// Number of leases granted so far.
    pub attempts: u32,
    /// Number of attempts that failed through the task's own fault.
    pub failures: u32,
    /// Number of attempts whose worker vanished.
    pub losses: u32,
    /// Fencing token of the lease that ended last, so that a repeated report is recognised.
    pub last_ended: Option<FencingToken>,
    /// The checkpoint that the next attempt continues from; none once there is a result.
    pub checkpoint: Option<Box<Checkpoint>>,
    /// Workers on which the task failed: other workers are asked first.
    pub failed_on: Vec<WorkerId>,
    /// The previous result, while the task is computed again. If the new result differs, what
    /// was made from the previous one is no longer valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub had: Option<ArtifactId>,
}

impl Task {
    /// The current lease.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Leased(lease) => Some(lease),
            _ => None,
        }
    }

    /// The result's digest, if the task is committed.
    pub fn artifact(&self) -> Option<ArtifactId> {
        match self.state {
            State::Committed { artifact, .. } => Some(artifact),
            _ => None,
        }
    }

    /// Whether the task may still get a result by itself.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Waiting { .. } | State::Ready | State::Leased(_))
    }

    /// Whether the task ended without a result.
    pub fn is_given_up(&self) -> bool {
        matches!(self.state, State::Failed(_) | State::Cancelled | State::Pruned)
    }
}

/// Everything that a worker needs to run one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Key of the task.
    pub task: TaskKey,
    /// Fencing token of the attempt's lease.
    pub token: FencingToken,
    pub attempt: Attempt,
    /// What the task is about, for people.
    pub subject: String,
    /// The stage with its parameters.
    pub stage: Stage,
    pub version: u32,
    /// Number of slots that the attempt occupies.
    pub slots: u32,
    /// Main memory that the task asks for, in MiB.
    pub memory_mib: u64,
    /// Root of the task's random numbers.
    pub seed: Seed,
    pub inputs: Vec<GrantedInput>,
    /// The parts of the worker's GPUs that the attempt has.
    pub gpus: Vec<GpuPart>,
    /// The checkpoint to continue from, as the digest of its manifest.
    pub checkpoint: Option<ArtifactId>,
    /// A run that wants the task, for people.
    pub run: Option<RunId>,
    /// Where the lease is in its task's trace, as W3C's trace context writes it; empty if
    /// nobody traces.
    pub traceparent: String,
}

impl Grant {
    /// Stage and subject, for people.
    pub fn label(&self) -> String {
        self.stage.kind().label(&self.subject)
    }
}

/// One input of a [`Grant`], with its artifact resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedInput {
    /// The name by which the stage knows the input.
    pub name: String,
    /// Digest of the input's manifest.
    pub artifact: ArtifactId,
    /// Paths of the files that are read; empty if all are.
    pub only: Vec<String>,
}
