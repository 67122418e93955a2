//! Tables of runs, tasks and attempts for people's queries: ordinary tables, written in the
//! same transactions as the events.
//!
//! [`rows`] says what an event changes in the tables. It is pure, so that the tables always say
//! what the events say, whenever the tables are built. A change of a task has the number of the
//! event that made the change, which no restart alters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use domain::digest::Digest;
use domain::event::Event;
use domain::plan::TaskSpec;
use domain::scheduler::{Phase, Run, Scheduler};
use domain::stage::Failure;
use domain::task::{FencingToken, Released, Task};
use domain::text::cut;
use proto::v1::TaskChange;

/// Changes kept in memory for those who watch: minutes of a busy cluster.
const TAIL: usize = 4096;

/// A change of the tables by one event.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A task that is wanted, for the first time or again.
    Task {
        /// Key of the task.
        task: Digest,
        /// Name of the task's stage.
        stage: String,
        /// The task's subject, for instance `SUR/IVa`.
        subject: String,
    },
    /// A run was submitted, for the first time or again. The rows of its tasks exist.
    Run {
        /// Digest of the run's plan.
        run: Digest,
        /// Milliseconds since 1970.
        at_ms: i64,
        /// Name of the preset, or of the first command.
        scale: String,
        /// Keys of the run's tasks; empty if the tables have them already.
        tasks: Vec<Digest>,
    },
    /// More tasks of a run. Their rows exist.
    RunTasks {
        /// Digest of the run's plan.
        run: Digest,
        /// Keys of the added tasks.
        tasks: Vec<Digest>,
    },
    /// A run was cancelled.
    RunCancelled {
        /// Digest of the run's plan.
        run: Digest,
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// An attempt began.
    Granted {
        /// Fencing token of the attempt's lease.
        token: FencingToken,
        /// Key of the task.
        task: Digest,
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
    TaskEnded {
        /// Key of the task.
        task: Digest,
        /// Milliseconds since 1970.
        at_ms: i64,
        /// `succeeded`, `failed`, `cancelled` or `pruned`.
        state: &'static str,
        /// Kind of a failure.
        code: Option<&'static str>,
        /// Message of a failure.
        message: Option<String>,
        /// Digest of the result's manifest.
        artifact: Option<Digest>,
        /// Number of leases granted for the task.
        attempts: u32,
        /// Attempts that failed through the task's own fault, since the task was last wanted.
        failures: u32,
        /// Attempts whose worker vanished, since the task was last wanted.
        losses: u32,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Number of the event.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// `succeeded`, `failed`, `retrying`, `lost`, `preempted`, `cancelled` or `pruned`.
    pub outcome: String,
    /// Kind of a failure.
    pub code: Option<String>,
    /// Message of a failure.
    pub message: Option<String>,
}

/// One leased execution of a task, as stored in the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Fencing token of the attempt's lease.
    pub token: FencingToken,
    /// Key of the task.
    pub task: Digest,
    /// The task's stage and subject.
    pub label: String,
    /// The attempt's number, counted from 1.
    pub attempt: u32,
    pub worker: String,
    /// Number of the event that granted the lease.
    pub granted: u64,
    /// Milliseconds since 1970.
    pub granted_ms: i64,
    /// None while the attempt is under way.
    pub end: Option<End>,
}

/// The changes of the tables that follow from an event. Call this before the scheduler applies
/// the event.
pub fn rows(number: u64, at_ms: i64, event: &Event, scheduler: &Scheduler) -> Vec<Row> {
    let ended = |token: FencingToken, outcome: &str| Row::Ended {
        token,
        end: End { number, at_ms, outcome: outcome.to_owned(), code: None, message: None },
    };
    let task_ended = |task: Digest, state| {
        let known = scheduler.task(task).ok();
        Row::TaskEnded {
            task,
            at_ms,
            state,
            code: None,
            message: None,
            artifact: None,
            attempts: known.map_or(0, |task| task.attempts),
            failures: known.map_or(0, |task| task.failures),
            losses: known.map_or(0, |task| task.losses),
        }
    };
    let closed = |task: &Task, state| {
        let lease = task.lease().map(|lease| ended(lease.token, state));
        lease.into_iter().chain([task_ended(task.spec.key, state)])
    };
    match event {
        Event::RunSubmitted { run, work, tasks, .. } => {
            let keys = tasks.iter().map(|spec| spec.key).collect();
            let run = Row::Run { run: *run, at_ms, scale: work.title().to_owned(), tasks: keys };
            wanted(tasks, scheduler).chain([run]).collect()
        }
        Event::RunSubmittedAgain { run } => {
            let known = scheduler.run(*run).into_iter();
            let again =
                |known: &Run| Row::Run { run: known.id, at_ms, scale: known.work.title().to_owned(), tasks: vec![] };
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
            let mut row = task_ended(*task, "succeeded");
            if let Row::TaskEnded { artifact: place, .. } = &mut row {
                *place = Some(*artifact);
            }
            vec![ended(*token, "succeeded"), row]
        }
        Event::AttemptFailed { task, token, failure, last, .. } => {
            let outcome = if *last { "failed" } else { "retrying" };
            let (code, message) = (Some(failure.code.name()), Some(stored(&failure.message)));
            let end = End {
                number,
                at_ms,
                outcome: outcome.to_owned(),
                code: code.map(str::to_owned),
                message: message.clone(),
            };
            let mut rows = vec![Row::Ended { token: *token, end }];
            if *last {
                let mut row = task_ended(*task, "failed");
                if let Row::TaskEnded { code: kind, message: words, failures, .. } = &mut row {
                    (*kind, *words, *failures) = (code, message, *failures + 1);
                }
                rows.push(row);
            }
            rows
        }
        Event::LeaseReleased { token, why, .. } => {
            let outcome = match why {
                Released::Lost => "lost",
                Released::Preempted => "preempted",
            };
            vec![ended(*token, outcome)]
        }
        Event::RunCancelled { run } => {
            let Ok(cancelled) = scheduler.run(*run) else { return vec![] };
            let is_wanted =
                |key| scheduler.runs_of(key).any(|other| other.id != *run && other.phase != Phase::Cancelled);
            let open = scheduler.tasks_of(cancelled).filter(|task| task.is_open() && !is_wanted(task.spec.key));
            let closed = open.flat_map(|task| closed(task, "cancelled"));
            [Row::RunCancelled { run: *run, at_ms }].into_iter().chain(closed).collect()
        }
        Event::TasksPruned { tasks, .. } => {
            let tasks = tasks.iter().filter_map(|key| scheduler.task(*key).ok());
            tasks.flat_map(|task| closed(task, "pruned")).collect()
        }
        Event::ResultsInvalidated { tasks } => {
            let reopened = tasks.iter().filter_map(|key| scheduler.task(*key).ok()).map(|task| match task.spec.key {
                key if scheduler.wants(key) => open(&task.spec),
                key => task_ended(key, "cancelled"),
            });
            let cut_off = tasks.iter().flat_map(|key| scheduler.dependents_of(*key)).filter_map(Task::lease);
            let cut_off: BTreeMap<FencingToken, Row> =
                cut_off.map(|lease| (lease.token, ended(lease.token, "preempted"))).collect();
            reopened.chain(cut_off.into_values()).collect()
        }
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

/// Rows of those tasks that have no row, or whose row says that nobody wants them.
fn wanted<'a>(tasks: &'a [Arc<TaskSpec>], scheduler: &'a Scheduler) -> impl Iterator<Item = Row> + 'a {
    let has_no_row = |key| scheduler.task(key).map_or(true, Task::is_given_up);
    tasks.iter().filter(move |spec| has_no_row(spec.key)).map(|spec| open(spec))
}

/// The row of a task that is to be computed.
fn open(spec: &TaskSpec) -> Row {
    Row::Task { task: spec.key, stage: spec.stage.kind().name().to_owned(), subject: stored(&spec.subject) }
}

impl Attempt {
    /// The attempt's beginning, for those who watch.
    pub fn running(&self) -> TaskChange {
        TaskChange {
            number: self.granted,
            at_ms: self.granted_ms,
            task_key: self.task.to_string(),
            label: self.label.clone(),
            state: "running".to_owned(),
            worker: self.worker.clone(),
            attempt: self.attempt,
            seconds: 0.0,
            message: String::new(),
        }
    }

    /// The attempt's end, for those who watch.
    pub fn ended(&self, end: &End) -> TaskChange {
        let message = match (&end.code, &end.message) {
            // Older versions stored messages of any length.
            (Some(code), Some(message)) => format!("{code}: {}", cut(message, Failure::MESSAGE_MAX)),
            _ => String::new(),
        };
        TaskChange {
            number: end.number,
            at_ms: end.at_ms,
            state: end.outcome.clone(),
            seconds: (end.at_ms - self.granted_ms).max(0) as f64 / 1e3,
            message,
            ..self.running()
        }
    }
}

/// The changes of attempts between two event numbers, `to` not included, in the order in which
/// they happened.
pub fn changes(attempts: &[Attempt], from: u64, to: u64) -> Vec<TaskChange> {
    let steps = attempts.iter().flat_map(|attempt| {
        let ended = attempt.end.as_ref().map(|end| attempt.ended(end));
        [Some(attempt.running()), ended].into_iter().flatten()
    });
    let mut changes: Vec<TaskChange> = steps.filter(|change| (from..to).contains(&change.number)).collect();
    changes.sort_by_key(|change| change.number);
    changes
}

/// The newest changes of all tasks, in memory, so that a watch costs nothing while nothing
/// changes. Older changes are in the tables.
#[derive(Debug)]
pub struct Tail {
    changes: VecDeque<(Digest, TaskChange)>,
    /// Number from which on all changes are in memory.
    first: u64,
    /// Number of the next event.
    next: u64,
    open: BTreeMap<FencingToken, Attempt>,
}

impl Tail {
    /// A tail that begins after event `last`, with the attempts under way at that time.
    pub fn new(last: u64, open: Vec<Attempt>) -> Self {
        let open = open.into_iter().map(|attempt| (attempt.token, attempt)).collect();
        Self { changes: VecDeque::new(), first: last + 1, next: last + 1, open }
    }

    /// Notes the rows of event `number`. Call this before the scheduler applies the event.
    pub fn note(&mut self, number: u64, rows: &[Row], scheduler: &Scheduler) {
        self.next = number + 1;
        for row in rows {
            match row {
                Row::Granted { token, task, attempt, worker, number, at_ms } => {
                    let attempt = Attempt {
                        token: *token,
                        task: *task,
                        label: scheduler.task(*task).map(|task| task.spec.label()).unwrap_or_default(),
                        attempt: *attempt,
                        worker: worker.clone(),
                        granted: *number,
                        granted_ms: *at_ms,
                        end: None,
                    };
                    self.push(*task, attempt.running());
                    self.open.insert(*token, attempt);
                }
                Row::Ended { token, end } => {
                    if let Some(attempt) = self.open.remove(token) {
                        self.push(attempt.task, attempt.ended(end));
                    }
                }
                Row::Task { .. }
                | Row::Run { .. }
                | Row::RunTasks { .. }
                | Row::RunCancelled { .. }
                | Row::TaskEnded { .. } => {}
            }
        }
    }

    /// Number of the next change.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Number from which on all changes are in memory; older changes are in the tables.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The changes in memory from number `from` on whose tasks satisfy `about`.
    pub fn since(&self, from: u64, about: impl Fn(Digest) -> bool) -> Vec<TaskChange> {
        let begin = self.changes.partition_point(|(_, change)| change.number < from.max(self.first));
        self.changes.range(begin..).filter(|(task, _)| about(*task)).map(|(_, change)| change.clone()).collect()
    }

    fn push(&mut self, task: Digest, change: TaskChange) {
        if self.changes.len() >= TAIL
            && let Some((_, oldest)) = self.changes.pop_front()
        {
            self.first = oldest.number + 1;
        }
        self.changes.push_back((task, change));
    }
}

/// Foreign text without the characters that some databases refuse.
fn stored(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The name at the head of the id of an unknown worker.
fn name_of(id: &str) -> &str {
    id.rsplitn(3, '-').last().filter(|name| !name.is_empty()).unwrap_or(id)
}
