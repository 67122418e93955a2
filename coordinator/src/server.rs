//! Puts the parts together and serves them until told to stop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::v1::artifact_service_server::ArtifactServiceServer;
use proto::v1::experiment_service_server::ExperimentServiceServer;
use proto::v1::registration_service_server::RegistrationServiceServer;
use proto::v1::worker_service_server::WorkerServiceServer;
use proto::{channel, private};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::access::RoleCheck;
use crate::api::{Artifacts, Entrance, Experiments, Registration, Workers};
use crate::blobs::{self, Blobs};
use crate::config::Config;
use crate::driver;
use crate::gc;
use crate::journal;
use crate::listen::{self, Connections, Door, Guests};
use crate::logs::{self, Logs};
use crate::pki::{self, Pki};
use crate::seats::Hall;
use crate::standby;

/// Why the coordinator could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the state folder.
    #[error("{} is in use by another coordinator; wait for it to end, or give this one a folder of its own with --state", .0.display())]
    InUse(PathBuf),
    /// The state folder cannot be used.
    #[error("cannot use the state folder: {0}")]
    State(#[source] private::Error),
    /// It cannot wait until it leads.
    #[error(transparent)]
    Standby(#[from] standby::Error),
    /// It led, and does no more.
    #[error(transparent)]
    Lost(journal::Error),
    /// The driver could not start, or had to end as the journal failed.
    #[error(transparent)]
    Driver(#[from] driver::Error),
    /// The blob store cannot be opened.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The logs of attempts cannot be looked at.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// The certificate authority cannot be used.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// The Unix socket for this machine cannot be made.
    #[error("cannot listen on {}: {source}; a socket's path has at most 107 bytes, so a shorter --state may help", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The listener has no address.
    #[error("cannot listen: {0}")]
    Listen(io::Error),
    /// The network says no.
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The system gives no thread.
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

/// Largest message that a service decodes; most methods take less, see [`crate::access`].
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// File handles that are of use: more than there can be connections and files.
const HANDLES: u64 = 65_536;

/// Time in which clients may hear that the coordinator ends. One that does not
/// let go of a stream must not keep it alive.
const GOODBYE: Duration = Duration::from_secs(3);

/// Time in which the driver has to write what it was asked before the end.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// Serves until `shutdown` is ready. Open streams are ended, calls under way are
/// answered, and the journal is closed before it returns.
///
/// # Errors
/// If the state folder is in use or cannot be used, or the journal fails.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let limits = config.limits.within(file_handles());
    private::folder(&config.state)?;
    let _lock = private::lock(&config.state)?;
    let mut shutdown = Box::pin(shutdown);
    let Some((listener, turn)) = standby::wait(&config, limits, listener, shutdown.as_mut()).await? else {
        return Ok(());
    };
    let blobs = Blobs::open(&config.state, config.blobs.as_deref()).await?;
    let (driver, mut driver_end) = {
        let (config, open) = (config.clone(), turn.opener());
        // Reads the journal, which takes its time.
        tokio::task::spawn_blocking(move || driver::start(&config, open()?)).await??
    };

    // Streams live as long as their clients; they have to be told.
    let closing = CancellationToken::new();
    let stop = {
        let closing = closing.clone();
        async move {
            shutdown.await;
            closing.cancel();
            Ok(())
        }
    };
    if let Some(period) = config.gc_every {
        tokio::spawn(gc::repeat(driver.clone(), blobs.clone(), period, closing.clone()));
    }
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<WorkerServiceServer<Workers>>().await;
    health_reporter.set_serving::<ExperimentServiceServer<Experiments>>().await;
    health_reporter.set_serving::<ArtifactServiceServer<Artifacts>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .build_v1()?;
    let logs = config.state.join("logs");
    let logs = tokio::task::spawn_blocking(move || Logs::open(logs)).await??;
    tokio::spawn(gc::keep_tidy(blobs.clone(), closing.clone()));
    let experiments = Experiments::new(driver.clone(), blobs.clone(), logs.clone(), closing.clone(), &limits);
    let heartbeat = config.patience.heartbeat;
    let workers = Workers::new(driver.clone(), blobs.clone(), logs, heartbeat, closing.clone());
    let address = listener.local_addr().map_err(Error::Listen)?;
    let entrance = entrance(&config, address)?.map(Arc::new);
    let socket = local_socket(&config, entrance.is_some())?;
    let tls = match &entrance {
        Some(entrance) => Some(TlsAcceptor::from(entrance.pki.server(pki::names(address, &config.tls_names))?)),
        None => None,
    };
    let connections = Connections::default();
    let guests = tls.map(|tls| Guests { driver: driver.clone(), connections: connections.clone(), tls });
    let incoming = listen::incoming(listener, socket, Door::new(guests, limits));
    let registration = Registration::new(driver.clone(), connections, entrance);
    let mut routes = Routes::builder();
    routes
        .add_service(health)
        .add_service(reflection)
        .add_service(ExperimentServiceServer::new(experiments).max_decoding_message_size(MESSAGE_MAX))
        .add_service(WorkerServiceServer::new(workers).max_decoding_message_size(MESSAGE_MAX))
        .add_service(RegistrationServiceServer::new(registration))
        .add_service(Artifacts::new(driver.clone(), blobs, &limits).server());
    let routes = routes.routes();
    let guard = RoleCheck { hall: Hall::new(limits), limits };
    let serve = |server: Server, incoming| {
        let router = server.layer(guard.clone()).add_routes(routes.clone());
        router.serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned())
    };
    let known = serve(channel::server(), incoming.known);
    let strangers = serve(channel::server_for_strangers(), incoming.strangers);
    let mut serving = Box::pin(async move { tokio::try_join!(stop, known, strangers).map(drop) });
    let goodbye = async {
        closing.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    let served = tokio::select! {
        served = &mut serving => served,
        () = goodbye => Ok(()),
        ended = driver_end.wait() => {
            // The journal failed: nothing that is said from here on could be kept.
            closing.cancel();
            return ended.map_err(Error::Driver);
        }
        error = turn.lost() => {
            closing.cancel();
            return Err(Error::Lost(error));
        }
    };
    drop(serving);
    let ended = async {
        driver.end().await;
        driver_end.wait().await
    };
    match tokio::time::timeout(LAST_WRITE, ended).await {
        Ok(ended) => ended?,
        // As if it had been killed: what is answered is on disk.
        Err(_) => tracing::warn!("ends although the journal is being written; what was not answered may be lost"),
    }
    turn.release().await;
    Ok(served?)
}

/// File handles that this process may have, after it has asked for as many as it can
/// get and use.
fn file_handles() -> usize {
    let given = getrlimit(Resource::Nofile);
    let wanted = given.maximum.map_or(HANDLES, |maximum| maximum.min(HANDLES));
    let had = given.current.unwrap_or(HANDLES);
    // Where it is refused, what it had has to do.
    let raised = had < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..given }).is_ok();
    usize::try_from(if raised { wanted } else { had }).unwrap_or(usize::MAX)
}

/// The CA of a coordinator that other machines can reach. One that only this
/// machine can reach speaks plaintext and needs none.
fn entrance(config: &Config, address: SocketAddr) -> Result<Option<Entrance>, Error> {
    if config.is_plain(address) {
        return Ok(None);
    }
    let host = config.tls_names.first().cloned().unwrap_or_else(|| match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    });
    let pki = Pki::open(&config.state, config.certificate_life)?;
    Ok(Some(Entrance { pki, url: format!("https://{host}:{}", address.port()) }))
}

/// Where the port asks for certificates, the socket is the only way in for whoever
/// sits at this machine; elsewhere one can do without it.
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
