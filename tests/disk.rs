//! Bounded disks: what is kept of uploads and logs, files that stay where they are,
//! and files that arrive as they are whatever lies beside them.

use std::path::Path;
use std::process::Command;

use domain::artifact::{Entry, Manifest};
use domain::digest::Digest;
use domain::id::ArtifactId;
use proto::channel::{blob_call, call};
use proto::transfer::{self, Transfer};
use proto::v1;
use proto::v1::put_blob_request::Part;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::harness::cluster::{Cluster, data, small};
use crate::harness::command::{log, shell, submit};
use crate::harness::files::{folder, noise, push};
use crate::harness::soon;

const MIB: usize = 1024 * 1024;

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let name = |item: std::io::Result<std::fs::DirEntry>| item.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

fn start(digest: Digest, size: u64, encoding: v1::Encoding) -> v1::PutBlobRequest {
    let (session, encoding) = ("test".to_owned(), encoding.into());
    let start = v1::PutBlobStart { digest: digest.to_string(), session, encoding, size, offset: 0 };
    v1::PutBlobRequest { part: Some(Part::Start(start)) }
}

fn bytes(bytes: &[u8]) -> v1::PutBlobRequest {
    v1::PutBlobRequest { part: Some(Part::Data(bytes.to_vec())) }
}

async fn put(cluster: &Cluster, parts: Vec<v1::PutBlobRequest>) -> Result<(), Status> {
    cluster.artifacts().put_blob(tokio_stream::iter(parts)).await.map(drop)
}

/// Hands in a study whose pictures are that artifact.
async fn hand_in(cluster: &Cluster, pictures: ArtifactId) -> Result<(), Status> {
    let request = v1::SubmitRequest {
        experiment_json: serde_json::to_string(&small()).unwrap(),
        data_json: serde_json::to_string(&data(pictures)).unwrap(),
        ..Default::default()
    };
    cluster.runs().submit(call(request)).await.map(drop)
}

async fn verify(cluster: &Cluster) -> Vec<v1::ArtifactProblem> {
    let answers = cluster.artifacts().verify_artifacts(blob_call(v1::VerifyArtifactsRequest {})).await;
    let mut answers = answers.unwrap().into_inner();
    loop {
        let answer = answers.message().await.unwrap().expect("the check comes to its end");
        if answer.done {
            return answer.problems;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_does_not_fit_beside_one_under_way_is_refused() {
    let cluster = Cluster::start().await;
    let df = Command::new("df").args(["--output=avail", "-B1"]).arg(cluster.path("state")).output().unwrap();
    let free: u64 = String::from_utf8(df.stdout).unwrap().lines().nth(1).unwrap().trim().parse().unwrap();
    let most = free / 5 * 3;
    let (sender, receiver) = mpsc::channel(4);
    let mut artifacts = cluster.artifacts();
    let first = tokio::spawn(async move { artifacts.put_blob(ReceiverStream::new(receiver)).await });
    sender.send(start(Digest::of(b"begun"), most, v1::Encoding::Raw)).await.unwrap();
    sender.send(bytes(b"begun")).await.unwrap();
    let partial = cluster.path("state/blobs/partial");
    soon("the first has begun", || async { (names(&partial).len() == 1).then_some(()) }).await;
    for encoding in [v1::Encoding::Raw, v1::Encoding::Zstd] {
        let refused = put(&cluster, vec![start(Digest::of(b"second"), most, encoding)]).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("promised to no other upload"), "{refused}");
    }
    assert_eq!(names(&partial).len(), 1, "nothing is kept of what is refused");
    drop(sender);
    let ended = first.await.unwrap().unwrap_err();
    assert_eq!(ended.message(), format!("size: is {most}, but 5 bytes came"));
    // Its room is free again.
    let second = put(&cluster, vec![start(Digest::of(b""), most, v1::Encoding::Raw)]).await.unwrap_err();
    assert_eq!(second.message(), format!("size: is {most}, but 0 bytes came"));
    assert_eq!(names(&partial).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_streams_that_store_or_take_more_than_ours_are_refused_by_name() {
    let cluster = Cluster::start().await;
    let digest = Digest::of(b"");
    // Frames that are to be skipped, and the shortest empty one.
    let skipped = [0x184d_2a50u32.to_le_bytes().as_slice(), &2000u32.to_le_bytes(), &[0; 2000]].concat();
    let empty = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x00, 0x01, 0x00, 0x00].repeat(200);
    // An empty frame with a window of 2^27 bytes.
    let window = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (27 - 10) << 3, 0x01, 0x00, 0x00];
    let padded = "data: the packed form has more than the 1024 bytes that 0 raw ones can take";
    for (stream, words) in [(skipped, padded), (empty, padded), (window, "data: unpacking it takes a window of more")] {
        let refused = put(&cluster, vec![start(digest, 0, v1::Encoding::Zstd), bytes(&stream)]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(words), "{refused}");
        assert_eq!(names(&cluster.path("state/blobs/partial")).len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn naming_a_large_file_as_an_artifact_does_not_move_it() {
    let cluster = Cluster::start().await;
    let large = noise(1, 17 << 20);
    push(&Transfer::new(cluster.channel()), folder(&[("large", &large)]).path()).await;
    let digest = Digest::of(&large);
    let refused = hand_in(&cluster, ArtifactId(digest)).await.unwrap_err();
    assert!(
        refused.message().contains("is not a manifest") && refused.message().contains("at most 15728640"),
        "{refused}"
    );
    assert_eq!(verify(&cluster).await.len(), 0);
    Transfer::new(cluster.channel()).get_file(digest, &cluster.path("back")).await.unwrap();
    assert!(std::fs::read(cluster.path("back")).unwrap() == large);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_worker_could_write_is_refused_when_it_is_handed_in() {
    let cluster = Cluster::start().await;
    let file = Digest::of(b"stone");
    put(&cluster, vec![start(file, 5, v1::Encoding::Raw), bytes(b"stone")]).await.unwrap();
    let long = "x".repeat(256);
    let manifest = serde_json::json!([{ "path": long, "digest": file, "size": 5 }]).to_string().into_bytes();
    let artifact = Digest::of(&manifest);
    let size = manifest.len() as u64;
    put(&cluster, vec![start(artifact, size, v1::Encoding::Raw), bytes(&manifest)]).await.unwrap();
    let refused = hand_in(&cluster, ArtifactId(artifact)).await.unwrap_err();
    assert!(refused.message().contains("a name in it at most 255"), "{refused}");
    assert_eq!(verify(&cluster).await.len(), 0, "it is a file like any other");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_arrive_as_they_are_whatever_their_names_and_what_lies_beside_them() {
    let cluster = Cluster::start().await;
    let (long, packed) = ("n".repeat(255), vec![b'p'; MIB]);
    let (raw, half) = (noise(2, 3 << 20), noise(3, 2 << 20));
    let mut files: Vec<(String, Vec<u8>)> = vec![];
    for name in ["X", "X.partial", "X.partial.zst", "X.zst"] {
        files.push((name.to_owned(), raw.clone()));
        files.push((format!("{name}2"), packed.clone()));
    }
    files[2].1 = half;
    files.push((long, raw));
    let listed: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let artifact = push(&Transfer::new(cluster.channel()), folder(&listed).path()).await;
    let out = folder(&[("X.partial3", b"mine"), ("Y", b"mine")]);
    Transfer::new(cluster.channel()).pull(artifact, &[], out.path()).await.unwrap();
    for (name, bytes) in &files {
        assert!(std::fs::read(out.path().join(name)).unwrap() == *bytes, "{name}");
    }
    assert_eq!(names(out.path()).len(), files.len() + 2, "{:?}", names(out.path()));
    for mine in ["X.partial3", "Y"] {
        assert_eq!(std::fs::read(out.path().join(mine)).unwrap(), b"mine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_may_fetch_the_same_to_one_folder_at_once() {
    let cluster = Cluster::start().await;
    let (raw, packed) = (noise(4, 6 << 20), vec![b'p'; 6 * MIB]);
    let artifact = push(&Transfer::new(cluster.channel()), folder(&[("raw", &raw), ("packed", &packed)]).path()).await;
    let out = tempfile::tempdir().unwrap();
    let pulls = (0..6).map(|_| {
        let (transfer, out) = (Transfer::new(cluster.channel()), out.path().to_owned());
        tokio::spawn(async move { transfer.pull(artifact, &[], &out).await.map(drop) })
    });
    for pulled in pulls.collect::<Vec<_>>() {
        pulled.await.unwrap().unwrap();
    }
    assert!(std::fs::read(out.path().join("raw")).unwrap() == raw);
    assert!(std::fs::read(out.path().join("packed")).unwrap() == packed);
    assert_eq!(names(out.path()), ["packed", "raw"]);
}

/// The task of that label: its key.
async fn key(cluster: &Cluster, label: &str) -> String {
    cluster.changes().await.into_iter().find(|change| change.label == label).unwrap().task_key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_result_is_told_with_its_task_and_what_computes_it_again() {
    let cluster = Cluster::start().await;
    submit(&cluster, vec![shell("make", "echo made > $LITHOGEN_OUTPUTS/file; echo also > $LITHOGEN_OUTPUTS/other")])
        .await;
    let worker = cluster.worker("one", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    worker.drain().await;
    let task = key(&cluster, "command make").await;
    let blob = |digest: Digest| {
        let name = digest.to_string();
        cluster.path("state/blobs").join(&name[..2]).join(&name[2..])
    };
    let (lost, damaged) = (Digest::of(b"made\n"), Digest::of(b"also\n"));
    std::fs::remove_file(blob(lost)).unwrap();
    std::fs::write(blob(damaged), b"sand\n").unwrap();
    let back = format!(
        "it is of the result of command make ({}): `lithogen task recompute {task}` computes it again",
        &task[..8]
    );
    for (digest, code) in [(lost, Code::NotFound), (damaged, Code::DataLoss)] {
        let ended = Transfer::new(cluster.channel()).get_file(digest, &cluster.path("back")).await.unwrap_err();
        let transfer::Error::Rpc(refused) = ended else { panic!("{ended:?}") };
        assert_eq!(refused.code(), code);
        assert!(refused.message().ends_with(&back), "{refused}");
    }
    let problems = verify(&cluster).await;
    assert_eq!(problems.len(), 2);
    for problem in problems {
        assert_eq!((problem.kind.as_str(), &problem.makers), ("missing", &vec![task.clone()]));
        assert_eq!(problem.tasks, [format!("command make ({})", &task[..8])]);
    }
    let nobodys = Transfer::new(cluster.channel()).get_file(Digest::of(b"nobody's"), &cluster.path("back")).await;
    assert!(nobodys.unwrap_err().to_string().ends_with("is not stored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_named_and_stays_where_it_is() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let picture = Digest::of(b"not looked at");
    let name = picture.to_string();
    let path = cluster.path("state/blobs").join(&name[..2]).join(&name[2..]);
    // Can be opened and not be read, as a file on a disk that fails.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let problems = verify(&cluster).await;
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!((problem.digest.as_str(), problem.kind.as_str()), (name.as_str(), "unreadable"));
    assert!(problem.why.contains("directory") && problem.tasks.len() == 20, "{problem:?}");
    assert!(problem.makers.is_empty(), "no task makes pictures: {problem:?}");
    let refused = Transfer::new(cluster.channel()).get_file(picture, &cluster.path("back")).await.unwrap_err();
    assert!(refused.to_string().contains("directory"), "{refused}");
    assert!(path.is_dir() && !cluster.path("state/blobs/quarantine").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_attempt_that_talks_without_end_the_beginning_and_the_end_are_kept() {
    let cluster = Cluster::start().await;
    let script = "echo first; head -c 40000000 /dev/zero | tr '\\0' x >&2; echo the last words >&2; exit 3";
    submit(&cluster, vec![shell("loud", script)]).await;
    let _worker = cluster.worker("one", &[]);
    let status = cluster.end().await;
    let failure = &status.failures[0];
    assert!(failure.message.ends_with("the last words"), "{}", failure.message);
    assert!(failure.message.len() < 3000, "{} bytes", failure.message.len());
    // The last lines come after the end.
    let log = soon("the whole log is there", || async {
        Some(log(&cluster, "command loud", false).await).filter(|log| log.ends_with("the last words\n"))
    });
    let log = log.await;
    assert!(log.len() < 16 * MIB && log.contains("bytes are left out here"), "{} bytes", log.len());
    assert!(log.contains("first\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_more_files_than_an_artifact_has_is_refused() {
    let cluster = Cluster::start().await;
    let entry = |number: usize| Entry { path: format!("{number}"), digest: Digest::of(b"stone"), size: 5 };
    let many: Vec<Entry> = (0..=domain::artifact::ENTRIES_MAX).map(entry).collect();
    assert!(Manifest::new(many.clone()).is_err());
    let manifest = serde_json::to_vec(&many).unwrap();
    let artifact = Digest::of(&manifest);
    let pieces = manifest.chunks(MIB).map(bytes);
    let begin = start(artifact, manifest.len() as u64, v1::Encoding::Raw);
    put(&cluster, std::iter::once(begin).chain(pieces).collect()).await.unwrap();
    let refused = hand_in(&cluster, ArtifactId(artifact)).await.unwrap_err();
    assert!(refused.message().contains("100001 files, and an artifact has at most 100000"), "{refused}");
}
