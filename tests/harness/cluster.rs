//! A coordinator and workers in this process, with stages that compute nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use domain::digest::Digest;
use domain::id::ArtifactId;
use domain::runner::registry::Role;
use domain::study::experiment::{Experiment, Scale};
use domain::study::overrides;
use domain::study::plan::{self, Data, RawClass};
use domain::study::stage::StageKind;
use proto::channel::{Credentials, call};
use proto::join_token::{JoinToken, Secret};
use proto::transfer::{self, Transfer};
use proto::v1;
use proto::v1::artifact_service_client::ArtifactServiceClient;
use proto::v1::cluster_service_client::ClusterServiceClient;
use proto::v1::registration_service_client::RegistrationServiceClient;
use proto::v1::run_service_client::RunServiceClient;
use proto::v1::task_service_client::TaskServiceClient;
use proto::v1::worker_service_client::WorkerServiceClient;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use worker::config::{Program, unique_id};

use super::{PATIENCE, soon};

/// A coordinator on a folder and a port of its own.
pub(crate) struct Cluster {
    folder: TempDir,
    address: SocketAddr,
    url: String,
    channel: Channel,
    adjust: Box<dyn Fn(&mut coordinator::Config) + Send + Sync>,
    serving: Option<JoinHandle<Result<(), coordinator::Error>>>,
    close: CancellationToken,
    /// For the pages of the coordinator that is served next.
    window: Option<TcpListener>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_as(|_| {}).await
    }

    /// With another time in which a worker whose connection broke may come back.
    pub(crate) async fn start_with(reattach: Duration) -> Self {
        Self::start_as(move |config| config.patience.reattach = reattach).await
    }

    /// With other settings. What the cluster itself asks goes over the Unix socket.
    pub(crate) async fn start_as(adjust: impl Fn(&mut coordinator::Config) + Send + Sync + 'static) -> Self {
        Self::start_with_listener(adjust, None).await
    }

    /// As [`Cluster::start_as`], with pages at the address that is returned.
    pub(crate) async fn start_with_window(
        adjust: impl Fn(&mut coordinator::Config) + Send + Sync + 'static,
    ) -> (Self, SocketAddr) {
        let window = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = window.local_addr().unwrap();
        (Self::start_with_listener(adjust, Some(window)).await, address)
    }

    async fn start_with_listener(
        adjust: impl Fn(&mut coordinator::Config) + Send + Sync + 'static,
        window: Option<TcpListener>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut config = coordinator::Config::new(&state);
        adjust(&mut config);
        let url = format!("{}://{address}", if config.tls_always { "https" } else { "http" });
        let channel = proto::channel::connect("unix:nobody", &Credentials::default()).unwrap();
        let (adjust, close) = (Box::new(adjust), CancellationToken::new());
        let mut cluster = Self { folder, address, url, channel, adjust, serving: None, close, window };
        cluster.ask(&state);
        cluster.serve(listener);
        assert!(cluster.serves().await, "the coordinator has ended");
        cluster
    }

    /// From now on asks the coordinator of another state folder.
    pub(crate) fn ask(&mut self, state: &Path) {
        let socket = format!("unix:{}", proto::channel::socket_path(state).display());
        self.channel = proto::channel::connect(&socket, &Credentials::default()).unwrap();
    }

    /// Where workers find it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// With a coordinator that others look after.
    pub(crate) fn behind(address: SocketAddr) -> Self {
        let url = format!("http://{address}");
        Self::asking(&url, address)
    }

    /// As [`Cluster::behind`], asked over the Unix socket of its state folder.
    pub(crate) fn beside(state: &Path, address: SocketAddr) -> Self {
        Self::asking(&format!("unix:{}", proto::channel::socket_path(state).display()), address)
    }

    fn asking(at: &str, address: SocketAddr) -> Self {
        let url = format!("http://{address}");
        let channel = proto::channel::connect(at, &Credentials::default()).unwrap();
        let (folder, close) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        Self { folder, address, url, channel, adjust: Box::new(|_| {}), serving: None, close, window: None }
    }

    fn serve(&mut self, listener: TcpListener) {
        let mut config = coordinator::Config::new(self.folder.path().join("state"));
        config.patience.heartbeat = Duration::from_millis(50);
        config.patience.lease_ttl = Duration::from_secs(5);
        config.patience.reattach = Duration::from_millis(500);
        (self.adjust)(&mut config);
        self.close = CancellationToken::new();
        let listeners = coordinator::Listeners { grpc: listener, http: self.window.take() };
        let shutdown = self.close.clone().cancelled_owned();
        self.serving = Some(tokio::spawn(coordinator::run(config, listeners, shutdown)));
    }

    /// Ends the coordinator; workers go on.
    pub(crate) async fn stop(&mut self) {
        self.close.cancel();
        self.serving.take().unwrap().await.unwrap().unwrap();
    }

    /// Starts it again on the same state and at the same address.
    pub(crate) async fn start_again(&mut self) {
        let (address, began) = (self.address, Instant::now());
        loop {
            let listener =
                soon("the coordinator's port is free again", || async move { TcpListener::bind(address).await.ok() });
            let listener = listener.await;
            self.serve(listener);
            if self.serves().await {
                return;
            }
            // A process that another test was just starting may have the folder's lock for a moment.
            match self.serving.take().unwrap().await.unwrap() {
                Err(coordinator::Error::InUse(_)) if began.elapsed() < PATIENCE => {}
                ended => panic!("the coordinator has ended: {ended:?}"),
            }
        }
    }

    /// Waits until it serves; false if it has ended instead.
    async fn serves(&self) -> bool {
        soon("the coordinator serves", || async {
            if self.serving.as_ref().is_some_and(JoinHandle::is_finished) {
                return Some(false);
            }
            let answer = self.runs().list_runs(call(v1::ListRunsRequest {})).await;
            answer.ok().map(|_| true)
        })
        .await
    }

    /// A file name in the cluster's folder, for gates and notes.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn registration(&self) -> RegistrationServiceClient<Channel> {
        RegistrationServiceClient::new(self.channel())
    }

    /// A token to join with, for everybody in room 4.
    pub(crate) async fn token(&self, role: Role, uses: u32, ttl_ms: u64) -> JoinToken {
        let secret = Secret::draw().unwrap();
        let request = v1::CreateTokenRequest {
            secret_digest: secret.digest().to_string(),
            role: role.name().to_owned(),
            uses,
            ttl_ms,
            labels: [("room".to_owned(), "4".to_owned())].into(),
        };
        let made = self.registration().create_token(call(request)).await.unwrap().into_inner();
        JoinToken { ca: made.ca_fingerprint.parse().unwrap(), secret }
    }

    pub(crate) fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel())
    }

    pub(crate) fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel())
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel())
    }

    pub(crate) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel())
    }

    pub(crate) fn artifacts(&self) -> ArtifactServiceClient<Channel> {
        ArtifactServiceClient::new(self.channel())
    }

    /// Hands in the smallest study that has every stage; returns how it stands.
    pub(crate) async fn submit(&self) -> v1::RunStatus {
        let experiment = small();
        let pictures = self.path("pictures");
        std::fs::create_dir_all(&pictures).unwrap();
        std::fs::write(pictures.join("0.png"), "not looked at").unwrap();
        let manifest = transfer::scan(&pictures).unwrap();
        let data = data(manifest.id());
        Transfer::new(self.channel()).push_many(&[(pictures, manifest)]).await.unwrap();
        let request = v1::SubmitRequest {
            experiment_json: serde_json::to_string(&experiment).unwrap(),
            data_json: serde_json::to_string(&data).unwrap(),
            ..Default::default()
        };
        self.runs().submit(call(request)).await.unwrap().into_inner().status.unwrap()
    }

    /// How the run submitted last stands; nothing while the coordinator is away.
    pub(crate) async fn try_status(&self) -> Option<v1::RunStatus> {
        let answer = self.runs().get_run(call(v1::GetRunRequest::default())).await;
        answer.ok()?.into_inner().status
    }

    pub(crate) async fn status(&self) -> v1::RunStatus {
        self.try_status().await.unwrap()
    }

    /// Waits until the run looks as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&v1::RunStatus) -> bool) -> v1::RunStatus {
        let wanted = &wanted;
        soon(what, || async move { self.try_status().await.filter(wanted) }).await
    }

    /// Waits until nothing of the run can go on.
    pub(crate) async fn end(&self) -> v1::RunStatus {
        self.until("the run ends", |status| status.state() != v1::RunState::Running).await
    }

    /// Everything that happened to the tasks of the run so far.
    pub(crate) async fn changes(&self) -> Vec<v1::TaskChange> {
        let request = v1::WatchRunRequest::default();
        let mut answers = self.runs().watch_run(request).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().changes
    }

    /// How often each task came into a state, by key.
    pub(crate) async fn count(&self, state: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for change in self.changes().await.into_iter().filter(|change| change.state == state) {
            *counts.entry(change.task_key).or_default() += 1;
        }
        counts
    }

    /// A worker with a folder and threads of its own.
    pub(crate) fn worker(&self, name: &str, fake: &[(&str, &Path)]) -> Worker {
        self.worker_with(name, fake, |_| {})
    }

    /// As [`Cluster::worker`], with other settings.
    pub(crate) fn worker_with(
        &self,
        name: &str,
        fake: &[(&str, &Path)],
        adjust: impl FnOnce(&mut worker::Config),
    ) -> Worker {
        self.worker_watched(name, fake, None, adjust)
    }

    /// As [`Cluster::worker_with`], with its pages at a listener.
    pub(crate) fn worker_watched(
        &self,
        name: &str,
        fake: &[(&str, &Path)],
        window: Option<std::net::TcpListener>,
        adjust: impl FnOnce(&mut worker::Config),
    ) -> Worker {
        let mut config = self.worker_config(name, fake);
        adjust(&mut config);
        if let Some(window) = &window {
            window.set_nonblocking(true).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let drain = CancellationToken::new();
        let told = drain.clone().cancelled_owned();
        let ended = runtime.spawn(async {
            let http = window.map(|window| TcpListener::from_std(window).unwrap());
            worker::run(config, http, told).await
        });
        Worker { drain, ended: Some(ended), runtime: Some(runtime) }
    }

    /// What [`Cluster::worker`] starts a worker with.
    pub(crate) fn worker_config(&self, name: &str, fake: &[(&str, &Path)]) -> worker::Config {
        let environment = fake.iter().map(|(key, value)| ((*key).to_owned(), value.display().to_string()));
        worker::Config {
            coordinator: self.url.clone(),
            join_token: None,
            id: unique_id(name),
            name: name.to_owned(),
            slots: 2,
            gpus: vec![],
            memory_mib: 0,
            labels: BTreeMap::new(),
            stages: stages(),
            state: self.path(name),
            cache_bytes: worker::config::CACHE_BYTES,
            grace: Duration::from_secs(30),
            cadence: domain::study::stage::Cadence::default(),
            pass_env: vec![],
            in_process: None,
            program: Program {
                path: PathBuf::from(env!("CARGO_BIN_EXE_fake-stage")),
                arguments: vec![],
                environment: environment.collect(),
            },
        }
    }
}

/// A worker that lives as long as this value.
pub(crate) struct Worker {
    drain: CancellationToken,
    ended: Option<JoinHandle<Result<(), worker::Error>>>,
    runtime: Option<Runtime>,
}

impl Worker {
    /// Tells it to end and waits until it has.
    pub(crate) async fn drain(self) {
        self.drain.cancel();
        self.end().await.unwrap();
    }

    /// Waits until it ends by itself.
    pub(crate) async fn end(mut self) -> Result<(), worker::Error> {
        let ended = self.ended.take().unwrap();
        tokio::time::timeout(PATIENCE, ended).await.expect("the worker ends").unwrap()
    }

    /// Ends it without a word, and its children with it.
    pub(crate) fn vanish(self) {}
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Every stage of this version.
pub(crate) fn stages() -> Vec<(String, u32)> {
    StageKind::ALL.iter().map(|kind| kind.offered()).collect()
}

/// One fold: every stage is there, nothing twice.
pub(crate) fn small() -> Experiment {
    overrides::resolve(Scale::Smoke, None, &["tl.folds=1".to_owned()]).unwrap()
}

/// Every class has the same pictures; stages that compute nothing do not mind.
pub(crate) fn data(artifact: ArtifactId) -> Data {
    let raw = |place| RawClass::new(place, artifact, 1);
    Data { classes: Data::folders().map(raw).collect(), ..Data::default() }
}

/// Number of tasks of [`small`].
pub(crate) fn tasks() -> usize {
    plan::plan(&small(), &data(ArtifactId(Digest::of(b"")))).unwrap().tasks.len()
}
