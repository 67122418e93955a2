//! What probes and Prometheus see of a coordinator and of a worker.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use coordinator::telemetry::METRICS;
use domain::runner::registry::Role;
use domain::study::overrides;
use proto::channel::call;
use proto::join_token::{JoinToken, Secret};
use proto::tls::{self, Trust};
use proto::v1;
use proto::window::{Kind, Metric};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::cluster::{Cluster, Worker, data, tasks};
use crate::harness::program::{Running, run_in};
use crate::harness::{soon, workspace};
use crate::security::join;

/// Connections that say nothing; more than there are places for them.
const SILENT: usize = 100;

/// Asks for a page; returns its status and its text.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, page: &str) -> (u16, String) {
    stream.write_all(format!("GET {page} HTTP/1.1\r\nhost: here\r\n\r\n").as_bytes()).await.unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    let (head, text) = told.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
}

async fn plain(address: SocketAddr, page: &str) -> (u16, String) {
    ask(TcpStream::connect(address).await.unwrap(), page).await
}

async fn encrypted(address: SocketAddr, config: &ClientConfig, page: &str) -> (u16, String) {
    let mut config = config.clone();
    config.alpn_protocols = vec![];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = address.ip().into();
    ask(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap(), page).await
}

/// A coordinator in a process of its own that has a window, and both its addresses.
fn coordinator(folder: &std::path::Path) -> (Running, SocketAddr, SocketAddr) {
    let mut running = Running::start_in(folder, "coordinator --listen 127.0.0.1:0 --http 127.0.0.1:0");
    let [grpc, http] = addresses(&mut running);
    (running, grpc, http)
}

/// The addresses that a process names up to those of its pages.
fn addresses<const N: usize>(running: &mut Running) -> [SocketAddr; N] {
    running.hear("/healthz and /readyz");
    let said = running.said().clone();
    let urls = said.split_whitespace().filter_map(|word| word.strip_prefix("http://"));
    let addresses = urls.map(|url| url.trim_end_matches("/metrics,").parse().unwrap());
    <[SocketAddr; N]>::try_from(addresses.collect::<Vec<_>>()).unwrap()
}

/// A worker in this process that has a window, and where that is.
fn watched(
    cluster: &Cluster,
    fake: &[(&str, &Path)],
    adjust: impl FnOnce(&mut worker::Config),
) -> (Worker, SocketAddr) {
    let window = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = window.local_addr().unwrap();
    (cluster.worker_watched("hand", fake, Some(window), adjust), address)
}

/// Waits until a page has that status and these words.
async fn shows(address: SocketAddr, page: &str, status: u16, words: &str) {
    soon(&format!("{page} shows {status} {words}"), || async {
        let (code, text) = plain(address, page).await;
        (code == status && text.contains(words)).then_some(())
    })
    .await;
}

/// The metrics of workers. Coordinators in this process count into the same recorder.
async fn of_workers(address: SocketAddr) -> String {
    let (code, text) = plain(address, "/metrics").await;
    assert_eq!(code, 200, "{text}");
    let name = |line: &str| line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ").to_owned();
    let lines = text.lines().filter(|line| name(line).starts_with("lithogen_worker_"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The text for Prometheus, taken apart.
#[derive(Debug, Default)]
struct Exposition {
    /// Help and type by name.
    families: BTreeMap<String, (String, String)>,
    /// Name, labels, value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Exposition {
    fn read(text: &str) -> Self {
        let mut read = Self::default();
        let mut help = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some((name, words)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                help.insert(name, words.to_owned());
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                let words = help.get(name).cloned().unwrap_or_default();
                let before = read.families.insert(name.to_owned(), (words, kind.to_owned()));
                assert_eq!(before, None, "{name} stands twice");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
                let label = |label: &str| {
                    let (key, value) = label.split_once('=').unwrap();
                    (key.to_owned(), value.trim_matches('"').to_owned())
                };
                read.samples.push((name.to_owned(), labels.map(label).collect(), value.parse().unwrap()));
            }
        }
        read
    }

    /// The sum of a metric's samples with these labels.
    fn sum(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        let fits = |labels: &BTreeMap<String, String>| {
            wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|has| has == value))
        };
        self.samples.iter().filter(|(known, labels, _)| known == name && fits(labels)).map(|(.., value)| value).sum()
    }

    /// Asserts that these metrics are there with their help, kinds and labels, and no others.
    fn is(&self, metrics: &[Metric]) {
        let told = |metric: &Metric| (metric.help.to_owned(), metric.kind.name().to_owned());
        let wanted: BTreeMap<String, (String, String)> =
            metrics.iter().map(|metric| (metric.name.to_owned(), told(metric))).collect();
        assert_eq!(self.families, wanted);
        for (name, labels, _) in &self.samples {
            let family = |metric: &&Metric| match metric.kind {
                Kind::Histogram => {
                    ["_bucket", "_sum", "_count"].iter().any(|end| *name == format!("{}{end}", metric.name))
                }
                Kind::Counter | Kind::Gauge => name == metric.name,
            };
            let metric = metrics.iter().find(family).unwrap_or_else(|| panic!("{name} is of no metric"));
            let mut keys: BTreeSet<&str> = metric.labels.iter().copied().collect();
            keys.extend(name.ends_with("_bucket").then_some("le"));
            assert_eq!(labels.keys().map(String::as_str).collect::<BTreeSet<_>>(), keys, "{name}");
            let is_id = |value: &String| value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(!labels.values().any(is_id), "{name} names a run or a task: {labels:?}");
        }
    }
}

/// The pages of a coordinator that has done a study and half of another.
async fn scraped(folder: &std::path::Path) -> (Running, SocketAddr, String) {
    let (running, grpc, http) = coordinator(folder);
    let cluster = Cluster::behind(grpc);
    let worker = cluster.worker("hand", &[]);
    cluster.submit().await;
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    worker.drain().await;
    // Another study that needs some of the same results.
    let experiment =
        overrides::resolve(domain::study::experiment::Scale::Smoke, None, &["tl.folds=2".to_owned()]).unwrap();
    let known = cluster.status().await.run_id;
    let pictures = proto::transfer::scan(&cluster.path("pictures")).unwrap();
    let request = v1::SubmitRequest {
        experiment_json: serde_json::to_string(&experiment).unwrap(),
        data_json: serde_json::to_string(&data(pictures.id())).unwrap(),
        ..Default::default()
    };
    let second = cluster.runs().submit(call(request)).await.unwrap().into_inner();
    assert_ne!(second.run_id, known);
    let (code, text) = plain(http, "/metrics").await;
    assert_eq!(code, 200, "{text}");
    (running, http, text)
}

#[tokio::test]
async fn all_metrics_are_there_after_some_work_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let (running, http, text) = scraped(folder.path()).await;
    let read = Exposition::read(&text);
    read.is(METRICS);
    let done = tasks() as f64;
    assert_eq!(read.sum("lithogen_tasks", &[("state", "succeeded")]), done);
    assert!(read.sum("lithogen_tasks", &[("state", "ready")]) > 0.0, "{text}");
    assert_eq!(read.sum("lithogen_task_attempts_total", &[("outcome", "succeeded")]), done);
    assert_eq!(read.sum("lithogen_task_duration_seconds_count", &[("device_class", "cpu")]), done);
    assert_eq!(read.sum("lithogen_task_queue_wait_seconds_count", &[]), done);
    let cached = read.sum("lithogen_cache_hits_total", &[]);
    assert!(cached > 0.0 && cached < done, "{cached}");
    assert!(read.sum("lithogen_artifact_bytes_total", &[("direction", "in")]) > 0.0, "{text}");
    let calls = [("method", "/lithogen.v1.RunService/Submit"), ("code", "OK")];
    assert_eq!(read.sum("lithogen_grpc_server_handling_seconds_count", &calls), 2.0);
    assert_eq!(read.sum("lithogen_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert_eq!(plain(http, "/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(plain(http, "/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(plain(http, "/").await.0, 404);
    run_in(folder.path(), "artifact gc").is_done();
    shows(http, "/metrics", 200, &format!("lithogen_store_bytes {}\n", stored(folder.path()))).await;
    running.signal("INT");
    running.end().is_done();
}

/// Bytes of the files that a coordinator with this state folder has stored.
fn stored(state: &Path) -> u64 {
    let entries = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let folders = entries(&state.join("blobs")).into_iter().filter(|path| path.file_name().unwrap().len() == 2);
    let files: Vec<_> = folders.flat_map(|folder| entries(&folder)).collect();
    assert!(!files.is_empty());
    files.iter().map(|file| file.metadata().unwrap().len()).sum()
}

#[tokio::test]
#[cfg_attr(not(promtool), ignore = "needs LITHOGEN_TEST_PROMTOOL: the path of promtool (apt install prometheus)")]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let (_running, _, text) = scraped(folder.path()).await;
    is_right(&text);
    let cluster = Cluster::start().await;
    let (worker, http) = watched(&cluster, &[], |_| {});
    cluster.submit().await;
    cluster.end().await;
    is_right(&of_workers(http).await);
    worker.drain().await;
}

#[test]
#[cfg_attr(not(promtool), ignore = "needs LITHOGEN_TEST_PROMTOOL: the path of promtool (apt install prometheus)")]
fn promtool_finds_nothing_wrong_with_the_configuration_of_prometheus() {
    let config = workspace().join("deploy/prometheus/prometheus.yml");
    let checked = promtool().args(["check", "config", "--lint-fatal"]).arg(config).output().unwrap();
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&said));
}

fn promtool() -> std::process::Command {
    std::process::Command::new(std::env::var_os("LITHOGEN_TEST_PROMTOOL").unwrap())
}

/// Asks promtool about metrics.
fn is_right(text: &str) {
    use std::io::Write;
    let mut checking = promtool()
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    checking.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let checked = checking.wait_with_output().unwrap();
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn metrics_are_shown_to_those_who_may_read_and_probes_need_nobody() {
    let (cluster, http) = Cluster::start_with_window(|config| config.tls_always = true).await;
    let nobody = tls::client(Trust::OnSight, None).unwrap();
    assert_eq!(encrypted(http, &nobody, "/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(encrypted(http, &nobody, "/readyz").await, (200, "ready\n".to_owned()));
    let (code, why) = encrypted(http, &nobody, "/metrics").await;
    assert!(code == 401 && why.contains("needs a certificate"), "{code} {why}");
    let (code, why) = plain(http, "/healthz").await;
    assert!(code == 401 && why.contains("this port speaks TLS only"), "{code} {why}");
    let worker = join(&cluster, Role::Worker, "worker").await;
    let (code, why) = encrypted(http, &worker.config().unwrap(), "/metrics").await;
    assert!(code == 403 && why.contains("it takes the role submitter or viewer or admin"), "{code} {why}");
    let viewer = join(&cluster, Role::Viewer, "viewer").await;
    let (code, text) = encrypted(http, &viewer.config().unwrap(), "/metrics").await;
    assert!(
        code == 200 && text.contains("# TYPE lithogen_tasks") || text.contains("lithogen_workers"),
        "{code} {text}"
    );
    assert_eq!(encrypted(http, &viewer.config().unwrap(), "/other").await.0, 403);
}

#[tokio::test]
async fn who_says_nothing_keeps_no_probe_out() {
    let (_cluster, http) = Cluster::start_with_window(|_| {}).await;
    let mut silent = vec![];
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(http).await.unwrap());
        assert_eq!(plain(http, "/healthz").await.0, 200);
    }
}

#[tokio::test]
async fn a_worker_tells_whether_it_takes_work_and_what_it_has_done() {
    let mut cluster = Cluster::start().await;
    let (worker, http) = watched(&cluster, &[], |_| {});
    shows(http, "/readyz", 200, "ready\n").await;
    cluster.stop().await;
    shows(http, "/readyz", 503, "not connected").await;
    cluster.start_again().await;
    shows(http, "/readyz", 200, "ready\n").await;
    cluster.submit().await;
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    shows(http, "/metrics", 200, "\nlithogen_worker_slots_used 0\n").await;
    let text = of_workers(http).await;
    let read = Exposition::read(&text);
    read.is(worker::telemetry::METRICS);
    // Workers of other tests may have counted as well.
    let done = tasks() as f64;
    assert!(read.sum("lithogen_worker_task_attempts_total", &[("outcome", "succeeded")]) >= done, "{text}");
    assert!(read.sum("lithogen_worker_task_duration_seconds_count", &[("device_class", "cpu")]) >= done, "{text}");
    for direction in ["in", "out"] {
        assert!(read.sum("lithogen_worker_artifact_bytes_total", &[("direction", direction)]) > 0.0, "{text}");
    }
    assert!(read.sum("lithogen_worker_cache_bytes", &[]) > 0.0, "{text}");
    assert_eq!(read.sum("lithogen_worker_slots", &[]), 2.0);
    assert_eq!(read.sum("lithogen_worker_ready", &[]), 1.0);
    assert_eq!(read.sum("lithogen_worker_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert_eq!(plain(http, "/").await.0, 404);
    worker.drain().await;
    soon("the window is closed", || async { TcpStream::connect(http).await.err() }).await;
}

#[tokio::test]
async fn a_worker_that_drains_lives_and_is_not_ready() {
    let cluster = Cluster::start().await;
    let gate = cluster.path("gate");
    let (worker, http) = watched(&cluster, &[("FAKE_GATE", &gate)], |config| config.slots = 1);
    cluster.submit().await;
    shows(http, "/metrics", 200, "\nlithogen_worker_slots_used 1\n").await;
    let drain = v1::DrainWorkerRequest { worker: "hand".to_owned() };
    cluster.cluster().drain_worker(call(drain)).await.unwrap();
    shows(http, "/readyz", 503, "drains").await;
    assert_eq!(plain(http, "/healthz").await, (200, "ok\n".to_owned()));
    shows(http, "/metrics", 200, "\nlithogen_worker_ready 0\n").await;
    std::fs::write(&gate, "").unwrap();
    worker.end().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_has_not_joined_says_so_whoever_else_says_nothing() {
    let cluster = Cluster::start().await;
    // Connections wait there for ever.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", nobody.local_addr().unwrap());
    let token = JoinToken { ca: proto::join_token::Fingerprint::of(b"nobody's"), secret: Secret::draw().unwrap() };
    let (worker, http) = watched(&cluster, &[], |config| {
        config.coordinator = url.clone();
        config.join_token = Some(token);
    });
    shows(http, "/readyz", 503, &format!("has not joined yet: it waits for the coordinator at {url}")).await;
    let mut silent = vec![];
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(http).await.unwrap());
        assert_eq!(plain(http, "/healthz").await.0, 200);
    }
    let text = of_workers(http).await;
    assert!(text.contains("\nlithogen_worker_ready 0\n") && !text.contains("lithogen_worker_slots"), "{text}");
    worker.drain().await;
}

#[tokio::test]
async fn the_program_opens_a_window_for_a_worker_on_loopback_only() {
    let folder = tempfile::tempdir().unwrap();
    let away = "worker --coordinator http://127.0.0.1:9";
    let mut running = Running::start_in(folder.path(), &format!("{away} --http 127.0.0.1:0"));
    let [_, http] = addresses(&mut running);
    assert_eq!(plain(http, "/healthz").await, (200, "ok\n".to_owned()));
    shows(http, "/readyz", 503, "not connected to the coordinator at http://127.0.0.1:9").await;
    run_in(folder.path(), &format!("{away} --http 0.0.0.0:0")).says(2, &["0.0.0.0:0", "an address on loopback"]);
    running.signal("INT");
    running.end().is_done();
}

#[test]
fn a_port_that_is_taken_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ended = run_in(folder.path(), &format!("coordinator --listen 127.0.0.1:0 --http {address}"));
    ended.says(1, &[&address.to_string(), "--http", "give it another port"]);
}

/// People look there for what is exported.
#[test]
fn the_documented_metrics_are_those_that_are_exported() {
    let text = std::fs::read_to_string(workspace().join("docs/operating.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
        <[String; 4]>::try_from(cells).unwrap_or_else(|cells| panic!("{cells:?}"))
    };
    let documented: BTreeSet<[String; 4]> =
        text.lines().filter(|line| line.starts_with("| `lithogen_")).map(row).collect();
    let told = |metric: &Metric| {
        [metric.name.to_owned(), metric.kind.name().to_owned(), metric.labels.join(", "), metric.help.to_owned()]
    };
    assert_eq!(documented, METRICS.iter().chain(worker::telemetry::METRICS).map(told).collect());
    // One that is counted on no way that a test takes would be missed otherwise.
    for (krate, listed) in [("coordinator", METRICS), ("worker", worker::telemetry::METRICS)] {
        let source = std::fs::read_to_string(workspace().join(krate).join("src/telemetry.rs")).unwrap();
        let named: BTreeSet<&str> = source.split('"').filter(|text| text.starts_with("lithogen_")).collect();
        assert_eq!(named, listed.iter().map(|metric| metric.name).collect(), "METRICS of the {krate}");
    }
}
