//! Who may join and speak, over real sockets: TLS on loopback is TLS.

use std::path::Path;
use std::time::Duration;

use domain::runner::registry::Role;
use proto::channel::{Credentials, call, connect};
use proto::identity::{self, Identity};
use proto::join_token::{Fingerprint, JoinToken, Secret};
use proto::status::{Reason, is_final, reason};
use proto::tls::{self, Trust};
use proto::v1;
use proto::v1::attempt_end::End;
use proto::v1::run_service_client::RunServiceClient;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::cluster::{Cluster, Worker};
use crate::harness::soon;

pub(crate) const HOUR_MS: u64 = 3_600_000;

/// A coordinator that asks everybody for a certificate.
async fn secure() -> Cluster {
    Cluster::start_as(|config| config.tls_always = true).await
}

/// As [`secure`], with certificates that end soon.
async fn short_lived(life: Duration) -> Cluster {
    Cluster::start_as(move |config| {
        config.tls_always = true;
        config.certificate_life = life;
    })
    .await
}

/// Joins as somebody with that role.
pub(crate) async fn join(cluster: &Cluster, role: Role, name: &str) -> Identity {
    let token = cluster.token(role, 1, HOUR_MS).await;
    Identity::join(cluster.url(), &token, name, &cluster.path(&format!("identity of {name}"))).await.unwrap()
}

pub(crate) fn channel(cluster: &Cluster, identity: &Identity) -> Channel {
    connect(cluster.url(), &Credentials::new(identity.config().unwrap())).unwrap()
}

async fn runs(channel: Channel) -> Result<(), Status> {
    RunServiceClient::new(channel).list_runs(call(v1::ListRunsRequest {})).await.map(drop)
}

async fn identities(cluster: &Cluster) -> Vec<v1::Identity> {
    let answer = cluster.registration().list_identities(call(v1::ListIdentitiesRequest {})).await;
    answer.unwrap().into_inner().identities
}

async fn revoke(cluster: &Cluster, identity: &str) {
    let request = v1::RevokeIdentityRequest { identity: identity.to_owned() };
    cluster.registration().revoke_identity(call(request)).await.unwrap();
}

fn joining(cluster: &Cluster, name: &str, token: JoinToken, fake: &[(&str, &Path)]) -> Worker {
    cluster.worker_with(name, fake, |config| config.join_token = Some(token))
}

/// Why joining did not work.
async fn refused(url: &str, token: &JoinToken, folder: &Path) -> Status {
    match Identity::join(url, token, "late", folder).await {
        Err(identity::Error::Call(status)) => *status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_worker_joins_with_a_token_and_does_the_work() {
    let cluster = secure().await;
    let token = cluster.token(Role::Worker, 1, HOUR_MS).await;
    let worker = joining(&cluster, "gpu", token, &[]);
    cluster.submit().await;
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let [known] = &identities(&cluster).await[..] else { panic!("one identity") };
    assert_eq!((known.name.as_str(), known.role.as_str(), known.labels["room"].as_str()), ("gpu", "worker", "4"));
    assert_eq!(known.connections, 1);
    worker.drain().await;
    // A second start needs no token: what it was given lies in its folder.
    let again = cluster.worker("gpu", &[]);
    soon("it is there again", || async { (identities(&cluster).await[0].connections == 1).then_some(()) }).await;
    again.drain().await;
    assert_eq!(identities(&cluster).await.len(), 1);
}

#[tokio::test]
async fn what_a_token_says_of_a_worker_counts_for_more_than_what_it_says_of_itself() {
    let cluster = secure().await;
    let token = cluster.token(Role::Worker, 1, HOUR_MS).await;
    let _worker = cluster.worker_with("gpu", &[], |config| {
        config.join_token = Some(token);
        config.labels = [("room", "9"), ("rack", "2")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    });
    let labels = soon("it is there", || async {
        let workers = cluster.cluster().list_workers(call(v1::ListWorkersRequest {})).await;
        Some(workers.ok()?.into_inner().workers.pop()?.labels)
    });
    let labels = labels.await;
    assert_eq!((labels.len(), labels["room"].as_str(), labels["rack"].as_str()), (2, "4", "2"));
}

#[tokio::test]
async fn a_token_is_used_no_more_often_than_it_may_be() {
    let cluster = secure().await;
    let token = cluster.token(Role::Worker, 1, HOUR_MS).await;
    let first = Identity::join(cluster.url(), &token, "a", &cluster.path("a")).await.unwrap();
    // The answer may have been lost: the same key is told the same again.
    let again = Identity::join(cluster.url(), &token, "a", &cluster.path("a")).await.unwrap();
    assert_eq!(first.id, again.id);
    let status = refused(cluster.url(), &token, &cluster.path("b")).await;
    assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, Some(Reason::TokenUsedUp)));
    assert!(status.message().contains("as often as it may be"), "{status}");
    let ended = joining(&cluster, "late", token, &[]).end().await.unwrap_err();
    assert!(ended.to_string().contains("lithogen token create"), "{ended}");
}

#[tokio::test]
async fn expired_revoked_and_foreign_tokens_are_refused_in_their_own_words() {
    let mut cluster = secure().await;
    let expired = cluster.token(Role::Worker, 1, 0).await;
    let status = refused(cluster.url(), &expired, &cluster.path("a")).await;
    assert!(status.message().contains("has expired"), "{status}");
    let called_back = cluster.token(Role::Worker, 1, HOUR_MS).await;
    let id = called_back.secret.digest().short();
    for _ in 0..2 {
        let request = v1::RevokeTokenRequest { id: id.clone() };
        cluster.registration().revoke_token(call(request)).await.unwrap();
    }
    cluster.stop().await;
    cluster.start_again().await;
    let status = refused(cluster.url(), &called_back, &cluster.path("b")).await;
    assert!(status.message().contains("was revoked"), "{status}");
    let foreign = JoinToken { secret: Secret::draw().unwrap(), ..called_back };
    let status = refused(cluster.url(), &foreign, &cluster.path("c")).await;
    assert!(status.message().contains("knows no such join token"), "{status}");
}

#[tokio::test]
async fn a_revoked_worker_is_cut_off_and_its_work_goes_elsewhere() {
    let cluster = secure().await;
    let gate = cluster.path("gate");
    let token = cluster.token(Role::Worker, 2, HOUR_MS).await;
    let first = cluster.worker_with("first", &[("FAKE_GATE", &gate)], |config| {
        (config.join_token, config.grace) = (Some(token), Duration::from_secs(3600));
    });
    cluster.submit().await;
    cluster.until("the first worker has a task", |status| status.running > 0).await;
    revoke(&cluster, "first").await;
    let ended = first.end().await.unwrap_err();
    assert!(ended.to_string().contains("was revoked"), "{ended}");
    let second = joining(&cluster, "second", token, &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert!(!cluster.count("lost").await.is_empty(), "the first worker's lease was taken back");
    second.drain().await;
}

#[tokio::test]
async fn a_revoked_identity_is_refused_also_after_a_restart() {
    let mut cluster = secure().await;
    let identity = join(&cluster, Role::Viewer, "someone").await;
    let open = channel(&cluster, &identity);
    runs(open.clone()).await.unwrap();
    revoke(&cluster, &identity.id).await;
    let refused = |channel| async move {
        soon("it is refused", || async {
            let status = runs(Channel::clone(&channel)).await.unwrap_err();
            (status.code() == Code::Unauthenticated && status.message().contains("was revoked")).then_some(())
        })
        .await;
    };
    refused(open).await;
    cluster.stop().await;
    cluster.start_again().await;
    refused(channel(&cluster, &identity)).await;
}

#[tokio::test]
async fn a_certificate_that_has_ended_opens_nothing() {
    let cluster = short_lived(Duration::from_secs(2)).await;
    let identity = join(&cluster, Role::Viewer, "someone").await;
    let open = channel(&cluster, &identity);
    runs(open.clone()).await.unwrap();
    for channel in [open, channel(&cluster, &identity)] {
        // The call under way when it ends may hear of a broken connection only.
        let status = soon("it has ended", || async { runs(channel.clone()).await.err().filter(is_final) }).await;
        assert!(status.message().contains("has expired; join again"), "{status}");
    }
}

#[tokio::test]
async fn a_worker_renews_its_certificate_and_works_on() {
    let cluster = short_lived(Duration::from_secs(3)).await;
    let token = cluster.token(Role::Worker, 1, HOUR_MS).await;
    let gate = cluster.path("gate");
    let worker = joining(&cluster, "gpu", token, &[("FAKE_GATE", &gate)]);
    let first = soon("it joins", || async { identities(&cluster).await.pop() }).await;
    cluster.submit().await;
    cluster.until("it has a task", |status| status.running > 0).await;
    let now_ms = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    soon("its first certificate has long ended", || async { (now_ms() > first.not_after_ms + 1000).then_some(()) })
        .await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert!(cluster.count("lost").await.is_empty(), "its leases outlived its certificate");
    assert_ne!(identities(&cluster).await[0].serial, first.serial);
    worker.drain().await;
}

#[tokio::test]
async fn a_secret_is_shown_to_no_other_coordinator() {
    let (ours, other) = (secure().await, secure().await);
    let token = ours.token(Role::Worker, 1, HOUR_MS).await;
    let status = refused(other.url(), &token, &other.path("a")).await;
    assert!(status.message().contains("not the one of the join token"), "{status}");
    let used = ours.registration().list_tokens(call(v1::ListTokensRequest {})).await.unwrap().into_inner();
    assert_eq!(used.tokens[0].used, 0);
    // Nor is an identity.
    let identity = join(&ours, Role::Viewer, "someone").await;
    let status = runs(channel(&other, &identity)).await.unwrap_err();
    assert!(status.message().contains("nothing was sent to it"), "{status}");
}

/// Whoever listens there hears the beginning of a TLS connection and nothing else.
#[tokio::test]
async fn a_secret_is_not_shown_before_the_server_is_known() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = vec![0; 4096];
        let length = stream.read(&mut heard).await.unwrap();
        heard.truncate(length);
        heard
    });
    let token = JoinToken { ca: Fingerprint::of(b"somebody"), secret: Secret::draw().unwrap() };
    let folder = tempfile::tempdir().unwrap();
    refused(&url, &token, folder.path()).await;
    let heard = heard.await.unwrap();
    assert_eq!(heard[0], 0x16, "a TLS handshake");
    let secret = token.secret.expose();
    assert!(!heard.windows(secret.len()).any(|window| window == secret.as_bytes()));
}

#[tokio::test]
async fn plaintext_where_tls_is_spoken_is_told_so() {
    let cluster = secure().await;
    let plain = connect(&cluster.url().replace("https", "http"), &Credentials::default()).unwrap();
    let status = runs(plain).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("speaks TLS only; use https://"), "{status}");
}

#[tokio::test]
async fn tls_where_plaintext_is_spoken_is_told_so() {
    let cluster = Cluster::start().await;
    let credentials = Credentials::new(tls::client(Trust::OnSight, None).unwrap());
    let encrypted = connect(&cluster.url().replace("http", "https"), &credentials).unwrap();
    let status = runs(encrypted).await.unwrap_err();
    assert!(status.message().contains("does not speak TLS there"), "{status}");
}

#[tokio::test]
async fn nobody_joins_a_coordinator_that_serves_its_own_machine_only() {
    let cluster = Cluster::start().await;
    let request = v1::CreateTokenRequest {
        secret_digest: Secret::draw().unwrap().digest().to_string(),
        role: "worker".to_owned(),
        uses: 1,
        ..Default::default()
    };
    let status = cluster.registration().create_token(call(request)).await.unwrap_err();
    assert!(status.message().contains("start it with --listen"), "{status}");
}

#[tokio::test]
async fn roles_do_what_they_are_for_and_nothing_else() {
    let cluster = secure().await;
    cluster.submit().await;
    let submit = |channel| async {
        RunServiceClient::new(channel).submit(call(v1::SubmitRequest::default())).await.unwrap_err()
    };
    let acquire = |channel, worker: &str| {
        let message =
            v1::AcquireLeasesRequest { worker_id: worker.to_owned(), call: 1, ..v1::AcquireLeasesRequest::default() };
        async move { WorkerServiceClient::new(channel).acquire_leases(call(message)).await.unwrap_err() }
    };
    let viewer = channel(&cluster, &join(&cluster, Role::Viewer, "viewer").await);
    runs(viewer.clone()).await.unwrap();
    let status = submit(viewer.clone()).await;
    assert_eq!((status.code(), reason(&status)), (Code::PermissionDenied, Some(Reason::Role)));
    assert!(status.message().contains("takes the role submitter or admin"), "{status}");
    let worker = channel(&cluster, &join(&cluster, Role::Worker, "worker").await);
    assert_eq!(submit(worker.clone()).await.code(), Code::PermissionDenied);
    assert_eq!(acquire(viewer, "anyone").await.code(), Code::PermissionDenied);
    // A worker's certificate is good for its own processes only.
    let status = acquire(worker, "somebody-1-1").await;
    assert!(status.message().contains("cannot speak for worker somebody-1-1"), "{status}");
    let submitter = channel(&cluster, &join(&cluster, Role::Submitter, "submitter").await);
    assert_eq!(submit(submitter).await.code(), Code::InvalidArgument, "it may, but what it hands in is nothing");
    let nobody = Credentials::new(tls::client(Trust::OnSight, None).unwrap());
    let status = runs(connect(cluster.url(), &nobody).unwrap()).await.unwrap_err();
    assert!(status.message().contains("needs a certificate"), "{status}");
}

#[tokio::test]
async fn one_worker_cannot_end_anothers_lease() {
    let cluster = secure().await;
    let gate = cluster.path("gate");
    let token = cluster.token(Role::Worker, 1, HOUR_MS).await;
    let _busy = joining(&cluster, "busy", token, &[("FAKE_GATE", &gate)]);
    cluster.submit().await;
    let status = cluster.until("it has a task", |status| status.running > 0).await;
    let attempt = &status.attempts[0];
    let thief = channel(&cluster, &join(&cluster, Role::Worker, "thief").await);
    for token in 1..=u64::from(status.running) {
        let failed = v1::Failed { code: "crashed".to_owned(), message: String::new() };
        let end = v1::AttemptEnd { task_key: attempt.task_key.clone(), token, end: Some(End::Failed(failed)) };
        let request = v1::EndAttemptsRequest { attempts: vec![end] };
        let refused = WorkerServiceClient::new(thief.clone()).end_attempts(call(request)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::PermissionDenied, Some(Reason::Role)));
    }
    std::fs::write(&gate, "").unwrap();
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert!(cluster.count("retrying").await.is_empty());
}

#[tokio::test]
async fn the_state_folder_holds_no_secret_of_a_token() {
    let mut cluster = secure().await;
    let token = cluster.token(Role::Worker, 1, HOUR_MS).await;
    Identity::join(cluster.url(), &token, "a", &cluster.path("a")).await.unwrap();
    cluster.stop().await;
    let text = token.secret.expose();
    let raw: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect();
    let digest = token.secret.digest().to_string();
    let mut journal = vec![];
    for file in std::fs::read_dir(cluster.path("state")).unwrap().map(|file| file.unwrap().path()) {
        let Ok(bytes) = std::fs::read(&file) else { continue };
        let has = |wanted: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
        assert!(!has(text.as_bytes()) && !has(&raw), "{}", file.display());
        if has(digest.as_bytes()) {
            journal.push(file);
        }
    }
    assert!(!journal.is_empty(), "the journal knows the token by its digest");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = secure().await;
    let mode = |name: &str| std::fs::metadata(cluster.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("state/coordinator.sock"), 0o600);
    let identity = join(&cluster, Role::Viewer, "someone").await;
    runs(channel(&cluster, &identity)).await.unwrap();
    assert_eq!(mode("identity of someone/key.pem"), 0o600);
}
