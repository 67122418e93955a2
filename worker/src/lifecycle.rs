//! A worker from joining to its end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::runner::task::WorkerId;
use proto::channel::Credentials;
use proto::path_error::io_error;
use proto::private;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{self, Config};
use crate::shared::Shared;
use crate::store::Store;
use crate::window::{self, Exposed, View};
use crate::{identity, lease_loop, reports, session};

/// Why the worker could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is no URL.
    #[error(transparent)]
    Url(#[from] proto::address::InvalidUrl),
    /// The worker cannot join the coordinator.
    #[error(transparent)]
    Identity(#[from] proto::identity::Error),
    /// The state folder cannot be used.
    #[error("cannot use the state folder: {0}")]
    State(#[source] private::Error),
    /// Another process has the state folder.
    #[error("{} is in use by another worker; give this one a folder of its own with --state", .0.display())]
    InUse(PathBuf),
    /// The coordinator does not want this worker.
    #[error("the coordinator refuses this worker: {}", .0.message())]
    Refused(tonic::Status),
    /// The pages would be seen by other machines.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// The listener for pages has no address.
    #[error("cannot listen for --http: {0}")]
    Listen(#[source] io::Error),
}

impl From<private::Error> for Error {
    fn from(error: private::Error) -> Self {
        match error {
            private::Error::InUse(folder) => Self::InUse(folder),
            error => Self::State(error),
        }
    }
}

/// Reports that may wait before attempts have to.
const REPORTS: usize = 64;

/// Works until `drain` is ready, then lets running attempts end within the grace
/// period, hands back the rest and returns. Pages are served to whoever connects to `http`.
///
/// # Errors
/// If an address or the state folder cannot be used, or the coordinator refuses
/// this worker for good. A coordinator that is away is waited for.
pub async fn run(config: Config, http: Option<TcpListener>, drain: impl Future<Output = ()>) -> Result<(), Error> {
    if let Some(listener) = &http {
        window::check(listener.local_addr().map_err(Error::Listen)?)?;
    }
    let addresses = proto::address::Address::parse_all(&config.coordinator)?;
    private::folder(&config.state)?;
    let _lock = private::lock(&config.state)?;
    let state_error = |error| Error::State(io_error("use", &config.state)(error).into());
    // Programs of others run in folders of their own and are told where theirs lie.
    let root = std::path::absolute(&config.state).map_err(state_error)?;
    let store = Store::open(&root, config.cache_bytes).map_err(state_error)?;
    let view = View::new(&config.coordinator);
    let _window = http.map(|listener| AbortOnDropHandle::new(tokio::spawn(window::serve(listener, view.clone()))));
    let (reports, reported) = mpsc::channel(REPORTS);
    tokio::pin!(drain);
    let joined = tokio::select! {
        joined = identity::open(&addresses, &config) => joined?,
        () = &mut drain => return Ok(()),
    };
    let credentials = Credentials::default();
    let mut id = config.id.clone();
    if let Some(identity) = &joined {
        credentials.replace(identity.config()?);
        id = config::process_of(&identity.id);
    }
    let channel = proto::channel::connect(&config.coordinator, &credentials)?;
    let shared = Arc::new(Shared::new(config, WorkerId(id), channel, store, reports));
    view.joined(shared.clone());
    let done = CancellationToken::new();
    let session = tokio::spawn(session::run(shared.clone(), done.clone()));
    let leasing = tokio::spawn(lease_loop::run(shared.clone()));
    let reporting = tokio::spawn(reports::run(shared.channel.clone(), reported));
    if let Some(identity) = joined {
        let renewing = identity::keep(identity, credentials, shared.channel.clone());
        tokio::spawn(done.clone().run_until_cancelled_owned(renewing));
    }
    tokio::pin!(session, leasing);
    let (refused, asked) = tokio::select! {
        () = &mut drain => (None, true),
        // The coordinator wants it to leave: what runs may end.
        () = shared.draining.cancelled() => (None, false),
        ended = &mut session => (ended.ok().and_then(Result::err), true),
    };
    shared.draining.cancel();
    let mut is_over = false;
    if !asked {
        is_over = tokio::select! {
            // A panic there has been reported; its attempts ended with it.
            _ = &mut leasing => true,
            () = &mut drain => false,
        };
    }
    if !is_over {
        shared.in_a_hurry.cancel();
        // Of one that is refused for good nobody takes a result.
        let grace = if refused.is_some() { Duration::ZERO } else { shared.config.grace };
        if tokio::time::timeout(grace, &mut leasing).await.is_err() {
            shared.out_of_time.cancel();
            let _ = leasing.await;
        }
    }
    reporting.abort();
    done.cancel();
    match refused {
        Some(status) => Err(Error::Refused(status)),
        None => {
            let _ = session.await;
            Ok(())
        }
    }
}
