//! Events as a coordinator decides them, without one.

use coordinator::history::{self, Row};
use coordinator::journal::Journal;
use domain::digest::Digest;
use domain::id::{ArtifactId, RunId, TaskKey};
use domain::runner::event::Event;
use domain::runner::scheduler::{Phase, Scheduler};
use domain::runner::task::{FencingToken, State, Task};
use domain::study::experiment::Sinddm;
use domain::study::plan::TaskSpec;
use domain::study::stage::Stage;
use serde_json::{Value, json};

use super::cluster::{data, small};
use super::dice::Dice;

/// Tasks of each of the two runs, which have half of them in common.
const TASKS: u32 = 200;

/// What happens, by the numbers of a seed.
pub(crate) struct Story {
    pub(crate) scheduler: Scheduler,
    /// All that happened so far, with the time of each event.
    pub(crate) events: Vec<(i64, Event)>,
    tokens: u64,
    dice: Dice,
}

impl Story {
    pub(crate) fn new(seed: u64) -> Self {
        Self { scheduler: Scheduler::default(), events: vec![], tokens: 0, dice: Dice::new(seed) }
    }

    /// A number below another.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.dice.below(end)
    }

    /// Some events that happen together, and what they change in the tables.
    pub(crate) fn batch(&mut self) -> (i64, Vec<Event>, Vec<Row>) {
        let at_ms = 1_000 + self.events.len() as i64;
        let (mut events, mut rows) = (vec![], vec![]);
        for _ in 0..=self.below(6) {
            let event = self.next();
            let number = self.events.len() as u64 + 1;
            rows.extend(history::rows(number, at_ms, &event, &self.scheduler));
            self.scheduler.apply(&event);
            self.events.push((at_ms, event.clone()));
            events.push(event);
        }
        (at_ms, events, rows)
    }

    /// Appends the next batch.
    pub(crate) fn append(&mut self, journal: &mut dyn Journal) {
        let (at_ms, events, rows) = self.batch();
        journal.append(at_ms, &events, &rows).unwrap();
    }

    /// The runs, submitted or not.
    pub(crate) fn runs() -> [RunId; 2] {
        [b"run 0", b"run 1"].map(|name| RunId(Digest::of(name)))
    }

    /// The tasks of both.
    pub(crate) fn tasks() -> impl Iterator<Item = TaskKey> {
        (0..TASKS * 3 / 2).map(|number| task(number).key)
    }

    fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.pick() {
                return event;
            }
        }
    }

    /// What happens to whatever the dice show; nothing if nothing can.
    fn pick(&mut self) -> Option<Event> {
        let which = self.below(2) as u32;
        let run = Self::runs()[which as usize];
        let choice = self.below(200);
        if self.scheduler.run(run).is_err() || choice == 0 {
            let first = which * TASKS / 2;
            let tasks: Vec<TaskSpec> = (first..first + TASKS).map(task).collect();
            return Some(event(json!({ "event": "run_submitted", "run": run, "experiment": small(),
                "data": data(ArtifactId(Digest::of(b""))), "tasks": tasks })));
        }
        if choice == 1 && self.scheduler.run(run).unwrap().phase != Phase::Cancelled {
            return Some(event(json!({ "event": "run_cancelled", "run": run })));
        }
        if choice == 2 && self.scheduler.run(run).unwrap().phase != Phase::Cancelled {
            return Some(event(json!({ "event": "run_submitted_again", "run": run })));
        }
        let known: Vec<Task> = Self::tasks().filter_map(|key| self.scheduler.task(key).ok().cloned()).collect();
        let picked = &known[self.below(known.len() as u64) as usize];
        let key = picked.spec.key;
        match &picked.state {
            State::Ready => {
                self.tokens += 1;
                Some(event(json!({ "event": "lease_granted", "task": key, "worker": "bench-1-a-b",
                    "token": self.tokens, "attempt": picked.attempts + 1, "request": self.tokens })))
            }
            State::Leased(lease) => Some(self.end(key, lease.token)),
            State::Committed { .. } if self.below(8) == 0 => {
                Some(event(json!({ "event": "results_invalidated", "tasks": [key] })))
            }
            _ => None,
        }
    }

    fn end(&mut self, task: TaskKey, token: FencingToken) -> Event {
        match self.below(8) {
            choice @ (0 | 1) => event(json!({ "event": "lease_released", "task": task, "token": token,
                "why": if choice == 0 { "lost" } else { "preempted" } })),
            choice @ (2 | 3) => event(json!({ "event": "attempt_failed", "task": task, "token": token,
                "failure": { "code": "crashed", "message": "it's \"gone\"\n" }, "last": choice == 2 })),
            _ => event(json!({ "event": "task_committed", "task": task, "token": token,
                "artifact": Digest::of(&token.0.to_le_bytes()) })),
        }
    }
}

/// Made as it is read, so that fields with defaults need not be named.
fn event(value: Value) -> Event {
    serde_json::from_value(value).unwrap()
}

/// One of two stages.
fn task(number: u32) -> TaskSpec {
    let stage = if number.is_multiple_of(2) { Stage::Report } else { Stage::SinddmTrain { sinddm: Sinddm::default() } };
    let task = json!({ "key": Digest::of(&number.to_le_bytes()), "subject": format!("{number}"),
        "stage": stage, "version": 1, "inputs": {}, "seed": domain::seed::Seed(1) });
    serde_json::from_value(task).unwrap()
}
