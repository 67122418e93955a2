//! How runs stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::id::{ArtifactId, RunId};
use domain::runner::registry::IdentityId;
use domain::runner::scheduler::{Counts, Phase, Run};
use domain::runner::task::Task;
use domain::runner::work::Work;
use domain::study::differences::{Study, differences};
use domain::study::stage::{Stage, StageKind};

use super::tasks::{AttemptView, FailureView};
use crate::reactor::Knowledge;

/// Most failed tasks that a view names; a list of the run's tasks has all of them.
const FAILURES: usize = 100;

/// Most attempts under way that a view names.
const ATTEMPTS: usize = 1000;

/// Most runs in a list: those submitted last.
const RUNS: usize = 1000;

/// Whether a run goes on, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Tasks can be had or are under way.
    Running,
    /// Every task has its result.
    Succeeded,
    /// Some task is given up and nothing else can continue.
    Failed,
    /// Nobody wants the run any more.
    Cancelled,
    /// Its tasks wait until it is resumed.
    Paused,
}

impl RunState {
    /// The state of a run.
    pub fn of(run: &Run) -> Self {
        match run.phase {
            Phase::Cancelled => Self::Cancelled,
            _ if run.counts.is_complete() => Self::Succeeded,
            _ if run.counts.is_over() => Self::Failed,
            Phase::Paused => Self::Paused,
            Phase::Active => Self::Running,
        }
    }

    /// Whether nothing more can happen to the run by itself.
    pub fn is_over(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
            Self::Running | Self::Paused => false,
        }
    }
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RunView {
    pub id: RunId,
    pub state: RunState,
    /// Name of the preset, or of the first command.
    pub title: String,
    /// Runs with a higher priority go first.
    pub priority: i32,
    /// The first submitter; none if that was the coordinator's own machine, or is not known.
    pub by: Option<IdentityId>,
    /// Number of tasks whose results existed when the run was last submitted.
    pub cached: usize,
    /// How many tasks are in which state.
    pub counts: Counts,
    /// How many tasks are in which state, by stage.
    pub stages: BTreeMap<StageKind, Counts>,
    /// Attempts under way, a thousand at most; `counts` has all.
    pub attempts: Vec<AttemptView>,
    /// Tasks that failed, the first hundred; `counts` has all.
    pub failures: Vec<FailureView>,
    /// Digest of the artifact with the results of a study, once it exists.
    pub results: Option<ArtifactId>,
    /// Digest of the artifact with the report of a study, once it exists.
    pub report: Option<ArtifactId>,
    /// Number of connected workers.
    pub workers: u32,
    /// What needs somebody's attention, one matter a line.
    pub attention: Vec<String>,
    /// In a list of runs: what is not the same in all studies with this title, see
    /// [`tell_apart`].
    pub differences: Vec<String>,
}

impl RunView {
    /// How a run stands.
    pub fn of(knowledge: &Knowledge, run: &Run) -> Self {
        let scheduler = &knowledge.scheduler;
        let leases = scheduler.leases_in(run).take(ATTEMPTS);
        Self {
            attempts: leases.map(|(task, lease)| AttemptView::of(knowledge, task, lease)).collect(),
            failures: scheduler.failed_in(run).filter_map(FailureView::of).take(FAILURES).collect(),
            ..Self::brief(knowledge, run)
        }
    }

    /// How a run stands, without attempts and failures.
    fn brief(knowledge: &Knowledge, run: &Run) -> Self {
        let scheduler = &knowledge.scheduler;
        let result_of = |wanted: fn(&Stage) -> bool| {
            let made = |task: &Task| task.artifact().filter(|_| wanted(&task.spec.stage));
            match *run.work {
                // The last two tasks of a study make them.
                Work::Study { .. } => scheduler.tasks_of(run).rev().take(2).find_map(made),
                Work::Commands { .. } => None,
            }
        };
        Self {
            id: run.id,
            state: RunState::of(run),
            title: run.work.title().to_owned(),
            priority: run.priority,
            by: run.by.clone(),
            cached: run.cached,
            counts: run.counts,
            stages: run.stages.clone(),
            attempts: vec![],
            failures: vec![],
            results: result_of(|stage| matches!(stage, Stage::Aggregate(_))),
            report: result_of(|stage| matches!(stage, Stage::Report)),
            workers: knowledge.sessions.connected(),
            attention: scheduler.attention(run),
            differences: vec![],
        }
    }
}

/// A run in a list, with everything that its results follow from.
#[derive(Clone, Debug)]
pub struct ListedRun {
    view: RunView,
    work: Arc<Work>,
    versions: BTreeMap<StageKind, u32>,
}

impl ListedRun {
    /// The thousand runs submitted last, newest first, without attempts and failures.
    pub fn all(knowledge: &Knowledge) -> Vec<Self> {
        let listed = |run: &Run| Self {
            view: RunView::brief(knowledge, run),
            work: run.work.clone(),
            versions: run.versions.clone(),
        };
        knowledge.scheduler.runs().rev().take(RUNS).map(listed).collect()
    }
}

/// Adds to each study how it differs from the others with the same title. This compares whole
/// specs, which is nothing for the driver's thread.
pub fn tell_apart(runs: Vec<ListedRun>) -> Vec<RunView> {
    let mut by_title: BTreeMap<String, (Vec<usize>, Vec<Study>)> = BTreeMap::new();
    for (index, ListedRun { view, work, versions }) in runs.iter().enumerate() {
        if let Work::Study { experiment, data } = &**work {
            let (indices, studies) = by_title.entry(view.title.clone()).or_default();
            let (experiment, data, versions) = ((**experiment).clone(), data.clone(), versions.clone());
            indices.push(index);
            studies.push(Study { experiment, data, versions });
        }
    }
    let mut views: Vec<RunView> = runs.into_iter().map(|run| run.view).collect();
    for (indices, studies) in by_title.into_values() {
        for (index, differences) in indices.into_iter().zip(differences(&studies)) {
            views[index].differences = differences;
        }
    }
    views
}
