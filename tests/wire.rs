//! What the services answer to callers that are late, wrong or of another version.

use proto::channel::call;
use proto::status::{Reason, of_verdict, reason};
use proto::transfer::{self, Transfer};
use proto::v1;
use proto::v1::attempt_end::End;
use proto::v1::put_blob_request::Part;
use proto::v1::session_request::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use domain::digest::Digest;
use domain::id::ArtifactId;

use crate::harness::PATIENCE;
use crate::harness::cluster::{Cluster, stages};

/// A session kept open for as long as this lives.
struct Session {
    up: mpsc::Sender<v1::SessionRequest>,
    down: Streaming<v1::SessionResponse>,
}

fn hello(worker_id: &str) -> v1::Hello {
    v1::Hello {
        worker_id: worker_id.to_owned(),
        name: worker_id.to_owned(),
        version: "0.0.0".to_owned(),
        protocol: proto::PROTOCOL,
        slots: 2,
        stages: stages().into_iter().map(|(name, version)| v1::StageVersion { name, version }).collect(),
        ..v1::Hello::default()
    }
}

async fn session(cluster: &Cluster, hello: v1::Hello) -> Result<Session, Status> {
    let (up, requests) = mpsc::channel(4);
    up.send(v1::SessionRequest { message: Some(Message::Hello(hello)) }).await.unwrap();
    let down = cluster.workers().session(ReceiverStream::new(requests)).await?.into_inner();
    let mut session = Session { up, down };
    // The welcome says that the coordinator knows the worker.
    session.down.message().await?;
    Ok(session)
}

fn ask(worker_id: &str, number: u64) -> tonic::Request<v1::AcquireLeasesRequest> {
    call(v1::AcquireLeasesRequest { worker_id: worker_id.to_owned(), call: number, max: 1, wait_ms: 0 })
}

async fn acquire(cluster: &Cluster, worker_id: &str, number: u64) -> Option<v1::Lease> {
    cluster.workers().acquire_leases(ask(worker_id, number)).await.unwrap().into_inner().leases.pop()
}

/// Tells how one attempt ended.
async fn end(cluster: &Cluster, task_key: &str, token: u64, end: Option<End>) -> Result<(), Status> {
    let attempts = vec![v1::AttemptEnd { task_key: task_key.to_owned(), token, end }];
    let answer = cluster.workers().end_attempts(call(v1::EndAttemptsRequest { attempts })).await?;
    of_verdict(&answer.into_inner().verdicts[0])
}

fn succeeded(artifact: &str) -> Option<End> {
    Some(End::Succeeded(v1::Succeeded { artifact: artifact.to_owned(), manifest: vec![] }))
}

async fn commit(cluster: &Cluster, lease: &v1::Lease, artifact: ArtifactId) -> Result<(), Status> {
    end(cluster, &lease.task_key, lease.token, succeeded(&artifact.to_string())).await
}

async fn release(cluster: &Cluster, lease: &v1::Lease) {
    end(cluster, &lease.task_key, lease.token, Some(End::Released(v1::Released {}))).await.unwrap();
}

/// An artifact of one file, stored.
async fn artifact(cluster: &Cluster, text: &str) -> ArtifactId {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("made.txt"), text).unwrap();
    let manifest = transfer::scan(folder.path()).unwrap();
    Transfer::new(cluster.channel()).push(folder.path(), &manifest).await.unwrap()
}

/// A cluster with a study, and a session of worker `w`.
async fn with_a_worker() -> (Cluster, Session) {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let session = session(&cluster, hello("w")).await.unwrap();
    (cluster, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_for_work_gets_the_same_lease() {
    let (cluster, _session) = with_a_worker().await;
    let lease = acquire(&cluster, "w", 1).await.unwrap();
    assert_eq!(acquire(&cluster, "w", 1).await.unwrap(), lease);
    assert_ne!(acquire(&cluster, "w", 2).await.unwrap().task_key, lease.task_key);
    assert_eq!(cluster.status().await.running, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_commit_is_answered_and_commits_once() {
    let (cluster, _session) = with_a_worker().await;
    let lease = acquire(&cluster, "w", 1).await.unwrap();
    let result = artifact(&cluster, "result").await;
    commit(&cluster, &lease, result).await.unwrap();
    commit(&cluster, &lease, result).await.unwrap();
    assert_eq!(cluster.status().await.committed, 1);
    assert_eq!(cluster.count("succeeded").await.get(&lease.task_key), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_end_does_not_hold_up_the_others() {
    let (cluster, _session) = with_a_worker().await;
    let (one, two) = (acquire(&cluster, "w", 1).await.unwrap(), acquire(&cluster, "w", 2).await.unwrap());
    let result = artifact(&cluster, "result").await.to_string();
    let ended =
        |lease: &v1::Lease, token| v1::AttemptEnd { task_key: lease.task_key.clone(), token, end: succeeded(&result) };
    let attempts = vec![ended(&one, one.token), ended(&two, two.token + 9), ended(&two, two.token)];
    let answer = cluster.workers().end_attempts(call(v1::EndAttemptsRequest { attempts })).await.unwrap();
    let reasons: Vec<String> = answer.into_inner().verdicts.into_iter().map(|verdict| verdict.reason).collect();
    assert_eq!(reasons, ["", "FENCED", ""]);
    assert_eq!(cluster.status().await.committed, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_work_waits_for_it() {
    let cluster = Cluster::start().await;
    let _session = session(&cluster, hello("w")).await.unwrap();
    let mut workers = cluster.workers();
    let waiting = tokio::spawn(async move {
        let message = v1::AcquireLeasesRequest { worker_id: "w".to_owned(), call: 1, max: 1, wait_ms: 60_000 };
        workers.acquire_leases(call(message)).await.unwrap().into_inner().leases
    });
    cluster.submit().await;
    let leases = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(leases.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_for_the_next_attempt_and_late_ones_are_fenced() {
    let (cluster, _session) = with_a_worker().await;
    let lease = acquire(&cluster, "w", 1).await.unwrap();
    assert_eq!(lease.checkpoint, "");
    let save = |lease: &v1::Lease, artifact: ArtifactId| {
        call(v1::SaveCheckpointRequest {
            task_key: lease.task_key.clone(),
            token: lease.token,
            artifact: artifact.to_string(),
            manifest: vec![],
            step: 7,
        })
    };
    let refused =
        cluster.workers().save_checkpoint(save(&lease, ArtifactId(Digest::of(b"not stored")))).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::MissingBlob));
    let checkpoint = artifact(&cluster, "half").await;
    cluster.workers().save_checkpoint(save(&lease, checkpoint)).await.unwrap();
    release(&cluster, &lease).await;
    let next = acquire(&cluster, "w", 2).await.unwrap();
    assert_eq!((next.task_key.as_str(), next.checkpoint), (lease.task_key.as_str(), checkpoint.to_string()));
    let refused = cluster.workers().save_checkpoint(save(&lease, checkpoint)).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::Fenced));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_under_an_old_lease_is_fenced() {
    let (cluster, _session) = with_a_worker().await;
    let old = acquire(&cluster, "w", 1).await.unwrap();
    release(&cluster, &old).await;
    let new = acquire(&cluster, "w", 2).await.unwrap();
    assert_eq!(new.task_key, old.task_key);
    assert!(new.token > old.token);
    let late = artifact(&cluster, "late").await;
    let refused = commit(&cluster, &old, late).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Aborted, Some(Reason::Fenced)));
    assert_eq!(cluster.status().await.committed, 0);
    commit(&cluster, &new, artifact(&cluster, "result").await).await.unwrap();
    let refused = commit(&cluster, &old, late).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::Fenced), "also after the newer one has won");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_files_are_not_stored_is_refused() {
    let (cluster, _session) = with_a_worker().await;
    let lease = acquire(&cluster, "w", 1).await.unwrap();
    let refused = commit(&cluster, &lease, ArtifactId(Digest::of(b"never stored"))).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, Some(Reason::MissingBlob)));
    let status = cluster.status().await;
    assert_eq!((status.committed, status.running), (0, 1), "the lease goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_only_stages_of_the_versions_it_can_run() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let mut other = hello("other");
    other.stages.iter_mut().for_each(|stage| stage.version += 1);
    let _other = session(&cluster, other).await.unwrap();
    let _fitting = session(&cluster, hello("fitting")).await.unwrap();
    assert_eq!(acquire(&cluster, "other", 1).await, None);
    assert!(acquire(&cluster, "fitting", 1).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_for_workers_with_a_session() {
    let cluster = Cluster::start().await;
    let refused = cluster.workers().acquire_leases(ask("nobody", 1)).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::NoSession));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_is_refused_and_the_older_side_named() {
    let cluster = Cluster::start().await;
    for (protocol, upgrade) in [(proto::PROTOCOL + 1, "upgrade the coordinator"), (0, "upgrade the worker")] {
        let refused = session(&cluster, v1::Hello { protocol, ..hello("w") }).await.err().unwrap();
        assert_eq!(reason(&refused), Some(Reason::Incompatible));
        assert!(refused.message().ends_with(upgrade), "{}", refused.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_greeting_in_one_session_makes_no_second_worker() {
    let cluster = Cluster::start().await;
    let session = session(&cluster, hello("w")).await.unwrap();
    session.up.send(v1::SessionRequest { message: Some(Message::Hello(hello("x"))) }).await.unwrap();
    session.up.send(v1::SessionRequest { message: Some(Message::Heartbeat(v1::Heartbeat::default())) }).await.unwrap();
    let refused = cluster.workers().acquire_leases(ask("x", 1)).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::NoSession));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_than_named_are_data_loss_and_are_not_stored() {
    let cluster = Cluster::start().await;
    let digest = Digest::of(b"stone").to_string();
    let put = |data: &[u8]| {
        let start = v1::PutBlobStart {
            digest: digest.clone(),
            session: "test".to_owned(),
            encoding: v1::Encoding::Raw.into(),
            size: data.len() as u64,
            offset: 0,
        };
        let messages =
            [Part::Start(start), Part::Data(data.to_vec())].map(|part| v1::PutBlobRequest { part: Some(part) });
        let mut client = cluster.artifacts();
        async move { client.put_blob(tokio_stream::iter(messages)).await }
    };
    let missing = || async {
        let request = v1::FindMissingRequest { digests: vec![digest.clone()] };
        cluster.artifacts().find_missing(call(request)).await.unwrap().into_inner().digests
    };
    let refused = put(b"sand").await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss);
    assert_eq!(missing().await, [digest.as_str()]);
    put(b"stone").await.unwrap();
    assert!(missing().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_is_refused_and_nothing_is_lost() {
    let cluster = Cluster::start().await;
    let before = cluster.submit().await;
    let huge = v1::SubmitRequest { commands_json: " ".repeat(17 << 20), ..Default::default() };
    let refused = cluster.runs().submit(call(huge)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert!(refused.message().contains("too large"), "{refused}");
    assert_eq!(cluster.status().await.run_id, before.run_id);
    let _worker = cluster.worker("one", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_field_is_refused_by_name() {
    let cluster = Cluster::start().await;
    let (good, bad) = (Digest::of(b"").to_string(), "beef".to_owned());
    let (mut workers, mut artifacts) = (cluster.workers(), cluster.artifacts());
    let commands = |commands: &str| v1::SubmitRequest { commands_json: commands.to_owned(), ..Default::default() };
    let study = |experiment: &str, data: &str| v1::SubmitRequest {
        experiment_json: experiment.to_owned(),
        data_json: data.to_owned(),
        ..Default::default()
    };
    let nameless = r#"{"command": [{"name": "", "argv": ["true"]}]}"#;
    let refusals = [
        ("digests", artifacts.find_missing(call(v1::FindMissingRequest { digests: vec![bad.clone()] })).await.err()),
        (
            "digest",
            artifacts.get_blob(call(v1::GetBlobRequest { digest: bad.clone(), ..Default::default() })).await.err(),
        ),
        ("start", artifacts.put_blob(tokio_stream::iter([v1::PutBlobRequest::default()])).await.err()),
        ("task_key", end(&cluster, &bad, 1, succeeded(&good)).await.err()),
        ("token", end(&cluster, &good, 0, succeeded(&good)).await.err()),
        ("artifact", end(&cluster, &good, 1, succeeded(&bad)).await.err()),
        ("end", end(&cluster, &good, 1, None).await.err()),
        ("worker_id", workers.acquire_leases(ask("", 1)).await.err()),
        ("experiment_json", cluster.runs().submit(call(study("stones", "{}"))).await.err()),
        ("data_json", cluster.runs().submit(call(study("{}", "stones"))).await.err()),
        ("commands_json", cluster.runs().submit(call(commands("stones"))).await.err()),
        ("commands_json", cluster.runs().submit(call(commands(nameless))).await.err()),
    ];
    for (field, refused) in refusals {
        let refused = refused.unwrap_or_else(|| panic!("{field} was taken"));
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}");
        assert!(refused.message().starts_with(&format!("{field}: ")), "{}", refused.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_whose_pictures_are_not_stored_is_refused() {
    let cluster = Cluster::start().await;
    let data = crate::harness::cluster::data(ArtifactId(Digest::of(b"never stored")));
    let request = v1::SubmitRequest {
        experiment_json: serde_json::to_string(&crate::harness::cluster::small()).unwrap(),
        data_json: serde_json::to_string(&data).unwrap(),
        ..Default::default()
    };
    let refused = cluster.runs().submit(call(request)).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::MissingBlob));
    assert!(refused.message().contains("upload the data first"), "{}", refused.message());
}

/// What is served to those who have joined.
const SERVICES: [&str; 5] = [
    "lithogen.v1.ArtifactService",
    "lithogen.v1.ClusterService",
    "lithogen.v1.RunService",
    "lithogen.v1.TaskService",
    "lithogen.v1.WorkerService",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_service_says_that_it_serves() {
    let cluster = Cluster::start().await;
    for service in [""].into_iter().chain(SERVICES) {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(cluster.channel()).check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services() {
    let cluster = Cluster::start().await;
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut client = ServerReflectionClient::new(cluster.channel());
    let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else { panic!("{answer:?}") };
    let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for service in SERVICES {
        assert!(names.contains(&service), "{names:?}");
    }
}

/// A stream that its client never lets go of must not keep the coordinator alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_watches_health_does_not_hold_up_the_end() {
    let mut cluster = Cluster::start().await;
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = HealthClient::new(cluster.channel()).watch(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    tokio::time::timeout(PATIENCE, cluster.stop()).await.expect("the coordinator ends");
}
