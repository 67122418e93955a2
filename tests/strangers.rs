//! What those may make a coordinator hold who are not known, or who are and mean no
//! good; and that nobody else notices.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coordinator::config::{Limits, Share};
use domain::digest::Digest;
use domain::id::ArtifactId;
use domain::runner::command::{CommandSpec, Commands};
use domain::runner::registry::Role;
use proto::channel::{Credentials, blob_call, call, connect, handshake};
use proto::codec::SmallBuffers;
use proto::identity::{self, Identity};
use proto::join_token::{JoinToken, Secret};
use proto::private;
use proto::status::{Reason, is_final, of_verdict, reason};
use proto::tls::{self, Trust};
use proto::transfer::{self, Transfer};
use proto::v1;
use proto::v1::artifact_service_client::ArtifactServiceClient;
use proto::v1::attempt_end::End;
use proto::v1::get_blob_response::Part;
use proto::v1::put_blob_request::Part as Up;
use proto::v1::registration_service_client::RegistrationServiceClient;
use proto::v1::run_service_client::RunServiceClient;
use proto::v1::session_request::Message;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::harness::cluster::{Cluster, stages};
use crate::harness::soon;
use crate::security::{HOUR_MS, channel, join};

/// Far longer than any answer takes that nobody is in the way of.
const PROMPT: Duration = Duration::from_secs(5);

const MIB: usize = 1024 * 1024;

/// A coordinator that asks everybody for a certificate and has these limits.
async fn limited(limits: Limits) -> Cluster {
    Cluster::start_as(move |config| {
        config.tls_always = true;
        config.limits = limits;
    })
    .await
}

/// A way to the coordinator without a certificate, on a connection of its own.
fn nameless(cluster: &Cluster) -> Channel {
    connect(cluster.url(), &Credentials::new(tls::client(Trust::OnSight, None).unwrap())).unwrap()
}

/// A TLS connection on which nothing is said.
async fn silent(cluster: &Cluster) -> std::io::Result<impl AsyncReadExt + Unpin + Send + 'static> {
    let config = Arc::new(tls::client(Trust::OnSight, None).unwrap());
    let tcp = TcpStream::connect(cluster.address()).await?;
    handshake("127.0.0.1", cluster.address().port(), tcp, config).await
}

/// Waits until the other side has closed a connection.
async fn closed(mut stream: impl AsyncReadExt + Unpin) {
    let mut heard = vec![];
    // A connection that is cut is as closed as one that ends.
    let _ = stream.read_to_end(&mut heard).await;
}

/// A call of which only the header is sent.
async fn header_only(channel: Channel, method: &'static str) -> Status {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec: SmallBuffers<v1::EnrolRequest, v1::EnrolResponse> = SmallBuffers::default();
    let request = tonic::Request::new(tokio_stream::pending());
    client.client_streaming(request, PathAndQuery::from_static(method), codec).await.unwrap_err()
}

/// A call for one message that brings many.
async fn many_messages(channel: Channel, method: &'static str, count: usize) -> Status {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec: SmallBuffers<v1::GetRunRequest, v1::GetRunResponse> = SmallBuffers::default();
    let message = v1::GetRunRequest { run_id: "7".repeat(MIB) };
    let messages = tokio_stream::iter(std::iter::repeat_n(message, count));
    client.client_streaming(tonic::Request::new(messages), PathAndQuery::from_static(method), codec).await.unwrap_err()
}

const ENROL: &str = "/lithogen.v1.RegistrationService/Enrol";

/// A study, and a worker that has joined and has a session.
struct Working {
    channel: Channel,
    id: String,
    call: u64,
    result: ArtifactId,
    _session: (mpsc::Sender<v1::SessionRequest>, Streaming<v1::SessionResponse>),
}

impl Working {
    async fn begin(cluster: &Cluster) -> Self {
        cluster.submit().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("made.txt"), "made").unwrap();
        let manifest = transfer::scan(folder.path()).unwrap();
        let result = Transfer::new(cluster.channel()).push(folder.path(), &manifest).await.unwrap();
        let identity = join(cluster, Role::Worker, "busy").await;
        let (channel, id) = (channel(cluster, &identity), format!("{}-1-1", identity.id));
        let hello = v1::Hello {
            worker_id: id.clone(),
            name: "busy".to_owned(),
            version: "0.0.0".to_owned(),
            protocol: proto::PROTOCOL,
            slots: 64,
            stages: stages().into_iter().map(|(name, version)| v1::StageVersion { name, version }).collect(),
            ..v1::Hello::default()
        };
        let (up, requests) = mpsc::channel(4);
        up.send(v1::SessionRequest { message: Some(Message::Hello(hello)) }).await.unwrap();
        let session = WorkerServiceClient::new(channel.clone()).session(ReceiverStream::new(requests)).await;
        let mut session = session.unwrap().into_inner();
        session.message().await.unwrap();
        Self { channel, id, call: 0, result, _session: (up, session) }
    }

    /// Has a lease, a commit and a status, each of them promptly; returns how long the
    /// slowest took.
    async fn goes_on(&mut self) -> Duration {
        self.call += 1;
        let (mut workers, mut slowest) = (WorkerServiceClient::new(self.channel.clone()), Duration::ZERO);
        let mut began = Instant::now();
        let mut note = |what: &str| {
            let took = std::mem::replace(&mut began, Instant::now()).elapsed();
            assert!(took < PROMPT, "{what} took {took:?}");
            slowest = slowest.max(took);
        };
        let ask = v1::AcquireLeasesRequest { worker_id: self.id.clone(), call: self.call, max: 1, wait_ms: 0 };
        let lease = workers.acquire_leases(call(ask)).await.unwrap().into_inner().leases.remove(0);
        note("a lease");
        let end = End::Succeeded(v1::Succeeded { artifact: self.result.to_string(), manifest: vec![] });
        let attempts = vec![v1::AttemptEnd { task_key: lease.task_key, token: lease.token, end: Some(end) }];
        let ended = workers.end_attempts(call(v1::EndAttemptsRequest { attempts })).await.unwrap();
        of_verdict(&ended.into_inner().verdicts[0]).unwrap();
        note("a commit");
        slowest
    }
}

/// How long somebody waits who comes anew, joins and asks how things are.
async fn newcomer(cluster: &Cluster, name: &str) -> Duration {
    let token = cluster.token(Role::Viewer, 1, HOUR_MS).await;
    let began = Instant::now();
    let identity = Identity::join(cluster.url(), &token, name, &cluster.path(name)).await.unwrap();
    let mut runs = RunServiceClient::new(channel(cluster, &identity));
    runs.get_run(call(v1::GetRunRequest::default())).await.unwrap();
    let took = began.elapsed();
    assert!(took < PROMPT, "to join and ask took {took:?}");
    took
}

/// Stores bytes that no compressor makes smaller.
async fn store(cluster: &Cluster, length: usize) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::fs::write(folder.path().join("noise"), (0..length).map(|_| next()).collect::<Vec<_>>()).unwrap();
    let manifest = transfer::scan(folder.path()).unwrap();
    Transfer::new(cluster.channel()).push(folder.path(), &manifest).await.unwrap();
    manifest.entries()[0].digest.to_string()
}

/// How many handles of a stored file the coordinator has, which is in this process.
fn handles(cluster: &Cluster, digest: &str) -> usize {
    let path = cluster.path("state/blobs").join(&digest[..2]).join(&digest[2..]);
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.filter(|handle| std::fs::read_link(handle.as_ref().unwrap().path()).is_ok_and(|to| to == path)).count()
}

async fn get(channel: &Channel, digest: &str) -> Streaming<v1::GetBlobResponse> {
    let request = v1::GetBlobRequest { digest: digest.to_owned(), ..Default::default() };
    ArtifactServiceClient::new(channel.clone()).get_blob(blob_call(request)).await.unwrap().into_inner()
}

/// Reads a file to its end, or to why there is none.
async fn read(mut pieces: Streaming<v1::GetBlobResponse>, pause: Duration) -> Result<usize, Status> {
    let mut length = 0;
    while let Some(piece) = pieces.message().await? {
        if let Some(Part::Data(data)) = piece.part {
            length += data.len();
        }
        tokio::time::sleep(pause).await;
    }
    Ok(length)
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_nobody_out() {
    let limits = Limits::default();
    let cluster = limited(limits).await;
    let mut working = Working::begin(&cluster).await;
    let mut held: Vec<TcpStream> = vec![];
    for round in 0..5 {
        for _ in 0..limits.strangers_of_one {
            held.push(TcpStream::connect(cluster.address()).await.unwrap());
        }
        let (joined, worked) = (newcomer(&cluster, &format!("newcomer {round}")).await, working.goes_on().await);
        println!("{} silent connections: joined in {joined:?}, worked in {worked:?}", held.len());
    }
    // Those that came first had to make room.
    let gone = held.drain(..held.len() - limits.strangers_of_one).map(closed);
    let gone: JoinSet<()> = gone.collect();
    assert_eq!(tokio::time::timeout(PROMPT, gone.join_all()).await.unwrap().len(), 4 * limits.strangers_of_one);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_tls_connections_are_few_and_the_oldest_go_first() {
    let limits = Limits { strangers_of_one: 8, ..Limits::default() };
    let cluster = limited(limits).await;
    let mut working = Working::begin(&cluster).await;
    let mut oldest = JoinSet::new();
    let mut newest = vec![];
    for number in 0..24 {
        let stream = silent(&cluster).await.unwrap();
        if number < 16 {
            oldest.spawn(closed(stream));
        } else {
            newest.push(stream);
        }
    }
    assert_eq!(tokio::time::timeout(PROMPT, oldest.join_all()).await.unwrap().len(), 16);
    println!("8 silent TLS connections: worked in {:?}", working.goes_on().await);
    let mut byte = [0; 1 << 16];
    for stream in &mut newest {
        let more = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut byte)).await;
        assert!(more.is_err() || more.unwrap().unwrap() > 0, "it is still open");
    }
    newcomer(&cluster, "newcomer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_certificate_has_a_short_life() {
    let limits = Limits { stranger_life: Duration::from_millis(300), ..Limits::default() };
    let cluster = limited(limits).await;
    let (stranger, known) = (silent(&cluster).await.unwrap(), join(&cluster, Role::Viewer, "known").await);
    let known = channel(&cluster, &known);
    let runs = || async { RunServiceClient::new(known.clone()).list_runs(call(v1::ListRunsRequest {})).await };
    runs().await.unwrap();
    tokio::time::timeout(PROMPT, closed(stranger)).await.unwrap();
    runs().await.unwrap();
    let identities = cluster.registration().list_identities(call(v1::ListIdentitiesRequest {})).await.unwrap();
    assert_eq!(identities.into_inner().identities[0].connections, 1, "one that has a certificate lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_body_end_and_keep_nobody_waiting() {
    let limits = Limits { request_pause: Duration::from_millis(300), ..Limits::default() };
    let cluster = limited(limits).await;
    let mut working = Working::begin(&cluster).await;
    let viewer = channel(&cluster, &join(&cluster, Role::Viewer, "viewer").await);
    let mut open = JoinSet::new();
    for _ in 0..50 {
        open.spawn(header_only(nameless(&cluster), ENROL));
        open.spawn(header_only(viewer.clone(), "/lithogen.v1.RunService/GetRun"));
        open.spawn(header_only(viewer.clone(), "/lithogen.v1.RunService/WatchRun"));
    }
    println!("150 calls without a body: worked in {:?}", working.goes_on().await);
    let ended = tokio::time::timeout(12 * PROMPT, open.join_all()).await.unwrap();
    let slow = ended.iter().filter(|status| status.code() == Code::DeadlineExceeded);
    assert!(slow.clone().count() >= 50, "{ended:?}");
    assert!(slow.clone().all(|status| status.message().contains("nothing more of the request came")), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_join_is_no_larger_than_one_needs_to_be() {
    let cluster = limited(Limits::default()).await;
    let enrol = |length: usize| {
        let csr_pem = "x".repeat(length);
        let request = v1::EnrolRequest { secret: Secret::draw().unwrap().expose(), csr_pem, name: "big".to_owned() };
        let mut client = RegistrationServiceClient::new(nameless(&cluster));
        async move { client.enrol(call(request)).await.unwrap_err() }
    };
    let large = enrol(64 * 1024).await;
    assert_eq!((large.code(), reason(&large)), (Code::OutOfRange, Some(Reason::TooLarge)));
    assert!(large.message().contains("at most 65536 are taken"), "{large}");
    assert_eq!(enrol(60 * 1024).await.code(), Code::InvalidArgument, "it is looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_at_tokens_is_told_when_to_try_again() {
    let cluster = limited(Limits::default()).await;
    let known = join(&cluster, Role::Viewer, "known").await;
    let ca = cluster.token(Role::Worker, 1, HOUR_MS).await.ca;
    let guess = || async {
        let token = JoinToken { ca, secret: Secret::draw().unwrap() };
        match Identity::join(cluster.url(), &token, "guess", &cluster.path("guess")).await {
            Err(identity::Error::Call(status)) => *status,
            other => panic!("{other:?}"),
        }
    };
    let mut codes = vec![];
    let refused = loop {
        let status = guess().await;
        if status.code() == Code::ResourceExhausted {
            break status;
        }
        codes.push(status.code());
        assert!(codes.len() < 100, "there is no end to it");
    };
    assert!(codes.len() >= 20 && codes.iter().all(|code| *code == Code::Unauthenticated), "{codes:?}");
    assert_eq!(reason(&refused), Some(Reason::Busy));
    assert!(refused.message().contains("try again in ") && !is_final(&refused), "{refused}");
    // Whoever is known notices nothing of it.
    let mut runs = RunServiceClient::new(channel(&cluster, &known));
    runs.list_runs(call(v1::ListRunsRequest {})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_two_hundred_joins_from_one_address() {
    let cluster = limited(Limits::default()).await;
    let token = cluster.token(Role::Worker, 200, HOUR_MS).await;
    let (began, mut joining) = (Instant::now(), JoinSet::new());
    for number in 0..200 {
        let (url, folder) = (cluster.url().to_owned(), cluster.path(&format!("node {number}")));
        let token = JoinToken { ca: token.ca, secret: token.secret.expose().parse().unwrap() };
        joining.spawn(async move {
            // As a worker does.
            soon("it joins", || async {
                match Identity::join(&url, &token, "node", &folder).await {
                    Err(identity::Error::Call(status)) if !is_final(&status) => None,
                    joined => Some(joined.unwrap().id),
                }
            })
            .await
        });
    }
    let mut ids = joining.join_all().await;
    println!("200 joined in {:?}", began.elapsed());
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_a_viewer_does_not_read_hold_up_nobody() {
    let limits = Limits { reader_pause: Duration::from_secs(2), ..Limits::default() };
    let cluster = limited(limits).await;
    let mut working = Working::begin(&cluster).await;
    let digest = store(&cluster, 16 * MIB).await;
    let viewer = channel(&cluster, &join(&cluster, Role::Viewer, "viewer").await);
    let mut unread = vec![];
    for _ in 0..limits.transfers.of_one {
        unread.push(get(&viewer, &digest).await);
    }
    // The next one waits for one of those before it.
    let next = tokio::time::timeout(Duration::from_millis(100), get(&viewer, &digest)).await;
    assert!(next.is_err(), "a viewer has more files on their way than it may");
    assert_eq!(handles(&cluster, &digest), limits.transfers.of_one);
    println!("{} unread files: worked in {:?}", unread.len(), working.goes_on().await);
    let began = Instant::now();
    let read_by_worker = read(get(&working.channel, &digest).await, Duration::ZERO);
    assert_eq!(tokio::time::timeout(PROMPT, read_by_worker).await.unwrap().unwrap(), 16 * MIB);
    store(&cluster, MIB).await;
    println!("{} unread files: read and stored in {:?}", unread.len(), began.elapsed());
    // What is not taken for so long is lost; then nothing is held but the end of an answer.
    soon("the files are let go", || async { (handles(&cluster, &digest) == 0).then_some(()) }).await;
    // Only one of them is read, as the others have the connection's window.
    let last = unread.pop().unwrap();
    drop(unread);
    let lost = read(last, Duration::ZERO).await.unwrap_err();
    assert_eq!((lost.code(), reason(&lost)), (Code::DeadlineExceeded, Some(Reason::TooSlow)));
    assert_eq!(read(get(&viewer, &digest).await, Duration::ZERO).await.unwrap(), 16 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_and_steadily_is_not_cut_off() {
    let limits = Limits { reader_pause: Duration::from_secs(1), ..Limits::default() };
    let cluster = limited(limits).await;
    let digest = store(&cluster, 16 * MIB).await;
    let viewer = channel(&cluster, &join(&cluster, Role::Viewer, "viewer").await);
    // More than three times as long as it may take nothing.
    let slowly = read(get(&viewer, &digest).await, Duration::from_millis(60)).await;
    assert_eq!(slowly.unwrap(), 16 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_sends_nothing_more_ends_and_goes_on_from_there() {
    let limits = Limits { upload_pause: Duration::from_millis(300), ..Limits::default() };
    let cluster = limited(limits).await;
    let submitter = channel(&cluster, &join(&cluster, Role::Submitter, "submitter").await);
    let (digest, session) = (Digest::of(b"stone").to_string(), "test".to_owned());
    let start = v1::PutBlobStart {
        digest: digest.clone(),
        session: session.clone(),
        encoding: v1::Encoding::Raw.into(),
        size: 5,
        offset: 0,
    };
    let parts = [Up::Start(start), Up::Data(b"sto".to_vec())].map(|part| v1::PutBlobRequest { part: Some(part) });
    let parts = tokio_stream::iter(parts).chain(tokio_stream::pending());
    let mut client = ArtifactServiceClient::new(submitter);
    let ended = tokio::time::timeout(PROMPT, client.put_blob(parts)).await.unwrap().unwrap_err();
    assert_eq!((ended.code(), reason(&ended)), (Code::DeadlineExceeded, Some(Reason::TooSlow)));
    let request = v1::GetUploadOffsetRequest { digest, session, encoding: v1::Encoding::Raw.into() };
    assert_eq!(client.get_upload_offset(call(request)).await.unwrap().into_inner().offset, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_has_so_many_connections_and_is_told_so() {
    let limits = Limits { connections_of_one: 3, ..Limits::default() };
    let cluster = limited(limits).await;
    let identity = join(&cluster, Role::Viewer, "viewer").await;
    let ask = |channel: &Channel| {
        let mut client = RunServiceClient::new(channel.clone());
        async move { client.list_runs(call(v1::ListRunsRequest {})).await }
    };
    let mut open = vec![];
    for _ in 0..3 {
        let channel = channel(&cluster, &identity);
        ask(&channel).await.unwrap();
        open.push(channel);
    }
    let refused = ask(&channel(&cluster, &identity)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, Some(Reason::Busy)));
    assert!(refused.message().contains("as many connections open as it may"), "{refused}");
    drop(open);
    soon("there is room again", || async { ask(&channel(&cluster, &identity)).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_has_so_many_watches_and_is_told_so() {
    let watches = Share { of_one: 4, ..Limits::default().watches };
    let limits = Limits { watches, ..Limits::default() };
    let cluster = limited(limits).await;
    cluster.submit().await;
    let viewer = channel(&cluster, &join(&cluster, Role::Viewer, "viewer").await);
    let watch = || RunServiceClient::new(viewer.clone());
    let mut open = vec![];
    for _ in 0..4 {
        open.push(watch().watch_run(v1::WatchRunRequest::default()).await.unwrap().into_inner());
    }
    let refused = watch().watch_run(v1::WatchRunRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, Some(Reason::Busy)));
    // Other calls are no watches, and administrators of this machine have no such limit.
    watch().get_run(call(v1::GetRunRequest::default())).await.unwrap();
    cluster.changes().await;
    open.pop();
    soon("there is room again", || async { watch().watch_run(v1::WatchRunRequest::default()).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_one_message_takes_no_second_one() {
    let cluster = limited(Limits::default()).await;
    for role in [Role::Viewer, Role::Submitter] {
        let caller = channel(&cluster, &join(&cluster, role, "caller").await);
        for method in ["/lithogen.v1.RunService/GetRun", "/lithogen.v1.RegistrationService/Renew"] {
            let refused = many_messages(caller.clone(), method, 64).await;
            assert_eq!((refused.code(), reason(&refused)), (Code::OutOfRange, Some(Reason::TooLarge)), "{refused}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_a_submitter_has_a_limit_that_names_what_it_has() {
    let limits = Limits { kept_for_one: 12, ..Limits::default() };
    let cluster = limited(limits).await;
    let submit = |channel: &Channel, id: &str, argv: Vec<String>| {
        let spec = CommandSpec { name: "a".to_owned(), argv, array: Some([1, 5]), ..CommandSpec::default() };
        let commands = Commands { id: id.to_owned(), command: vec![spec] };
        let commands_json = serde_json::to_string(&commands).unwrap();
        let mut client = RunServiceClient::new(channel.clone());
        async move { client.submit(call(v1::SubmitRequest { commands_json, ..Default::default() })).await }
    };
    let short = || vec!["true".to_owned()];
    let first = channel(&cluster, &join(&cluster, Role::Submitter, "first").await);
    let taken = submit(&first, "one", short()).await.unwrap().into_inner().status.unwrap();
    assert!(taken.submitted_by.starts_with("first-"), "{taken:?}");
    // Each of its five tasks counts for what its command has, too.
    let refused = submit(&first, "long", vec!["true".to_owned(), "x".repeat(2048)]).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, Some(Reason::KeptForOne)));
    assert!(refused.message().contains("has handed in 6 tasks and this run has 18; at most 12 are kept"), "{refused}");
    submit(&first, "two", short()).await.unwrap();
    let refused = submit(&first, "three", short()).await.unwrap_err();
    assert!(refused.message().contains("has handed in 12 tasks and this run has 6"), "{refused}");
    // Its own runs again, what others hand in, and administrators are not held back.
    submit(&first, "one", short()).await.unwrap();
    let second = channel(&cluster, &join(&cluster, Role::Submitter, "second").await);
    submit(&second, "three", short()).await.unwrap();
    let admin = channel(&cluster, &join(&cluster, Role::Admin, "admin").await);
    for id in ["four", "five", "six"] {
        submit(&admin, id, short()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_has_so_many_open_runs_and_is_told_so() {
    let limits = Limits { open_runs_of_one: 2, ..Limits::default() };
    let cluster = limited(limits).await;
    let submitter = channel(&cluster, &join(&cluster, Role::Submitter, "submitter").await);
    let client = || RunServiceClient::new(submitter.clone());
    let request = |id: &str| {
        let spec = CommandSpec { name: "a".to_owned(), argv: vec!["true".to_owned()], ..CommandSpec::default() };
        let commands_json = serde_json::to_string(&Commands { id: id.to_owned(), command: vec![spec] }).unwrap();
        v1::SubmitRequest { commands_json, ..Default::default() }
    };
    let submit = |id: &str| {
        let request = request(id);
        async move { client().submit(call(request)).await }
    };
    let first = submit("one").await.unwrap().into_inner().status.unwrap();
    submit("two").await.unwrap();
    submit("one").await.unwrap();
    let refused = submit("three").await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, Some(Reason::OpenRuns)));
    assert!(refused.message().contains("has 2 runs that are not over"), "{refused}");
    // One of them may be handed in again, also with something new about it.
    let again = v1::SubmitRequest { priority: 7, ..request("one") };
    client().submit(call(again)).await.unwrap();
    let cancel = v1::CancelRunRequest { run_id: first.run_id, task_keys: vec![] };
    client().cancel_run(call(cancel)).await.unwrap();
    submit("three").await.unwrap();
}

/// The mode of what lies there.
fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn state_folders_are_for_their_owner_alone() {
    let mut cluster = limited(Limits::default()).await;
    let state = cluster.path("state");
    assert_eq!(mode(&state), 0o700);
    let token = cluster.token(Role::Worker, 1, HOUR_MS).await;
    let worker = cluster.worker_with("gpu", &[], |config| config.join_token = Some(token));
    soon("the worker is there", || async { cluster.path("gpu/identity/cert.pem").exists().then_some(()) }).await;
    for folder in ["gpu", "gpu/identity", "state/tls"] {
        assert_eq!(mode(&cluster.path(folder)), 0o700, "{folder}");
    }
    for file in ["state/lock", "state/tls/ca.key", "gpu/lock", "gpu/identity/key.pem"] {
        assert_eq!(mode(&cluster.path(file)), 0o600, "{file}");
    }
    worker.drain().await;
    cluster.stop().await;
    // As an older program left it.
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    cluster.start_again().await;
    assert_eq!(mode(&state), 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_a_state_folder_is_refused_by_name_and_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    for name in ["lock", "journal.sqlite", "blobs-place", "address", "coordinator.sock"] {
        let state = folder.path().join(format!("state of {name}"));
        std::fs::create_dir(&state).unwrap();
        symlink(&precious, state.join(name)).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ended = coordinator::run(coordinator::Config::new(&state), listener, std::future::pending()).await;
        let Err(coordinator::Error::State(private::Error::Link(link))) = ended else { panic!("{ended:?}") };
        assert_eq!(link, state.join(name));
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_does_not_lock_through_a_link() {
    let cluster = Cluster::start().await;
    let precious = cluster.path("precious");
    std::fs::write(&precious, "precious").unwrap();
    std::fs::create_dir(cluster.path("gpu")).unwrap();
    symlink(&precious, cluster.path("gpu/lock")).unwrap();
    let ended = cluster.worker("gpu", &[]).end().await.unwrap_err();
    assert!(matches!(&ended, worker::Error::State(private::Error::Link(_))), "{ended}");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
}
