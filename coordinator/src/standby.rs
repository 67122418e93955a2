//! A standby coordinator: waits until it leads, and says so to all callers.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;
use tonic::service::InterceptorLayer;

use crate::background::Background;
use crate::config::{Config, Limits};
use crate::journal::leader::{Candidacy, Candidate, Lead};
use crate::journal::postgres::Server;
use crate::journal::{self, Journal, Location, Sqlite};
use crate::listen::{self, Acceptor};

/// Pause between two attempts to lead.
const POLL: Duration = Duration::from_millis(200);

/// Time in which callers may hear that they should call again.
const GOODBYE: Duration = Duration::from_millis(100);

/// How long a caller stays connected to a standby coordinator.
const WELCOME: Duration = Duration::from_secs(1);

/// Why a coordinator cannot stand by.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal's database cannot be used.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The listening socket cannot be used.
    #[error("cannot stand by: {0}")]
    Io(#[from] io::Error),
    /// The network connection failed while serving.
    #[error("cannot stand by: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// The right to serve, which comes from the journal that this coordinator may write to.
pub enum Tenure {
    /// The journal is a file that only this coordinator uses.
    File(PathBuf),
    /// The journal is shared, and this coordinator leads.
    Lead(Lead),
}

/// A function that opens a journal; it waits for disk or network.
pub type Open = Box<dyn FnOnce() -> Result<Box<dyn Journal>, journal::Error> + Send>;

impl Tenure {
    /// The function that opens this coordinator's journal.
    pub fn opener(&self) -> Open {
        match self {
            Self::File(path) => {
                let path = path.clone();
                Box::new(move || Ok(Box::new(Sqlite::open(&path)?)))
            }
            Self::Lead(lead) => Box::new(lead.opener()),
        }
    }

    /// Resolves when this coordinator may serve no longer.
    pub async fn lost(&self) -> journal::Error {
        match self {
            Self::File(_) => std::future::pending().await,
            Self::Lead(lead) => lead.lost().await,
        }
    }

    /// Gives the tenure back, so that the next coordinator can lead at once.
    pub async fn release(self) {
        if let Self::Lead(lead) = self {
            // If it cannot be given back, it ends by itself.
            let _ = blocking(|| lead.release()).await;
        }
    }
}

/// Waits until it is this coordinator's turn; also gives the listener back. Returns none if
/// told to end before. Meanwhile, `tell` receives the leader's address.
///
/// # Errors
/// If the database cannot be used at first, or the listener fails at any time.
pub(crate) async fn wait(
    config: &Config,
    limits: Limits,
    listener: TcpListener,
    tell: watch::Sender<String>,
    shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<Option<(TcpListener, Tenure)>, Error> {
    match &config.journal {
        Location::File(path) => Ok(Some((listener, Tenure::File(path.clone())))),
        Location::Postgres(server) => {
            let is_plain = config.is_plain(listener.local_addr()?);
            let scheme = if is_plain { "http" } else { "https" };
            let here = || Ok::<_, Error>(format!("{scheme}://{}", listener.local_addr()?));
            let address = config.advertise.clone().map_or_else(here, Ok)?;
            let server = &server.clone().marked_in(config.postgres_mark());
            let lead = if is_plain {
                let leader = tell.subscribe();
                answer_until(listener, limits, leader, stand(server, address, tell), shutdown).await?
            } else {
                hang_up_until(listener, stand(server, address, tell), shutdown).await?
            };
            Ok(lead.map(|(listener, lead)| (listener, Tenure::Lead(lead))))
        }
    }
}

/// Answers all callers that this coordinator stands by, and who leads, until this coordinator
/// leads.
async fn answer_until(
    listener: TcpListener,
    limits: Limits,
    leader: watch::Receiver<String>,
    stand: impl Future<Output = Result<Lead, Error>>,
    shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<Option<(TcpListener, Lead)>, Error> {
    let listener = listener.into_std()?;
    let answering = Background::default();
    let refuse = move |_| Err::<tonic::Request<()>, _>(Status::unavailable(refusal(&leader.borrow())));
    let (_, health) = tonic_health::server::health_reporter();
    // Whoever says nothing is gone as soon as where this coordinator leads.
    let tcp = TcpListener::from_std(listener.try_clone()?)?;
    let incoming = listen::incoming(tcp, None, Acceptor::new(None, limits), &answering);
    let serving = proto::channel::server()
        // Who knows another address turns to it when the connection ends.
        .max_connection_age(WELCOME)
        .layer(InterceptorLayer::new(refuse))
        .add_service(health)
        .serve_with_incoming_shutdown(incoming.known, answering.closed());
    tokio::pin!(serving);
    let lead = tokio::select! {
        lead = stand => lead?,
        served = &mut serving => {
            served?;
            return Ok(None);
        }
        () = shutdown => return Ok(None),
    };
    answering.close();
    // Calls under way are answered; connections that stay idle are told to go.
    if let Ok(served) = tokio::time::timeout(GOODBYE, serving).await {
        served?;
    }
    Ok(Some((TcpListener::from_std(listener)?, lead)))
}

/// Hangs up on all callers, who then try the other address that they know, until this
/// coordinator leads. Only the leader knows whose certificates are valid.
async fn hang_up_until(
    listener: TcpListener,
    stand: impl Future<Output = Result<Lead, Error>>,
    shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<Option<(TcpListener, Lead)>, Error> {
    let hang_up = async {
        loop {
            if let Err(error) = listener.accept().await {
                // Too many open files, perhaps; that passes.
                tracing::debug!(%error, "cannot answer a call");
                tokio::time::sleep(POLL).await;
            }
        }
    };
    let lead = tokio::select! {
        lead = stand => lead?,
        () = hang_up => return Ok(None),
        () = shutdown => return Ok(None),
    };
    Ok(Some((listener, lead)))
}

/// Tries to lead until it succeeds.
async fn stand(server: &Server, address: String, tell: watch::Sender<String>) -> Result<Lead, Error> {
    let server = server.clone();
    let mut candidate = blocking(move || Candidate::new(&server, &address)).await??;
    let mut tried = false;
    loop {
        let (back, candidacy) = blocking(move || {
            let candidacy = candidate.stand();
            (candidate, candidacy)
        })
        .await?;
        candidate = back;
        match candidacy {
            Ok(Candidacy::Leads(lead)) => {
                tell.send_replace(String::new());
                return Ok(lead);
            }
            Ok(Candidacy::Stands { leader }) => {
                let news = tell.send_if_modified(|known| {
                    let news = *known != leader;
                    *known = leader;
                    news
                });
                if news {
                    tracing::info!("{}", refusal(&tell.borrow()));
                }
            }
            Err(error) if tried => tracing::warn!(%error, "cannot ask who leads"),
            Err(error) => return Err(error.into()),
        }
        tried = true;
        tokio::time::sleep(POLL).await;
    }
}

pub(crate) fn refusal(leader: &str) -> String {
    match leader {
        "" => "this coordinator stands by".to_owned(),
        leader => format!("this coordinator stands by; {leader} leads"),
    }
}

async fn blocking<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(wait).await.map_err(io::Error::from)
}
