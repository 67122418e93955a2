//! What people ask about runs, tasks and attempts: ordinary tables, written by
//! the transactions that write the events.
//!
//! [`rows`] says what an event changes in them. It is pure, so that the tables
//! are what the events say, whenever they are built. A change of a task is
//! numbered by the event that made it, which no restart alters.

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

/// What one event changes in the tables.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A task that is wanted, for the first time or again.
    Task {
        /// Its key.
        task: Digest,
        /// Name of its stage.
        stage: String,
        /// What it is about.
        subject: String,
    },
    /// A run was submitted, for the first time or again. Its tasks have their rows.
    Run {
        /// Digest of the plan.
        run: Digest,
        /// Milliseconds since 1970.
        at_ms: i64,
        /// Name of the preset, or of the first command.
        scale: String,
        /// Its tasks; none if it has them already.
        tasks: Vec<Digest>,
    },
    /// More tasks of a run. They have their rows.
    RunTasks {
        /// Digest of the plan.
        run: Digest,
        /// Its tasks.
        tasks: Vec<Digest>,
    },
    /// A run was called off.
    RunCancelled {
        /// Digest of the plan.
        run: Digest,
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// An attempt began.
    Granted {
        /// Of its lease.
        token: FencingToken,
        /// The task's key.
        task: Digest,
        /// Counted from 1.
        attempt: u32,
        /// Who.
        worker: String,
        /// The event's number.
        number: u64,
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// An attempt ended.
    Ended {
        /// Of its lease.
        token: FencingToken,
        /// How.
        end: End,
    },
    /// A task came to an end.
    TaskEnded {
        /// Its key.
        task: Digest,
        /// Milliseconds since 1970.
        at_ms: i64,
        /// `succeeded`, `failed`, `cancelled` or `pruned`.
        state: &'static str,
        /// Why, for failures: the kind.
        code: Option<&'static str>,
        /// Why, for failures: the words.
        message: Option<String>,
        /// The result.
        artifact: Option<Digest>,
        /// Leases granted.
        attempts: u32,
        /// Attempts that failed through the task's own fault, since it was last wanted.
        failures: u32,
        /// Attempts whose worker vanished, since it was last wanted.
        losses: u32,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// The event's number.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// `succeeded`, `failed`, `retrying`, `lost`, `preempted`, `cancelled` or `pruned`.
    pub outcome: String,
    /// For failures, the kind.
    pub code: Option<String>,
    /// For failures, the words.
    pub message: Option<String>,
}

/// One leased execution of a task, as it stands in the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Of its lease.
    pub token: FencingToken,
    /// The task's key.
    pub task: Digest,
    /// The task's stage and subject.
    pub label: String,
    /// Counted from 1.
    pub attempt: u32,
    /// Who.
    pub worker: String,
    /// Number of the event that granted it.
    pub granted: u64,
    /// Milliseconds since 1970.
    pub granted_ms: i64,
    /// Absent while it is under way.
    pub end: Option<End>,
}

/// What an event changes in the tables. Call it before the scheduler applies the
/// event.
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

/// Rows of tasks that have none, or whose rows say that nobody wants them.
fn wanted<'a>(tasks: &'a [Arc<TaskSpec>], scheduler: &'a Scheduler) -> impl Iterator<Item = Row> + 'a {
    let has_no_row = |key| scheduler.task(key).map_or(true, Task::is_given_up);
    tasks.iter().filter(move |spec| has_no_row(spec.key)).map(|spec| open(spec))
}

/// The row of a task that is to be computed.
fn open(spec: &TaskSpec) -> Row {
    Row::Task { task: spec.key, stage: spec.stage.kind().name().to_owned(), subject: stored(&spec.subject) }
}

impl Attempt {
    /// Its beginning, for those who watch.
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

    /// Its end, for those who watch.
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

/// What attempts did between two events' numbers, the second not included, in
/// the order in which it happened.
pub fn changes(attempts: &[Attempt], from: u64, to: u64) -> Vec<TaskChange> {
    let steps = attempts.iter().flat_map(|attempt| {
        let ended = attempt.end.as_ref().map(|end| attempt.ended(end));
        [Some(attempt.running()), ended].into_iter().flatten()
    });
    let mut changes: Vec<TaskChange> = steps.filter(|change| (from..to).contains(&change.number)).collect();
    changes.sort_by_key(|change| change.number);
    changes
}

/// The newest changes of all tasks, in memory: a watch costs nothing when nothing
/// changed. Older ones are in the tables.
#[derive(Debug)]
pub struct Tail {
    changes: VecDeque<(Digest, TaskChange)>,
    /// Changes from this number on are here.
    first: u64,
    /// Number of the next event.
    next: u64,
    open: BTreeMap<FencingToken, Attempt>,
}

impl Tail {
    /// After the event of a number, with these attempts under way.
    pub fn new(last: u64, open: Vec<Attempt>) -> Self {
        let open = open.into_iter().map(|attempt| (attempt.token, attempt)).collect();
        Self { changes: VecDeque::new(), first: last + 1, next: last + 1, open }
    }

    /// Notes the rows of the event of a number. Call it before the scheduler
    /// applies the event.
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

    /// Changes of this number and later ones are here, older ones in the tables.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The changes from a number on that are here and about tasks for which `about`
    /// holds.
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

/// Text of others as every database takes it.
fn stored(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The name at the head of the id of a worker that is not known.
fn name_of(id: &str) -> &str {
    id.rsplitn(3, '-').last().filter(|name| !name.is_empty()).unwrap_or(id)
}
