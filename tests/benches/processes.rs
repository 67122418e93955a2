//! A coordinator and workers in processes of their own: tasks per second if each
//! is a process, how soon the task of a killed or frozen worker starts elsewhere,
//! and what idle workers cost the coordinator alone. `cargo bench --workspace
//! --bench processes [-- PART …]`; parts are `spawning`, `killed`, `frozen` and `idle`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod harness;

use std::time::{Duration, Instant};

use domain::runner::command::CommandSpec;
use proto::channel::{Credentials, blob_call, call, connect};
use proto::identity::Identity;
use proto::v1;
use proto::v1::session_request::Message;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::ReceiverStream;

use harness::command::{shell, submit};
use harness::program::{Running, signal};
use harness::site::Site;
use harness::{PATIENCE, eventually, soon};

const WORKERS: usize = 4;
const TASKS: u64 = 5_000;
const ROUNDS: usize = 3;
const KILLS: usize = 20;
const FREEZES: usize = 3;
const IDLE: usize = 1000;

/// What has to be reached at the least.
const TASKS_PER_SECOND: f64 = 1_000.0;
const KILLED_MS: f64 = 50.0;
const FROZEN_MS: f64 = 5_000.0;
const IDLE_MIB: f64 = 60.0;
const IDLE_SHARE: f64 = 5.0;

fn main() {
    let runtime = Runtime::new().unwrap();
    // Channels are made for it.
    let _entered = runtime.enter();
    let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if is_wanted("spawning") {
        spawning(&runtime);
    }
    if is_wanted("killed") {
        elsewhere(&runtime, "killed", KILLED_MS, KILLS, Running::kill);
    }
    if is_wanted("frozen") {
        elsewhere(&runtime, "frozen", FROZEN_MS, FREEZES, |worker| assert!(signal(worker.id(), "STOP")));
    }
    if is_wanted("idle") {
        for encrypted in [false, true] {
            idle(&runtime, encrypted);
        }
    }
}

/// Tasks that are a process each.
fn spawning(runtime: &Runtime) {
    let site = Site::start();
    let names: Vec<String> = (0..WORKERS).map(|number| format!("worker-{number}")).collect();
    let _workers: Vec<Running> = names.iter().map(|name| site.worker_under(&[], name, &["--slots", "4"])).collect();
    let cluster = site.client();
    for round in 0..=ROUNDS {
        // What was run before would not run again.
        let argv = vec!["true".to_owned(), round.to_string()];
        let spec = CommandSpec { name: "many".to_owned(), argv, array: Some([1, TASKS]), ..CommandSpec::default() };
        let (began, cpu) = (Instant::now(), cpu_ms(site.process()));
        runtime.block_on(async {
            submit(&cluster, vec![spec]).await;
            cluster.end().await
        });
        // The first waits for the workers.
        if round > 0 {
            let rate = TASKS as f64 / began.elapsed().as_secs_f64();
            println!(
                "{TASKS} processes on {WORKERS} workers of 4 slots: {rate:.0} tasks/s ({:.2} of what is wanted); {:.0} us of \
                 the coordinator's processor time each",
                rate / TASKS_PER_SECOND,
                (cpu_ms(site.process()) - cpu) * 1e3 / TASKS as f64
            );
        }
    }
}

/// From the moment at which something happens to a worker until another has
/// started the process of its task.
fn elsewhere(runtime: &Runtime, what: &str, allowed_ms: f64, rounds: usize, strike: impl Fn(&mut Running)) {
    let mut times = vec![];
    let site = Site::start();
    let cluster = site.client();
    let other = site.worker("other");
    for round in 0..rounds {
        let (gate, busy) = (site.path(&format!("gate-{round}")), site.path(&format!("busy-{round}")));
        let runs =
            |path: &std::path::Path, who: &str| std::path::Path::new(&format!("{}.{who}", path.display())).exists();
        let held = |path: &std::path::Path| {
            let path = path.display();
            shell("held", &format!(": > {path}.$WHO; while [ ! -e {path} ]; do sleep 0.05; done"))
        };
        // The other is busy until the one that is struck holds a task.
        runtime.block_on(submit(&cluster, vec![held(&busy)]));
        eventually("the other is busy", PATIENCE, || runs(&busy, "other"));
        let struck_name = format!("struck-{round}");
        let mut struck = site.worker(&struck_name);
        runtime.block_on(submit(&cluster, vec![held(&gate)]));
        eventually("it holds a task", PATIENCE, || runs(&gate, &struck_name));
        std::fs::write(&busy, "").unwrap();
        runtime
            .block_on(soon("the other is free", || async { (cluster.try_status().await?.running == 1).then_some(()) }));
        // All but the guard of its commands, which stays.
        eventually("the other has nothing", PATIENCE, || harness::program::children(other.id()).len() <= 1);
        let began = Instant::now();
        strike(&mut struck);
        while !runs(&gate, "other") {
            assert!(began.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(began.elapsed().as_secs_f64() * 1e3);
        std::fs::write(&gate, "").unwrap();
        drop(struck);
    }
    times.sort_by(f64::total_cmp);
    let (median, most) = (times[rounds / 2], times[rounds - 1]);
    println!(
        "a worker is {what}, its task starts elsewhere: median {median:.1} ms ({:.2} of what is allowed), at most \
         {most:.1} ms of {rounds}",
        median / allowed_ms
    );
}

/// Many workers that have nothing to do, all of them in this process.
fn idle(runtime: &Runtime, encrypted: bool) {
    let site = Site::start_under(&[], "127.0.0.1:0", if encrypted { &["--tls"] } else { &[] });
    let before = memory_mib(site.process());
    let credentials = Credentials::default();
    let mut id = "idle".to_owned();
    if encrypted {
        let token = std::fs::read_to_string(site.token()).unwrap().parse().unwrap();
        let folder = site.path("identity");
        let identity = runtime.block_on(Identity::join(site.url(), &token, "idle", &folder)).unwrap();
        credentials.replace(identity.config().unwrap());
        id = identity.id;
    }
    let connect = || connect(site.url(), &credentials).unwrap();
    let sessions: Vec<_> = (0..IDLE).map(|number| runtime.spawn(rest(connect(), format!("{id}-{number}")))).collect();
    let cluster = site.client();
    let joined = || async {
        let answer = cluster.cluster().list_workers(call(v1::ListWorkersRequest {})).await.ok()?;
        (answer.into_inner().workers.len() == IDLE).then_some(())
    };
    runtime.block_on(soon("all have joined", joined));
    // Several heartbeats of each.
    std::thread::sleep(Duration::from_secs(5));
    let (began, cpu) = (Instant::now(), cpu_ms(site.process()));
    std::thread::sleep(Duration::from_secs(10));
    let share = (cpu_ms(site.process()) - cpu) / (began.elapsed().as_secs_f64() * 10.0);
    let memory = memory_mib(site.process());
    println!(
        "{IDLE} idle workers, {}: the coordinator holds {memory:.0} MiB ({:.2} of what is allowed; {before:.0} MiB without \
         them) and takes {share:.1} % of one core ({:.2} of what is allowed)",
        if encrypted { "encrypted" } else { "plaintext" },
        memory / IDLE_MIB,
        share / IDLE_SHARE
    );
    sessions.into_iter().for_each(|session| session.abort());
}

/// What a worker says that has nothing to do.
async fn rest(channel: tonic::transport::Channel, worker_id: String) {
    let hello = v1::Hello {
        worker_id: worker_id.clone(),
        name: worker_id.clone(),
        protocol: proto::PROTOCOL,
        slots: 1,
        ..v1::Hello::default()
    };
    let (up, requests) = tokio::sync::mpsc::channel(4);
    let send = |message| v1::SessionRequest { message: Some(message) };
    up.send(send(Message::Hello(hello))).await.unwrap();
    let mut client = WorkerServiceClient::new(channel);
    let mut down = client.session(ReceiverStream::new(requests)).await.unwrap().into_inner();
    down.message().await.unwrap();
    let asking = async {
        for call in 1.. {
            let ask = v1::AcquireLeasesRequest { worker_id: worker_id.clone(), call, max: 1, wait_ms: 30_000 };
            client.acquire_leases(blob_call(ask)).await.unwrap();
        }
    };
    let beating = async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            up.send(send(Message::Heartbeat(v1::Heartbeat::default()))).await.unwrap();
        }
    };
    tokio::join!(asking, beating);
}

/// Processor time of a process.
fn cpu_ms(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10.0
}

fn memory_mib(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}
