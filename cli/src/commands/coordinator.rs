//! `lithogen coordinator`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use coordinator::Listeners;
use tokio::net::TcpListener;

use crate::args::Coordinator;
use crate::local::{address_file, stop_signal, surely_end_within};
use crate::remote::Remote;

/// Time in which the coordinator ends when it is told to: streams get their goodbye and the journal
/// is closed in less.
const GRACE: Duration = Duration::from_secs(20);

/// Serves until told to stop.
///
/// # Errors
/// If the address or the state folder cannot be used.
pub async fn run(args: Coordinator) -> anyhow::Result<()> {
    let grpc = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = grpc.local_addr()?;
    let http = match args.http {
        Some(address) => Some(listen_for_pages(address).await?),
        None => None,
    };
    let pages = http.as_ref().map(TcpListener::local_addr).transpose()?;
    let state = args.state.state;
    let mut config = coordinator::Config::new(&state);
    (config.blobs, config.gc_every) = (args.blobs, args.gc_every);
    config.limits.kept_for_one = args.kept_for_one;
    config.tls_always = args.tls;
    config.tls_names = names(args.tls_names, address.ip());
    let encrypted = args.tls || !address.ip().is_loopback();
    let url = format!("{}://{address}", if encrypted { "https" } else { "http" });
    let pages = pages.map(|address| {
        let scheme = if args.tls || !address.ip().is_loopback() { "https" } else { "http" };
        format!("{scheme}://{address}")
    });
    config.advertise = args.advertise;
    if let Some(url) = args.journal {
        config.journal = coordinator::journal::Location::Postgres(url.server()?);
    }
    surely_end_within(GRACE)?;
    let serving = coordinator::run(config, Listeners { grpc, http }, stop_signal());
    let announce = async {
        // The state folder is this process's only once it serves.
        Remote::of_state(&state)?.wait().await;
        let path = address_file(&state);
        proto::private::write(&path, &format!("{url}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
        note!("coordinator {url} · state {} · ^C ends it, workers wait for it", state.display());
        if let Some(pages) = &pages {
            note!("pages {pages}/metrics, /healthz and /readyz");
        }
        if encrypted {
            note!("to let a worker join: lithogen token create --state {}", state.display());
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        served = serving => Ok(served?),
        failed = announce => failed,
    }
}

/// A listener for pages.
///
/// # Errors
/// If the address cannot be had, with what to do about it.
pub(crate) async fn listen_for_pages(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for --http; give it another port, or port 0 for a free one")
    })
}

/// What other machines call this one, the best name first.
fn names(given: Vec<String>, listens: IpAddr) -> Vec<String> {
    let address = Some(listens).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
    // A name that no certificate can hold is of no use to others either.
    let host = sysinfo::System::host_name().ok().filter(|name| name.is_ascii());
    given.into_iter().chain(address).chain(host).collect()
}
