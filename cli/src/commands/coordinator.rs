//! `lithogen coordinator`.

use anyhow::Context;
use tokio::net::TcpListener;

use crate::args::Coordinator;
use crate::exit::{self, Problem};
use crate::local::{address_file, stop_signal};
use crate::remote::Remote;

/// Serves until told to stop.
///
/// # Errors
/// If the address or the state folder cannot be used.
pub async fn run(args: Coordinator) -> anyhow::Result<()> {
    if !args.listen.ip().is_loopback() && !args.insecure_listen {
        let message = format!(
            "{} can be reached by other machines, and the wire is not encrypted yet: anybody who reaches it could hand \
             in work. Listen on 127.0.0.1, or say --insecure-listen on a network that you trust",
            args.listen
        );
        return Err(Problem::new(exit::USAGE, message).into());
    }
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    let state = args.state.state;
    std::fs::create_dir_all(&state).with_context(|| format!("cannot use {}", state.display()))?;
    let config = coordinator::Config { blobs: args.blobs, gc_every: args.gc_every, ..coordinator::Config::new(&state) };
    let serving = coordinator::run(config, listener, stop_signal());
    let announce = async {
        // The state folder is this process's only once it serves.
        Remote::new(&format!("http://{address}"))?.wait().await;
        let path = address_file(&state);
        std::fs::write(&path, format!("http://{address}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("coordinator http://{address} · state {} · ^C ends it, workers wait for it", state.display());
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        served = serving => Ok(served?),
        failed = announce => failed,
    }
}
