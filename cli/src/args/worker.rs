//! Being a worker, and looking after workers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::token::label;
use super::{Logs, Remote, State, Status};
use crate::units;

/// `lithogen worker`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Worker {
    /// What to do with workers; without it, this becomes one.
    #[command(subcommand)]
    pub command: Option<WorkerCommand>,
    /// The coordinator, for instance http://127.0.0.1:7443 or https://lab:7443
    #[arg(long, env = "LITHOGEN_COORDINATOR", value_name = "URL", required = true)]
    pub coordinator: Option<String>,
    /// A file with the join token, for the first start with an https coordinator
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// The join token itself; other people see it among the processes, so prefer the variable
    #[arg(long, env = "LITHOGEN_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true, hide = true)]
    pub join_token: Option<String>,
    /// A name for people; the host's by default
    #[arg(long)]
    pub name: Option<String>,
    /// Attempts run at once; by default one per GPU offered or, without GPUs, one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub slots: Option<u16>,
    /// GPUs to offer: all, none, how many, or which (0,2). By default all that `--device` or commands can use
    #[cfg(feature = "worker")]
    #[arg(long, value_name = "GPUS")]
    pub gpus: Option<worker::devices::Choice>,
    /// Main memory that tasks may ask for in all, for instance 24G; the machine's by default, or its control group's
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub memory: Option<u64>,
    /// A word that tasks may ask for; may be repeated. What the join token said of the same key counts for more
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Serve /metrics for Prometheus, /healthz and /readyz over HTTP at this address of loopback; by default
    /// not at all
    #[arg(long, env = "LITHOGEN_HTTP", value_name = "ADDR:PORT")]
    pub http: Option<SocketAddr>,
    /// What it says.
    #[command(flatten)]
    pub logs: Logs,
    /// Folder for inputs, attempts and the worker's identity
    #[arg(long, env = "LITHOGEN_STATE", default_value = "lithogen-worker", value_name = "DIR")]
    pub state: PathBuf,
    /// Room for inputs and outputs that later attempts may need, for instance 200G
    #[arg(long, default_value = "16G", value_name = "SIZE", value_parser = units::bytes)]
    pub cache: u64,
    /// Run commands too that somebody hands in with `lithogen exec`, as this worker's user
    #[arg(long)]
    pub allow_exec: bool,
    /// A variable of this worker's environment that its programs find too, besides the usual ones; NAME*
    /// stands for all that begin so; may be repeated
    #[arg(long, value_name = "NAME", value_parser = variable)]
    pub pass_env: Vec<String>,
    /// How often trainings leave a checkpoint for whoever has to go on with them
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = units::duration)]
    pub checkpoint_every: Duration,
    /// Seconds that running attempts may go on after the worker was told to end
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub grace: u64,
    /// Signals by which the machine wants the worker gone: trainings leave a checkpoint and are handed back
    #[arg(long, value_enum, ignore_case = true, value_delimiter = ',', default_value = "TERM", value_name = "SIGNALS")]
    pub preempt_signals: Vec<SignalName>,
    /// Which processor computes: cpu, webgpu, vulkan or cuda
    #[arg(long, env = "LITHOGEN_DEVICE", default_value = "cpu")]
    pub device: String,
}

fn variable(name: &str) -> Result<String, &'static str> {
    let plain = |name: &str| !name.is_empty() && !name.contains(['=', '*', '\0']);
    if plain(name.strip_suffix('*').unwrap_or(name)) {
        Ok(name.to_owned())
    } else {
        Err("expected the name of a variable, or the beginning of names and a *")
    }
}

/// A signal that a worker can be told to end by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum SignalName {
    /// What systems send that shut down
    #[value(alias = "SIGTERM")]
    Term,
    /// What a terminal sends for ^C; it always ends a worker
    #[value(alias = "SIGINT")]
    Int,
    /// What a terminal sends that is closed
    #[value(alias = "SIGHUP")]
    Hup,
    /// What a terminal sends for ^\\
    #[value(alias = "SIGQUIT")]
    Quit,
    /// A warning of many batch systems
    #[value(alias = "SIGUSR1")]
    Usr1,
    /// A warning of some batch systems
    #[value(alias = "SIGUSR2")]
    Usr2,
}

/// One verb of `lithogen worker`.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// List workers that are connected, and all who have joined
    List(Status),
    /// End an identity for good and cut it off; its tasks run elsewhere
    Revoke {
        /// Its name or the id of its identity
        name: String,
        /// Whom to ask.
        #[command(flatten)]
        remote: Remote,
        /// Where it lives, without a coordinator.
        #[command(flatten)]
        state: State,
    },
    /// Tell a worker to take no more work, to end what it runs and to leave
    Drain(WorkerOf),
    /// Give a worker work again that was quarantined
    Readmit(WorkerOf),
    /// Test from this machine whether a worker could work for a coordinator
    Check(Check),
}

/// A worker of some coordinator.
#[derive(Debug, Args)]
pub struct WorkerOf {
    /// Its name or its id
    pub name: String,
    /// Whom to ask.
    #[command(flatten)]
    pub remote: Remote,
    /// Where it lives, without a coordinator.
    #[command(flatten)]
    pub state: State,
}

/// `lithogen worker check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Where the coordinator listens: HOST:PORT or its URL
    #[arg(value_name = "HOST:PORT")]
    pub coordinator: String,
    /// A file with the join token: whether it is the right coordinator is checked
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// The worker's folder: its identity and its disk are checked
    #[arg(long, env = "LITHOGEN_STATE", default_value = "lithogen-worker", value_name = "DIR")]
    pub state: PathBuf,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::SignalName;
    use crate::args::{Cli, Command};

    #[test]
    fn a_worker_is_run_or_asked_about() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("lithogen worker --coordinator http://127.0.0.1:7443 --slots 1").is_ok());
        assert!(parse("lithogen worker list --json").is_ok());
        assert!(parse("lithogen worker check lab:7443").is_ok());
        assert!(parse("lithogen worker --slots 1 list").is_err());
    }

    #[test]
    fn variables_are_passed_on_by_name_or_by_the_beginning_of_names() {
        let parse = |name: &str| {
            let words = ["lithogen", "worker", "--coordinator", "http://127.0.0.1:1", "--pass-env", name];
            match Cli::try_parse_from(words)?.command {
                Command::Worker(worker) => Ok::<_, clap::Error>(worker.pass_env),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(parse("WANDB_PROJECT").unwrap(), ["WANDB_PROJECT"]);
        assert_eq!(parse("SLURM_*").unwrap(), ["SLURM_*"]);
        for wrong in ["", "*", "A=b", "A*B"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn signals_have_their_usual_names() {
        let parse = |signals: &str| {
            let words = ["lithogen", "worker", "--coordinator", "http://127.0.0.1:1", "--preempt-signals", signals];
            match Cli::try_parse_from(words)?.command {
                Command::Worker(worker) => Ok(worker.preempt_signals),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(parse("TERM,SIGUSR1").unwrap(), [SignalName::Term, SignalName::Usr1]);
        assert_eq!(parse("usr2").unwrap(), [SignalName::Usr2]);
        assert!(parse("KILL").is_err_and(|error: clap::Error| error.to_string().contains("USR1")));
    }
}
