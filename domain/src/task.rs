//! One task's life.

use std::fmt;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::plan::TaskSpec;
use crate::resources::GpuPart;
use crate::seed::Seed;
use crate::stage::{Failure, Stage};

/// Names one worker process for as long as it lives, chosen by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

/// A number that grows with every lease ever granted and survives restarts. The
/// coordinator refuses what comes with an older one than the task's current.
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
    /// Who holds it.
    pub worker: WorkerId,
    /// Fences its result.
    pub token: FencingToken,
    /// Which attempt it is.
    pub attempt: Attempt,
    /// The call that asked for it, so that a repeated call gets the same lease.
    pub request: u64,
    /// When it was granted, milliseconds since 1970.
    pub granted_ms: i64,
    /// The parts of the worker's GPUs that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuPart>,
}

/// Where a task stands. Each state carries only what exists in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Some of its inputs do not exist yet.
    Waiting {
        /// How many.
        unmet: usize,
    },
    /// A worker may have it.
    Ready,
    /// A worker has it.
    Leased(Box<Lease>),
    /// Its result exists.
    Committed {
        /// The lease that won.
        token: FencingToken,
        /// The result.
        artifact: Digest,
    },
    /// It will not be tried again unless somebody asks.
    Failed(Box<Failure>),
    /// Nobody wants it any more.
    Cancelled,
    /// A search dropped it: its result would not change what is chosen.
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

/// Progress inside one task that outlives the attempt that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its files.
    pub artifact: Digest,
    /// Steps done.
    pub step: u64,
    /// Who made it and has its files.
    pub worker: WorkerId,
}

/// A task of some run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// What to do.
    pub spec: Arc<TaskSpec>,
    /// Where it stands.
    pub state: State,
    /// Leases granted so far.
    pub attempts: u32,
    /// Attempts that failed through the task's own fault.
    pub failures: u32,
    /// Attempts whose worker vanished.
    pub losses: u32,
    /// The lease that ended last, so that a repeated report is recognised.
    pub last_ended: Option<FencingToken>,
    /// Where the next attempt goes on. Gone once there is a result.
    pub checkpoint: Option<Box<Checkpoint>>,
    /// Workers on which it failed: others are asked first.
    pub failed_on: Vec<WorkerId>,
    /// The result that it had, while it is computed again. Should another come out, what was
    /// made from this one holds no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub had: Option<Digest>,
}

impl Task {
    /// Its current lease.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Leased(lease) => Some(lease),
            _ => None,
        }
    }

    /// Its result.
    pub fn artifact(&self) -> Option<Digest> {
        match self.state {
            State::Committed { artifact, .. } => Some(artifact),
            _ => None,
        }
    }

    /// Whether it may still get a result by itself.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Waiting { .. } | State::Ready | State::Leased(_))
    }

    /// Whether it ended without a result.
    pub fn is_given_up(&self) -> bool {
        matches!(self.state, State::Failed(_) | State::Cancelled | State::Pruned)
    }
}

/// All that a worker needs to run one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// The task's key.
    pub task: Digest,
    /// Fences its result.
    pub token: FencingToken,
    /// Which attempt it is.
    pub attempt: Attempt,
    /// Stage and subject, for people.
    pub label: String,
    /// What to do.
    pub stage: Stage,
    /// The stage's version.
    pub version: u32,
    /// Slots that it occupies.
    pub slots: u32,
    /// Main memory that it asks for, MiB.
    pub memory_mib: u64,
    /// Root of its random numbers.
    pub seed: Seed,
    /// What it reads.
    pub inputs: Vec<GrantedInput>,
    /// The parts of the worker's GPUs that it has.
    pub gpus: Vec<GpuPart>,
    /// The checkpoint to continue from: its files.
    pub checkpoint: Option<Digest>,
}

/// One input of a [`Grant`], its artifact known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedInput {
    /// The name that the stage knows it by.
    pub name: String,
    /// Digest of the manifest.
    pub artifact: Digest,
    /// Paths that are read; empty means all.
    pub only: Vec<String>,
}
