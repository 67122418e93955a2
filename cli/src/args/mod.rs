//! The commands and their options, by noun.

mod artifact;
#[cfg(feature = "worker")]
mod bench;
mod coordinator;
mod journal;
#[cfg(feature = "worker")]
mod model;
mod study;
mod task;
mod token;
mod weights;
mod worker;

pub use artifact::*;
#[cfg(feature = "worker")]
pub use bench::*;
pub use coordinator::*;
pub use journal::*;
#[cfg(feature = "worker")]
pub use model::*;
pub use study::*;
pub use task::*;
pub use token::*;
pub use weights::*;
pub use worker::*;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs a published study over many workers and brings back a table of means and
/// standard deviations that can be believed.
#[derive(Debug, Parser)]
#[command(
    name = "lithogen",
    version,
    after_help = "Exit codes: 0 done · 1 error · 2 usage or spec · 4 data cannot be used · 5 ended with failed tasks ·\n\
                  6 coordinator unreachable · 7 versions do not fit · 130 interrupted, run again to go on\n\n\
                  Examples:\n  \
                  lithogen reproduce --scale tiny\n  \
                  lithogen plan --scale paper\n  \
                  lithogen reproduce --scale tiny --data ~/stones --set tl.repeats=5"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say only what went wrong.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// How a program that serves writes what it says.
#[derive(Clone, Copy, Debug, Args)]
pub struct Logs {
    /// How to write on standard error: lines for people, or JSON for what collects logs
    #[arg(long, env = "LITHOGEN_LOG_FORMAT", value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// See [`Logs::log_format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// One verb.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole study, from raw pictures to Table I
    #[cfg(feature = "worker")]
    Reproduce(Reproduce),
    /// Show what a study consists of, without running it
    Plan(Plan),
    /// Serve studies to workers
    Coordinator(Coordinator),
    /// Copy the coordinator's journal, or mend it
    Journal(Journal),
    /// Work for a coordinator, or look after those that do
    Worker(Worker),
    /// Let workers and people of other machines join
    Token(Token),
    /// Join a coordinator of another machine as a person
    Login(Login),
    /// Hand a study in
    Submit(Submit),
    /// Run a program of your own on the cluster
    Exec(Exec),
    /// Follow a study until it ends
    Watch(Watch),
    /// Wait until a study ends, silently
    Wait(RunOf),
    /// Call a study off; what is done stays done
    Cancel(Cancel),
    /// Hold a study back: what runs of it leaves a checkpoint and waits
    Pause(RunOf),
    /// Let a paused study go on
    Resume(RunOf),
    /// Look at one task
    Task(Task),
    /// List workers and studies
    Status(Status),
    /// Print Table I, paper beside ours
    Results(Results),
    /// Look at one number of Table I
    Cell(Cell),
    /// Look at the paper's own numbers
    Paper(Paper),
    /// Fetch, store, check and clear away files of studies
    Artifact(Artifact),
    /// Make data sets
    #[cfg(feature = "worker")]
    Dataset(Dataset),
    /// Import, export and sample diffusion models
    #[cfg(feature = "worker")]
    Model(Model),
    /// Measure this machine, and what of it is made use of
    #[cfg(feature = "worker")]
    Bench(Bench),
    /// Get, take in and check the published weights that a study starts from
    #[cfg(feature = "worker")]
    Weights(Weights),
    /// Print the resolved spec or its JSON Schema
    Config(Config),
    /// Print a completion script for a shell
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Run one attempt in a folder; started by a worker
    #[cfg(feature = "worker")]
    #[command(hide = true)]
    Attempt {
        /// With `order.json` and `inputs`.
        folder: PathBuf,
    },
    /// End commands whose worker is gone; started by a worker
    #[cfg(feature = "worker")]
    #[command(hide = true)]
    Guard,
}

/// Where a local study lives.
#[derive(Debug, Args)]
pub struct State {
    /// Folder of everything that survives this process
    #[arg(long, env = "LITHOGEN_STATE", default_value = "lithogen-data", value_name = "DIR")]
    pub state: PathBuf,
}

/// Whom to ask.
#[derive(Debug, Args)]
pub struct Remote {
    /// The coordinator, for instance http://127.0.0.1:7443 or https://lab:7443; without it, the one of `--state`
    #[arg(long, env = "LITHOGEN_COORDINATOR", value_name = "URL")]
    pub coordinator: Option<String>,
}

/// A run of some coordinator.
#[derive(Debug, Args)]
pub struct RunOf {
    /// The first digits of the run's name; the newest run by default
    #[arg(default_value = "")]
    pub run: String,
    /// Whom to ask.
    #[command(flatten)]
    pub remote: Remote,
    /// Where it lives, without a coordinator.
    #[command(flatten)]
    pub state: State,
}

/// `lithogen status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Whom to ask.
    #[command(flatten)]
    pub remote: Remote,
    /// Where it lives, without a coordinator.
    #[command(flatten)]
    pub state: State,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}
