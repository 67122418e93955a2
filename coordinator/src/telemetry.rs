//! The coordinator's metrics: names, meanings and sources.
//!
//! Counters grow where something happens; without a recorder, which `--http` starts, they do
//! nothing. Gauges are read from the coordinator's state at each scrape. No label names a run
//! or a task, of which there may be millions.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use domain::id::TaskKey;
use domain::runner::event::Event;
use domain::runner::scheduler::{Counts, Scheduler};
use domain::runner::task::State;
use domain::study::stage::{FailureCode, StageKind};
use metrics::{Unit, counter, gauge, histogram};
use proto::window::{Kind, Metric};

use crate::history::Row;
use crate::sessions::Sessions;

const ATTEMPTS: &str = "lithogen_task_attempts_total";
const DURATION: &str = "lithogen_task_duration_seconds";
const WAIT: &str = "lithogen_task_queue_wait_seconds";
const EXPIRED: &str = "lithogen_leases_expired_total";
const CACHED: &str = "lithogen_cache_hits_total";
const ARTIFACT_BYTES: &str = "lithogen_artifact_bytes_total";
const HANDLING: &str = "lithogen_grpc_server_handling_seconds";
const TASKS: &str = "lithogen_tasks";
const WORKERS: &str = "lithogen_workers";
const HEARTBEAT: &str = "lithogen_worker_last_heartbeat_timestamp_seconds";
const STORE_BYTES: &str = "lithogen_store_bytes";
const FREE: &str = "lithogen_state_free_bytes";
const BUILD: &str = "lithogen_build_info";

/// Most workers that have a heartbeat metric of their own: those that were silent for longest.
const NAMED: usize = 1000;

/// Every metric of the coordinator.
pub const METRICS: &[Metric] = &[
    Metric {
        name: TASKS,
        kind: Kind::Gauge,
        unit: Unit::Count,
        labels: &["state", "op"],
        help: "Tasks of all runs by state and stage, each counted once.",
    },
    Metric {
        name: ATTEMPTS,
        kind: Kind::Counter,
        unit: Unit::Count,
        labels: &["op", "outcome"],
        help: "Attempts that ended, by stage and outcome.",
    },
    Metric {
        name: DURATION,
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &["op", "device_class", "outcome"],
        help: "Time from the grant of a lease to the end of its attempt.",
    },
    Metric {
        name: WAIT,
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &["op"],
        help: "Time from when a task was ready, with all its inputs, to the grant of its lease.",
    },
    Metric {
        name: EXPIRED,
        kind: Kind::Counter,
        unit: Unit::Count,
        labels: &[],
        help: "Leases taken back from workers that were gone.",
    },
    Metric {
        name: WORKERS,
        kind: Kind::Gauge,
        unit: Unit::Count,
        labels: &["state"],
        help: "Workers by state: connected, away, draining or quarantined.",
    },
    Metric {
        name: HEARTBEAT,
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        labels: &["worker"],
        help: "Time at which a worker was heard last, by its name; the 1000 that are silent for longest.",
    },
    Metric {
        name: CACHED,
        kind: Kind::Counter,
        unit: Unit::Count,
        labels: &["op"],
        help: "Tasks of submissions whose result was there already.",
    },
    Metric {
        name: ARTIFACT_BYTES,
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: &["direction"],
        help: "Bytes of artifacts that came in and went out, as they were sent.",
    },
    Metric {
        name: STORE_BYTES,
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        labels: &[],
        help: "Bytes of all stored files as they lie there, counted at the start, every hour and at collections; \
               of a bucket, each count is a listing.",
    },
    Metric {
        name: FREE,
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        labels: &[],
        help: "Bytes that can still be written where the state folder lies.",
    },
    Metric {
        name: HANDLING,
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &["method", "code"],
        help: "Time from a call to the beginning of its answer.",
    },
    Metric {
        name: BUILD,
        kind: Kind::Gauge,
        unit: Unit::Count,
        labels: &["version"],
        help: "The version of the program; always 1.",
    },
];

/// Whether this process has a recorder, as all coordinators in it share theirs.
static IS_COUNTING: AtomicBool = AtomicBool::new(false);

/// Whether anything is counted.
pub(crate) fn is_counting() -> bool {
    IS_COUNTING.load(Ordering::Relaxed)
}

/// Begins to count. Creates the series that are still zero, so that their first change counts
/// as one.
pub(crate) fn begin() {
    IS_COUNTING.store(true, Ordering::Relaxed);
    counter!(EXPIRED).increment(0);
    came_in(0);
    went_out(0);
}

/// A countable outcome of a turn, counted once its events are on disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    /// An attempt ended.
    Ended {
        /// Stage of the attempt's task.
        op: StageKind,
        /// `gpu` or `cpu`: whether the lease included GPUs.
        device_class: &'static str,
        /// The outcome as in the tables.
        outcome: String,
        /// Time since the lease was granted.
        took: Duration,
        /// Whether the attempt ended because its worker was gone.
        expired: bool,
    },
    /// A task was leased that had been ready for a time.
    Leased(StageKind, Duration),
    /// A number of submitted tasks of a stage whose results already existed.
    Cached(StageKind, u64),
}

/// Tells the countable outcomes of events. Without a recorder it looks at nothing and keeps
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// When each ready task became ready, in milliseconds since 1970. What was ready before the
    /// coordinator started is not in it.
    ready: HashMap<TaskKey, i64>,
}

impl Meter {
    /// The countable outcomes of an event that the scheduler is about to apply.
    pub(crate) fn before(&mut self, event: &Event, rows: &[Row], scheduler: &Scheduler, at_ms: i64) -> Vec<Happened> {
        if !is_counting() {
            return vec![];
        }
        match event {
            Event::RunSubmitted { tasks, .. } | Event::TasksAdded { tasks, .. } => {
                let mut cached: BTreeMap<StageKind, u64> = BTreeMap::new();
                for spec in tasks {
                    if scheduler.task(spec.key).is_ok_and(|task| task.artifact().is_some()) {
                        *cached.entry(spec.stage.kind()).or_default() += 1;
                    }
                }
                cached.into_iter().map(|(op, tasks)| Happened::Cached(op, tasks)).collect()
            }
            Event::LeaseGranted { task, .. } => {
                let since = self.ready.remove(task).zip(scheduler.task(*task).ok());
                let leased = since.map(|(since, task)| Happened::Leased(task.spec.stage.kind(), between(since, at_ms)));
                leased.into_iter().collect()
            }
            _ => rows.iter().filter_map(|row| ended(row, scheduler, at_ms)).collect(),
        }
    }

    /// Notes which tasks are ready, of those that an applied event may have made ready or not.
    pub(crate) fn after(&mut self, event: &Event, scheduler: &Scheduler, at_ms: i64) {
        if !is_counting() {
            return;
        }
        let is_ready = |task: TaskKey| scheduler.task(task).is_ok_and(|task| task.state == State::Ready);
        let mut look = |task: TaskKey| {
            if is_ready(task) {
                self.ready.entry(task).or_insert(at_ms);
            } else {
                self.ready.remove(&task);
            }
        };
        match event {
            Event::RunSubmitted { tasks, .. } | Event::TasksAdded { tasks, .. } => {
                tasks.iter().for_each(|spec| look(spec.key));
            }
            Event::TaskCommitted { task, .. } => {
                scheduler.dependents_of(*task).for_each(|dependent| look(dependent.spec.key));
            }
            Event::AttemptFailed { task, .. } | Event::LeaseReleased { task, .. } => look(*task),
            Event::RunCancelled { run } => {
                let run = scheduler.run(*run).into_iter();
                run.flat_map(|run| scheduler.tasks_of(run)).for_each(|task| look(task.spec.key));
            }
            // What needs a task that was pruned was not ready.
            Event::TasksPruned { tasks, .. } => tasks.iter().for_each(|task| look(*task)),
            Event::ResultsInvalidated { tasks } => {
                for task in tasks {
                    look(*task);
                    scheduler.dependents_of(*task).for_each(|dependent| look(dependent.spec.key));
                }
            }
            _ => {}
        }
    }
}

/// The end of an attempt, if the row says one. The scheduler still has its lease.
fn ended(row: &Row, scheduler: &Scheduler, at_ms: i64) -> Option<Happened> {
    let Row::Ended { token, end } = row else { return None };
    let (task, lease) = scheduler.lease(*token)?;
    let killer = Some(FailureCode::Quarantined.name());
    Some(Happened::Ended {
        op: task.spec.stage.kind(),
        device_class: if lease.gpus.is_empty() { "cpu" } else { "gpu" },
        outcome: end.outcome.clone(),
        took: between(lease.granted_ms, at_ms),
        expired: end.outcome == "lost" || end.code.as_deref() == killer,
    })
}

/// Time between two moments, none if a clock was set back.
fn between(since_ms: i64, at_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(at_ms.saturating_sub(since_ms)).unwrap_or(0))
}

/// Counts outcomes whose events are on disk.
pub(crate) fn count(happened: Vec<Happened>) {
    for one in happened {
        match one {
            Happened::Ended { op, device_class, outcome, took, expired } => {
                counter!(ATTEMPTS, "op" => op.name(), "outcome" => outcome.clone()).increment(1);
                let labels = [("op", op.name().into()), ("device_class", device_class.into()), ("outcome", outcome)];
                histogram!(DURATION, &labels).record(took);
                if expired {
                    counter!(EXPIRED).increment(1);
                }
            }
            Happened::Leased(op, waited) => histogram!(WAIT, "op" => op.name()).record(waited),
            Happened::Cached(op, tasks) => counter!(CACHED, "op" => op.name()).increment(tasks),
        }
    }
}

/// Counts bytes of an upload.
pub(crate) fn came_in(bytes: usize) {
    counter!(ARTIFACT_BYTES, "direction" => "in").increment(bytes as u64);
}

/// Counts bytes of a download.
pub(crate) fn went_out(bytes: usize) {
    counter!(ARTIFACT_BYTES, "direction" => "out").increment(bytes as u64);
}

/// Notes how many bytes the blob store holds.
pub(crate) fn stored(bytes: u64) {
    gauge!(STORE_BYTES).set(bytes as f64);
}

/// Notes how long a call took until its answer began. Only methods of the table in `access` are
/// named, so that callers cannot create series.
pub(crate) fn answered(method: &'static str, code: &'static str, took: Duration) {
    histogram!(HANDLING, "method" => method, "code" => code).record(took);
}

/// Values of the gauges, taken from the coordinator's state in a number of steps that is
/// bounded by the number of workers.
#[derive(Debug)]
pub(crate) struct Gauges {
    stages: BTreeMap<StageKind, Counts>,
    workers: BTreeMap<&'static str, u32>,
    /// Silence by worker name; among workers of the same name, the shortest.
    silence: BTreeMap<String, Duration>,
}

impl Gauges {
    pub(crate) fn of(scheduler: &Scheduler, sessions: &Sessions, now: Instant) -> Self {
        let mut workers = BTreeMap::from([("connected", 0), ("away", 0), ("draining", 0), ("quarantined", 0)]);
        let mut silence: BTreeMap<String, Duration> = BTreeMap::new();
        for (id, worker) in scheduler.workers() {
            let session = sessions.get(id);
            let state = match session {
                _ if worker.quarantined.is_some() => "quarantined",
                _ if worker.draining => "draining",
                Some(session) if session.is_connected() => "connected",
                _ => "away",
            };
            *workers.entry(state).or_default() += 1;
            if let Some(session) = session {
                let silent = session.silence(now);
                silence.entry(worker.name.clone()).and_modify(|known| *known = silent.min(*known)).or_insert(silent);
            }
        }
        Self { stages: scheduler.stages().clone(), workers, silence }
    }

    /// Sets all gauges. `now_ms` is the wall clock.
    pub(crate) fn set(self, now_ms: i64, free: Option<u64>) {
        for (op, counts) in self.stages {
            for (state, tasks) in by_state(&counts) {
                gauge!(TASKS, "op" => op.name(), "state" => state).set(tasks as f64);
            }
        }
        for (state, workers) in self.workers {
            gauge!(WORKERS, "state" => state).set(workers);
        }
        let mut silence: Vec<(String, Duration)> = self.silence.into_iter().collect();
        silence.sort_by_key(|(_, silent)| std::cmp::Reverse(*silent));
        for (worker, silent) in silence.into_iter().take(NAMED) {
            gauge!(HEARTBEAT, "worker" => worker).set(now_ms as f64 / 1000.0 - silent.as_secs_f64());
        }
        if let Some(free) = free {
            gauge!(FREE).set(free as f64);
        }
        gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    }
}

/// The numbers of tasks by the state names that people see.
fn by_state(counts: &Counts) -> [(&'static str, usize); 7] {
    [
        ("waiting", counts.waiting),
        ("ready", counts.ready),
        ("running", counts.leased),
        ("succeeded", counts.committed),
        ("failed", counts.failed),
        ("cancelled", counts.cancelled),
        ("pruned", counts.pruned),
    ]
}
