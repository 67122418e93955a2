//! Runs: one submission and the states of its tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Id;
use crate::id::RunId;
use crate::runner::registry::IdentityId;
use crate::runner::task::{State, Task};
use crate::runner::work::Work;
use crate::study::stage::StageKind;

/// Index of a run; runs are never removed.
pub(super) type RunIndex = u32;

/// One submission of some work.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Digest of the run's plan.
    pub id: RunId,
    pub work: Arc<Work>,
    /// Whether the run is active, paused or cancelled.
    pub phase: Phase,
    /// Runs with a higher priority go first.
    pub priority: i32,
    /// The first submitter; none if that was the coordinator's own machine, or a program that
    /// did not note the submitter.
    pub by: Option<IdentityId>,
    /// Number of tasks whose results existed when the run was last submitted.
    pub cached: usize,
    /// How many of the run's tasks are in which state.
    pub counts: Counts,
    /// How many of the run's tasks are in which state, by stage.
    pub stages: BTreeMap<StageKind, Counts>,
    /// Version of each stage in the run.
    pub versions: BTreeMap<StageKind, u32>,
    /// The run's tasks, each after all that it needs.
    pub(super) tasks: Vec<Id>,
    /// The run's leased tasks.
    pub(super) leased: BTreeSet<Id>,
    /// The run's failed tasks.
    pub(super) failed: BTreeSet<Id>,
}

/// Whether a run is active, paused or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Tasks of the run are handed out.
    Active,
    /// Tasks of the run wait.
    Paused,
    /// Nobody wants the run any more.
    Cancelled,
}

impl Run {
    pub(super) fn new(id: RunId, work: Arc<Work>) -> Self {
        Self {
            id,
            work,
            phase: Phase::Active,
            priority: 0,
            by: None,
            cached: 0,
            counts: Counts::default(),
            stages: BTreeMap::new(),
            versions: BTreeMap::new(),
            tasks: vec![],
            leased: BTreeSet::new(),
            failed: BTreeSet::new(),
        }
    }

    /// Whether submitting the run again, with that priority, changes nothing for its tasks.
    pub fn goes_on(&self, priority: i32) -> bool {
        let counts = &self.counts;
        let has_open_ends = counts.missing + counts.failed + counts.cancelled + counts.pruned > 0;
        self.phase == Phase::Active && self.priority == priority && !has_open_ends
    }

    /// Sets the total number of tasks that the run is to have.
    pub(super) fn announce(&mut self, tasks: usize) {
        self.counts.total += tasks.saturating_sub(self.counts.total);
        self.counts.missing = self.counts.total - self.tasks.len();
    }

    /// Counts a task that is new to the run.
    pub(super) fn count(&mut self, id: Id, task: &Task) {
        if self.counts.missing > 0 {
            self.counts.missing -= 1;
            self.counts.total -= 1;
        }
        self.counts.add(&task.state);
        self.stages.entry(task.spec.stage.kind()).or_default().add(&task.state);
        self.versions.insert(task.spec.stage.kind(), task.spec.version);
        if let Some(listed) = self.listed(&task.state) {
            listed.insert(id);
        }
    }

    /// Updates the counts for a task of the run that changes its state.
    pub(super) fn recount(&mut self, id: Id, task: &Task, next: &State) {
        for counts in [&mut self.counts, self.stages.entry(task.spec.stage.kind()).or_default()] {
            counts.change(&task.state, next);
        }
        if let Some(listed) = self.listed(&task.state) {
            listed.remove(&id);
        }
        if let Some(listed) = self.listed(next) {
            listed.insert(id);
        }
    }

    /// The set that lists the run's tasks in a state, if there is one.
    fn listed(&mut self, state: &State) -> Option<&mut BTreeSet<Id>> {
        match state {
            State::Leased(_) => Some(&mut self.leased),
            State::Failed(_) => Some(&mut self.failed),
            _ => None,
        }
    }
}

/// How many tasks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of all tasks.
    pub total: usize,
    /// Tasks that were not submitted yet: the submission is under way or was interrupted.
    pub missing: usize,
    /// Tasks with missing inputs.
    pub waiting: usize,
    /// Tasks that a worker may have.
    pub ready: usize,
    /// Tasks under way.
    pub leased: usize,
    /// Tasks with a result.
    pub committed: usize,
    /// Tasks that are given up.
    pub failed: usize,
    /// Cancelled tasks.
    pub cancelled: usize,
    /// Pruned tasks, which a sweep or a person dropped from the run.
    pub pruned: usize,
}

impl Counts {
    /// Whether no task of the run can continue by itself.
    pub fn is_over(&self) -> bool {
        self.ready == 0 && self.leased == 0 && self.missing == 0
    }

    /// Whether every task has a result that was not pruned.
    pub fn is_complete(&self) -> bool {
        self.committed + self.pruned == self.total
    }

    pub(super) fn add(&mut self, state: &State) {
        self.total += 1;
        *self.of(state) += 1;
    }

    /// Updates the counts for a task that changes from one state to another.
    pub(super) fn change(&mut self, state: &State, next: &State) {
        *self.of(state) -= 1;
        *self.of(next) += 1;
    }

    fn of(&mut self, state: &State) -> &mut usize {
        match state {
            State::Waiting { .. } => &mut self.waiting,
            State::Ready => &mut self.ready,
            State::Leased(_) => &mut self.leased,
            State::Committed { .. } => &mut self.committed,
            State::Failed(_) => &mut self.failed,
            State::Cancelled => &mut self.cancelled,
            State::Pruned => &mut self.pruned,
        }
    }
}
