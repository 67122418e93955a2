//! Builds the coordinator's parts and serves until told to stop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::v1::artifact_service_server::ArtifactServiceServer;
use proto::v1::cluster_service_server::ClusterServiceServer;
use proto::v1::registration_service_server::RegistrationServiceServer;
use proto::v1::run_service_server::RunServiceServer;
use proto::v1::task_service_server::TaskServiceServer;
use proto::v1::worker_service_server::WorkerServiceServer;
use proto::{channel, private};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::admission::RoleCheck;
use crate::api::{Artifacts, CertAuthority, Cluster, Registration, Runs, Tasks, Workers};
use crate::background::Background;
use crate::blobs::{self, Blobs};
use crate::config::{Config, Limits};
use crate::driver::{self, Handle};
use crate::gc;
use crate::journal;
use crate::listen::{self, Acceptor, Connections, Guests, Incoming};
use crate::logs::{self, Logs};
use crate::pki::{self, Pki};
use crate::seats::Hall;
use crate::standby::{self, Tenure};
use crate::window::{self, View};

/// Why the coordinator could not start or continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses the state folder.
    #[error("{} is in use by another coordinator; wait for it to end, or give this one a folder of its own with --state", .0.display())]
    InUse(PathBuf),
    /// The state folder cannot be used.
    #[error("cannot use the state folder: {0}")]
    State(#[source] private::Error),
    /// This coordinator cannot wait for its turn to lead.
    #[error(transparent)]
    Standby(#[from] standby::Error),
    /// This coordinator led, and leads no more.
    #[error(transparent)]
    Lost(journal::Error),
    /// The driver could not start, or ended as the journal failed.
    #[error(transparent)]
    Driver(#[from] driver::Error),
    /// The blob store cannot be opened.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The logs of attempts cannot be listed.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// The certificate authority cannot be used.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// The Unix socket of the state folder cannot be made.
    #[error("cannot listen on {}: {source}; a socket's path has at most 107 bytes, so a shorter --state may help", path.display())]
    Socket { path: PathBuf, source: io::Error },
    /// The listener's address cannot be read.
    #[error("cannot listen: {0}")]
    Listen(io::Error),
    /// The network connection failed while serving.
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The operating system refuses a thread.
    #[error("cannot start: {0}")]
    Start(#[from] tokio::task::JoinError),
    /// The reflection service could not be made.
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl From<private::Error> for Error {
    fn from(error: private::Error) -> Self {
        match error {
            private::Error::InUse(folder) => Self::InUse(folder),
            error => Self::State(error),
        }
    }
}

/// Largest message that a service decodes, in bytes; most methods take less, see
/// [`crate::access`].
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Most useful file handles: more than there can be connections and files.
const HANDLES: u64 = 65_536;

/// Time in which clients may hear that the coordinator ends. A client that keeps its stream
/// open must not keep the coordinator alive.
const GOODBYE: Duration = Duration::from_secs(3);

/// Time in which background tasks may end once the clients are gone.
const LAST_TASKS: Duration = Duration::from_secs(1);

/// Time in which the driver has to write what it was asked to before the end.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// The sockets that a coordinator listens on.
#[derive(Debug)]
pub struct Listeners {
    /// Listens for the gRPC services.
    pub grpc: TcpListener,
    /// Listens for the pages over HTTP, if these are enabled.
    pub http: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(grpc: TcpListener) -> Self {
        Self { grpc, http: None }
    }
}

/// Serves until `shutdown` resolves. Open streams are ended, calls under way are answered, and
/// the journal is closed before this returns.
///
/// # Errors
/// If the state folder is in use or cannot be used, or the journal fails.
pub async fn run(
    config: Config,
    listeners: impl Into<Listeners>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let limits = config.limits.within(file_handles());
    private::folder(&config.state)?;
    let _lock = private::lock(&config.state)?;
    let mut shutdown = Box::pin(shutdown);
    let Listeners { grpc: listener, http } = listeners.into();
    let (background, connections) = (Background::default(), Connections::default());
    let _closing = background.close_on_drop();
    let (knows, driver) = watch::channel(None);
    let (tell, leader) = watch::channel(String::new());
    if let Some(http) = http {
        let view = View::new(driver.clone(), leader, config.state.clone());
        let address = http.local_addr().map_err(Error::Listen)?;
        window::open(&config, limits, http, address, connections.clone(), view, &background)?;
    }
    let Some((listener, tenure)) = standby::wait(&config, limits, listener, tell, shutdown.as_mut()).await? else {
        return Ok(());
    };
    let common = Common { background, connections, knows };
    let (mut core, face) = build(&config, limits, listener, tenure, common).await?;
    let served = core.serve(face, shutdown).await?;
    core.drain().await?;
    Ok(served?)
}

/// What the gRPC services and the window share.
struct Common {
    background: Background,
    connections: Connections,
    /// Receives the driver's handle as soon as there is a driver.
    knows: watch::Sender<Option<Handle>>,
}

/// The parts behind the services.
struct Core {
    driver: Handle,
    driver_end: driver::End,
    tenure: Tenure,
    background: Background,
}

/// The services, and the connections that reach them.
struct Face {
    routes: Routes,
    guard: RoleCheck,
    incoming: Incoming,
}

/// Opens the stores, starts the driver and listens.
async fn build(
    config: &Config,
    limits: Limits,
    listener: TcpListener,
    tenure: Tenure,
    common: Common,
) -> Result<(Core, Face), Error> {
    let Common { background, connections, knows } = common;
    let blobs = Blobs::open(&config.state, config.blobs.as_deref()).await?;
    let (driver, driver_end) = {
        let (config, open) = (config.clone(), tenure.opener());
        // Reads the journal, which takes its time.
        tokio::task::spawn_blocking(move || driver::start(&config, open()?)).await??
    };
    let logs = config.state.join("logs");
    let logs = tokio::task::spawn_blocking(move || Logs::open(logs)).await??;
    let address = listener.local_addr().map_err(Error::Listen)?;
    let ca = cert_authority(config, address)?.map(Arc::new);
    let socket = local_socket(config, ca.is_some())?;
    let tls = match &ca {
        Some(ca) => Some(TlsAcceptor::from(ca.pki.server(pki::names(address, &config.tls_names))?)),
        None => None,
    };
    knows.send_replace(Some(driver.clone()));
    let guests = tls.map(|tls| Guests { driver: knows.subscribe(), connections: connections.clone(), tls });
    let incoming = listen::incoming(listener, socket, Acceptor::new(guests, limits), &background);

    let runs = Runs::new(driver.clone(), blobs.clone(), background.clone(), &limits);
    let tasks = Tasks::new(driver.clone(), blobs.clone(), logs.clone(), background.clone());
    let cluster = Cluster::new(driver.clone());
    let heartbeat = config.patience.heartbeat;
    let workers = Workers::new(driver.clone(), blobs.clone(), logs, heartbeat, background.clone());
    let registration = Registration::new(driver.clone(), connections, ca);
    let artifacts = Artifacts::new(driver.clone(), blobs.clone(), background.clone(), &limits);
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<WorkerServiceServer<Workers>>().await;
    health_reporter.set_serving::<RunServiceServer<Runs>>().await;
    health_reporter.set_serving::<TaskServiceServer<Tasks>>().await;
    health_reporter.set_serving::<ClusterServiceServer<Cluster>>().await;
    health_reporter.set_serving::<ArtifactServiceServer<Artifacts>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .build_v1()?;
    let mut routes = Routes::builder();
    routes
        .add_service(health)
        .add_service(reflection)
        .add_service(RunServiceServer::new(runs).max_decoding_message_size(MESSAGE_MAX))
        .add_service(TaskServiceServer::new(tasks).max_decoding_message_size(MESSAGE_MAX))
        .add_service(ClusterServiceServer::new(cluster).max_decoding_message_size(MESSAGE_MAX))
        .add_service(WorkerServiceServer::new(workers).max_decoding_message_size(MESSAGE_MAX))
        .add_service(RegistrationServiceServer::new(registration))
        .add_service(artifacts.server());

    background.spawn_until_closed(gc::keep_tidy(blobs.clone()));
    if let Some(period) = config.gc_every {
        background.spawn_until_closed(gc::repeat(driver.clone(), blobs, period));
    }
    let face = Face { routes: routes.routes(), guard: RoleCheck { hall: Hall::new(limits), limits }, incoming };
    Ok((Core { driver, driver_end, tenure, background }, face))
}

impl Core {
    /// Serves until `shutdown` resolves and clients had time to hear of the end.
    ///
    /// # Errors
    /// Outer: the journal failed or another coordinator leads, so that nothing could be kept
    /// from now on. Inner: the network failed.
    async fn serve(
        &mut self,
        face: Face,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Result<(), tonic::transport::Error>, Error> {
        let Face { routes, guard, incoming } = face;
        let serve = |server: Server, incoming| {
            let router = server.layer(guard.clone()).add_routes(routes.clone());
            // Streams live as long as their clients; they have to be told.
            router.serve_with_incoming_shutdown(incoming, self.background.closed())
        };
        let known = serve(channel::server(), incoming.known);
        let strangers = serve(channel::server_for_strangers(), incoming.strangers);
        let stop = async {
            shutdown.await;
            self.background.close();
            Ok(())
        };
        let serving = async { tokio::try_join!(stop, known, strangers).map(drop) };
        let goodbye = async {
            self.background.closed().await;
            tokio::time::sleep(GOODBYE).await;
        };
        let failed = tokio::select! {
            served = serving => return Ok(served),
            () = goodbye => return Ok(Ok(())),
            ended = self.driver_end.wait() => ended.map_err(Error::Driver),
            error = self.tenure.lost() => Err(Error::Lost(error)),
        };
        self.background.close();
        failed.map(Ok)
    }

    /// Waits for the background tasks and for the journal, for a limited time each.
    async fn drain(mut self) -> Result<(), Error> {
        let left = self.background.drain(LAST_TASKS).await;
        if left > 0 {
            tracing::debug!(left, "ends although tasks in the background go on");
        }
        let ended = async {
            self.driver.end().await;
            self.driver_end.wait().await
        };
        match tokio::time::timeout(LAST_WRITE, ended).await {
            Ok(ended) => ended?,
            // As if it had been killed: what is answered is on disk.
            Err(_) => tracing::warn!("ends although the journal is being written; what was not answered may be lost"),
        }
        self.tenure.release().await;
        Ok(())
    }
}

/// File handles that this process may open, after raising the limit as far as allowed and
/// useful.
fn file_handles() -> usize {
    let given = getrlimit(Resource::Nofile);
    let wanted = given.maximum.map_or(HANDLES, |maximum| maximum.min(HANDLES));
    let had = given.current.unwrap_or(HANDLES);
    // Where it is refused, what it had has to do.
    let raised = had < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..given }).is_ok();
    usize::try_from(if raised { wanted } else { had }).unwrap_or(usize::MAX)
}

/// The CA of a coordinator that other machines can reach. A coordinator that only this machine
/// can reach speaks plaintext and needs none.
fn cert_authority(config: &Config, address: SocketAddr) -> Result<Option<CertAuthority>, Error> {
    if config.is_plain(address) {
        return Ok(None);
    }
    let host = config.tls_names.first().cloned().unwrap_or_else(|| match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    });
    let pki = Pki::open(&config.state, config.certificate_life)?;
    Ok(Some(CertAuthority { pki, url: format!("https://{host}:{}", address.port()) }))
}

/// The Unix socket of the state folder. Where the port asks for certificates, the socket is the
/// only way in for local administrators, so a failure is an error if `needed`; elsewhere a
/// failure is only logged.
fn local_socket(config: &Config, needed: bool) -> Result<Option<UnixListener>, Error> {
    let path = channel::socket_path(&config.state);
    match listen::socket(&path) {
        Ok(socket) => Ok(Some(socket)),
        Err(source) if needed => Err(Error::Socket { path, source }),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no Unix socket for commands on this machine");
            Ok(None)
        }
    }
}
