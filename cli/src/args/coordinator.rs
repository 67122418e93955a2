//! Being a coordinator.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use coordinator::journal::postgres::{PATIENCE, Server};

use super::{Logs, State};
use crate::exit::{self, Problem};
use crate::units;

/// `lithogen coordinator`.
#[derive(Debug, Args)]
pub struct Coordinator {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, env = "LITHOGEN_LISTEN", default_value = "127.0.0.1:7443", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Serve /metrics for Prometheus, /healthz and /readyz over HTTP at this address too, as encrypted as
    /// the other; by default not at all
    #[arg(long, env = "LITHOGEN_HTTP", value_name = "ADDR:PORT")]
    pub http: Option<SocketAddr>,
    /// What it says.
    #[command(flatten)]
    pub logs: Logs,
    /// Where it lives.
    #[command(flatten)]
    pub state: State,
    /// Where files lie: a folder, or s3://BUCKET/PREFIX; `blobs` in the state folder by default
    #[arg(long, env = "LITHOGEN_BLOBS", value_name = "PLACE")]
    pub blobs: Option<String>,
    /// How often to remove files that no task needs, for instance 1d; never by default
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub gc_every: Option<Duration>,
    /// Tasks that are kept for one submitter; each KiB of a command or spec counts as one more
    #[arg(long, value_name = "TASKS", default_value_t = coordinator::config::Limits::default().kept_for_one)]
    pub kept_for_one: u64,
    /// A name or address by which other machines call this one; may be repeated
    #[arg(long = "tls-name", value_name = "NAME")]
    pub tls_names: Vec<String>,
    /// Encrypt on loopback too, and ask for certificates there
    #[arg(long)]
    pub tls: bool,
    /// Keep the journal in PostgreSQL rather than in the state folder. Several coordinators with one
    /// journal and one store of files take turns: one leads, the others stand by
    #[arg(long, env = "LITHOGEN_JOURNAL", hide_env_values = true, value_name = "postgres://…")]
    pub journal: Option<JournalUrl>,
    /// Where others reach this coordinator, if not at the address that it serves on
    #[arg(long, value_name = "URL", requires = "journal")]
    pub advertise: Option<String>,
}

/// The address of a journal in PostgreSQL. It may hold a password, so that it is read
/// only where it is used and nothing prints it.
#[derive(Clone)]
pub struct JournalUrl(String);

impl From<String> for JournalUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Debug for JournalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://…")
    }
}

impl JournalUrl {
    /// The journal there.
    ///
    /// # Errors
    /// Exit code 2 if it cannot be used.
    pub fn server(&self) -> anyhow::Result<Server> {
        Server::new(&self.0, PATIENCE).map_err(|error| Problem::new(exit::USAGE, error.to_string()).into())
    }
}
