//! What happened to tasks, for people who watch. Follows from the journal.

use std::collections::BTreeMap;

use domain::digest::Digest;
use domain::event::Event;
use domain::scheduler::Scheduler;
use domain::task::{FencingToken, Released};
use proto::v1::TaskChange;

/// Every change of every task since the journal began.
#[derive(Debug, Default)]
pub struct History {
    changes: Vec<(Digest, TaskChange)>,
    started: BTreeMap<FencingToken, (i64, String, u32)>,
}

impl History {
    /// Notes what an event means. Call it before the scheduler applies the event.
    pub fn note(&mut self, at_ms: i64, event: &Event, scheduler: &Scheduler, worker_name: impl Fn(&str) -> String) {
        match event {
            Event::LeaseGranted { task, worker, token, attempt, .. } => {
                let name = worker_name(&worker.0);
                self.started.insert(*token, (at_ms, name, attempt.0));
                self.push(at_ms, *task, *token, "leased", "", scheduler);
            }
            Event::TaskCommitted { task, token, .. } => self.push(at_ms, *task, *token, "succeeded", "", scheduler),
            Event::AttemptFailed { task, token, failure, last } => {
                let state = if *last { "failed" } else { "retrying" };
                let message = format!("{}: {}", failure.code.name(), failure.message);
                self.push(at_ms, *task, *token, state, &message, scheduler);
            }
            Event::LeaseReleased { task, token, why } => {
                let state = match why {
                    Released::Lost => "lost",
                    Released::Preempted => "preempted",
                };
                self.push(at_ms, *task, *token, state, "", scheduler);
            }
            Event::RunSubmitted { .. } | Event::RunCancelled { .. } => {}
        }
    }

    /// Number of the next change.
    pub fn next(&self) -> u64 {
        self.changes.len() as u64
    }

    /// The changes from a number on that are about tasks for which `about` holds.
    pub fn since(&self, from: u64, about: impl Fn(Digest) -> bool) -> Vec<TaskChange> {
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(self.changes.len());
        self.changes[from..].iter().filter(|(task, _)| about(*task)).map(|(_, change)| change.clone()).collect()
    }

    fn push(
        &mut self,
        at_ms: i64,
        task: Digest,
        token: FencingToken,
        state: &str,
        message: &str,
        scheduler: &Scheduler,
    ) {
        let started = match state {
            "leased" => self.started.get(&token).cloned(),
            _ => self.started.remove(&token),
        };
        let (start_ms, worker, attempt) = started.unwrap_or((at_ms, String::new(), 0));
        let label = scheduler.task(task).map(|task| task.spec.label()).unwrap_or_default();
        let change = TaskChange {
            number: self.next(),
            at_ms,
            task_key: task.to_string(),
            label,
            state: state.to_owned(),
            worker,
            attempt,
            seconds: (at_ms - start_ms).max(0) as f64 / 1e3,
            message: message.to_owned(),
        };
        self.changes.push((task, change));
    }
}
