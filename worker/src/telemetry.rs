//! The worker's metrics: their names, what they count, and where from.
//!
//! Counters grow where something happens; without a recorder, which `--http` starts, that
//! does nothing. Gauges are read when somebody looks. Names differ from the coordinator's,
//! which counts the same attempts: a sum over both would count them twice.

use std::time::Duration;

use domain::runner::task::{Grant, WorkerId};
use metrics::{Unit, counter, gauge, histogram};
use proto::trace::put_below;
use proto::window::{Kind, Metric};
use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::shared::Shared;

const ATTEMPTS: &str = "lithogen_worker_task_attempts_total";
const DURATION: &str = "lithogen_worker_task_duration_seconds";
const ARTIFACT_BYTES: &str = "lithogen_worker_artifact_bytes_total";
const READY: &str = "lithogen_worker_ready";
const SLOTS: &str = "lithogen_worker_slots";
const SLOTS_USED: &str = "lithogen_worker_slots_used";
const CACHE_BYTES: &str = "lithogen_worker_cache_bytes";
const BUILD: &str = "lithogen_worker_build_info";

/// Every metric of a worker.
pub const METRICS: &[Metric] = &[
    Metric {
        name: READY,
        kind: Kind::Gauge,
        unit: Unit::Count,
        labels: &[],
        help: "1 if the worker takes work, as /readyz says; otherwise 0.",
    },
    Metric { name: SLOTS, kind: Kind::Gauge, unit: Unit::Count, labels: &[], help: "Slots that the worker offers." },
    Metric {
        name: SLOTS_USED,
        kind: Kind::Gauge,
        unit: Unit::Count,
        labels: &[],
        help: "Slots that attempts on the worker use.",
    },
    Metric {
        name: ATTEMPTS,
        kind: Kind::Counter,
        unit: Unit::Count,
        labels: &["op", "outcome"],
        help: "Attempts that ended on the worker, by stage and outcome: succeeded, failed, released or revoked.",
    },
    Metric {
        name: DURATION,
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &["op", "device_class", "outcome"],
        help: "Time from the arrival of a lease to the end of its attempt on the worker, before the coordinator is told.",
    },
    Metric {
        name: ARTIFACT_BYTES,
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: &["direction"],
        help: "Bytes of artifacts that the worker fetched (in) and stored (out), as they were sent.",
    },
    Metric {
        name: CACHE_BYTES,
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        labels: &[],
        help: "Bytes of inputs and outputs that the worker keeps for later attempts.",
    },
    Metric {
        name: BUILD,
        kind: Kind::Gauge,
        unit: Unit::Count,
        labels: &["version"],
        help: "The version of the worker's program; always 1.",
    },
];

/// Makes the series that stand for nothing yet, so that their first change is seen as one.
pub(crate) fn begin() {
    came_in(0);
    went_out(0);
}

/// The span of an attempt, below that of its lease.
pub(crate) fn span(worker: &WorkerId, grant: &Grant) -> Span {
    let span = info_span!(
        parent: None, "attempt", run = grant.run.map(display), trial = grant.subject, stage = grant.stage.kind().name(),
        task = %grant.task, attempt = grant.attempt.0, worker = %worker, token = grant.token.0, outcome = Empty,
        otel.status_code = Empty
    );
    put_below(&span, &grant.traceparent);
    span
}

/// Counts an attempt that has ended, and says so in its span, which is the current one.
pub(crate) fn ended(grant: &Grant, outcome: &'static str, took: Duration) {
    let op = grant.stage.kind().name();
    let device_class = if grant.gpus.is_empty() { "cpu" } else { "gpu" };
    let span = Span::current();
    span.record("outcome", outcome);
    if outcome == "failed" {
        span.record("otel.status_code", "ERROR");
    }
    counter!(ATTEMPTS, "op" => op, "outcome" => outcome).increment(1);
    histogram!(DURATION, "op" => op, "device_class" => device_class, "outcome" => outcome).record(took);
}

/// Counts bytes from the coordinator.
pub(crate) fn came_in(bytes: u64) {
    counter!(ARTIFACT_BYTES, "direction" => "in").increment(bytes);
}

/// Counts bytes to the coordinator.
pub(crate) fn went_out(bytes: u64) {
    counter!(ARTIFACT_BYTES, "direction" => "out").increment(bytes);
}

/// Sets all gauges. A worker that has not joined yet has those that stand for it anyway.
pub(crate) fn look(shared: Option<&Shared>, is_ready: bool) {
    gauge!(READY).set(u32::from(is_ready));
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1);
    if let Some(shared) = shared {
        gauge!(SLOTS).set(shared.config.slots as f64);
        gauge!(SLOTS_USED).set(shared.slots_used() as f64);
        gauge!(CACHE_BYTES).set(shared.store.bytes() as f64);
    }
}
