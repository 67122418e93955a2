//! The coordinator, what is offered to it, the program to start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use domain::resources::Offer;
use domain::runner::task::Grant;
use domain::study::stage::{Cadence, Failure};
use proto::clock::since_1970;
use proto::join_token::JoinToken;

use crate::devices::Device;

/// Bytes kept for later attempts, unless somebody says otherwise.
pub const CACHE_BYTES: u64 = 16 << 30;

/// Runs an attempt in the worker's own process.
pub type InProcess = fn(&Grant) -> Result<(), Failure>;

/// Settings of one worker.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address of the coordinator, for instance `http://127.0.0.1:7443` or `https://lab:7443`.
    pub coordinator: String,
    /// The token to join an encrypted coordinator with, if nobody has joined from the state folder
    /// yet.
    pub join_token: Option<JoinToken>,
    /// A name that no other worker ever has: made anew at each start.
    pub id: String,
    /// The name that people see.
    pub name: String,
    /// Attempts run at once.
    pub slots: usize,
    /// GPUs for attempts. An attempt sees those that it was given, and no others.
    pub gpus: Vec<Device>,
    /// Main memory for attempts, MiB; 0 if unlimited.
    pub memory_mib: u64,
    /// Labels that tasks may ask for. Those that a join token gave count for more.
    pub labels: BTreeMap<String, String>,
    /// Stages that the program can run, by name and version.
    pub stages: Vec<(String, u32)>,
    /// Folder for inputs and attempts; what is in it can be fetched again.
    pub state: PathBuf,
    /// Bytes of inputs and outputs that are kept for later attempts.
    pub cache_bytes: u64,
    /// How long running attempts may go on after the worker was told to end.
    pub grace: Duration,
    /// How often trainings leave checkpoints.
    pub cadence: Cadence,
    /// Names of variables that programs find besides [`PASSED`](crate::environment::PASSED).
    pub pass_env: Vec<String>,
    /// The program that is started for each attempt, with the attempt's folder as last argument.
    pub program: Program,
    /// A function that runs attempts in this process instead, without inputs and outputs, so that
    /// the cost of what is around them can be measured.
    pub in_process: Option<InProcess>,
}

impl Config {
    /// What the worker offers to the coordinator. Nothing else is run.
    pub(crate) fn offer(&self) -> Offer {
        Offer {
            stages: self.stages.iter().cloned().collect(),
            slots: u32::try_from(self.slots).unwrap_or(u32::MAX),
            gpus: self.gpus.iter().map(|device| device.gpu.clone()).collect(),
            memory_mib: self.memory_mib,
            labels: self.labels.clone(),
        }
    }
}

/// A program with its arguments and additions to its environment.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    /// Arguments that come before the attempt's folder.
    pub arguments: Vec<String>,
    /// Variables that are set for the program.
    pub environment: Vec<(String, String)>,
}

/// A name for one worker process that no other has.
pub fn unique_id(name: &str) -> String {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
    process_of(&plain)
}

/// A name for this process of `whose`, from the process number and the time.
pub(crate) fn process_of(whose: &str) -> String {
    format!("{whose}-{}-{:x}", std::process::id(), since_1970().as_nanos())
}
