//! What an event changes in the tables. [`rows`] is pure, so that the tables always say what the
//! events say, whenever the tables are built.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::id::{ArtifactId, RunId, TaskKey};
use domain::runner::event::Event;
use domain::runner::scheduler::{Phase, Run, Scheduler};
use domain::runner::task::{FencingToken, Released, Task};
use domain::study::plan::TaskSpec;
use domain::study::stage::Failure;

use super::attempts::End;

/// A change of the tables by one event.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A task that is wanted, for the first time or again.
    Task {
        /// Key of the task.
        task: TaskKey,
        /// Name of the task's stage.
        stage: String,
        /// The task's subject, for instance `SUR/IVa`.
        subject: String,
    },
    /// A run was submitted, for the first time or again. The rows of its tasks exist.
    Run {
        /// Digest of the run's plan.
        run: RunId,
        /// Milliseconds since 1970.
        at_ms: i64,
        /// Name of the preset, or of the first command.
        title: String,
        /// Keys of the run's tasks; empty if the tables have them already.
        tasks: Vec<TaskKey>,
    },
    /// More tasks of a run. Their rows exist.
    RunTasks {
        /// Digest of the run's plan.
        run: RunId,
        /// Keys of the added tasks.
        tasks: Vec<TaskKey>,
    },
    /// A run was cancelled.
    RunCancelled {
        /// Digest of the run's plan.
        run: RunId,
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// An attempt began.
    Granted {
        /// Fencing token of the attempt's lease.
        token: FencingToken,
        /// Key of the task.
        task: TaskKey,
        /// The attempt's number, counted from 1.
        attempt: u32,
        worker: String,
        /// Number of the event.
        number: u64,
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// An attempt ended.
    Ended {
        /// Fencing token of the attempt's lease.
        token: FencingToken,
        end: End,
    },
    /// A task came to an end.
    TaskEnded(TaskEnd),
}

/// How a task came to an end.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskEnd {
    /// Key of the task.
    pub task: TaskKey,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// `succeeded`, `failed`, `cancelled` or `pruned`.
    pub state: &'static str,
    /// Kind of a failure.
    pub code: Option<&'static str>,
    /// Message of a failure.
    pub message: Option<String>,
    /// Digest of the result's manifest.
    pub artifact: Option<ArtifactId>,
    /// Number of leases granted for the task.
    pub attempts: u32,
    /// Attempts that failed through the task's own fault, since the task was last wanted.
    pub failures: u32,
    /// Attempts whose worker vanished, since the task was last wanted.
    pub losses: u32,
}

/// The changes of the tables that follow from an event. Call this before the scheduler applies
/// the event.
pub fn rows(number: u64, at_ms: i64, event: &Event, scheduler: &Scheduler) -> Vec<Row> {
    let moment = Moment { number, at_ms, scheduler };
    match event {
        Event::RunSubmitted { run, work, tasks, .. } => {
            let keys = tasks.iter().map(|spec| spec.key).collect();
            let run = Row::Run { run: *run, at_ms, title: work.title().to_owned(), tasks: keys };
            wanted(tasks, scheduler).chain([run]).collect()
        }
        Event::RunSubmittedAgain { run } => {
            let known = scheduler.run(*run).into_iter();
            let again =
                |known: &Run| Row::Run { run: known.id, at_ms, title: known.work.title().to_owned(), tasks: vec![] };
            known.map(again).collect()
        }
        Event::TasksAdded { run, tasks, .. } => {
            let run = Row::RunTasks { run: *run, tasks: tasks.iter().map(|spec| spec.key).collect() };
            wanted(tasks, scheduler).chain([run]).collect()
        }
        Event::LeaseGranted { task, worker, token, attempt, .. } => {
            let known = scheduler.worker(worker).map(|known| known.name.as_str());
            let (worker, attempt) = (stored(known.unwrap_or_else(|_| name_of(&worker.0))), attempt.0);
            vec![Row::Granted { token: *token, task: *task, attempt, worker, number, at_ms }]
        }
        Event::TaskCommitted { task, token, artifact } => {
            let end = TaskEnd { artifact: Some(*artifact), ..moment.task_ended(*task, "succeeded") };
            vec![moment.ended(*token, "succeeded"), Row::TaskEnded(end)]
        }
        Event::AttemptFailed { task, token, failure, last, .. } => moment.failed(*task, *token, failure, *last),
        Event::LeaseReleased { token, why, .. } => {
            let outcome = match why {
                Released::Lost => "lost",
                Released::Preempted => "preempted",
            };
            vec![moment.ended(*token, outcome)]
        }
        Event::RunCancelled { run } => scheduler.run(*run).map_or_else(|_| vec![], |run| moment.cancelled(run)),
        Event::TasksPruned { tasks, .. } => {
            let tasks = tasks.iter().filter_map(|key| scheduler.task(*key).ok());
            tasks.flat_map(|task| moment.closed(task, "pruned")).collect()
        }
        Event::ResultsInvalidated { tasks } => moment.invalidated(tasks),
        Event::CheckpointSaved { .. }
        | Event::RunPaused { .. }
        | Event::RunResumed { .. }
        | Event::WorkerJoined { .. }
        | Event::WorkerLeft { .. }
        | Event::WorkerDraining { .. }
        | Event::WorkerQuarantined { .. }
        | Event::WorkerReadmitted { .. }
        | Event::HistoryLost { .. }
        | Event::Registry(_) => vec![],
    }
}

/// When an event happens, and to what.
struct Moment<'a> {
    /// Number of the event.
    number: u64,
    /// Milliseconds since 1970.
    at_ms: i64,
    /// The state before the event.
    scheduler: &'a Scheduler,
}

impl Moment<'_> {
    /// The end of an attempt that did not fail.
    fn ended(&self, token: FencingToken, outcome: &str) -> Row {
        let Self { number, at_ms, .. } = *self;
        Row::Ended { token, end: End { number, at_ms, outcome: outcome.to_owned(), code: None, message: None } }
    }

    /// The end of a task that did not fail and has no result.
    fn task_ended(&self, task: TaskKey, state: &'static str) -> TaskEnd {
        let known = self.scheduler.task(task).ok();
        TaskEnd {
            task,
            at_ms: self.at_ms,
            state,
            code: None,
            message: None,
            artifact: None,
            attempts: known.map_or(0, |task| task.attempts),
            failures: known.map_or(0, |task| task.failures),
            losses: known.map_or(0, |task| task.losses),
        }
    }

    /// The end of a task, and of its attempt under way.
    fn closed(&self, task: &Task, state: &'static str) -> impl Iterator<Item = Row> + use<> {
        let attempt = task.lease().map(|lease| self.ended(lease.token, state));
        attempt.into_iter().chain([Row::TaskEnded(self.task_ended(task.spec.key, state))])
    }

    /// The failure of an attempt; with `last`, the task fails as well.
    fn failed(&self, task: TaskKey, token: FencingToken, failure: &Failure, last: bool) -> Vec<Row> {
        let (code, message) = (failure.code.name(), stored(&failure.message));
        let end = End {
            number: self.number,
            at_ms: self.at_ms,
            outcome: if last { "failed" } else { "retrying" }.to_owned(),
            code: Some(code.to_owned()),
            message: Some(message.clone()),
        };
        let mut rows = vec![Row::Ended { token, end }];
        if last {
            let end = self.task_ended(task, "failed");
            let (code, message, failures) = (Some(code), Some(message), end.failures + 1);
            rows.push(Row::TaskEnded(TaskEnd { code, message, failures, ..end }));
        }
        rows
    }

    /// The end of a run and of those of its tasks that no other run wants.
    fn cancelled(&self, run: &Run) -> Vec<Row> {
        let scheduler = self.scheduler;
        let is_wanted = |key| scheduler.runs_of(key).any(|other| other.id != run.id && other.phase != Phase::Cancelled);
        let open = scheduler.tasks_of(run).filter(|task| task.is_open() && !is_wanted(task.spec.key));
        let closed = open.flat_map(|task| self.closed(task, "cancelled"));
        [Row::RunCancelled { run: run.id, at_ms: self.at_ms }].into_iter().chain(closed).collect()
    }

    /// The new beginning of tasks whose results are gone, and the end of attempts that read
    /// them.
    fn invalidated(&self, tasks: &[TaskKey]) -> Vec<Row> {
        let scheduler = self.scheduler;
        let reopened = tasks.iter().filter_map(|key| scheduler.task(*key).ok()).map(|task| match task.spec.key {
            key if scheduler.wants(key) => open(&task.spec),
            key => Row::TaskEnded(self.task_ended(key, "cancelled")),
        });
        let cut_off = tasks.iter().flat_map(|key| scheduler.dependents_of(*key)).filter_map(Task::lease);
        let cut_off: BTreeMap<FencingToken, Row> =
            cut_off.map(|lease| (lease.token, self.ended(lease.token, "preempted"))).collect();
        reopened.chain(cut_off.into_values()).collect()
    }
}

/// Rows of those tasks that have no row, or whose row says that nobody wants them.
fn wanted<'a>(tasks: &'a [Arc<TaskSpec>], scheduler: &'a Scheduler) -> impl Iterator<Item = Row> + 'a {
    let has_no_row = |key| scheduler.task(key).map_or(true, Task::is_given_up);
    tasks.iter().filter(move |spec| has_no_row(spec.key)).map(|spec| open(spec))
}

/// The row of a task that is to be computed.
fn open(spec: &TaskSpec) -> Row {
    Row::Task { task: spec.key, stage: spec.stage.kind().name().to_owned(), subject: stored(&spec.subject) }
}

/// Foreign text without the characters that some databases refuse.
fn stored(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The name at the head of the id of an unknown worker.
fn name_of(id: &str) -> &str {
    id.rsplitn(3, '-').last().filter(|name| !name.is_empty()).unwrap_or(id)
}
