//! How tasks and their attempts stand.

use std::sync::Arc;

use domain::id::ArtifactId;
use domain::runner::scheduler::explain::Comparison;
use domain::runner::scheduler::{Reject, Run};
use domain::runner::task::{Lease, State, Task, WorkerId};
use domain::study::plan::TaskSpec;
use domain::study::stage::{Failure, Progress};

use crate::reactor::Knowledge;

/// Most tasks looked at for one page of a list.
const PAGE: usize = 4096;

/// How a task stands.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskView {
    pub spec: Arc<TaskSpec>,
    /// `waiting`, `ready`, `running`, `succeeded`, `failed`, `cancelled` or `pruned`.
    pub state: &'static str,
    /// Number of leases granted so far.
    pub attempts: u32,
    /// Name of the worker that runs it; none if nobody does.
    pub worker: Option<String>,
    /// Digest of its result.
    pub artifact: Option<ArtifactId>,
}

impl TaskView {
    /// How a task stands.
    pub fn of(knowledge: &Knowledge, task: &Task) -> Self {
        Self {
            spec: task.spec.clone(),
            state: state_name(&task.state),
            attempts: task.attempts,
            worker: task.lease().map(|lease| name_of(knowledge, &lease.worker)),
            artifact: task.artifact(),
        }
    }
}

/// The name of a state for people.
fn state_name(state: &State) -> &'static str {
    match state {
        State::Waiting { .. } => "waiting",
        State::Ready => "ready",
        State::Leased(_) => "running",
        State::Committed { .. } => "succeeded",
        State::Failed(_) => "failed",
        State::Cancelled => "cancelled",
        State::Pruned => "pruned",
    }
}

/// The name of a worker; its id if it is no longer known.
fn name_of(knowledge: &Knowledge, worker: &WorkerId) -> String {
    let known = knowledge.scheduler.worker(worker);
    known.map_or_else(|_| worker.to_string(), |worker| worker.name.clone())
}

/// Part of a list of tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskPage {
    pub tasks: Vec<TaskView>,
    /// Where the next page begins; none after the last one.
    pub next: Option<usize>,
}

impl TaskPage {
    /// The page that begins at task `from` of a run, with those of its tasks that are in this
    /// state; an empty name stands for every state.
    pub fn of(knowledge: &Knowledge, run: &Run, state: &str, from: usize) -> Self {
        let page = knowledge.scheduler.tasks_from(run, from).take(PAGE);
        let wanted = page.filter(|task| state.is_empty() || state_name(&task.state) == state);
        let next = from.saturating_add(PAGE);
        Self {
            tasks: wanted.map(|task| TaskView::of(knowledge, task)).collect(),
            next: (next < run.counts.total).then_some(next),
        }
    }
}

/// An attempt under way.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptView {
    /// Spec of the attempt's task.
    pub spec: Arc<TaskSpec>,
    /// Name of the worker.
    pub worker: String,
    /// The attempt's number, counted from 1.
    pub attempt: u32,
    /// How far the attempt is, by the worker's last heartbeat.
    pub progress: Option<Progress>,
}

impl AttemptView {
    /// The attempt at a task under a lease.
    pub(super) fn of(knowledge: &Knowledge, task: &Task, lease: &Lease) -> Self {
        let session = knowledge.sessions.get(&lease.worker);
        Self {
            spec: task.spec.clone(),
            worker: name_of(knowledge, &lease.worker),
            attempt: lease.attempt.0,
            progress: session.and_then(|session| session.progress.get(&lease.token)).cloned(),
        }
    }
}

/// A task that is given up.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureView {
    pub spec: Arc<TaskSpec>,
    /// How the last attempt failed.
    pub failure: Failure,
    /// Number of leases granted for the task.
    pub attempts: u32,
}

impl FailureView {
    /// The failure of a task; none if it did not fail.
    pub(super) fn of(task: &Task) -> Option<Self> {
        match &task.state {
            State::Failed(failure) => {
                Some(Self { spec: task.spec.clone(), failure: (**failure).clone(), attempts: task.attempts })
            }
            _ => None,
        }
    }
}

/// How a task stands, and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub task: TaskView,
    /// Why the task is in its state, one reason a line.
    pub reasons: Vec<String>,
    /// What tells the task from an earlier one like it.
    pub comparison: Comparison,
}

impl Explanation {
    /// The explanation of a task.
    ///
    /// # Errors
    /// If the scheduler does not know the task.
    pub fn of(knowledge: &Knowledge, task: &Task) -> Result<Self, Reject> {
        let (scheduler, key) = (&knowledge.scheduler, task.spec.key);
        let (reasons, comparison) = (scheduler.reasons(key)?, scheduler.comparison(key)?);
        Ok(Self { task: TaskView::of(knowledge, task), reasons, comparison })
    }
}
