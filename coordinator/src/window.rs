//! The window: pages over HTTP for probes and monitoring, beside the gRPC services.
//!
//! The window is open as soon as the process has its state folder, so that it also tells why
//! the coordinator does not serve yet. TLS, roles and the rule of loopback are those of gRPC. A
//! connection may make one request and lasts ten seconds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use proto::clock::now_ms;
use proto::window::{self, Recorder};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;
use tonic::transport::server::Connected;
use tonic::{Code, Status};

use crate::access::Peer;
use crate::background::Background;
use crate::config::{Config, Limits};
use crate::driver::Handle;
use crate::listen::{self, Acceptor, Connections, Guests};
use crate::pki::{self, Pki};
use crate::room;
use crate::standby;
use crate::telemetry::{self, Gauges};

/// Time in which the driver of a ready coordinator has to answer.
const LOOK: Duration = Duration::from_secs(2);

/// Time for which a text for Prometheus is reused: frequent scrapes take none of the driver's
/// time.
const FRESH: Duration = Duration::from_secs(1);

/// Pause between two rounds of upkeep in which the recorder stores what it observed.
const TIDY: Duration = Duration::from_secs(5);

/// The sources of the pages.
pub(crate) struct View {
    /// None until the journal is read.
    pub(crate) driver: watch::Receiver<Option<Handle>>,
    /// Address of the leading coordinator, as far as a standby knows.
    pub(crate) leader: watch::Receiver<String>,
    pub(crate) state: PathBuf,
    /// The newest text for Prometheus, and when it was made.
    text: Mutex<Option<(Instant, String)>>,
    recorder: Option<Recorder>,
}

impl View {
    pub(crate) fn new(
        driver: watch::Receiver<Option<Handle>>,
        leader: watch::Receiver<String>,
        state: PathBuf,
    ) -> Self {
        let recorder = Recorder::start(telemetry::METRICS);
        telemetry::begin();
        if recorder.is_none() {
            tracing::warn!("this process has another recorder of metrics; /metrics counts nothing");
        }
        Self { driver, leader, state, text: Mutex::default(), recorder }
    }

    /// Whether the coordinator is ready to serve; the error says why not.
    async fn ready(&self) -> Result<(), String> {
        let driver = self.driver()?;
        match tokio::time::timeout(LOOK, driver.read(|_| ())).await {
            Ok(Ok(())) => {}
            Ok(Err(gone)) => return Err(gone.to_string()),
            Err(_) => {
                return Err(format!(
                    "the journal could not be written for {} s; look at its disk or its database",
                    LOOK.as_secs()
                ));
            }
        }
        match self.free().await {
            Some(free) if free < room::RESERVE => Err(format!(
                "only {free} bytes can still be written where {} lies, too few for the journal; make room",
                self.state.display()
            )),
            _ => Ok(()),
        }
    }

    fn driver(&self) -> Result<Handle, String> {
        let driver = self.driver.borrow().clone();
        driver.ok_or_else(|| match self.leader.borrow().as_str() {
            "" => "this coordinator does not serve yet: it waits for its turn or reads its journal".to_owned(),
            leader => standby::refusal(leader),
        })
    }

    /// Bytes that can still be written to the state folder, if the operating system tells.
    async fn free(&self) -> Option<u64> {
        let state = self.state.clone();
        // A disk of the network may keep one waiting.
        spawn_blocking(move || room::free(&state)).await.ok()?.ok()
    }

    /// The text for Prometheus.
    async fn metrics(&self) -> Result<String, String> {
        let driver = self.driver()?;
        let mut text = self.text.lock().await;
        if let Some((_, text)) = text.as_ref().filter(|(made, _)| made.elapsed() < FRESH) {
            return Ok(text.clone());
        }
        let gauges = driver.read(|known| Gauges::of(&known.scheduler, &known.sessions, Instant::now())).await;
        let (gauges, free) = (gauges.map_err(|gone| gone.to_string())?, self.free().await);
        let recorder = self.recorder.as_ref().ok_or("this process has another recorder of metrics")?;
        let made = recorder.render(|| gauges.set(now_ms(), free));
        *text = Some((Instant::now(), made.clone()));
        Ok(made)
    }
}

/// Starts serving the window at its listener's address; it closes when the coordinator ends.
///
/// # Errors
/// If other machines can reach the address and the certificate authority cannot be used.
pub(crate) fn open(
    config: &Config,
    limits: Limits,
    listener: TcpListener,
    address: SocketAddr,
    connections: Connections,
    view: View,
    background: &Background,
) -> Result<(), pki::Error> {
    let guests = if config.is_plain(address) {
        None
    } else {
        let pki = Pki::open(&config.state, config.certificate_life)?;
        let mut tls = (*pki.server(pki::names(address, &config.tls_names))?).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Some(Guests { driver: view.driver.clone(), connections, tls: TlsAcceptor::from(Arc::new(tls)) })
    };
    let incoming = listen::incoming(listener, None, Acceptor::new(guests, limits.for_window()), background);
    if let Some(recorder) = view.recorder.clone() {
        background.spawn_until_closed(async move {
            loop {
                tokio::time::sleep(TIDY).await;
                recorder.tidy();
            }
        });
    }
    let pages = pages(view);
    let tasks = background.clone();
    background.spawn_until_closed(async move {
        let mut connections = incoming.known.merge(incoming.strangers);
        while let Some(Ok(connection)) = connections.next().await {
            let pages = pages.clone().layer(Extension(connection.connect_info()));
            tasks.spawn_until_closed(window::answer(connection, pages));
        }
    });
    Ok(())
}

fn pages(view: View) -> Router {
    Router::new()
        .route("/healthz", get(window::healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn(check))
        .with_state(Arc::new(view))
}

/// Checks that the caller may see the requested page.
async fn check(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    match peer.caller.may_see(request.uri().path()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refusal(&refused),
    }
}

fn refusal(refused: &Status) -> Response {
    let code = match refused.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::TOO_MANY_REQUESTS,
    };
    (code, format!("{}\n", refused.message())).into_response()
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

async fn readyz(State(view): State<Arc<View>>) -> Response {
    match view.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(why) => unavailable(&why),
    }
}

async fn metrics(State(view): State<Arc<View>>) -> Response {
    match view.metrics().await {
        Ok(text) => window::exposition(text).into_response(),
        Err(why) => unavailable(&why),
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;
    use crate::access::Caller;
    use crate::driver;
    use crate::journal::Sqlite;
    use crate::reactor::Knowledge;

    /// The answer to a caller on this machine.
    async fn ask(view: View, page: &str) -> (StatusCode, String) {
        let peer = Peer { caller: Caller::Local, network: None, by_socket: false };
        let request = Request::builder().uri(page).body(axum::body::Body::empty()).unwrap();
        let answer = pages(view).layer(Extension(peer)).oneshot(request).await.unwrap();
        let code = answer.status();
        let text = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (code, String::from_utf8(text.to_vec()).unwrap())
    }

    fn view(driver: Option<Handle>, leader: &str) -> View {
        let (driver, leader) = (watch::channel(driver).1, watch::channel(leader.to_owned()).1);
        View::new(driver, leader, std::env::temp_dir())
    }

    #[tokio::test]
    async fn one_that_does_not_serve_lives_and_says_what_it_waits_for() {
        for (leader, words) in [("", "reads its journal"), ("http://10.0.0.1:7443", "http://10.0.0.1:7443 leads")] {
            assert_eq!(ask(view(None, leader), "/healthz").await.0, StatusCode::OK);
            for page in ["/readyz", "/metrics"] {
                let (code, why) = ask(view(None, leader), page).await;
                assert!(code == StatusCode::SERVICE_UNAVAILABLE && why.contains(words), "{page}: {code} {why}");
            }
        }
    }

    #[tokio::test]
    async fn one_whose_driver_is_busy_for_long_or_has_ended_is_not_ready() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Sqlite::open(&folder.path().join("journal.sqlite")).unwrap();
        let (driver, mut end) = driver::start(&Config::new(folder.path()), Box::new(journal)).unwrap();
        assert_eq!(ask(view(Some(driver.clone()), ""), "/readyz").await, (StatusCode::OK, "ready\n".to_owned()));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (began, begun) = tokio::sync::oneshot::channel();
        let hold = tokio::spawn({
            let driver = driver.clone();
            let wait = move |_: &Knowledge| {
                began.send(()).unwrap();
                held.recv().is_err()
            };
            async move { driver.read(wait).await }
        });
        begun.await.unwrap();
        let (code, why) = ask(view(Some(driver.clone()), ""), "/readyz").await;
        assert!(code == StatusCode::SERVICE_UNAVAILABLE && why.contains("could not be written for 2 s"), "{why}");
        drop(release);
        assert!(hold.await.unwrap().unwrap());
        driver.end().await;
        end.wait().await.unwrap();
        let (code, why) = ask(view(Some(driver), ""), "/readyz").await;
        assert!(code == StatusCode::SERVICE_UNAVAILABLE && why.contains("shutting down"), "{why}");
    }
}
