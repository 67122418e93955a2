//! Two coordinators on one journal in PostgreSQL: one leads, one stands by.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use coordinator::journal::Location;
use coordinator::journal::postgres::Server;
use domain::runner::registry::Role;
use proto::channel::call;
use proto::v1;
use proto::v1::run_service_client::RunServiceClient;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use crate::harness::cluster::{Cluster, tasks};
use crate::harness::postgres::Database;
use crate::harness::program::Running;
use crate::harness::{PATIENCE, soon};

/// What stands for both coordinators: connections go to the one that leads.
struct Door {
    address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    close: CancellationToken,
}

impl Door {
    async fn to(first: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to, close) = (Arc::new(Mutex::new(first)), CancellationToken::new());
        let (target, closed) = (to.clone(), close.clone());
        tokio::spawn(closed.run_until_cancelled_owned(async move {
            loop {
                let (mut caller, _) = listener.accept().await.unwrap();
                let leader = *target.lock().unwrap();
                tokio::spawn(async move {
                    // A caller whom nobody answers is hung up on.
                    let Ok(mut called) = TcpStream::connect(leader).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut caller, &mut called).await;
                });
            }
        }));
        Self { address, to, close }
    }

    fn turn(&self, to: SocketAddr) {
        *self.to.lock().unwrap() = to;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close.cancel();
    }
}

/// Starts the program as a coordinator on a journal; files are in `blobs`.
fn coordinator(state: &Path, blobs: &Path, journal: &str) -> Running {
    std::fs::create_dir_all(state).unwrap();
    std::fs::create_dir_all(blobs).unwrap();
    std::os::unix::fs::symlink(blobs, state.join("blobs")).unwrap();
    Running::start_in(state, &format!("coordinator --listen 127.0.0.1:0 --journal {journal}"))
}

/// Where a coordinator serves, once it leads.
fn address(state: &Path) -> SocketAddr {
    let said = std::fs::read_to_string(state.join("address")).unwrap();
    said.trim().trim_start_matches("http://").parse().unwrap()
}

/// A study whose leader gets a signal while two tasks run and none may end. They
/// end while nobody leads, and the one that stood by goes on from there. Returns
/// the leader of before.
async fn the_leader_is_lost_by(signal: &str) -> Running {
    let database = block_in_place(Database::start);
    let (url, folder) = (block_in_place(|| database.new_url()), tempfile::tempdir().unwrap());
    let [first, second, blobs] = ["first", "second", "blobs"].map(|name| folder.path().join(name));
    let mut leader = coordinator(&first, &blobs, &url);
    leader.hear("coordinator http://");
    let mut standby = coordinator(&second, &blobs, &url);

    let door = Door::to(address(&first)).await;
    let cluster = Cluster::behind(door.address);
    cluster.submit().await;
    let gate = cluster.path("gate");
    let worker = cluster.worker("one", &[("FAKE_ONLY", Path::new("pad")), ("FAKE_GATE", &gate)]);
    cluster.until("two pads wait", |status| status.committed == 4 && status.running == 2).await;
    assert!(!second.join("address").exists(), "one at a time");
    leader.signal(signal);
    std::fs::write(&gate, "").unwrap();
    standby.hear("coordinator http://");
    door.turn(address(&second));
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let succeeded = cluster.count("succeeded").await;
    assert_eq!(succeeded.len(), tasks());
    assert!(succeeded.values().all(|times| *times == 1), "committed twice");
    if signal == "KILL" {
        // A worker need not notice that a leader is frozen; that one is gone it does.
        assert!(cluster.count("running").await.values().all(|times| *times == 1), "something ran again");
    }
    worker.drain().await;
    if signal == "STOP" {
        leader.signal("CONT");
        leader.hear("leads no more");
        let written = cluster.count("succeeded").await;
        assert_eq!(written, succeeded, "it wrote after it woke");
    }
    leader
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(postgres), ignore = "needs LITHOGEN_TEST_POSTGRES: PostgreSQL's server programs")]
async fn a_killed_leader_is_succeeded_and_nothing_runs_again() {
    the_leader_is_lost_by("KILL").await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(postgres), ignore = "needs LITHOGEN_TEST_POSTGRES: PostgreSQL's server programs")]
async fn a_frozen_leader_is_succeeded_and_ends_when_it_wakes() {
    let ended = the_leader_is_lost_by("STOP").await.end();
    assert_ne!(ended.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(postgres), ignore = "needs LITHOGEN_TEST_POSTGRES: PostgreSQL's server programs")]
async fn one_that_stands_by_says_who_leads_and_follows_at_once_when_the_leader_goes() {
    let database = block_in_place(Database::start);
    let (url, folder) = (block_in_place(|| database.new_url()), tempfile::tempdir().unwrap());
    let server = Server::new(&url, PATIENCE).unwrap();
    let mut closes = vec![];
    let mut runs = vec![];
    let mut addresses = vec![];
    for name in ["first", "second"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = coordinator::Config::new(folder.path().join(name));
        config.journal = Location::Postgres(server.clone());
        let close = CancellationToken::new();
        runs.push(tokio::spawn(coordinator::run(config, listener, close.clone().cancelled_owned())));
        closes.push(close);
        addresses.push(address);
        if name == "first" {
            soon("the first leads", || runs_at(address)).await;
        }
    }
    let refusal = soon("the second says who leads", || async { list(addresses[1]).await.err() }).await;
    assert_eq!(refusal.code(), tonic::Code::Unavailable);
    let named = soon("the second knows who leads", || async {
        list(addresses[1]).await.err().filter(|refusal| refusal.message().contains(&addresses[0].to_string()))
    });
    assert!(named.await.message().contains("stands by"));
    // Its lead is given back; otherwise the second would wait for as long as a test may take.
    closes[0].cancel();
    soon("the second leads", || runs_at(addresses[1])).await;
    closes[1].cancel();
    for run in runs {
        run.await.unwrap().unwrap();
    }
}

/// The worker knows both, the one that stands by first.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(postgres), ignore = "needs LITHOGEN_TEST_POSTGRES: PostgreSQL's server programs")]
async fn an_encrypted_worker_that_knows_both_finds_the_one_that_leads() {
    let database = block_in_place(Database::start);
    let server = Server::new(&block_in_place(|| database.new_url()), PATIENCE).unwrap();
    let files = tempfile::tempdir().unwrap();
    let blobs = files.path().display().to_string();
    let adjust = move |config: &mut coordinator::Config| {
        config.journal = Location::Postgres(server.clone());
        (config.blobs, config.tls_always) = (Some(blobs.clone()), true);
    };
    let mut cluster = Cluster::start_as(adjust.clone()).await;
    let second = cluster.path("second");
    std::fs::create_dir(&second).unwrap();
    std::os::unix::fs::symlink(cluster.path("state/tls"), second.join("tls")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let both = format!("https://{},{}", listener.local_addr().unwrap(), cluster.url());
    let mut config = coordinator::Config::new(&second);
    adjust(&mut config);
    let close = CancellationToken::new();
    let standing_by = tokio::spawn(coordinator::run(config, listener, close.clone().cancelled_owned()));

    let token = cluster.token(Role::Worker, 1, 3_600_000).await;
    cluster.submit().await;
    let gate = cluster.path("gate");
    let fake = [("FAKE_ONLY", Path::new("pad")), ("FAKE_GATE", &gate)];
    let _worker = cluster.worker_with("one", &fake, |config| {
        (config.coordinator, config.join_token) = (both, Some(token));
    });
    cluster.until("two pads wait", |status| status.committed == 4 && status.running == 2).await;
    cluster.stop().await;
    cluster.ask(&second);
    std::fs::write(&gate, "").unwrap();
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert!(cluster.count("running").await.values().all(|times| *times == 1), "something ran again");
    close.cancel();
    standing_by.await.unwrap().unwrap();
}

async fn list(address: SocketAddr) -> Result<v1::ListRunsResponse, tonic::Status> {
    let channel =
        proto::channel::connect(&format!("http://{address}"), &proto::channel::Credentials::default()).unwrap();
    let runs = RunServiceClient::new(channel).list_runs(call(v1::ListRunsRequest {})).await;
    runs.map(tonic::Response::into_inner)
}

async fn runs_at(address: SocketAddr) -> Option<v1::ListRunsResponse> {
    list(address).await.ok()
}
