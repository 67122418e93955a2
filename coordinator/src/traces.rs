//! The traces of tasks. A task's trace begins with its first lease here and ends with the task.
//! Each lease is a span below it, which goes to the worker along with the lease. Where nothing
//! exports traces, nothing is kept.

use std::collections::BTreeMap;

use domain::id::{RunId, TaskKey};
use domain::runner::task::{FencingToken, Lease, Task};
use proto::trace::{TRACEPARENT, place, put_below};
use tracing::field::{Empty, display};
use tracing::{Span, info_span};

use crate::history::Row;

/// The spans of tasks and leases that are under way.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    tasks: BTreeMap<TaskKey, Span>,
    leases: BTreeMap<FencingToken, Span>,
}

impl Traces {
    /// The place of a lease in its task's trace, empty if nobody traces. Both spans begin if
    /// they have not yet.
    pub(crate) fn lease(&mut self, task: &Task, lease: &Lease, run: Option<RunId>) -> String {
        if let Some(known) = self.leases.get(&lease.token) {
            return place(known);
        }
        let (spec, run) = (&task.spec, run.map(display));
        let whole = self.tasks.get(&spec.key).cloned().unwrap_or_else(|| {
            info_span!(
                parent: None, "task", run, trial = spec.subject, stage = spec.stage.kind().name(), task = %spec.key,
                outcome = Empty, otel.status_code = Empty
            )
        });
        let span = info_span!(
            parent: &whole, "lease", run, trial = spec.subject, stage = spec.stage.kind().name(), task = %spec.key,
            attempt = lease.attempt.0, worker = %lease.worker, token = lease.token.0,
            outcome = Empty, otel.status_code = Empty
        );
        let place = place(&span);
        if !place.is_empty() {
            self.tasks.insert(spec.key, whole);
            self.leases.insert(lease.token, span);
        }
        place
    }

    /// Ends the spans of the leases and tasks whose end is among the changes.
    pub(crate) fn follow(&mut self, rows: &[Row]) {
        if self.tasks.is_empty() {
            return;
        }
        for row in rows {
            match row {
                Row::Ended { token, end } => finish(self.leases.remove(token), &end.outcome),
                Row::TaskEnded(end) => finish(self.tasks.remove(&end.task), end.state),
                _ => {}
            }
        }
    }
}

/// Ends a span, which goes wrong if that was an error.
fn finish(span: Option<Span>, outcome: &str) {
    if let Some(span) = span {
        span.record("outcome", outcome);
        if matches!(outcome, "failed" | "retrying" | "lost") {
            span.record("otel.status_code", "ERROR");
        }
    }
}

/// The span of an admitted call that decides about an attempt, in the trace that the call
/// names. Other calls are too many to be spans: files and logs go by thousands.
pub(crate) fn of_call<T>(request: &http::Request<T>) -> Span {
    let Some(place) = request.headers().get(TRACEPARENT).and_then(|place| place.to_str().ok()) else {
        return Span::none();
    };
    let span = match request.uri().path() {
        "/lithogen.v1.WorkerService/EndAttempts" => info_span!(parent: None, "end attempts", otel.kind = "server"),
        "/lithogen.v1.WorkerService/SaveCheckpoint" => {
            info_span!(parent: None, "save checkpoint", otel.kind = "server")
        }
        _ => return Span::none(),
    };
    put_below(&span, place);
    span
}
