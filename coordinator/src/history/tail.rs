//! The newest changes, kept in memory.

use std::collections::{BTreeMap, VecDeque};

use domain::id::TaskKey;
use domain::runner::scheduler::Scheduler;
use domain::runner::task::FencingToken;

use super::attempts::{Attempt, Change};
use super::rows::Row;

/// Changes kept in memory for those who watch: minutes of a busy cluster.
const TAIL: usize = 4096;

/// The newest changes of all tasks, in memory, so that a watch costs nothing while nothing
/// changes. Older changes are in the tables.
#[derive(Debug)]
pub struct Tail {
    changes: VecDeque<Change>,
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
                    self.push(attempt.running());
                    self.open.insert(*token, attempt);
                }
                Row::Ended { token, end } => {
                    if let Some(attempt) = self.open.remove(token) {
                        self.push(attempt.ended(end));
                    }
                }
                Row::Task { .. }
                | Row::Run { .. }
                | Row::RunTasks { .. }
                | Row::RunCancelled { .. }
                | Row::TaskEnded(_) => {}
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
    pub fn since(&self, from: u64, about: impl Fn(TaskKey) -> bool) -> Vec<Change> {
        let begin = self.changes.partition_point(|change| change.number < from.max(self.first));
        self.changes.range(begin..).filter(|change| about(change.task)).cloned().collect()
    }

    fn push(&mut self, change: Change) {
        if self.changes.len() >= TAIL
            && let Some(oldest) = self.changes.pop_front()
        {
            self.first = oldest.number + 1;
        }
        self.changes.push_back(change);
    }
}
