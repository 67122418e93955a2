//! The window: pages over HTTP for probes and monitoring.
//!
//! It is open from the moment on at which the worker has its state folder, so that it also
//! tells why the worker takes no work yet. A worker has no certificate to serve with, so its
//! pages are for its own machine. A connection has one request and ten seconds.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use proto::window::{self, Recorder};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::shared::Shared;
use crate::telemetry;

/// Connections at once. The oldest makes room for one more.
const CONNECTIONS: usize = 32;

/// Pause after the system could give no connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Pause between two times that what was observed is put away.
const TIDY: Duration = Duration::from_secs(5);

/// An address that others could reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--http {0} is refused: a worker has no certificate to serve with, so its pages are for its own machine. Give \
     --http an address on loopback, for instance 127.0.0.1:{port}, and let something that encrypts lead there if \
     other machines are to see them", port = .0.port()
)]
pub struct Exposed(SocketAddr);

/// Checks that an address for pages is on loopback.
///
/// # Errors
/// If it is not.
pub fn check(address: SocketAddr) -> Result<(), Exposed> {
    if address.ip().is_loopback() { Ok(()) } else { Err(Exposed(address)) }
}

/// What the pages are made from.
#[derive(Clone)]
pub(crate) struct View {
    coordinator: String,
    /// Absent until the worker has joined.
    shared: Arc<OnceLock<Arc<Shared>>>,
}

impl View {
    pub(crate) fn new(coordinator: &str) -> Self {
        Self { coordinator: coordinator.to_owned(), shared: Arc::default() }
    }

    /// Notes that the worker has joined.
    pub(crate) fn joined(&self, shared: Arc<Shared>) {
        // A worker joins once.
        let _ = self.shared.set(shared);
    }

    /// Whether the worker takes work; if not, why.
    fn ready(&self) -> Result<(), String> {
        let coordinator = &self.coordinator;
        match self.shared.get() {
            None => Err(format!("this worker has not joined yet: it waits for the coordinator at {coordinator}")),
            Some(shared) if shared.draining.is_cancelled() => {
                Err("this worker drains: what runs may end, and it takes no more work".to_owned())
            }
            Some(shared) if !shared.is_connected() => {
                Err(format!("this worker is not connected to the coordinator at {coordinator}; it tries again"))
            }
            Some(_) => Ok(()),
        }
    }
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, view: View) {
    let recorder = Recorder::start(telemetry::METRICS);
    telemetry::begin();
    if recorder.is_none() {
        tracing::warn!("this process has another recorder of metrics; /metrics is not there");
    }
    let pages = pages(view, recorder.clone());
    let mut tidy = tokio::time::interval(TIDY);
    // Dropped, a connection is cut.
    let mut open: VecDeque<AbortOnDropHandle<()>> = VecDeque::with_capacity(CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = tidy.tick() => {
                recorder.iter().for_each(Recorder::tidy);
                continue;
            }
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS {
            open.pop_front();
        }
        open.push_back(AbortOnDropHandle::new(tokio::spawn(window::answer(stream, pages.clone()))));
    }
}

fn pages(view: View, recorder: Option<Recorder>) -> Router {
    Router::new()
        .route("/healthz", get(window::healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state((view, recorder))
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

async fn readyz(State((view, _)): State<(View, Option<Recorder>)>) -> Response {
    match view.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => unavailable(&why),
    }
}

async fn metrics(State((view, recorder)): State<(View, Option<Recorder>)>) -> Response {
    let Some(recorder) = recorder else { return unavailable("this process has another recorder of metrics") };
    let look = || telemetry::look(view.shared.get().map(Arc::as_ref), view.ready().is_ok());
    window::exposition(recorder.render(look)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_for_this_machine_alone() {
        for address in ["127.0.0.1:9100", "127.9.9.9:1", "[::1]:0"] {
            assert_eq!(check(address.parse().unwrap()), Ok(()));
        }
        for address in ["0.0.0.0:9100", "10.0.0.1:9100", "[::]:9100"] {
            let refused = check(address.parse().unwrap()).unwrap_err().to_string();
            assert!(refused.contains(address) && refused.contains("for instance 127.0.0.1:9100"), "{refused}");
        }
    }
}
