//! Single tasks, and programs of one's own.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use domain::resources::Resources;

use super::{Remote, RunOf, State};
use crate::units;

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
    /// An input: a folder's name in LITHOGEN_INPUTS and what it holds, an artifact or path:FOLDER
    #[arg(long = "input", value_name = "NAME=SOURCE")]
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

/// `lithogen cancel`.
#[derive(Debug, Args)]
pub struct Cancel {
    /// Which.
    #[command(flatten)]
    pub run: RunOf,
    /// Only this task and what needs it, by the first digits of its key; the run goes on
    #[arg(long = "task", value_name = "ID")]
    pub tasks: Vec<String>,
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
    /// List the tasks of a study
    List {
        /// Which.
        #[command(flatten)]
        run: RunOf,
        /// Only tasks in this state: waiting, ready, running, succeeded, failed, cancelled or pruned
        #[arg(long, default_value = "", hide_default_value = true, value_name = "STATE")]
        only: String,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say why a task stands where it stands, why it ran again, and what changed about it
    Why {
        /// Which task.
        #[command(flatten)]
        task: TaskOf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Run it once more on this machine and compare the result, which is left in a folder
    #[cfg(feature = "worker")]
    Rerun {
        /// Which task.
        #[command(flatten)]
        task: TaskOf,
        /// Folder to make, for its inputs and outputs
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Compute results again that are gone, and say what that takes
    #[command(after_help = "Examples:\n  \
                            lithogen task recompute 9a0f706a\n  \
                            lithogen task recompute --lost --yes")]
    Recompute {
        /// The first digits of the tasks' keys
        #[arg(value_name = "TASK", required_unless_present = "lost")]
        tasks: Vec<String>,
        /// All results that are not stored whole; `lithogen artifact verify` finds what is damaged
        #[arg(long)]
        lost: bool,
        /// Do it, rather than say what it would do
        #[arg(long)]
        yes: bool,
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

/// `lithogen cell`.
#[derive(Debug, Args)]
pub struct Cell {
    /// What about it.
    #[command(subcommand)]
    pub command: CellCommand,
}

/// One verb of `lithogen cell`.
#[derive(Debug, Subcommand)]
pub enum CellCommand {
    /// Say which runs, seeds, splits and weights a number of Table I comes from
    Explain {
        /// The cell, as in exported tables, for instance SUR-8-2
        cell: String,
        /// The first digits of the run's name; the newest run by default
        #[arg(long, default_value = "", hide_default_value = true)]
        run: String,
        /// Of a run by several protocols: which; the first by default
        #[arg(long, value_name = "NAME")]
        protocol: Option<String>,
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
}
