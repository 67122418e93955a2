//! A coordinator, and workers if wanted, in this process. The same calls over
//! the same wire as between machines, on a loopback port that the system picks.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use coordinator::journal::recover;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::exit::{self, Problem};
use crate::remote::Remote;

/// A coordinator in this process.
#[derive(Debug)]
pub struct Local {
    remote: Remote,
    serving: JoinHandle<Result<(), coordinator::Error>>,
    close: CancellationToken,
}

impl Local {
    /// Starts a coordinator on a state folder.
    ///
    /// # Errors
    /// If no port is to be had. That the folder is in use shows in [`Local::with`].
    pub async fn start(state: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let url = format!("http://{}", listener.local_addr()?);
        let close = CancellationToken::new();
        let config = coordinator::Config::new(state);
        let serving = tokio::spawn(coordinator::run(config, listener, close.clone().cancelled_owned()));
        Ok(Self { remote: Remote::new(&url)?, serving, close })
    }

    /// The connection to the coordinator.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Does some work as long as the coordinator lives.
    ///
    /// # Errors
    /// Those of the work, or why the coordinator ended before it.
    pub async fn with<T>(&mut self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            ended = &mut self.serving => {
                match ended.context("the coordinator's task")? {
                    Ok(()) => anyhow::bail!("the coordinator ended unexpectedly"),
                    Err(error) => Err(error.into()),
                }
            }
            done = work => done,
        }
    }

    /// Ends the coordinator and waits until its journal is closed.
    ///
    /// # Errors
    /// If the journal could not be written to its end.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.close.cancel();
        if self.serving.is_finished() {
            return Ok(());
        }
        Ok(self.serving.await.context("the coordinator's task")??)
    }
}

/// The file that says where the coordinator of a state folder serves.
pub fn address_file(state: &Path) -> PathBuf {
    state.join("address")
}

/// Asks the coordinator at `url`; without one, that of the state folder: the one
/// that runs there, or one started for the question.
///
/// # Errors
/// If there is neither.
pub async fn ask<T, F: Future<Output = anyhow::Result<T>>>(
    url: Option<&str>,
    state: &Path,
    question: impl Fn(Remote) -> F,
) -> anyhow::Result<T> {
    if let Some(url) = url {
        return question(Remote::new(url)?).await;
    }
    // Of one that is gone the coordinator says what to do.
    if !recover::is_there(&state.join("journal.sqlite")) {
        let message = format!(
            "there is no study in {}; run `lithogen reproduce` there, or name a coordinator with --coordinator URL",
            state.display()
        );
        return Err(Problem::new(exit::ERROR, message).into());
    }
    let mut local = Local::start(state).await?;
    let remote = local.remote().clone();
    let answer = local
        .with(async {
            // Until it serves, a call that fails says nothing: its end says that the folder is in use.
            remote.wait().await;
            question(remote).await
        })
        .await;
    match answer {
        Err(error) if is_in_use(&error) => question(running(state)?).await,
        answer => {
            local.stop().await?;
            answer
        }
    }
}

/// A connection to the coordinator that runs on a state folder.
///
/// # Errors
/// If there is no trace of one.
pub fn running(state: &Path) -> anyhow::Result<Remote> {
    if proto::channel::socket_path(state).exists() {
        return Remote::of_state(state);
    }
    // Its path was too long for a socket; then the port is for this machine.
    let path = address_file(state);
    let url = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Remote::new(url.trim())
}

/// Whether a coordinator could not start as another has its folder.
pub fn is_in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<coordinator::Error>(), Some(coordinator::Error::InUse(_)))
}

/// Ends the program with an error so long after the first interrupt or termination
/// signal, whatever it does by then: a thread that computes or waits for a disk hears
/// no signal.
///
/// # Errors
/// If the system gives no thread.
pub fn surely_end_within(grace: Duration) -> std::io::Result<()> {
    let timer = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wait = move || {
        timer.block_on(async {
            stop_signal().await;
            tokio::time::sleep(grace).await;
        });
        note!("error: it did not end within {} s after it was told to", grace.as_secs());
        std::process::exit(i32::from(exit::ERROR));
    };
    std::thread::Builder::new().name("end".to_owned()).spawn(wait)?;
    Ok(())
}

/// Waits for the first interrupt or termination signal.
pub async fn stop_signal() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}
