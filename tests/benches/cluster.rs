//! The whole path over loopback gRPC with durable commits: tasks per second, the
//! coordinator's processor time per task, and how long one task takes from its
//! submission to its end. `cargo bench --workspace --bench cluster`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use coordinator::Config;
use domain::runner::command::{CommandSpec, Commands};
use domain::study::stage::Cadence;
use proto::channel::{Credentials, blob_call, call, connect};
use proto::v1;
use proto::v1::run_service_client::RunServiceClient;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use worker::config::{CACHE_BYTES, Program, unique_id};

const WORKERS: usize = 4;
const SLOTS: usize = 8;
const TASKS: u64 = 20_000;
const ROUNDS: usize = 3;
const SINGLE: usize = 200;

/// What has to be reached at the least.
const TASKS_PER_SECOND: f64 = 5_000.0;
const CPU_US_PER_TASK: f64 = 60.0;
const SUBMIT_TO_DONE_MS: f64 = 10.0;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    println!("fdatasync: median {:.2} ms", fdatasync(folder.path()));
    let coordinator = runtime("coordinator", 2);
    let listener = coordinator.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let close = CancellationToken::new();
    let config = Config::new(folder.path().join("state"));
    let serving = coordinator.spawn(coordinator::run(config, listener, close.clone().cancelled_owned()));
    let workers: Vec<Runtime> = (0..WORKERS).map(|number| start_worker(folder.path(), &url, number)).collect();
    let client = runtime("client", 1);
    let channel = client.block_on(async { connect(&url, &Credentials::default()).expect("a channel") });
    // The first study also waits for the workers.
    client.block_on(run(&channel, "warm", 1000));
    for round in 0..ROUNDS {
        let (began, cpu) = (Instant::now(), cpu_ms(&["coordinator", "driver"]));
        client.block_on(run(&channel, &format!("many-{round}"), TASKS));
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_ms(&["coordinator", "driver"]) - cpu);
        let (rate, each) = (TASKS as f64 / seconds, cpu * 1e3 / TASKS as f64);
        println!(
            "{TASKS} tasks on {WORKERS} workers of {SLOTS} slots, in their processes: {rate:.0} tasks/s ({:.2} of what is \
             wanted); {each:.0} us of the coordinator's processor time each ({:.2} of what is allowed)",
            rate / TASKS_PER_SECOND,
            each / CPU_US_PER_TASK
        );
    }
    let mut single: Vec<f64> = (0..SINGLE)
        .map(|number| {
            let began = Instant::now();
            client.block_on(run(&channel, &format!("single-{number}"), 1));
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    single.sort_by(f64::total_cmp);
    println!(
        "one task, submission to done: median {:.2} ms ({:.2} of what is allowed), 95 of 100 within {:.2} ms",
        single[SINGLE / 2],
        single[SINGLE / 2] / SUBMIT_TO_DONE_MS,
        single[SINGLE * 95 / 100]
    );
    close.cancel();
    workers.into_iter().for_each(Runtime::shutdown_background);
    coordinator.block_on(serving).expect("it ends").expect("well");
}

fn runtime(name: &str, threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build().expect("a runtime")
}

fn start_worker(folder: &Path, url: &str, number: usize) -> Runtime {
    let name = format!("worker{number}");
    let config = worker::Config {
        coordinator: url.to_owned(),
        join_token: None,
        id: unique_id(&name),
        state: folder.join(&name),
        name,
        slots: SLOTS,
        gpus: vec![],
        memory_mib: 0,
        labels: BTreeMap::new(),
        stages: vec![("command".to_owned(), 1)],
        cache_bytes: CACHE_BYTES,
        grace: Duration::from_secs(1),
        cadence: Cadence::default(),
        pass_env: vec![],
        in_process: Some(|_| Ok(())),
        program: Program { path: "unused".into(), arguments: vec![], environment: vec![] },
    };
    let runtime = runtime("worker", 1);
    runtime.spawn(worker::run(config, None, std::future::pending()));
    runtime
}

/// Hands commands in and waits until all are done.
async fn run(channel: &Channel, name: &str, tasks: u64) {
    let spec = CommandSpec {
        name: name.to_owned(),
        argv: vec!["true".to_owned()],
        array: (tasks > 1).then_some([1, tasks]),
        ..CommandSpec::default()
    };
    let commands = Commands { id: name.to_owned(), command: vec![spec] };
    let commands_json = serde_json::to_string(&commands).expect("commands");
    let mut runs = RunServiceClient::new(channel.clone());
    let submit = v1::SubmitRequest { commands_json, ..Default::default() };
    let run_id = runs.submit(call(submit)).await.expect("taken").into_inner().run_id;
    let watch = v1::WatchRunRequest { run_id, from_change: 0, status_only: true };
    let mut answers = runs.watch_run(blob_call(watch)).await.expect("watched").into_inner();
    while let Some(answer) = answers.message().await.expect("watched") {
        let status = answer.status.unwrap_or_default();
        if status.state().is_over() {
            assert_eq!(status.state(), v1::RunState::Succeeded);
            return;
        }
    }
}

/// Processor time of the threads of this process whose names begin so.
fn cpu_ms(names: &[&str]) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        names.iter().any(|wanted| wanted.starts_with(name) || name.starts_with(wanted)).then_some(ticks * 10.0)
    };
    tasks.filter_map(of).sum()
}

/// What one durable write costs at the least.
fn fdatasync(folder: &Path) -> f64 {
    use std::io::Write;
    let mut file = std::fs::File::create(folder.join("sync")).expect("a file");
    let mut times: Vec<f64> = (0..50)
        .map(|_| {
            file.write_all(&[0; 4096]).expect("room");
            let began = Instant::now();
            file.sync_data().expect("a disk");
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
