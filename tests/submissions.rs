//! What a submitter may make the coordinator hold and how long: refusals that count, and
//! others who are answered meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use domain::digest::Digest;
use domain::id::ArtifactId;
use domain::runner::command::{CommandSpec, Commands};
use domain::study::experiment::Experiment;
use proto::channel::call;
use proto::status::of_verdict;
use proto::transfer::{self, Transfer};
use proto::v1;
use proto::v1::attempt_end::End;
use proto::v1::session_request::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::cluster::{Cluster, data, small, stages};
use crate::harness::program::Running;
use crate::harness::soon;

/// Far more than others may have to wait for an answer while somebody asks for much; what
/// was measured is in docs/benchmarks.md.
const ANSWERED: Duration = Duration::from_secs(5);

fn array(name: &str, last: u64, reads: Option<&str>) -> CommandSpec {
    CommandSpec {
        name: name.to_owned(),
        argv: vec!["true".to_owned()],
        array: Some([1, last]),
        inputs: reads.map(|other| ("in".to_owned(), format!("task:{other}"))).into_iter().collect(),
        ..CommandSpec::default()
    }
}

fn commands(id: &str, command: Vec<CommandSpec>) -> v1::SubmitRequest {
    let commands_json = serde_json::to_string(&Commands { id: id.to_owned(), command }).unwrap();
    v1::SubmitRequest { commands_json, ..Default::default() }
}

fn study(spoil: impl FnOnce(&mut Experiment)) -> v1::SubmitRequest {
    let mut experiment = small();
    spoil(&mut experiment);
    v1::SubmitRequest {
        experiment_json: serde_json::to_string(&experiment).unwrap(),
        data_json: serde_json::to_string(&data(ArtifactId(Digest::of(b"pictures")))).unwrap(),
        ..Default::default()
    }
}

async fn submit(cluster: &Cluster, request: v1::SubmitRequest) -> Result<v1::RunStatus, Status> {
    Ok(cluster.runs().submit(call(request)).await?.into_inner().status.unwrap())
}

/// A submission that is refused as invalid, in these words.
async fn is_refused(cluster: &Cluster, request: v1::SubmitRequest, words: &str) {
    let refused = submit(cluster, request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().starts_with(words), "{words:?} is not how it begins: {}", refused.message());
}

/// A worker's session, its last call for work and its result.
struct Worker {
    up: mpsc::Sender<v1::SessionRequest>,
    _down: Streaming<v1::SessionResponse>,
    call: u64,
    artifact: ArtifactId,
}

impl Worker {
    async fn join(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("made.txt"), "made").unwrap();
        let manifest = transfer::scan(folder.path()).unwrap();
        let artifact = Transfer::new(cluster.channel()).push(folder.path(), &manifest).await.unwrap();
        let hello = v1::Hello {
            worker_id: "w".to_owned(),
            name: "w".to_owned(),
            protocol: proto::PROTOCOL,
            slots: 1,
            stages: stages().into_iter().map(|(name, version)| v1::StageVersion { name, version }).collect(),
            ..v1::Hello::default()
        };
        let (up, requests) = mpsc::channel(4);
        up.send(v1::SessionRequest { message: Some(Message::Hello(hello)) }).await.unwrap();
        let mut down = cluster.workers().session(ReceiverStream::new(requests)).await.unwrap().into_inner();
        down.message().await.unwrap();
        Self { up, _down: down, call: 0, artifact }
    }

    /// Takes a task and commits it, and asks how the run stands; returns the longest of
    /// the three waits.
    async fn round(&mut self, cluster: &Cluster) -> Duration {
        self.call += 1;
        // One that waits to be sent is as good.
        let _ = self.up.try_send(v1::SessionRequest { message: Some(Message::Heartbeat(v1::Heartbeat::default())) });
        let mut longest = Duration::ZERO;
        let mut timed = |began: Instant| longest = longest.max(began.elapsed());
        let ask = v1::AcquireLeasesRequest { worker_id: "w".to_owned(), call: self.call, max: 1, wait_ms: 0 };
        let began = Instant::now();
        let leases = cluster.workers().acquire_leases(call(ask)).await.unwrap().into_inner().leases;
        timed(began);
        let succeeded = v1::Succeeded { artifact: self.artifact.to_string(), manifest: vec![] };
        let end = Some(End::Succeeded(succeeded));
        let ended =
            |lease: v1::Lease| v1::AttemptEnd { task_key: lease.task_key, token: lease.token, end: end.clone() };
        let attempts: Vec<_> = leases.into_iter().map(ended).collect();
        let began = Instant::now();
        let answer = cluster.workers().end_attempts(call(v1::EndAttemptsRequest { attempts })).await.unwrap();
        timed(began);
        answer.into_inner().verdicts.iter().for_each(|verdict| of_verdict(verdict).unwrap());
        let began = Instant::now();
        cluster.status().await;
        timed(began);
        longest
    }
}

/// Lets a worker go on for as long as something lasts; returns its longest wait.
async fn meanwhile<T>(cluster: &Cluster, worker: &mut Worker, lasts: impl Future<Output = T>) -> (T, Duration) {
    let over = Arc::new(AtomicBool::new(false));
    let ended = {
        let over = over.clone();
        async move {
            let ended = lasts.await;
            over.store(true, Ordering::Relaxed);
            ended
        }
    };
    let works = async {
        let mut longest = Duration::ZERO;
        while !over.load(Ordering::Relaxed) {
            longest = longest.max(worker.round(cluster).await);
        }
        longest
    };
    tokio::join!(ended, works)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knob_out_of_its_range_is_refused_by_its_name() {
    let cluster = Cluster::start().await;
    let blocks = study(|experiment| experiment.tl.network.blocks = vec![u32::MAX]);
    let words = "experiment_json: tl.network.blocks: is 4294967295, has to lie between 1 and 100";
    is_refused(&cluster, blocks, words).await;
    let embed_dim = study(|experiment| experiment.upscale.training.embed_dim = 0);
    let words = "experiment_json: upscale.training.embed_dim: is 0, has to lie between 1 and 1024";
    is_refused(&cluster, embed_dim, words).await;
    let depths = study(|experiment| experiment.upscale.training.depths = vec![]);
    is_refused(&cluster, depths, "experiment_json: upscale.training.depths: has 0 entries, has to have 1 to 16").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_too_many_pictures_are_refused_by_the_class() {
    let cluster = Cluster::start().await;
    let mut request = study(|_| {});
    let mut data = data(ArtifactId(Digest::of(b"pictures")));
    data.classes[3].images = u32::MAX;
    let raw = &data.classes[3];
    let place = format!("{}/{}/{}", raw.dataset, raw.view, raw.class);
    request.data_json = serde_json::to_string(&data).unwrap();
    let words = format!("data_json: classes {place} images: is 4294967295, has to be at most 100000");
    is_refused(&cluster, request, &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_submission_comes_to_is_counted_and_refused_and_the_coordinator_goes_on() {
    let cluster = Cluster::start().await;
    submit(&cluster, commands("work", vec![array("work", 5_000, None)])).await.unwrap();
    let mut worker = Worker::join(&cluster).await;
    let mut long = array("long", 100_000, None);
    long.argv.push("x".repeat(1_000_000));
    let square = vec![array("a", 40_000, None), array("b", 50_000, Some("a"))];
    let refusals = async {
        for _ in 0..10 {
            let words = "commands_json: command \"b\": its tasks read 2000000000 inputs";
            is_refused(&cluster, commands("", square.clone()), words).await;
            let words = "commands_json: command \"long\": all tasks down to its own have 100001200000 bytes";
            is_refused(&cluster, commands("", vec![long.clone()]), words).await;
        }
    };
    let ((), longest) = meanwhile(&cluster, &mut worker, refusals).await;
    eprintln!("a worker waited {longest:?} at most beside submissions that were refused");
    assert!(longest < ANSWERED, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_answered_while_somebody_submits_the_largest_array_and_cancels_it() {
    let cluster = Cluster::start().await;
    submit(&cluster, commands("work", vec![array("work", 5_000, None)])).await.unwrap();
    let mut worker = Worker::join(&cluster).await;
    let submission = submit(&cluster, commands("large", vec![array("a", 100_000, None)]));
    let (submitted, longest) = meanwhile(&cluster, &mut worker, submission).await;
    eprintln!("a worker waited {longest:?} at most beside a submission that was taken");
    assert!(longest < ANSWERED, "{longest:?}");
    let submitted = submitted.unwrap();
    assert_eq!(submitted.tasks, 100_000);
    let cancel = v1::CancelRunRequest { run_id: submitted.run_id, task_keys: vec![] };
    let mut client = cluster.runs();
    let (cancelled, longest) = meanwhile(&cluster, &mut worker, client.cancel_run(call(cancel))).await;
    eprintln!("a worker waited {longest:?} at most beside a run that was cancelled");
    assert!(longest < ANSWERED, "{longest:?}");
    assert_eq!(cancelled.unwrap().into_inner().status.unwrap().state(), v1::RunState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn submissions_that_wait_for_their_turn_are_all_taken() {
    let cluster = Cluster::start().await;
    let mut submitted = tokio::task::JoinSet::new();
    for number in 0..60 {
        let mut client = cluster.runs();
        let request = call(commands(&number.to_string(), vec![array("a", 200, None)]));
        submitted.spawn(async move { client.submit(request).await.map(drop) });
    }
    submitted.join_all().await.into_iter().collect::<Result<(), Status>>().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_answered_while_somebody_asks_about_many_tasks() {
    let cluster = Cluster::start().await;
    submit(&cluster, commands("work", vec![array("work", 20_000, None)])).await.unwrap();
    let mut worker = Worker::join(&cluster).await;
    let run = cluster.status().await.run_id;
    let list = v1::ListTasksRequest { run_id: run.clone(), ..Default::default() };
    let tasks = cluster.tasks().list_tasks(call(list)).await.unwrap().into_inner().tasks;
    let questions = async {
        let mut asked = tokio::task::JoinSet::new();
        for task in &tasks[..300] {
            let mut client = cluster.tasks();
            let task_key = task.task_key[..20].to_owned();
            asked.spawn(async move { client.explain_task(call(v1::ExplainTaskRequest { task_key })).await.map(drop) });
        }
        let task_keys = (0..3_000).map(|number| format!("{number:06x}0")).collect();
        let prune = v1::CancelRunRequest { run_id: run.clone(), task_keys };
        // The first that is not there is named.
        let refused = cluster.runs().cancel_run(call(prune)).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
        asked.join_all().await
    };
    let (asked, longest) = meanwhile(&cluster, &mut worker, questions).await;
    eprintln!("a worker waited {longest:?} at most beside questions about tasks");
    assert!(longest < ANSWERED, "{longest:?}");
    asked.into_iter().collect::<Result<(), Status>>().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_names_too_many_tasks_is_refused_with_their_number() {
    let cluster = Cluster::start().await;
    let run_id = submit(&cluster, commands("", vec![array("a", 2, None)])).await.unwrap().run_id;
    let request = v1::CancelRunRequest { run_id, task_keys: vec!["0".to_owned(); 10_001] };
    let refused = cluster.runs().cancel_run(call(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let expected = "task_keys: names 10001 tasks, at most 10000 are taken; name them in several calls";
    assert_eq!(refused.message(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_found_by_its_first_digits_and_what_is_none_is_named_in_short() {
    let cluster = Cluster::start().await;
    let run = submit(&cluster, commands("", vec![array("a", 50, None)])).await.unwrap().run_id;
    let request = v1::ListTasksRequest { run_id: run[..12].to_owned(), ..Default::default() };
    let tasks = cluster.tasks().list_tasks(call(request)).await.unwrap().into_inner().tasks;
    let explain = async |task_key: String| {
        let answer = cluster.tasks().explain_task(call(v1::ExplainTaskRequest { task_key })).await;
        answer.map(|answer| answer.into_inner().task_key)
    };
    for task in &tasks {
        assert_eq!(explain(task.task_key[..16].to_owned()).await.unwrap(), task.task_key);
    }
    let several = explain(String::new()).await.unwrap_err();
    assert!(several.message().contains("several tasks begin with"), "{several}");
    let none = explain("x".repeat(60_000)).await.unwrap_err();
    assert_eq!(none.message(), format!("no task begins with {:?}", "x".repeat(80)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_watches_so_many_runs_and_no_more() {
    let cluster = Cluster::start().await;
    submit(&cluster, commands("", vec![array("a", 2, None)])).await.unwrap();
    let watch = || async { cluster.runs().watch_run(v1::WatchRunRequest::default()).await };
    let mut watches = vec![];
    for _ in 0..64 {
        watches.push(watch().await.unwrap());
    }
    let refused = watch().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("at most 64 watches and logs of this machine are open"), "{refused}");
    watches.clear();
    soon("one may watch again", || async { watch().await.ok() }).await;
}

/// The largest submission that is taken is planned, decided and written for a while.
#[test]
fn a_coordinator_that_is_busy_with_a_submission_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Running::start_in(folder.path(), "coordinator --listen 127.0.0.1:0");
    coordinator.hear("ends it, workers wait for it");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = std::fs::read_to_string(folder.path().join("address")).unwrap();
    let address = address.trim().strip_prefix("http://").unwrap().parse().unwrap();
    let under_way = runtime.block_on(async {
        let cluster = Cluster::beside(folder.path(), address);
        let before = cluster.runs().list_runs(call(v1::ListRunsRequest::default())).await;
        assert!(before.unwrap().into_inner().runs.is_empty());
        let submissions = (0..4).map(|number| {
            let mut client = cluster.runs();
            let request = call(commands(&number.to_string(), vec![array("a", 100_000, None)]));
            tokio::spawn(async move { client.submit(request).await.map(drop) })
        });
        submissions.collect::<Vec<_>>()
    });
    let began = Instant::now();
    coordinator.signal("TERM");
    let ended = coordinator.end();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(matches!(ended.code, Some(0 | 1)) && !ended.err.contains("panicked"), "{ended}");
    under_way.into_iter().for_each(|submission| submission.abort());
}

#[test]
fn a_submission_that_is_cut_off_is_handed_in_again_by_its_command() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for end in ["KILL", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let mut coordinator = Running::start_in(folder.path(), "coordinator --listen 127.0.0.1:0");
        coordinator.hear("ends it, workers wait for it");
        let url = std::fs::read_to_string(folder.path().join("address")).unwrap();
        let address: std::net::SocketAddr = url.trim().strip_prefix("http://").unwrap().parse().unwrap();
        let client = Running::start(["exec", "--array", "1-100000", "--coordinator", url.trim(), "--", "true"]);
        let runs = || async {
            let cluster = Cluster::beside(folder.path(), address);
            cluster.runs().list_runs(call(v1::ListRunsRequest {})).await.unwrap().into_inner().runs
        };
        let is_coming = |run: &v1::RunStatus| run.attention.iter().any(|line| line.contains("tasks are still to come"));
        runtime.block_on(soon("a part is there", || async { runs().await.iter().any(is_coming).then_some(()) }));
        coordinator.signal(end);
        coordinator.end();
        let mut coordinator = Running::start_in(folder.path(), &format!("coordinator --listen {address}"));
        coordinator.hear("ends it, workers wait for it");
        // When it is told to end, it may take all that was on its way.
        let ended = client.end();
        ended.is_done();
        assert!(end == "TERM" || ended.err.contains("handing in again when it is back"), "{ended}");
        let [run] = &runtime.block_on(runs())[..] else { panic!("one run") };
        assert!(run.tasks == 100_000 && !is_coming(run), "{run:?}");
    }
}
