//! The scheduler: which events follow from a request, and what these events change.
//!
//! [`Scheduler::decide`] changes nothing; [`Scheduler::apply`] cannot fail and never looks at a
//! clock. The coordinator decides, journals, applies, and only then replies; after a restart,
//! it applies the journal and reaches the same state.
//!
//! The scheduler promises execution at least once and results exactly once. A task has one
//! committed result, given under the newest lease ever granted for the task.
//!
//! | module | what it holds |
//! |---|---|
//! | `decide`, `apply` | the two halves |
//! | [`request`] | requests, and why a request is refused |
//! | [`run`] | one submission and the states of its tasks |
//! | [`worker`] | workers, their offers and their leases |
//! | [`queue`] | ready tasks, in the order in which they are handed out |
//! | [`snapshot`] | the whole state as data |
//! | [`explain`] | why a task is not running |

mod apply;
mod decide;
pub mod explain;
mod ids;
mod queue;
pub mod request;
pub mod run;
pub mod snapshot;
pub mod worker;

pub use request::{Reject, Request};
pub use run::{Counts, Phase, Run};
pub use worker::Worker;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::digest::Prefix;
use crate::id::{RunId, TaskKey};
use crate::runner::registry::IdentityId;
use crate::runner::task::{FencingToken, Lease, Task, WorkerId};
use crate::study::stage::StageKind;
use ids::Ids;
use queue::{Classes, Queues};
use run::RunIndex;

/// Attempts that may fail by the task's own fault before the task is given up.
pub const FAILURES_MAX: u32 = 3;

/// Workers that may vanish while they run a task, without progress of the task, before the task
/// is considered the cause.
pub const LOSSES_MAX: u32 = 5;

/// Different tasks that a worker may fail fast in a row before the worker is considered the
/// cause.
pub const FAST_FAILURES_MAX: usize = 3;

/// A failure within this time after the grant is fast.
pub const FAST_MS: i64 = 30_000;

/// Number of ended attempts whose holders are remembered: the last log lines of an attempt
/// arrive after its end.
pub const ENDED_MAX: usize = 4096;

/// Index of a task in [`Scheduler::tasks`]; tasks are never removed.
type Id = u32;

/// The state of every task, run, worker and lease.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scheduler {
    tasks: Vec<Entry>,
    ids: Ids,
    runs: Vec<Run>,
    run_ids: BTreeMap<RunId, RunIndex>,
    /// Runs in the order of their last submission.
    run_order: Vec<RunIndex>,
    workers: BTreeMap<WorkerId, Worker>,
    leases: BTreeMap<FencingToken, Id>,
    /// The attempts that ended last, oldest end first.
    ended: VecDeque<Ended>,
    classes: Classes,
    queues: Queues,
    /// How many tasks of each stage are in which state, over all runs.
    stages: BTreeMap<StageKind, Counts>,
    last_token: u64,
    /// Weight of everything that each identity has submitted.
    kept: BTreeMap<IdentityId, u64>,
}

/// A task with data that follow from other parts of the state.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    task: Task,
    /// Index of the class of the task's demands on workers.
    class: u32,
    needs: Box<[Id]>,
    dependents: Vec<Id>,
    /// The runs that include the task, also cancelled ones.
    runs: Vec<RunIndex>,
}

/// An attempt that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ended {
    token: FencingToken,
    task: Id,
    worker: WorkerId,
}

impl Scheduler {
    /// The task with that key.
    ///
    /// # Errors
    /// [`Reject::UnknownTask`].
    pub fn task(&self, key: TaskKey) -> Result<&Task, Reject> {
        self.ids.get(&key).map(|id| &self.tasks[id as usize].task).ok_or(Reject::UnknownTask(key))
    }

    /// The tasks whose keys begin with `prefix`, in the order of their keys, except that keys
    /// with equal beginnings come in any order.
    pub fn tasks_beginning(&self, prefix: &Prefix) -> impl Iterator<Item = &Task> {
        let keys = prefix.range(TaskKey);
        let near = self.ids.near(keys.clone()).map(|id| &self.tasks[id as usize].task);
        near.filter(move |task| keys.contains(&task.spec.key))
    }

    /// All tasks, oldest first.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &Task> + DoubleEndedIterator {
        self.tasks.iter().map(|entry| &entry.task)
    }

    /// How many tasks of each stage are in which state; each task is counted once.
    pub fn stages(&self) -> &BTreeMap<StageKind, Counts> {
        &self.stages
    }

    /// The run with that digest.
    ///
    /// # Errors
    /// [`Reject::UnknownRun`].
    pub fn run(&self, run: RunId) -> Result<&Run, Reject> {
        self.run_ids.get(&run).map(|id| &self.runs[*id as usize]).ok_or(Reject::UnknownRun(run))
    }

    /// The runs whose digests begin with `prefix`, in the order of their digests.
    pub fn runs_beginning(&self, prefix: &Prefix) -> impl Iterator<Item = &Run> {
        self.run_ids.range(prefix.range(RunId)).map(|(_, id)| &self.runs[*id as usize])
    }

    /// All runs, oldest submission first.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.run_order.iter().map(|run| &self.runs[*run as usize])
    }

    /// What is kept for an identity: the weight of everything that it has submitted, including
    /// work that existed before or was cancelled.
    pub fn kept_for(&self, identity: &IdentityId) -> u64 {
        self.kept.get(identity).copied().unwrap_or(0)
    }

    /// The unfinished runs that the identity submitted first.
    pub fn open_runs_of<'a>(&'a self, identity: &'a IdentityId) -> impl Iterator<Item = &'a Run> {
        let is_open = |run: &Run| run.phase != Phase::Cancelled && !run.counts.is_over();
        self.runs.iter().filter(move |run| run.by.as_ref() == Some(identity) && is_open(run))
    }

    /// The tasks of a run, each after all that it needs.
    pub fn tasks_of<'a>(&'a self, run: &'a Run) -> impl DoubleEndedIterator<Item = &'a Task> {
        self.tasks_from(run, 0)
    }

    /// The tasks of a run from position `place` on, counted from 0.
    pub fn tasks_from<'a>(&'a self, run: &'a Run, place: usize) -> impl DoubleEndedIterator<Item = &'a Task> {
        run.tasks.iter().skip(place).map(|id| &self.tasks[*id as usize].task)
    }

    /// The leased tasks of a run, with their leases.
    pub fn leases_in<'a>(&'a self, run: &'a Run) -> impl Iterator<Item = (&'a Task, &'a Lease)> {
        let leased = run.leased.iter().map(|id| &self.tasks[*id as usize].task);
        leased.filter_map(|task| Some((task, task.lease()?)))
    }

    /// The tasks of a run that are given up.
    pub fn failed_in<'a>(&'a self, run: &'a Run) -> impl Iterator<Item = &'a Task> {
        run.failed.iter().map(|id| &self.tasks[*id as usize].task)
    }

    /// The runs that include a task, also cancelled ones.
    pub fn runs_of(&self, key: TaskKey) -> impl Iterator<Item = &Run> {
        let entry = self.ids.get(&key).map(|id| &self.tasks[id as usize]);
        entry.into_iter().flat_map(|entry| entry.runs.iter().map(|run| &self.runs[*run as usize]))
    }

    /// Whether a run that is not cancelled needs a task.
    pub fn wants(&self, key: TaskKey) -> bool {
        self.ids.get(&key).is_some_and(|id| self.is_wanted(id))
    }

    /// The tasks that read a task's result.
    pub fn dependents_of(&self, key: TaskKey) -> impl Iterator<Item = &Task> {
        let entry = self.ids.get(&key).map(|id| &self.tasks[id as usize]);
        entry.into_iter().flat_map(|entry| entry.dependents.iter().map(|id| &self.tasks[*id as usize].task))
    }

    /// The worker with that id.
    ///
    /// # Errors
    /// [`Reject::UnknownWorker`].
    pub fn worker(&self, worker: &WorkerId) -> Result<&Worker, Reject> {
        self.workers.get(worker).ok_or_else(|| Reject::UnknownWorker(worker.clone()))
    }

    /// All workers, by id.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter()
    }

    /// The leases granted to a worker's call that the worker still holds.
    pub fn leases_for<'a>(&'a self, worker: &'a WorkerId, call: u64) -> impl Iterator<Item = (&'a Task, &'a Lease)> {
        self.leases_of(worker).filter(move |(_, lease)| lease.call == call)
    }

    /// All leases of a worker, oldest first.
    pub fn leases_of<'a>(&'a self, worker: &'a WorkerId) -> impl Iterator<Item = (&'a Task, &'a Lease)> {
        let tokens = self.workers.get(worker).into_iter().flat_map(|worker| &worker.leases);
        tokens.filter_map(|token| self.lease(*token))
    }

    /// All leases, oldest first.
    pub fn leases(&self) -> impl Iterator<Item = (&Task, &Lease)> {
        self.leases.keys().filter_map(|token| self.lease(*token))
    }

    /// A current lease by its fencing token, with its task.
    pub fn lease(&self, token: FencingToken) -> Option<(&Task, &Lease)> {
        let task = &self.tasks[*self.leases.get(&token)? as usize].task;
        Some((task, task.lease()?))
    }

    /// The task of an attempt and the worker that holds the attempt, or held it if it is one of
    /// the last [`ENDED_MAX`] that ended.
    pub fn holder(&self, token: FencingToken) -> Option<(TaskKey, &WorkerId)> {
        if let Some((task, lease)) = self.lease(token) {
            return Some((task.spec.key, &lease.worker));
        }
        let ended = self.ended.iter().rev().find(|ended| ended.token == token)?;
        Some((self.tasks[ended.task as usize].task.spec.key, &ended.worker))
    }

    /// Whether an active run needs the task of a lease; if not, the worker had better hand the
    /// lease back.
    pub fn is_awaited(&self, token: FencingToken) -> bool {
        self.leases.get(&token).is_some_and(|id| self.active_run(*id).is_some())
    }

    /// Whether any task is ready to be handed out.
    pub fn has_work(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Whether a run that is not cancelled needs the task.
    fn is_wanted(&self, id: Id) -> bool {
        self.tasks[id as usize].runs.iter().any(|run| self.runs[*run as usize].phase != Phase::Cancelled)
    }

    /// The run on whose behalf a task is handed out.
    fn active_run(&self, id: Id) -> Option<RunIndex> {
        let active = self.tasks[id as usize].runs.iter().copied();
        let active = active.filter(|run| self.runs[*run as usize].phase == Phase::Active);
        active.min_by_key(|run| (std::cmp::Reverse(self.runs[*run as usize].priority), *run))
    }
}

#[cfg(test)]
mod tests;
