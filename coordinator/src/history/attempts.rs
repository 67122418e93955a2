//! Attempts as the tables hold them, and the changes that people watch.

use domain::id::TaskKey;
use domain::runner::task::FencingToken;
use domain::study::stage::Failure;
use domain::text::cut;

/// One leased execution of a task, as stored in the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Fencing token of the attempt's lease.
    pub token: FencingToken,
    /// Key of the task.
    pub task: TaskKey,
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

/// One step in the life of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Number of the event that made the change, which no restart alters.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Key of the task.
    pub task: TaskKey,
    /// The task's stage and subject.
    pub label: String,
    /// `running`, or the outcome of an attempt that ended.
    pub state: String,
    pub worker: String,
    /// The attempt's number, counted from 1.
    pub attempt: u32,
    /// Time since the lease was granted; 0 for `running`.
    pub seconds: f64,
    /// Kind and message of a failure; otherwise empty.
    pub message: String,
}

impl Attempt {
    /// The attempt's beginning, for those who watch.
    pub fn running(&self) -> Change {
        Change {
            number: self.granted,
            at_ms: self.granted_ms,
            task: self.task,
            label: self.label.clone(),
            state: "running".to_owned(),
            worker: self.worker.clone(),
            attempt: self.attempt,
            seconds: 0.0,
            message: String::new(),
        }
    }

    /// The attempt's end, for those who watch.
    pub fn ended(&self, end: &End) -> Change {
        let message = match (&end.code, &end.message) {
            // Older versions stored messages of any length.
            (Some(code), Some(message)) => format!("{code}: {}", cut(message, Failure::MESSAGE_MAX)),
            _ => String::new(),
        };
        Change {
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
pub fn changes(attempts: &[Attempt], from: u64, to: u64) -> Vec<Change> {
    let steps = attempts.iter().flat_map(|attempt| {
        let ended = attempt.end.as_ref().map(|end| attempt.ended(end));
        [Some(attempt.running()), ended].into_iter().flatten()
    });
    let mut changes: Vec<Change> = steps.filter(|change| (from..to).contains(&change.number)).collect();
    changes.sort_by_key(|change| change.number);
    changes
}
