//! The commands and their options.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use domain::experiment::Scale;
use domain::registry::Role;
use domain::resources::Resources;

use crate::units;

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
    Cancel(RunOf),
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
    /// Fetch, store, check and clear away files of studies
    Artifact(Artifact),
    /// Make data sets
    #[cfg(feature = "worker")]
    Dataset(Dataset),
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
}

/// A named size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScaleName {
    /// Every stage runs, nothing is learnt: seconds
    Smoke,
    /// The whole study on small pictures: minutes
    Tiny,
    /// The study as published: GPU-days
    Paper,
}

impl From<ScaleName> for Scale {
    fn from(name: ScaleName) -> Scale {
        match name {
            ScaleName::Smoke => Scale::Smoke,
            ScaleName::Tiny => Scale::Tiny,
            ScaleName::Paper => Scale::Paper,
        }
    }
}

/// Which study.
#[derive(Debug, Args)]
pub struct Spec {
    /// A spec file in TOML; names its own scale
    pub spec: Option<PathBuf>,
    /// The preset to use without a spec file
    #[arg(long, value_enum, default_value = "tiny", conflicts_with = "spec")]
    pub scale: ScaleName,
    /// Change one knob, for instance `tl.repeats=2` (see `lithogen config show`)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
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

/// `lithogen reproduce`.
#[derive(Debug, Args)]
pub struct Reproduce {
    /// Which study.
    #[command(flatten)]
    pub spec: Spec,
    /// Pictures in `raw/{A,C}/{SUR,SEC}/<class>/`; without it, stand-ins are drawn
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where it lives.
    #[command(flatten)]
    pub state: State,
    /// Where it runs: without a coordinator, in this process.
    #[command(flatten)]
    pub remote: Remote,
    /// Local workers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Attempts that each local worker runs at once; without it, all cores are shared out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub slots: Option<u16>,
    /// Which processor computes: cpu, webgpu, vulkan or cuda
    #[arg(long, env = "LITHOGEN_DEVICE", default_value = "cpu")]
    pub device: String,
    /// What to do once a task is given up
    #[arg(long, value_enum, default_value = "stop")]
    pub on_failure: OnFailure,
    /// Print the results as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// See [`Reproduce::on_failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// Call the rest off: what is done stays done
    Stop,
    /// Do all that does not need the failed task
    Continue,
}

/// `lithogen plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// Which study.
    #[command(flatten)]
    pub spec: Spec,
    /// Plan for these pictures rather than for the paper's counts
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// One JSON object with all tasks
    #[arg(long)]
    pub json: bool,
}

/// `lithogen coordinator`.
#[derive(Debug, Args)]
pub struct Coordinator {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, env = "LITHOGEN_LISTEN", default_value = "127.0.0.1:7443", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Where it lives.
    #[command(flatten)]
    pub state: State,
    /// Where files lie: a folder, or s3://BUCKET/PREFIX; `blobs` in the state folder by default
    #[arg(long, env = "LITHOGEN_BLOBS", value_name = "PLACE")]
    pub blobs: Option<String>,
    /// How often to remove files that no task needs, for instance 1d; never by default
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub gc_every: Option<Duration>,
    /// A name or address by which other machines call this one; may be repeated
    #[arg(long = "tls-name", value_name = "NAME")]
    pub tls_names: Vec<String>,
    /// Encrypt on loopback too, and ask for certificates there
    #[arg(long)]
    pub tls: bool,
    /// Keep the journal in PostgreSQL rather than in the state folder. Several coordinators with one
    /// journal and one store of files take turns: one leads, the others stand by
    #[arg(long, env = "LITHOGEN_JOURNAL", hide_env_values = true, value_name = "postgres://…", value_parser = journal)]
    pub journal: Option<coordinator::journal::postgres::Server>,
    /// Where others reach this coordinator, if not at the address that it serves on
    #[arg(long, value_name = "URL", requires = "journal")]
    pub advertise: Option<String>,
}

fn journal(url: &str) -> Result<coordinator::journal::postgres::Server, coordinator::journal::Error> {
    use coordinator::journal::postgres::{PATIENCE, Server};
    Server::new(url, PATIENCE)
}

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
    /// Attempts run at once; one per core by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub slots: Option<u16>,
    /// Folder for inputs, attempts and the worker's identity
    #[arg(long, env = "LITHOGEN_STATE", default_value = "lithogen-worker", value_name = "DIR")]
    pub state: PathBuf,
    /// Room for inputs and outputs that later attempts may need, for instance 200G
    #[arg(long, default_value = "16G", value_name = "SIZE", value_parser = units::bytes)]
    pub cache: u64,
    /// Run commands too that somebody hands in with `lithogen exec`, as this worker's user
    #[arg(long)]
    pub allow_exec: bool,
    /// How often trainings leave a checkpoint for whoever has to go on with them
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = units::duration)]
    pub checkpoint_every: Duration,
    /// Seconds that running attempts may go on after the worker was told to end
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub grace: u64,
    /// Which processor computes: cpu, webgpu, vulkan or cuda
    #[arg(long, env = "LITHOGEN_DEVICE", default_value = "cpu")]
    pub device: String,
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

/// `lithogen token`.
#[derive(Debug, Args)]
pub struct Token {
    /// What to do with join tokens.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// One verb of `lithogen token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a join token; it is shown once
    Create {
        /// How many may join with it
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// How long it may be used, for instance 90s, 30m, 24h or 7d
        #[arg(long, default_value = "24h", value_name = "TIME", value_parser = duration)]
        ttl: Duration,
        /// What those who join may do
        #[arg(long, value_enum, default_value = "worker")]
        role: RoleName,
        /// A word about those who join, for people and placement; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// Whom to ask.
        #[command(flatten)]
        remote: Remote,
        /// Where it lives, without a coordinator.
        #[command(flatten)]
        state: State,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// List join tokens, without their secrets
    List(Status),
    /// Call a join token back; who has joined stays
    Revoke {
        /// The first digits of its id
        id: String,
        /// Whom to ask.
        #[command(flatten)]
        remote: Remote,
        /// Where it lives, without a coordinator.
        #[command(flatten)]
        state: State,
    },
}

/// See [`Role`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Lease tasks and hand results in
    Worker,
    /// Hand studies in, watch them, call them off
    Submitter,
    /// Watch studies and fetch results
    Viewer,
    /// Everything, also letting others join
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Worker => Role::Worker,
            RoleName::Submitter => Role::Submitter,
            RoleName::Viewer => Role::Viewer,
            RoleName::Admin => Role::Admin,
        }
    }
}

/// A span of time: a number and its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("{text:?} is no span of time; write for instance 90s, 30m, 24h or 7d");
    let split = text.len().saturating_sub(1);
    let (number, unit) = text.split_at_checked(split).ok_or_else(problem)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(problem()),
    };
    let number: u32 = number.parse().map_err(|_| problem())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label; write KEY=VALUE")),
    }
}

/// `lithogen login`.
#[derive(Debug, Args)]
pub struct Login {
    /// The coordinator, for instance https://lab:7443
    #[arg(value_name = "URL")]
    pub coordinator: String,
    /// A file with the join token
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// A name for the administrator's list; the account's by default
    #[arg(long)]
    pub name: Option<String>,
}

/// `lithogen submit`.
#[derive(Debug, Args)]
pub struct Submit {
    /// Which study.
    #[command(flatten)]
    pub spec: Spec,
    /// Pictures in `raw/{A,C}/{SUR,SEC}/<class>/`; without it, stand-ins are drawn
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The coordinator, for instance http://127.0.0.1:7443
    #[arg(long, env = "LITHOGEN_COORDINATOR", value_name = "URL")]
    pub coordinator: String,
    /// Folder for stand-ins
    #[command(flatten)]
    pub state: State,
}

/// `lithogen exec`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        lithogen exec --array 1-10 --wait -- python3 train.py\n  \
                        lithogen exec --each-line configs.txt --resources gpus=1,gpu-memory=20G -- ./run.sh")]
pub struct Exec {
    /// A name for people; the program's by default
    #[arg(long)]
    pub name: Option<String>,
    /// One task for each index, which it finds in LITHOGEN_INDEX
    #[arg(long, value_name = "FIRST-LAST", value_parser = units::range, conflicts_with = "each_line")]
    pub array: Option<[u64; 2]>,
    /// One task for each line of a file, which it finds in LITHOGEN_LINE
    #[arg(long, value_name = "FILE")]
    pub each_line: Option<PathBuf>,
    /// What each task occupies: slots=2,gpus=0.5,gpu-memory=8G,memory=16G,label.site=lab
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true, value_parser = units::resources)]
    pub resources: Resources,
    /// An input: a folder's name in LITHOGEN_INPUTS and the artifact that it holds
    #[arg(long = "input", value_name = "NAME=DIGEST")]
    pub inputs: Vec<String>,
    /// A variable for the program
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub environment: Vec<String>,
    /// Runs with more go first
    #[arg(long, default_value_t = 0, allow_hyphen_values = true, value_name = "N")]
    pub priority: i32,
    /// Do not run again what has a result
    #[arg(long)]
    pub cached: bool,
    /// Wait until all is done
    #[arg(long)]
    pub wait: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub remote: Remote,
    /// Where it lives, without a coordinator.
    #[command(flatten)]
    pub state: State,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub argv: Vec<String>,
}

/// `lithogen watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Which run.
    #[command(flatten)]
    pub run: RunOf,
    /// One JSON object per line: status and changes
    #[arg(long)]
    pub jsonl: bool,
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

/// `lithogen task`.
#[derive(Debug, Args)]
pub struct Task {
    /// What about it.
    #[command(subcommand)]
    pub command: TaskCommand,
}

/// One verb of `lithogen task`.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// Say why a task stands where it stands, why it ran again, and what changed about it
    Why {
        /// Which task.
        #[command(flatten)]
        task: TaskOf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print what an attempt said
    Logs {
        /// Which task.
        #[command(flatten)]
        task: TaskOf,
        /// Which attempt, from 1; the newest by default
        #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
        attempt: u32,
        /// Go on until the attempt ends
        #[arg(short, long)]
        follow: bool,
    },
}

/// A task of some coordinator.
#[derive(Debug, Args)]
pub struct TaskOf {
    /// The first digits of the task's key
    pub task: String,
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

/// `lithogen results`.
#[derive(Debug, Args)]
pub struct Results {
    /// Which run.
    #[command(flatten)]
    pub run: RunOf,
    /// The whole document (schema: `lithogen config schema --of results`)
    #[arg(long)]
    pub json: bool,
}

/// `lithogen artifact`.
#[derive(Debug, Args)]
pub struct Artifact {
    /// What to do with artifacts.
    #[command(subcommand)]
    pub command: ArtifactCommand,
}

/// One verb of `lithogen artifact`.
#[derive(Debug, Subcommand)]
pub enum ArtifactCommand {
    /// Write an artifact's files to a folder
    Get {
        /// An artifact's digest, or the first digits of a run for its report
        #[arg(value_name = "DIGEST|RUN")]
        what: String,
        /// Only this file, or the files below this folder
        path: Option<String>,
        /// Folder to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Whom to ask.
        #[command(flatten)]
        at: At,
    },
    /// Store a folder or a file and print its digest
    Put {
        /// The folder or file
        path: PathBuf,
        /// Whom to ask.
        #[command(flatten)]
        at: At,
    },
    /// Read every stored file again and name what is damaged or missing
    Verify {
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        at: At,
    },
    /// Remove stored files that no task needs
    Gc {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
        /// Keep what was stored or asked for within this time
        #[arg(long, default_value = "24h", value_name = "TIME", value_parser = units::duration)]
        grace: Duration,
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        at: At,
    },
}

/// Some coordinator.
#[derive(Debug, Args)]
pub struct At {
    /// Whom to ask.
    #[command(flatten)]
    pub remote: Remote,
    /// Where it lives, without a coordinator.
    #[command(flatten)]
    pub state: State,
}

/// `lithogen dataset`.
#[cfg(feature = "worker")]
#[derive(Debug, Args)]
pub struct Dataset {
    /// What to do with data.
    #[command(subcommand)]
    pub command: DatasetCommand,
}

/// One verb of `lithogen dataset`.
#[cfg(feature = "worker")]
#[derive(Debug, Subcommand)]
pub enum DatasetCommand {
    /// Draw procedural stones that stand in for real pictures
    Phantom {
        /// Folder to make
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Which study's sizes, and changes to them: `phantom.size_a=[4288,2848]`, `seed=7`
        #[command(flatten)]
        spec: Spec,
    },
}

/// `lithogen config`.
#[derive(Debug, Args)]
pub struct Config {
    /// What to print.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// One verb of `lithogen config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// The spec with every knob spelt
    Show {
        /// Which study.
        #[command(flatten)]
        spec: Spec,
    },
    /// A JSON Schema
    Schema {
        /// Of what
        #[arg(long, value_enum, default_value = "spec")]
        of: SchemaOf,
    },
}

/// What a schema is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// Spec files
    Spec,
    /// `lithogen results --json`
    Results,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_have_a_unit() {
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "h", "24", "-1h", "1.5h", "2w", "9999999999d", "5µ"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_worker_is_run_or_asked_about() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("lithogen worker --coordinator http://127.0.0.1:7443 --slots 1").is_ok());
        assert!(parse("lithogen worker list --json").is_ok());
        assert!(parse("lithogen worker check lab:7443").is_ok());
        assert!(parse("lithogen worker --slots 1 list").is_err());
    }
}
