//! Spans on their way to a receiver, from all processes that a task meets.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use proto::v1;
use tempfile::TempDir;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

use crate::harness::cluster::Cluster;
use crate::harness::command::{result, shell, submit};
use crate::harness::program::{Ended, Running, lithogen};
use crate::harness::{PATIENCE, eventually};

/// A span and the service that sent it.
type Sent = (String, Span);

/// A receiver of traces on a port of this machine.
struct Receiver {
    spans: Arc<Mutex<Vec<Sent>>>,
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

struct Service(Arc<Mutex<Vec<Sent>>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_one in request.into_inner().resource_spans {
            let service = text(&of_one.resource.unwrap().attributes, "service.name");
            let spans = of_one.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (spans, address) = (Arc::default(), listener.local_addr().unwrap());
        let service = TraceServiceServer::new(Service(Arc::clone(&spans)));
        let server = tonic::transport::Server::builder().add_service(service);
        let serving =
            tokio::spawn(async { server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
        Self { spans, address, _serving: AbortOnDropHandle::new(serving) }
    }

    /// What has been sent.
    fn spans(&self) -> Vec<Sent> {
        self.spans.lock().unwrap().clone()
    }
}

/// An attribute as text; empty if there is none.
fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()) {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => text,
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => number.to_string(),
        Some(other) => panic!("{key} is {other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The span of that name, which a service has sent once.
#[track_caller]
fn only<'a>(spans: &'a [Sent], service: &str, name: &str) -> &'a Span {
    let found: Vec<&Sent> = spans.iter().filter(|(by, span)| by == service && span.name == name).collect();
    let [(_, span)] = found[..] else { panic!("{name:?} of {service}: {found:#?} in {spans:#?}") };
    span
}

/// A coordinator in a process of its own that knows of a receiver.
struct Site {
    folder: TempDir,
    endpoint: String,
    coordinator: Running,
    url: String,
}

impl Site {
    fn start(receiver: SocketAddr) -> Self {
        let (folder, endpoint) = (tempfile::tempdir().unwrap(), format!("http://{receiver}"));
        let mut coordinator = start("coordinator --listen 127.0.0.1:0", &folder.path().join("coordinator"), &endpoint);
        coordinator.hear("^C ends it");
        let said = coordinator.said().clone();
        let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        Self { folder, endpoint, coordinator, url }
    }

    /// A worker in a process of its own that knows of the receiver too.
    fn worker(&self, name: &str) -> Running {
        let words = format!("worker --allow-exec --slots 1 --name {name} --coordinator {}", self.url);
        start(&words, &self.folder.path().join(name), &self.endpoint)
    }

    fn client(&self) -> Cluster {
        Cluster::behind(self.url.strip_prefix("http://").unwrap().parse().unwrap())
    }
}

fn start(words: &str, state: &Path, endpoint: &str) -> Running {
    let words = format!("{words} --log-format json -vv --state {}", state.display());
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")];
    Running::start_with(words.split_whitespace(), &environment)
}

fn end(running: Running) -> Ended {
    running.signal("INT");
    let ended = running.end();
    ended.is_done();
    ended
}

/// What a command came to, with a receiver in the environment.
struct Ran {
    run: v1::RunStatus,
    task: v1::TaskChange,
    /// What it printed: its place, and what it knows of the receiver.
    found: String,
    coordinator: Ended,
    worker: Ended,
}

/// Runs a command through a coordinator and a worker, to the end of all.
async fn run_one(receiver: SocketAddr) -> Ran {
    let site = Site::start(receiver);
    let (worker, cluster) = (site.worker("hand"), site.client());
    submit(&cluster, vec![shell("look", "echo $TRACEPARENT; env | grep OTEL || true")]).await;
    let run = cluster.end().await;
    let task = cluster.changes().await.pop().unwrap();
    let found = result(&cluster, "command look", "stdout.txt").await;
    let worker = end(worker);
    Ran { run, task, found, coordinator: end(site.coordinator), worker }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_one_trace_through_coordinator_worker_and_command() {
    let receiver = Receiver::start().await;
    let Ran { run, task, found, worker, .. } = run_one(receiver.address).await;
    let spans = receiver.spans();
    let whole = only(&spans, "lithogen-coordinator", "task");
    let lease = only(&spans, "lithogen-coordinator", "lease");
    let attempt = only(&spans, "lithogen-worker", "attempt");
    let phases = ["fetch", "run", "store", "commit"].map(|name| only(&spans, "lithogen-worker", name));
    let told = only(&spans, "lithogen-coordinator", "end attempts");
    assert!(spans.iter().all(|(_, span)| span.trace_id == whole.trace_id), "{spans:#?}");
    assert_eq!(spans.len(), 8, "{spans:#?}");

    assert!(whole.parent_span_id.is_empty());
    assert_eq!(lease.parent_span_id, whole.span_id);
    assert_eq!(attempt.parent_span_id, lease.span_id);
    assert!(phases.iter().all(|phase| phase.parent_span_id == attempt.span_id), "{phases:#?}");
    assert_eq!(told.parent_span_id, phases[3].span_id);

    let known = [("run", &run.run_id), ("trial", &"look".to_owned()), ("task", &task.task_key)];
    for (key, value) in known {
        assert_eq!(&text(&whole.attributes, key), value);
    }
    for span in [lease, attempt] {
        for (key, value) in known.into_iter().chain([("attempt", &"1".to_owned()), ("token", &"1".to_owned())]) {
            assert_eq!(&text(&span.attributes, key), value, "{key} of {span:#?}");
        }
        assert!(text(&span.attributes, "worker").starts_with("hand"), "{span:#?}");
        assert_eq!(text(&span.attributes, "outcome"), "succeeded");
    }

    // The command is a part of it too, and learns nothing of the receiver.
    assert_eq!(found, format!("00-{}-{}-01\n", hex(&whole.trace_id), hex(&phases[1].span_id)));
    let line = worker.err.lines().find(|line| line.contains(r#""message":"attempt""#)).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["span"]["name"], &line["span"]["task"]), (&"attempt".into(), &task.task_key.into()), "{line}");
    assert_eq!((&line["span"]["run"], &line["span"]["token"]), (&run.run_id.into(), &1.into()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_of_a_task_are_in_its_trace_also_the_one_whose_worker_vanished() {
    let receiver = Receiver::start().await;
    let site = Site::start(receiver.address);
    let (mut first, cluster) = (site.worker("first"), site.client());
    let mark = site.folder.path().join("mark");
    let script = format!("test -e {0} || {{ touch {0}; sleep 1000; }}", mark.display());
    submit(&cluster, vec![shell("twice", &script)]).await;
    eventually("it runs", PATIENCE, || mark.exists());
    first.kill();
    let second = site.worker("second");
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    end(second);
    end(site.coordinator);
    let spans = receiver.spans();
    let whole = only(&spans, "lithogen-coordinator", "task");
    assert_eq!(text(&whole.attributes, "outcome"), "succeeded");
    let leases = spans.iter().map(|(_, span)| span).filter(|span| span.name == "lease");
    let is_error = |span: &Span| span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
    let told = |span: &Span| (text(&span.attributes, "attempt"), text(&span.attributes, "outcome"), is_error(span));
    let mut of_leases: Vec<_> =
        leases.inspect(|span| assert_eq!(span.parent_span_id, whole.span_id)).map(told).collect();
    of_leases.sort();
    let [lost, won] = [("1", "lost", true), ("2", "succeeded", false)]
        .map(|(number, outcome, is_error)| (number.to_owned(), outcome.to_owned(), is_error));
    assert_eq!(of_leases, [lost, won]);
    only(&spans, "lithogen-worker", "attempt");
    assert!(spans.iter().all(|(_, span)| span.trace_id == whole.trace_id), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_exports_its_span_below_that_of_its_worker() {
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("order.json"), r#"{"stage":{"stage":"report"},"seed":1}"#).unwrap();
    let known = [
        ("run", "LITHOGEN_RUN", "cd34"),
        ("trial", "LITHOGEN_TRIAL", "all"),
        ("task", "LITHOGEN_TASK", "ab12"),
        ("attempt", "LITHOGEN_ATTEMPT", "2"),
        ("worker", "LITHOGEN_WORKER", "hand"),
        ("token", "LITHOGEN_FENCING_TOKEN", "7"),
    ];
    let mut command = lithogen(["attempt".as_ref(), folder.path().as_os_str()]);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", receiver.address))
        .env("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .envs(known.map(|(_, variable, value)| (variable, value)))
        .stdin(Stdio::piped());
    // It fails: there is nothing to report. A closed input would end it at once.
    Running::spawn(command).end().says(1, &[]);
    let spans = receiver.spans();
    let span = only(&spans, "lithogen-attempt", "compute");
    assert_eq!(hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&span.parent_span_id), "b7ad6b7169203331");
    assert_eq!(text(&span.attributes, "stage"), "report");
    for (key, _, value) in known {
        assert_eq!(text(&span.attributes, key), value, "{key} of {span:#?}");
    }
}

/// How often something was said.
fn times(ended: &Ended, words: &str) -> usize {
    ended.err.matches(words).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_not_there_is_told_of_once_and_costs_no_work() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let ran = run_one(address).await;
    for ended in [ran.coordinator, ran.worker] {
        assert_eq!(times(&ended, "traces do not reach their receiver"), 1, "{ended}");
    }
}

/// Exports have ten minutes here, and a test that waits so long fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_never_answers_keeps_no_process() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ran = run_one(listener.local_addr().unwrap()).await;
    assert_eq!(ran.run.state(), v1::RunState::Succeeded);
}

#[test]
fn a_receiver_that_cannot_be_meant_is_told_of_and_hinders_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["coordinator", "--listen", "127.0.0.1:0", "--state", folder.path().to_str().unwrap()];
    let mut running = Running::start_with(words, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")]);
    running.hear("^C ends it");
    running.signal("INT");
    running.end().says(0, &["traces are not exported", "expected http://HOST:PORT"]);
}
