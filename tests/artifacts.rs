//! Files on their way and in the store: what is cut off goes on, what is damaged
//! is noticed, what is needed stays, and what makes no sense leaves nothing.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use domain::digest::Digest;
use domain::id::ArtifactId;
use proptest::prelude::*;
use proto::channel::{self, Credentials, blob_call, call};
use proto::transfer::{self, Error, Transfer};
use proto::v1;
use proto::v1::put_blob_request::Part;
use tonic::{Code, Status};

use crate::harness::cluster::Cluster;
use crate::harness::files::{folder, noise, push};
use crate::harness::program::{Running, is_root, real};
use crate::harness::proxy::Proxy;
use crate::harness::soon;

const MIB: u64 = 1024 * 1024;

/// Text that gets much smaller.
fn text(length: u64) -> Vec<u8> {
    (0..).flat_map(|number: u64| format!("stone {number}\n").into_bytes()).take(length as usize).collect()
}

/// Where a blob lies on the coordinator's disk.
fn blob(cluster: &Cluster, digest: Digest) -> PathBuf {
    let name = digest.to_string();
    let path = cluster.path("state/blobs").join(&name[..2]).join(&name[2..]);
    if path.exists() { path } else { path.with_extension("zst") }
}

/// Changes one byte in the middle.
fn spoil(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

async fn missing(cluster: &Cluster, digest: Digest) -> bool {
    let request = v1::FindMissingRequest { digests: vec![digest.to_string()] };
    !cluster.artifacts().find_missing(call(request)).await.unwrap().into_inner().digests.is_empty()
}

async fn verify(cluster: &Cluster) -> v1::VerifyArtifactsResponse {
    let answers = cluster.artifacts().verify_artifacts(blob_call(v1::VerifyArtifactsRequest {})).await;
    let mut answers = answers.unwrap().into_inner();
    let mut last = None;
    while let Some(answer) = answers.message().await.unwrap() {
        last = Some(answer);
    }
    last.filter(|answer| answer.done).expect("the check comes to its end")
}

async fn collect(cluster: &Cluster, grace_seconds: u64, dry_run: bool) -> v1::CollectGarbageResponse {
    let request = v1::CollectGarbageRequest { grace_seconds, dry_run };
    cluster.artifacts().collect_garbage(blob_call(request)).await.unwrap().into_inner()
}

/// Uploads under way or given up.
fn uploads(cluster: &Cluster) -> usize {
    std::fs::read_dir(cluster.path("state/blobs/partial")).unwrap().count()
}

fn status(ended: Result<(), Error>) -> Status {
    match ended {
        Err(Error::Rpc(status)) => status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_goes_on_where_it_was_cut_off() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(cluster.address()).await;
    let transfer = Transfer::new(through(&proxy.url()));
    let folder = folder(&[("weights", &noise(1, 16 * MIB))]);
    proxy.cut_up_at(10 * MIB);
    let artifact = push(&transfer, folder.path()).await;
    // From its beginning it would have been 26 MiB.
    assert!((16 * MIB..20 * MIB).contains(&proxy.up()), "{} bytes were sent", proxy.up());
    let back = tempfile::tempdir().unwrap();
    Transfer::new(cluster.channel()).pull(artifact, &[], back.path()).await.unwrap();
    assert!(std::fs::read(back.path().join("weights")).unwrap() == noise(1, 16 * MIB));
    assert_eq!(uploads(&cluster), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_goes_on_where_it_was_cut_off() {
    let cluster = Cluster::start().await;
    let bytes = noise(2, 16 * MIB);
    let folder = folder(&[("weights", &bytes)]);
    push(&Transfer::new(cluster.channel()), folder.path()).await;
    let proxy = Proxy::start(cluster.address()).await;
    let transfer = Transfer::new(through(&proxy.url()));
    proxy.cut_down_at(10 * MIB);
    let path = cluster.path("weights");
    transfer.get_file(Digest::of(&bytes), &path).await.unwrap();
    assert!((16 * MIB..20 * MIB).contains(&proxy.down()), "{} bytes were sent", proxy.down());
    assert!(std::fs::read(&path).unwrap() == bytes);
}

/// Where a file gathers that is on its way to a place.
fn half(digest: Digest, place: &Path) -> PathBuf {
    let key = format!("{digest}{}", place.file_name().unwrap().to_str().unwrap());
    place.with_file_name(format!(".lithogen:{}.0", Digest::of(key.as_bytes())))
}

/// Another process of the client finds what the first left.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_download_left_is_used_and_what_is_of_another_file_is_not() {
    let cluster = Cluster::start().await;
    let bytes = noise(3, 8 * MIB);
    let folder = folder(&[("weights", &bytes)]);
    push(&Transfer::new(cluster.channel()), folder.path()).await;
    let proxy = Proxy::start(cluster.address()).await;
    let transfer = Transfer::new(through(&proxy.url()));
    let path = cluster.path("weights");
    let half = half(Digest::of(&bytes), &path);
    std::fs::write(&half, &bytes[..6 * MIB as usize]).unwrap();
    transfer.get_file(Digest::of(&bytes), &path).await.unwrap();
    assert!(proxy.down() < 3 * MIB, "{} bytes were sent", proxy.down());
    assert!(std::fs::read(&path).unwrap() == bytes);
    std::fs::write(&half, noise(9, MIB)).unwrap();
    transfer.get_file(Digest::of(&bytes), &path).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes);
    assert!(!half.exists());
    // More than there is: of another form, perhaps.
    std::fs::write(&half, noise(9, 9 * MIB)).unwrap();
    transfer.get_file(Digest::of(&bytes), &path).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes && !half.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn text_travels_and_lies_packed_and_is_sent_once() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(cluster.address()).await;
    let transfer = Transfer::new(through(&proxy.url()));
    let bytes = text(8 * MIB);
    let folder = folder(&[("log", &bytes), ("the same log", &bytes)]);
    let artifact = push(&transfer, folder.path()).await;
    assert!(proxy.up() < 4 * MIB, "{} bytes were sent", proxy.up());
    let stored = blob(&cluster, Digest::of(&bytes));
    assert!(stored.extension().is_some() && std::fs::metadata(stored).unwrap().len() < 4 * MIB);
    let sent = proxy.up();
    push(&transfer, folder.path()).await;
    assert!(proxy.up() < sent + 10_000, "nothing is sent twice");
    let back = tempfile::tempdir().unwrap();
    transfer.pull(artifact, &[], back.path()).await.unwrap();
    assert!(proxy.down() < 8 * MIB, "{} bytes came", proxy.down());
    assert!(std::fs::read(back.path().join("the same log")).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_send_the_same_bytes_do_not_disturb_each_other() {
    let cluster = Cluster::start().await;
    let bytes = noise(4, 4 * MIB);
    let folder = folder(&[("weights", &bytes)]);
    let pushes = (0..8).map(|_| {
        let (transfer, folder) = (Transfer::new(cluster.channel()), folder.path().to_owned());
        tokio::spawn(async move { push(&transfer, &folder).await })
    });
    for pushed in pushes.collect::<Vec<_>>() {
        pushed.await.unwrap();
    }
    let path = cluster.path("weights");
    Transfer::new(cluster.channel()).get_file(Digest::of(&bytes), &path).await.unwrap();
    assert_eq!(uploads(&cluster), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_never_handed_out_and_can_be_stored_again() {
    for bytes in [noise(5, MIB), text(MIB)] {
        let cluster = Cluster::start().await;
        let folder = folder(&[("weights", &bytes)]);
        let transfer = Transfer::new(cluster.channel());
        push(&transfer, folder.path()).await;
        let digest = Digest::of(&bytes);
        spoil(&blob(&cluster, digest));
        let path = cluster.path("weights");
        let refused = status(transfer.get_file(digest, &path).await);
        assert_eq!(refused.code(), Code::DataLoss);
        assert!(refused.message().contains(&digest.to_string()), "{}", refused.message());
        assert!(!path.exists());
        assert!(missing(&cluster, digest).await, "it was moved aside");
        assert!(cluster.path("state/blobs/quarantine").read_dir().unwrap().count() == 1);
        push(&transfer, folder.path()).await;
        transfer.get_file(digest, &path).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_names_what_is_damaged_and_who_needs_it() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let before = verify(&cluster).await;
    assert_eq!((before.problems.len(), before.checked_files, before.total_files), (0, 2, 2));
    let picture = Digest::of(b"not looked at");
    spoil(&blob(&cluster, picture));
    let after = verify(&cluster).await;
    let [problem] = after.problems.as_slice() else { panic!("{after:?}") };
    assert_eq!((problem.digest.as_str(), problem.kind.as_str()), (picture.to_string().as_str(), "corrupt"));
    // All pictures of this study are one; of those that need it, twenty are named.
    assert_eq!(problem.tasks.len(), 20, "{problem:?}");
    assert!(problem.tasks.iter().any(|task| task.starts_with("ingest C/SEC ")), "{problem:?}");
    let again = verify(&cluster).await;
    assert_eq!(again.problems[0].kind, "missing");
    cluster.submit().await;
    assert!(verify(&cluster).await.problems.is_empty(), "handing the study in again stores it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_removes_what_nobody_needs_and_keeps_the_rest() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let transfer = Transfer::new(cluster.channel());
    let orphan = push(&transfer, folder(&[("orphan", b"nobody's")]).path()).await;
    let kept = collect(&cluster, 3600, false).await;
    assert_eq!((kept.removed_files, kept.kept_files), (0, 4), "all is young");
    let would = collect(&cluster, 0, true).await;
    assert_eq!((would.removed_files, would.kept_files), (2, 2));
    // Being asked about now does not count: it was before the next collection.
    assert!(!missing(&cluster, orphan.0).await);
    let gone = collect(&cluster, 0, false).await;
    assert!(gone.digests.contains(&orphan.to_string()));
    assert_eq!((gone.removed_files, gone.kept_files), (2, 2));
    assert!(missing(&cluster, orphan.0).await);
    assert!(verify(&cluster).await.problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_does_not_know_what_is_needed_removes_nothing() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let pictures = transfer::scan(&cluster.path("pictures")).unwrap().id();
    let orphan = push(&Transfer::new(cluster.channel()), folder(&[("orphan", b"nobody's")]).path()).await;
    spoil(&blob(&cluster, pictures.0));
    let request = v1::CollectGarbageRequest { grace_seconds: 0, dry_run: false };
    let refused = cluster.artifacts().collect_garbage(blob_call(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss);
    assert!(refused.message().contains("nothing was removed") && refused.message().contains("ingest"), "{refused}");
    assert!(!missing(&cluster, orphan.0).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_beside_a_running_study_take_nothing_that_it_needs() {
    let cluster = Cluster::start().await;
    let transfer = Transfer::new(cluster.channel());
    let orphan = push(&transfer, folder(&[("orphan", b"nobody's")]).path()).await;
    cluster.submit().await;
    let _workers = [cluster.worker("one", &[]), cluster.worker("two", &[])];
    let mut removed = BTreeSet::new();
    // Files of an attempt are young: they are committed long before ten seconds are over.
    let done = soon("the study is over and the orphan is gone", || async {
        let gone = collect(&cluster, 10, false).await.digests;
        let status = cluster.status().await;
        (status.state() != v1::RunState::Running && gone.contains(&orphan.to_string())).then_some((status, gone))
    });
    let (status, gone) = done.await;
    removed.extend(gone);
    assert_eq!(status.state(), v1::RunState::Succeeded);
    // Now with no grace at all: what is left is needed.
    removed.extend(collect(&cluster, 0, false).await.digests);
    assert!(removed.contains(&orphan.to_string()));
    assert!(verify(&cluster).await.problems.is_empty());
    let report: ArtifactId = status.report_artifact.parse().unwrap();
    transfer.pull(report, &[], &cluster.path("report")).await.unwrap();
}

fn start(digest: Digest, size: u64) -> v1::PutBlobStart {
    let encoding = v1::Encoding::Raw.into();
    v1::PutBlobStart { digest: digest.to_string(), session: "test".to_owned(), encoding, size, offset: 0 }
}

async fn put(cluster: &Cluster, parts: Vec<Option<Part>>) -> Result<(), Status> {
    let messages = parts.into_iter().map(|part| v1::PutBlobRequest { part });
    cluster.artifacts().put_blob(tokio_stream::iter(messages.collect::<Vec<_>>())).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_make_no_sense_are_refused_by_name_and_leave_nothing() {
    let cluster = Cluster::start().await;
    let digest = Digest::of(b"stone");
    let good = || start(digest, 5);
    let data = |bytes: &[u8]| Some(Part::Data(bytes.to_vec()));
    let begin = |start: v1::PutBlobStart| Some(Part::Start(start));
    let cases = [
        ("start: has to come first", vec![]),
        ("start: has to come first", vec![data(b"stone")]),
        ("start: came twice", vec![begin(good()), data(b"sto"), begin(good())]),
        ("part: is missing", vec![begin(good()), None]),
        ("digest: ", vec![begin(v1::PutBlobStart { digest: "../../etc".to_owned(), ..good() })]),
        ("session: ", vec![begin(v1::PutBlobStart { session: "../x".to_owned(), ..good() })]),
        ("encoding: is missing", vec![begin(v1::PutBlobStart { encoding: 0, ..good() })]),
        ("encoding: 9 is not known", vec![begin(v1::PutBlobStart { encoding: 9, ..good() })]),
        ("offset: is 3, but 0 bytes have arrived", vec![begin(v1::PutBlobStart { offset: 3, ..good() })]),
        ("size: is 6, but 5 bytes came", vec![begin(start(digest, 6)), data(b"stone")]),
        ("data: there are more than the 4 bytes announced", vec![begin(start(digest, 4)), data(b"stone")]),
        ("data: has 1048577 bytes", vec![begin(start(digest, 2 * MIB)), data(&vec![0; 1_048_577])]),
        ("data: ", vec![begin(v1::PutBlobStart { encoding: v1::Encoding::Zstd.into(), ..good() }), data(b"stone")]),
    ];
    for (words, parts) in cases {
        let refused = put(&cluster, parts).await.expect_err(words);
        assert_eq!(refused.code(), Code::InvalidArgument, "{words}: {refused}");
        assert!(refused.message().starts_with(words), "{words}: {}", refused.message());
        assert_eq!(uploads(&cluster), 0, "{words}");
    }
    let full = put(&cluster, vec![begin(start(digest, u64::MAX / 2))]).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert!(full.message().contains("disk is full") && full.message().contains("make room"), "{}", full.message());
    let huge = put(&cluster, vec![begin(start(digest, 4 * MIB)), data(&vec![0; 3 * MIB as usize])]).await.unwrap_err();
    assert!(matches!(huge.code(), Code::OutOfRange | Code::ResourceExhausted), "{huge}");
    let many = v1::FindMissingRequest { digests: vec![digest.to_string(); transfer::DIGESTS_MAX + 1] };
    let many = cluster.artifacts().find_missing(call(many)).await.unwrap_err();
    assert_eq!(many.code(), Code::InvalidArgument);
    assert_eq!(uploads(&cluster), 0);
    put(&cluster, vec![begin(good()), data(b"sto"), data(b"ne")]).await.unwrap();
    let beyond = v1::GetBlobRequest { digest: digest.to_string(), offset: 6, encoding: v1::Encoding::Raw.into() };
    let beyond = cluster.artifacts().get_blob(call(beyond)).await.unwrap_err();
    assert_eq!(beyond.message(), "offset: is 6, but 5 bytes are stored");
}

/// Whatever comes, the coordinator answers, keeps nothing and goes on.
#[test]
fn no_sequence_of_messages_gets_past_the_checks() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = runtime.block_on(Cluster::start());
    let digest = prop_oneof![Just(Digest::of(b"never sent").to_string()), ".{0,70}", "[0-9a-f]{64}"];
    let session = prop_oneof![Just("test".to_owned()), ".{0,5}"];
    let start = (digest, session, -1..4i32, prop_oneof![0..100u64, any::<u64>()], prop_oneof![Just(0), any::<u64>()]);
    let start = start.prop_map(|(digest, session, encoding, size, offset)| {
        Some(Part::Start(v1::PutBlobStart { digest, session, encoding, size, offset }))
    });
    let data = proptest::collection::vec(any::<u8>(), 0..200).prop_map(|data| Some(Part::Data(data)));
    let part = prop_oneof![4 => start, 4 => data, 1 => Just(None)];
    let parts = proptest::collection::vec(part, 0..6);
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(parts in parts)| {
        let refused = runtime.block_on(put(&cluster, parts));
        let code = refused.as_ref().err().map(Status::code);
        let expected = [Code::InvalidArgument, Code::ResourceExhausted, Code::DataLoss];
        prop_assert!(code.is_some_and(|code| expected.contains(&code)), "{:?}", refused);
        prop_assert_eq!(uploads(&cluster), 0);
    });
}

/// In a mount namespace of its own, so that the disk is gone with the process.
#[test]
#[cfg_attr(not(small_disk), ignore = "needs LITHOGEN_TEST_SMALL_DISK: may mount a small file system")]
fn a_disk_without_room_for_a_file_is_said_and_what_is_stored_stays() {
    let files = folder(&[("small", &noise(6, MIB)), ("big", &noise(7, 40 * MIB))]);
    let disk = tempfile::tempdir().unwrap();
    let script = r#"
        disk=$1 files=$2 lithogen=$3
        mount -t tmpfs -o size=48m none "$disk" || exit 99
        "$lithogen" coordinator --listen 127.0.0.1:0 --state "$disk/state" & coordinator=$!
        until [ -s "$disk/state/address" ]; do kill -0 $coordinator || exit 98; sleep 0.05; done
        export LITHOGEN_COORDINATOR=$(cat "$disk/state/address")
        small=$("$lithogen" artifact put "$files/small") || exit 97
        "$lithogen" artifact put "$files/big"
        echo "first: $?"
        "$lithogen" artifact get "$small" --out "$files/back" && cmp "$files/back/small" "$files/small" || exit 96
        mount -o remount,size=200m "$disk" || exit 95
        "$lithogen" artifact put "$files/big"
        echo "second: $?"
        "$lithogen" artifact verify
        echo "verify: $?"
        kill $coordinator
        wait
    "#;
    let user: &[&str] = if is_root() { &[] } else { &["--user", "--map-root-user"] };
    let output = Command::new("unshare")
        .args(user)
        .args(["--mount", "sh", "-c", script, "sh"])
        .args([disk.path(), files.path(), &real()])
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(
        said.contains("first: 1\n") && said.contains("second: 0\n") && said.contains("verify: 0\n"),
        "{said}\n{errors}"
    );
    assert!(errors.contains("disk is full") && errors.contains("make room"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

/// A way to the coordinator at a URL.
fn through(url: &str) -> tonic::transport::Channel {
    channel::connect(url, &Credentials::default()).unwrap()
}

/// A server that speaks S3, with an empty bucket.
struct S3 {
    server: Child,
    endpoint: String,
}

impl S3 {
    const BUCKET: &str = "stones";

    fn start() -> Self {
        let mut command = Command::new(std::env::var("LITHOGEN_TEST_S3").unwrap());
        command.args(["-H", "127.0.0.1", "-p", "0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
        let endpoint = lines.find_map(|line| {
            let (_, rest) = line.split_once("Running on http://")?;
            Some(format!("http://{}", rest.split_whitespace().next()?))
        });
        // It must not stop for want of a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let this = Self { server, endpoint: endpoint.expect("it says where it listens") };
        this.put("", b"");
        this
    }

    /// Stores an object behind the coordinator's back.
    fn put(&self, key: &str, bytes: &[u8]) {
        let host = self.endpoint.strip_prefix("http://").unwrap();
        let mut stream = std::net::TcpStream::connect(host).unwrap();
        let path = format!("/{}/{key}", Self::BUCKET);
        // Named, as nobody may write to a bucket; the signature is not looked at.
        let who =
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none";
        let length = bytes.len();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {who}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn environment(&self) -> [(&str, &str); 4] {
        [
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
        ]
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(s3), ignore = "needs LITHOGEN_TEST_S3: the path of moto_server (pip install 'moto[server]')")]
async fn blobs_in_a_bucket_are_stored_checked_and_collected_like_those_in_a_folder() {
    let s3 = S3::start();
    let state = tempfile::tempdir().unwrap();
    let arguments = ["coordinator", "--listen", "127.0.0.1:0", "--blobs", "s3://stones/lab/one", "--state"];
    let arguments = arguments.map(std::ffi::OsStr::new).into_iter().chain([state.path().as_os_str()]);
    let mut coordinator = Running::start_with(arguments, &s3.environment());
    coordinator.hear("ends it, workers wait for it");
    let url = std::fs::read_to_string(state.path().join("address")).unwrap();
    let channel = through(url.trim());
    let transfer = Transfer::new(channel.clone());
    let mut artifacts = v1::artifact_service_client::ArtifactServiceClient::new(channel);
    // Larger than one part of an upload, packed, and small.
    let (large, packed) = (noise(8, 20 * MIB), text(MIB));
    let files = folder(&[("large", &large), ("packed", &packed), ("small", b"stone")]);
    let artifact = push(&transfer, files.path()).await;
    let back = tempfile::tempdir().unwrap();
    transfer.pull(artifact, &[], back.path()).await.unwrap();
    for (name, bytes) in [("large", large.as_slice()), ("packed", &packed), ("small", b"stone")] {
        assert!(std::fs::read(back.path().join(name)).unwrap() == bytes, "{name}");
    }
    // Spoilt behind its back.
    let name = Digest::of(b"stone").to_string();
    s3.put(&format!("lab/one/{}/{}", &name[..2], &name[2..]), b"sand!");
    let refused = status(transfer.get_file(Digest::of(b"stone"), &back.path().join("again")).await);
    assert_eq!(refused.code(), Code::DataLoss);
    push(&transfer, files.path()).await;
    transfer.get_file(Digest::of(b"stone"), &back.path().join("again")).await.unwrap();
    // Nothing is young any more with no grace at all, and no task needs anything.
    let request = v1::CollectGarbageRequest { grace_seconds: 0, dry_run: false };
    let gone = artifacts.collect_garbage(blob_call(request)).await.unwrap().into_inner();
    assert_eq!((gone.removed_files, gone.kept_files), (4, 0));
    let request = v1::FindMissingRequest { digests: vec![artifact.to_string()] };
    assert_eq!(artifacts.find_missing(call(request)).await.unwrap().into_inner().digests.len(), 1);
    push(&transfer, files.path()).await;
    transfer.pull(artifact, &[], back.path()).await.unwrap();
}

#[test]
#[cfg_attr(not(s3), ignore = "needs LITHOGEN_TEST_S3: the path of moto_server (pip install 'moto[server]')")]
fn a_bucket_that_is_not_there_is_said_at_the_start() {
    let s3 = S3::start();
    let state = tempfile::tempdir().unwrap();
    let arguments = ["coordinator", "--listen", "127.0.0.1:0", "--blobs", "s3://nowhere", "--state"];
    let arguments = arguments.map(std::ffi::OsStr::new).into_iter().chain([state.path().as_os_str()]);
    Running::start_with(arguments, &s3.environment()).end().says(1, &["bucket nowhere", "cannot be written"]);
}
