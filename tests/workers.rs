//! What workers may say and do, and what they let others do to them.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use coordinator::history;
use coordinator::journal::{Journal, Sqlite};

use domain::digest::Digest;
use domain::id::{ArtifactId, TaskKey};
use domain::resources::Offer;
use domain::runner::command::{self, Commands};
use domain::runner::event::Event;
use domain::runner::registry::Role;
use domain::runner::scheduler::Scheduler;
use domain::runner::task::{Attempt, FencingToken, WorkerId};
use domain::runner::work::Work;
use domain::study::plan::rates::Measurement;
use domain::study::stage::{Failure, FailureCode, Stage, StageKind};
use proto::channel::{Credentials, call, connect};
use proto::identity::Identity;
use proto::status::{Reason, of_verdict, reason};
use proto::v1;
use proto::v1::attempt_end::End;
use proto::v1::session_request::Message;
use proto::v1::worker_service_client::WorkerServiceClient;
use proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::harness::cluster::{Cluster, stages, tasks};
use crate::harness::command::{log, shell, submit};
use crate::harness::program::{Running, is_root, run, run_in};
use crate::harness::{eventually, soon};

const HOUR_MS: u64 = 3_600_000;

/// Somebody who has joined as a worker and speaks by hand.
struct Speaker {
    client: WorkerServiceClient<Channel>,
    id: String,
    /// Keeps the session open.
    _up: mpsc::Sender<v1::SessionRequest>,
    _down: Option<Streaming<v1::SessionResponse>>,
}

impl Speaker {
    async fn join(cluster: &Cluster, name: &str) -> Self {
        let token = cluster.token(Role::Worker, 1, HOUR_MS).await;
        let identity = Identity::join(cluster.url(), &token, name, &cluster.path(name)).await.unwrap();
        let channel = connect(cluster.url(), &Credentials::new(identity.config().unwrap())).unwrap();
        Self::greet(WorkerServiceClient::new(channel), format!("{}-1-1", identity.id), v1::Hello::default()).await
    }

    /// On the coordinator's machine.
    async fn here(cluster: &Cluster) -> Self {
        Self::greet(cluster.workers(), "w".to_owned(), v1::Hello::default()).await
    }

    async fn greet(mut client: WorkerServiceClient<Channel>, id: String, more: v1::Hello) -> Self {
        let (up, requests) = mpsc::channel(4);
        let stage = |(name, version)| v1::StageVersion { name, version };
        let hello = v1::Hello {
            worker_id: id.clone(),
            name: "speaker".to_owned(),
            protocol: proto::PROTOCOL,
            slots: 9,
            stages: stages().into_iter().map(stage).collect(),
            ..more
        };
        up.send(v1::SessionRequest { message: Some(Message::Hello(hello)) }).await.unwrap();
        let mut down = client.session(ReceiverStream::new(requests)).await.unwrap().into_inner();
        down.message().await.unwrap();
        Self { client, id, _up: up, _down: Some(down) }
    }

    async fn acquire(&self, number: u64, max: u32) -> Vec<v1::Lease> {
        let message = v1::AcquireLeasesRequest { worker_id: self.id.clone(), call: number, max, wait_ms: 0 };
        self.client.clone().acquire_leases(call(message)).await.unwrap().into_inner().leases
    }

    async fn append(&self, (task_key, token): (&str, u64), offset: u64, text: &str) -> Result<u64, Status> {
        let bytes = text.as_bytes().to_vec();
        let message = v1::AppendLogRequest { task_key: task_key.to_owned(), token, offset, bytes };
        Ok(self.client.clone().append_log(call(message)).await?.into_inner().size)
    }

    async fn end(&self, (task_key, token): (&str, u64), end: End) -> Result<(), Status> {
        let attempts = vec![v1::AttemptEnd { task_key: task_key.to_owned(), token, end: Some(end) }];
        let answer = self.client.clone().end_attempts(call(v1::EndAttemptsRequest { attempts })).await?;
        of_verdict(&answer.into_inner().verdicts[0])
    }

    async fn checkpoint(&self, (task_key, token): (&str, u64)) -> Result<(), Status> {
        let (task_key, artifact) = (task_key.to_owned(), Digest::of(b"").to_string());
        let message = v1::SaveCheckpointRequest { task_key, token, artifact, manifest: vec![], step: 1 };
        self.client.clone().save_checkpoint(call(message)).await.map(drop)
    }

    /// Fails to speak for an attempt of somebody else.
    async fn is_refused(&self, of: (&str, u64)) {
        let failed = End::Failed(v1::Failed { code: "crashed".to_owned(), message: "forged".to_owned() });
        for refused in [
            self.append(of, 0, "forged\n").await.map(drop),
            self.end(of, failed).await,
            self.end(of, End::Released(v1::Released {})).await,
            self.checkpoint(of).await,
        ] {
            let refused = refused.unwrap_err();
            assert_eq!((refused.code(), reason(&refused)), (Code::PermissionDenied, Some(Reason::Role)));
        }
    }
}

fn of(lease: &v1::Lease) -> (&str, u64) {
    (&lease.task_key, lease.token)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_spoken_for_by_its_holder_alone_also_when_it_has_ended() {
    let mut cluster = Cluster::start_as(|config| config.tls_always = true).await;
    submit(&cluster, vec![shell("one", "true"), shell("two", "false")]).await;
    let (holder, thief) = (Speaker::join(&cluster, "holder").await, Speaker::join(&cluster, "thief").await);
    let leases = holder.acquire(1, 2).await;
    let [first, second] = [&leases[0], &leases[1]].map(of);
    assert_eq!(holder.append(first, 0, "mine\n").await.unwrap(), 5);
    thief.is_refused(first).await;
    holder.end(first, End::Released(v1::Released {})).await.unwrap();
    thief.is_refused(first).await;
    assert_eq!(holder.append(first, 5, "late\n").await.unwrap(), 10, "the last lines come after the end");
    cluster.stop().await;
    cluster.start_again().await;
    soon("it serves again", || async { holder.append(first, 10, "later\n").await.ok().filter(|size| *size == 16) })
        .await;
    thief.is_refused(first).await;
    // An attempt's log is that of its own task.
    let refused = holder.append((first.0, second.1), 0, "elsewhere\n").await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Aborted, Some(Reason::Fenced)));
    let refused = holder.append((first.0, second.1 + 1), 0, "never granted\n").await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::Fenced));
    let label = format!("command {}", leases[0].subject);
    assert_eq!(log(&cluster, &label, false).await, "mine\nlate\nlater\n");
}

/// `released.sqlite` was left by an older program.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_of_an_older_programs_journal_are_nobody_elses() {
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("journal/released.sqlite");
    let cluster = on(move |journal| {
        std::fs::copy(&released, journal).unwrap();
    })
    .await;
    let thief = Speaker::join(&cluster, "thief").await;
    let (task, token) = {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("journal.sqlite");
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("journal/released.sqlite"), &copy).unwrap();
        let mut last = None;
        let mut note = |_, _, event| {
            if let Event::TaskCommitted { task, token, .. } = event {
                last = Some((task, token));
            }
        };
        Sqlite::open(&copy).unwrap().replay(0, &mut note).unwrap();
        last.unwrap()
    };
    thief.is_refused((&task.to_string(), token.0)).await;
}

/// A coordinator that asks everybody for a certificate, on a journal that is there.
async fn on(prepare: impl Fn(&Path) + Send + Sync + 'static) -> Cluster {
    Cluster::start_as(move |config| {
        config.tls_always = true;
        let journal = config.state.join("journal.sqlite");
        if !journal.exists() {
            std::fs::create_dir_all(&config.state).unwrap();
            prepare(&journal);
        }
    })
    .await
}

/// What is kept of a message of 15 MiB.
fn kept() -> String {
    format!("{}… [cut: 15728640 bytes in all]", "x".repeat(Failure::MESSAGE_MAX - 32))
}

/// Whatever is asked about the newest run is answered, and tells no more than that.
async fn answers_are_bounded(cluster: &Cluster) {
    let status = cluster.status().await;
    assert_eq!(status.failures.len(), 5);
    assert!(status.failures.iter().all(|failure| failure.message == kept()));
    let request = call(v1::ExplainTaskRequest { task_key: status.failures[0].task_key.clone() });
    let told = cluster.tasks().explain_task(request).await.unwrap().into_inner();
    assert_eq!(told.reasons[0], format!("exited: {}", kept()));
    let last = told.changes.last().unwrap();
    assert_eq!((last.state.as_str(), last.message.clone()), ("failed", format!("exited: {}", kept())));
    let runs = cluster.runs().list_runs(call(v1::ListRunsRequest {})).await.unwrap().into_inner().runs;
    assert_eq!((runs.len(), runs[0].failed, runs[0].failures.len()), (1, 5, 0));
    assert_eq!(cluster.changes().await.iter().filter(|change| change.state == "failed").count(), 5);
    let run_id = runs[0].run_id.clone();
    let request = v1::ListTasksRequest { run_id, state: "failed".to_owned(), from: 0 };
    assert_eq!(cluster.tasks().list_tasks(call(request)).await.unwrap().into_inner().tasks.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_fifteen_mebibytes_are_cut_and_everybody_is_answered() {
    let mut cluster = Cluster::start().await;
    let mut many = shell("many", "false");
    many.array = Some([1, 5]);
    submit(&cluster, vec![many]).await;
    let speaker = Speaker::here(&cluster).await;
    for lease in speaker.acquire(1, 5).await {
        let failed = v1::Failed { code: "exited".to_owned(), message: "x".repeat(15 << 20) };
        speaker.end(of(&lease), End::Failed(failed)).await.unwrap();
    }
    answers_are_bounded(&cluster).await;
    cluster.stop().await;
    let journal = std::fs::metadata(cluster.path("state/journal.sqlite")).unwrap().len();
    assert!(journal < 1 << 20, "{journal} bytes");
    cluster.start_again().await;
    answers_are_bounded(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_journal_with_messages_of_fifteen_mebibytes_is_answered_from() {
    let cluster = Cluster::start_as(|config| {
        let journal = config.state.join("journal.sqlite");
        if !journal.exists() {
            std::fs::create_dir_all(&config.state).unwrap();
            write_long_messages(&journal);
        }
    })
    .await;
    answers_are_bounded(&cluster).await;
}

/// A journal as it was written when nothing was cut.
fn write_long_messages(path: &Path) {
    let mut spec = shell("many", "false");
    spec.array = Some([1, 5]);
    let commands = Commands { id: "old".to_owned(), command: vec![spec] };
    let plan = command::plan(&commands).unwrap();
    let keys: Vec<TaskKey> = plan.tasks.iter().map(|task| task.key).collect();
    let worker = WorkerId("old-1-1".to_owned());
    let (run, work) = (plan.id(), Work::Commands { commands: commands.into() });
    let tasks = plan.tasks.into_iter().map(Into::into).collect();
    let offer = Offer { slots: 5, ..Offer::default() };
    let mut events = vec![
        Event::RunSubmitted { run, work, tasks, more: 0, priority: 0, by: None },
        Event::WorkerJoined { worker: worker.clone(), name: "old".to_owned(), offer },
    ];
    for (token, task) in (1..).map(FencingToken).zip(keys) {
        let (worker, attempt) = (worker.clone(), Attempt(1));
        events.push(Event::LeaseGranted { task, worker, token, attempt, call: token.0, at_ms: 0, gpus: vec![] });
        let failure = Failure { code: FailureCode::Exited, message: "x".repeat(15 << 20) };
        events.push(Event::AttemptFailed { task, token, failure, last: true, suspect: false });
    }
    let (mut journal, mut scheduler) = (Sqlite::open(path).unwrap(), Scheduler::default());
    for event in events {
        let rows = history::rows(journal.last() + 1, 0, &event, &scheduler);
        scheduler.apply(&event);
        journal.append(0, &[event], &rows).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_says_of_itself_is_kept_to_a_length() {
    let cluster = Cluster::start().await;
    let labels = [("site".to_owned(), "y".repeat(1 << 20))].into();
    let gpus = vec![v1::Gpu { name: "\u{1b}[2JH200".to_owned(), memory_mib: 1 }; 10_000];
    let more = v1::Hello { gpus, labels, ..v1::Hello::default() };
    let _speaker = Speaker::greet(cluster.workers(), "w".to_owned(), more).await;
    let workers = cluster.cluster().list_workers(call(v1::ListWorkersRequest {})).await.unwrap().into_inner();
    let [known] = &workers.workers[..] else { panic!("one worker") };
    assert_eq!((known.gpus.len(), known.gpus[0].name.as_str()), (256, "[2JH200"));
    assert_eq!(known.labels["site"], format!("{}… [cut: 1048576 bytes in all]", "y".repeat(169)));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_ends_than_a_call_may_tell_of_are_refused() {
    let cluster = Cluster::start().await;
    let attempts = vec![v1::AttemptEnd::default(); 257];
    let refused = cluster.workers().end_attempts(call(v1::EndAttemptsRequest { attempts })).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "attempts: 257 of them; at most 256 come in one message");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_of_more_attempts_than_there_can_be_ends_the_session_and_says_why() {
    let cluster = Cluster::start().await;
    let mut speaker = Speaker::here(&cluster).await;
    let attempt = v1::AttemptProgress { task_key: Digest::of(b"").to_string(), token: 1, ..Default::default() };
    let beat = v1::Heartbeat { attempts: vec![attempt; 1025] };
    speaker._up.send(v1::SessionRequest { message: Some(Message::Heartbeat(beat)) }).await.unwrap();
    let refused = speaker._down.take().unwrap().message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "attempts: 1025 of them; at most 1024 come in one message");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_told_again_with_other_files_is_refused() {
    let cluster = Cluster::start().await;
    submit(&cluster, vec![shell("one", "true")]).await;
    let speaker = Speaker::here(&cluster).await;
    let leases = speaker.acquire(1, 1).await;
    let empty = domain::artifact::Manifest::new(vec![]).unwrap();
    let succeeded =
        |artifact: ArtifactId, manifest| End::Succeeded(v1::Succeeded { artifact: artifact.to_string(), manifest });
    for _ in 0..2 {
        speaker.end(of(&leases[0]), succeeded(empty.id(), empty.to_bytes())).await.unwrap();
    }
    let entry = serde_json::json!([{ "path": "empty", "digest": Digest::of(b""), "size": 0 }]);
    let folder = cluster.path("other");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("empty"), "").unwrap();
    let manifest = proto::transfer::scan(&folder).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&manifest.to_bytes()).unwrap(), entry);
    let other = proto::transfer::Transfer::new(cluster.channel()).push(&folder, &manifest).await.unwrap();
    let refused = speaker.end(of(&leases[0]), succeeded(other, vec![])).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Aborted, Some(Reason::Fenced)));
    let request = call(v1::ExplainTaskRequest { task_key: leases[0].task_key.clone() });
    let told = cluster.tasks().explain_task(request).await.unwrap().into_inner();
    assert_eq!(told.artifact, empty.id().to_string());
}

/// Somebody at a coordinator's address who hands out what nobody asked for.
struct Impostor {
    leases: Mutex<Vec<v1::Lease>>,
    ended: mpsc::Sender<v1::AttemptEnd>,
}

#[tonic::async_trait]
impl WorkerService for Impostor {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let welcome = v1::session_response::Message::Welcome(v1::Welcome { heartbeat_ms: 50, ..Default::default() });
        let first = tokio_stream::once(Ok(v1::SessionResponse { message: Some(welcome) }));
        // Open for as long as the worker speaks.
        let rest = request.into_inner().filter_map(|_| None);
        Ok(Response::new(Box::pin(first.chain(rest))))
    }

    async fn acquire_leases(
        &self,
        _: Request<v1::AcquireLeasesRequest>,
    ) -> Result<Response<v1::AcquireLeasesResponse>, Status> {
        let leases = std::mem::take(&mut *self.leases.lock().unwrap());
        if leases.is_empty() {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(v1::AcquireLeasesResponse { leases }))
    }

    async fn end_attempts(
        &self,
        request: Request<v1::EndAttemptsRequest>,
    ) -> Result<Response<v1::EndAttemptsResponse>, Status> {
        let attempts = request.into_inner().attempts;
        let verdicts = attempts.iter().map(|_| v1::Verdict::default()).collect();
        for attempt in attempts {
            self.ended.send(attempt).await.unwrap();
        }
        Ok(Response::new(v1::EndAttemptsResponse { verdicts }))
    }

    async fn save_checkpoint(
        &self,
        _: Request<v1::SaveCheckpointRequest>,
    ) -> Result<Response<v1::SaveCheckpointResponse>, Status> {
        Ok(Response::new(v1::SaveCheckpointResponse {}))
    }

    async fn append_log(
        &self,
        request: Request<v1::AppendLogRequest>,
    ) -> Result<Response<v1::AppendLogResponse>, Status> {
        let v1::AppendLogRequest { offset, bytes, .. } = request.into_inner();
        Ok(Response::new(v1::AppendLogResponse { size: offset + bytes.len() as u64 }))
    }
}

/// Hands leases of commands to a worker that does not allow them; returns how they ended.
async fn hand_out(cluster: &Cluster, leases: Vec<v1::Lease>) -> Vec<(String, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (count, (ended, mut ends)) = (leases.len(), mpsc::channel(9));
    let impostor = WorkerServiceServer::new(Impostor { leases: Mutex::new(leases), ended });
    let incoming = TcpListenerStream::new(listener);
    let serving = tokio::spawn(proto::channel::server().add_service(impostor).serve_with_incoming(incoming));
    let _worker = cluster.worker_with("careful", &[], |config| {
        config.coordinator = url;
        config.stages.retain(|(name, _)| name != "command");
    });
    let mut heard = vec![];
    while heard.len() < count {
        let end = tokio::time::timeout(crate::harness::PATIENCE, ends.recv()).await.expect("it ends").unwrap().end;
        let Some(End::Failed(v1::Failed { code, message })) = end else { panic!("{end:?}") };
        heard.push((code, message));
    }
    serving.abort();
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_not_run_by_a_worker_that_did_not_offer_any() {
    let cluster = Cluster::start().await;
    let marker = cluster.path("marker");
    let spec = shell("any", &format!("touch {}", marker.display()));
    let plan = command::plan(&Commands { id: String::new(), command: vec![spec] }).unwrap();
    let lease = v1::Lease {
        task_key: plan.tasks[0].key.to_string(),
        token: 1,
        attempt: 1,
        stage_json: serde_json::to_string(&plan.tasks[0].stage).unwrap(),
        ..v1::Lease::default()
    };
    let report = v1::Lease {
        token: 2,
        stage_json: serde_json::to_string(&Stage::Report).unwrap(),
        stage_version: 99,
        ..lease.clone()
    };
    let mut heard = hand_out(&cluster, vec![lease, report]).await;
    heard.sort();
    let not_offered = "not run: the worker was handed what it did not offer: it does not run";
    let hint = "commands are for workers that are started with --allow-exec";
    let expected = [format!("{not_offered} command version 1; {hint}"), format!("{not_offered} report version 99")];
    assert_eq!(heard, expected.map(|message| ("internal".to_owned(), message)));
    assert!(!marker.exists());
}

/// Another user's program at a port of this machine, which counts the bytes that it hears.
fn stranger(port: u16) -> (Running, SocketAddr) {
    let script = r#"use IO::Socket::INET; $| = 1;
        my $own = IO::Socket::INET->new(Listen => 9, LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], ReuseAddr => 1) or die;
        print STDERR "at ", $own->sockport, "\n";
        while (my $peer = $own->accept) { my $heard = 0; while (sysread $peer, my $piece, 4096) { $heard += length $piece }
            print STDERR "heard $heard\n" }"#;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "perl", "-e", script, &port.to_string()]);
    command.current_dir("/").stdin(Stdio::null());
    let mut running = Running::spawn(command);
    running.hear("at ");
    let said = running.said().clone();
    let port = said.split_whitespace().nth(1).unwrap().parse().unwrap();
    (running, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Only root can be somebody else: for others there is a test of the table in `proto`.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_in_plaintext_to_another_users_port() {
    if !is_root() {
        return;
    }
    let cluster = Cluster::start().await;
    let (mut stranger, address) = stranger(0);
    let worker = cluster.worker_with("careful", &[], |config| config.coordinator = format!("http://{address}"));
    let ended = worker.end().await.unwrap_err().to_string();
    assert!(ended.contains("is held by another user of this machine (uid 65534)"), "{ended}");
    assert!(ended.contains("--tls") && ended.contains("coordinator.sock"), "{ended}");
    stranger.hear("heard 0");
    let count = |words: &str| stranger.said().matches(words).count();
    let of_worker = count("heard ");
    let asked = run(["status", "--coordinator", &format!("http://localhost:{}", address.port())]);
    asked.says(1, &["is held by another user of this machine (uid 65534)"]);
    eventually("the command has been there too", crate::harness::PATIENCE, || count("heard ") > of_worker);
    assert_eq!(count("heard "), count("heard 0\n"), "{}", stranger.said());
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_coordinators_port_is_taken_for_a_while_waits_with_what_it_runs() {
    if !is_root() {
        return;
    }
    let mut cluster = Cluster::start().await;
    let go = cluster.path("go");
    submit(&cluster, vec![shell("long", &format!("while [ ! -e {} ]; do sleep 0.05; done", go.display()))]).await;
    let _worker = cluster.worker("one", &[]);
    cluster.until("it runs", |status| status.running == 1).await;
    cluster.stop().await;
    let (mut stranger, _) = stranger(cluster.address().port());
    std::fs::write(&go, "").unwrap();
    stranger.hear("heard 0");
    let said = stranger.said().clone();
    assert_eq!(said.matches("heard ").count(), said.matches("heard 0\n").count(), "{said}");
    stranger.kill();
    cluster.start_again().await;
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert!(cluster.count("running").await.values().all(|times| *times == 1), "it was run once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_not_steered_and_a_log_in_a_pipe_is_what_was_said() {
    let cluster = Cluster::start().await;
    submit(&cluster, vec![shell("loud", r"printf '\033]0;mine\007\033[2J' >&2; exit 3")]).await;
    let _worker = cluster.worker("one", &[]);
    let task = cluster.end().await.failures[0].task_key.clone();
    let asked = |verb: &str, option: &str| {
        let words = ["task", verb, &task, "--coordinator", cluster.url()];
        run(words.into_iter().chain((!option.is_empty()).then_some(option)))
    };
    let told = tokio::task::block_in_place(|| asked("why", ""));
    told.is_done();
    assert!(told.out.contains(r"it said last: \u001b]0;mine\u0007\u001b[2J"), "{told}");
    let json = tokio::task::block_in_place(|| asked("why", "--json")).json();
    assert!(json["reasons"][0].as_str().unwrap().ends_with("\u{1b}]0;mine\u{7}\u{1b}[2J"), "{json}");
    let logs = tokio::task::block_in_place(|| asked("logs", ""));
    assert_eq!(logs.out, "\u{1b}]0;mine\u{7}\u{1b}[2J");
    // `script` gives it a terminal of its own.
    let lithogen = crate::harness::program::real();
    let line = format!("{} task logs {task} --coordinator {}", lithogen.display(), cluster.url());
    let seen = tokio::task::block_in_place(|| {
        Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap()
    });
    assert_eq!(String::from_utf8_lossy(&seen.stdout), r"\u001b]0;mine\u0007\u001b[2J");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_tasks_took_is_told_of_the_workers_that_are_there() {
    let cluster = Cluster::start().await;
    let told = || async {
        let answer = cluster.cluster().list_measurements(call(v1::ListMeasurementsRequest {})).await;
        answer.unwrap().into_inner()
    };
    assert_eq!(told().await, v1::ListMeasurementsResponse::default());
    cluster.submit().await;
    let gate = cluster.path("gate");
    let one = cluster.worker("one", &[("FAKE_GATE", &gate)]);
    let two = cluster.worker("two", &[("FAKE_GATE", &gate)]);
    cluster.until("both have all hands full", |status| status.running == 4).await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let all = told().await;
    assert_eq!((all.measurements.len(), all.slots), (tasks(), 4));
    let measured = all.measurements.into_iter().map(|each| Measurement::try_from(each).unwrap());
    let measured: Vec<Measurement> = measured.collect();
    assert!(measured.iter().all(|each| each.flop > 0.0 && each.seconds >= 0.0), "{measured:?}");
    assert_eq!(measured.iter().filter(|each| each.stage == StageKind::SinddmTrain).count(), 12);
    // What the one that is left has done.
    one.drain().await;
    let changes = cluster.changes().await;
    let of_two = changes.iter().filter(|change| change.state == "succeeded" && change.worker == "two").count();
    assert!((1..measured.len()).contains(&of_two));
    let left = soon("one has left", || async { Some(told().await).filter(|told| told.slots == 2) }).await;
    assert_eq!(left.measurements.len(), of_two);
    // What those did that there were, if there is nobody.
    two.drain().await;
    let nobody = soon("two has left", || async { Some(told().await).filter(|told| told.slots == 0) }).await;
    assert_eq!(nobody.measurements.len(), measured.len());
    let state = cluster.path("state");
    let planned =
        tokio::task::spawn_blocking(move || run_in(&state, "plan --scale smoke --json")).await.unwrap().json();
    assert_eq!(planned["estimate"]["source"], "finished_tasks");
    assert_eq!(planned["estimate"]["finished_tasks"], tasks());
}
