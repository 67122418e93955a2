//! The place of a span in its trace, as W3C's trace context writes it, so that one trace goes
//! through several processes. Where nothing exports traces, nothing is written and nothing read.

use std::collections::HashMap;

use opentelemetry::global::get_text_map_propagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Name of the place in the metadata of a call.
pub const TRACEPARENT: &str = "traceparent";

/// Environment variable in which a program finds the place of what started it.
pub const VARIABLE: &str = "TRACEPARENT";

/// The place of a span in its trace; empty if it is in none.
pub fn place(span: &Span) -> String {
    if span.is_disabled() {
        return String::new();
    }
    let mut carrier = HashMap::new();
    get_text_map_propagator(|propagator| propagator.inject_context(&span.context(), &mut carrier));
    carrier.remove(TRACEPARENT).unwrap_or_default()
}

/// Puts a new span below the one at a place, which may be in another process. What is no place
/// changes nothing.
pub fn put_below(span: &Span, place: &str) {
    if span.is_disabled() || place.is_empty() {
        return;
    }
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), place.to_owned())]);
    let parent = get_text_map_propagator(|propagator| propagator.extract(&carrier));
    // Where nothing exports traces, there is nothing that could have a parent.
    let _ = span.set_parent(parent);
}

/// Tells whoever is called where the current span is.
pub(crate) fn mark<T>(request: &mut tonic::Request<T>) {
    let place = place(&Span::current());
    if !place.is_empty()
        && let Ok(place) = place.parse()
    {
        request.metadata_mut().insert(TRACEPARENT, place);
    }
}
