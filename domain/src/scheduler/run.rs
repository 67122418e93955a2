//! One submission and how its tasks stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Id;
use crate::digest::Digest;
use crate::plan::Work;
use crate::registry::IdentityId;
use crate::stage::StageKind;
use crate::task::{State, Task};

/// Place of a run among the runs; runs are never removed.
pub(super) type RunId = u32;

/// One submission of some work.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Digest of the plan.
    pub id: Digest,
    /// What was planned.
    pub work: Arc<Work>,
    /// Whether it goes on.
    pub phase: Phase,
    /// Runs with more go first.
    pub priority: i32,
    /// Who asked for it first; nobody if that was the coordinator's own machine, or a
    /// program that did not note it.
    pub by: Option<IdentityId>,
    /// Tasks whose result existed when it was last submitted.
    pub cached: usize,
    /// How its tasks stand.
    pub counts: Counts,
    /// The same for each stage.
    pub stages: BTreeMap<StageKind, Counts>,
    /// The version of each of its stages.
    pub versions: BTreeMap<StageKind, u32>,
    /// Its tasks, each after all that it needs.
    pub(super) tasks: Vec<Id>,
    /// Those under way.
    pub(super) leased: BTreeSet<Id>,
    /// Those given up.
    pub(super) failed: BTreeSet<Id>,
}

/// Whether a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its tasks are handed out.
    Active,
    /// Its tasks wait.
    Paused,
    /// Nobody wants it any more.
    Cancelled,
}

impl Run {
    pub(super) fn new(id: Digest, work: Arc<Work>) -> Self {
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

    /// Whether asking for it again, with that priority, changes nothing for its tasks.
    pub fn goes_on(&self, priority: i32) -> bool {
        let counts = &self.counts;
        let has_open_ends = counts.missing + counts.failed + counts.cancelled + counts.pruned > 0;
        self.phase == Phase::Active && self.priority == priority && !has_open_ends
    }

    /// It is to have so many tasks in all.
    pub(super) fn announce(&mut self, tasks: usize) {
        self.counts.total += tasks.saturating_sub(self.counts.total);
        self.counts.missing = self.counts.total - self.tasks.len();
    }

    /// Counts a task that it did not have.
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

    /// Counts a task of it that changes its state.
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

    /// Where tasks in a state are listed one by one, if they are.
    fn listed(&mut self, state: &State) -> Option<&mut BTreeSet<Id>> {
        match state {
            State::Leased(_) => Some(&mut self.leased),
            State::Failed(_) => Some(&mut self.failed),
            _ => None,
        }
    }
}

/// How many tasks of a run are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub total: usize,
    /// Not here yet: the run is being submitted, or that was cut off.
    pub missing: usize,
    /// Inputs missing.
    pub waiting: usize,
    /// To be had.
    pub ready: usize,
    /// Under way.
    pub leased: usize,
    /// Done.
    pub committed: usize,
    /// Given up.
    pub failed: usize,
    /// Called off.
    pub cancelled: usize,
    /// Dropped by a search.
    pub pruned: usize,
}

impl Counts {
    /// Whether nothing of the run can go on by itself.
    pub fn is_over(&self) -> bool {
        self.ready == 0 && self.leased == 0 && self.missing == 0
    }

    /// Whether everything is done that nobody dropped.
    pub fn is_complete(&self) -> bool {
        self.committed + self.pruned == self.total
    }

    pub(super) fn add(&mut self, state: &State) {
        self.total += 1;
        *self.of(state) += 1;
    }

    /// A counted task goes from one state to another.
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
