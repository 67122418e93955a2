//! Pages over HTTP/1 for probes and monitoring, and the metrics on them. Coordinator and
//! worker share what is here; each has its own pages.

use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics::Unit;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes of the head of a request.
const HEAD: usize = 16 * 1024;

/// Header fields of a request.
const FIELDS: usize = 64;

/// Time for one request and its answer. A connection has no second request.
pub const LIFE: Duration = Duration::from_secs(10);

/// Upper bounds of the buckets of all histograms, in seconds: calls take milliseconds,
/// trainings take hours.
const BUCKETS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0, 7200.0, 36_000.0];

/// Answers the one request of a connection.
pub async fn answer(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, pages: Router) {
    answer_within(LIFE, stream, pages).await;
}

async fn answer_within(life: Duration, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, pages: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD)
        .max_headers(FIELDS)
        .timer(TokioTimer::new())
        .header_read_timeout(life)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    match tokio::time::timeout(life, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a page was not read"),
        Err(_) => tracing::debug!("a page was asked for or read too slowly"),
    }
}

/// One metric: what is exported, and what `docs/operating.md` says of it.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name, which ends in its unit.
    pub name: &'static str,
    /// The way in which it changes.
    pub kind: Kind,
    /// The unit of its values.
    pub unit: Unit,
    /// The labels of its series.
    pub labels: &'static [&'static str],
    /// A sentence for people.
    pub help: &'static str,
}

/// The way in which a metric changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is what it is when somebody looks.
    Gauge,
    /// It counts durations by their length.
    Histogram,
}

impl Kind {
    /// The word that Prometheus has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Metric {
    fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.unit, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.unit, self.help),
            Kind::Histogram => metrics::describe_histogram!(self.name, self.unit, self.help),
        }
    }
}

/// The counters and histograms of this process.
#[derive(Clone)]
pub struct Recorder {
    handle: PrometheusHandle,
    metrics: &'static [Metric],
}

impl Recorder {
    /// Records from now on. All recorders of a process show the same counters. Nothing is
    /// recorded if the process has a recorder of another kind.
    pub fn start(metrics: &'static [Metric]) -> Option<Self> {
        static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
        let install = || PrometheusBuilder::new().set_buckets(BUCKETS).ok()?.install_recorder().ok();
        let handle = HANDLE.get_or_init(install).clone()?;
        metrics.iter().for_each(Metric::describe);
        Some(Self { handle, metrics })
    }

    /// Puts away what was observed lately. Without it, or a look, that would pile up.
    pub fn tidy(&self) {
        self.handle.run_upkeep();
    }

    /// The text for Prometheus: what was counted, and the gauges that `look` sets. A series
    /// that `look` no longer sets is gone.
    pub fn render(&self, look: impl FnOnce()) -> String {
        let gauges = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&gauges, || {
            self.metrics.iter().filter(|metric| metric.kind == Kind::Gauge).for_each(Metric::describe);
            look();
        });
        self.handle.render() + &gauges.handle().render()
    }
}

/// The page that holds the text for Prometheus.
pub fn exposition(text: String) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// The page that says that the process lives.
pub async fn healthz() -> &'static str {
    "ok\n"
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const METRICS: &[Metric] = &[
        Metric {
            name: "window_seen_total",
            kind: Kind::Counter,
            unit: Unit::Count,
            labels: &[],
            help: "The things seen.",
        },
        Metric { name: "window_open", kind: Kind::Gauge, unit: Unit::Count, labels: &["of"], help: "The panes." },
    ];

    /// What is answered to some bytes, after which nothing more comes.
    async fn ask(request: &[u8]) -> String {
        ask_within(LIFE, request).await
    }

    async fn ask_within(life: Duration, request: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let pages = Router::new().route("/healthz", get(healthz));
        let serving = tokio::spawn(answer_within(life, server, pages));
        client.write_all(request).await.unwrap();
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        serving.await.unwrap();
        told
    }

    #[tokio::test]
    async fn a_connection_has_one_request() {
        let one = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
        let told = ask(&[one.as_slice(), one].concat()).await;
        assert!(told.starts_with("HTTP/1.1 200 OK\r\n") && told.ends_with("\r\n\r\nok\n"), "{told}");
        assert_eq!(told.matches("HTTP/1.1").count(), 1, "{told}");
    }

    #[tokio::test]
    async fn a_head_has_so_many_bytes_and_fields() {
        let long = format!("GET /healthz HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(HEAD));
        assert!(ask(long.as_bytes()).await.starts_with("HTTP/1.1 431"));
        let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(FIELDS + 1));
        assert!(ask(many.as_bytes()).await.starts_with("HTTP/1.1 431"));
        assert!(ask(b"what is this\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn who_says_nothing_more_is_hung_up_on() {
        assert_eq!(ask_within(Duration::from_millis(20), b"GET /healthz HT").await, "");
    }

    #[test]
    fn what_is_counted_stays_and_a_gauge_is_what_is_there_now() {
        let recorder = Recorder::start(METRICS).unwrap();
        metrics::counter!("window_seen_total").increment(2);
        let text = recorder.render(|| metrics::gauge!("window_open", "of" => "glass").set(3.0));
        assert!(
            text.contains("# HELP window_seen_total The things seen.\n# TYPE window_seen_total counter\n"),
            "{text}"
        );
        assert!(text.contains("\nwindow_seen_total 2\n"), "{text}");
        assert!(text.contains("# TYPE window_open gauge\nwindow_open{of=\"glass\"} 3\n"), "{text}");
        let text = recorder.render(|| {});
        assert!(text.contains("window_seen_total 2\n") && !text.contains("glass"), "{text}");
    }
}
