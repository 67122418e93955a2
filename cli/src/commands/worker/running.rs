//! Being a worker.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use domain::stage::{Cadence, Stage};
use proto::status::{INCOMPATIBLE, reason};
use worker::config::{Program, unique_id};

use crate::args::Worker;
use crate::commands::attempt::DEVICE;
use crate::commands::login;
use crate::exit::{self, Problem};
use crate::local::stop_signal;

/// Works until told to stop.
pub(super) async fn work(args: Worker) -> anyhow::Result<()> {
    check_device(&args.device)?;
    let cores = cores();
    let slots = args.slots.map_or(cores, usize::from);
    let name = args.name.unwrap_or_else(|| sysinfo::System::host_name().unwrap_or_else(|_| "worker".to_owned()));
    let coordinator = args.coordinator.context("--coordinator is missing")?;
    let mut config = config(&coordinator, &name, slots, (cores / slots).max(1), &args.device, args.state)?;
    config.grace = Duration::from_secs(args.grace);
    config.cache_bytes = args.cache;
    if args.allow_exec {
        config.stages.extend(Stage::CATALOGUE.iter().filter(is_command).map(owned));
    }
    config.cadence = Cadence { every_steps: None, every_seconds: Some(args.checkpoint_every.as_secs().max(1)) };
    config.join_token = match (&args.join_token_file, args.join_token.as_deref()) {
        (Some(path), _) => Some(login::read_token(path)?),
        // Environment files like to set what they have no value for.
        (None, None | Some("")) => None,
        (None, Some(token)) => Some(login::parse_token("LITHOGEN_JOIN_TOKEN", token)?),
    };
    eprintln!("worker {name} · {slots} slots · coordinator {} · ^C drains", config.coordinator);
    tokio::spawn(async {
        stop_signal().await;
        eprintln!("draining: what runs may end; ^C again ends at once, and what runs is handed to others");
        stop_signal().await;
        std::process::exit(i32::from(exit::INTERRUPTED));
    });
    worker::run(config, stop_signal()).await.map_err(|error| match &error {
        worker::Error::Refused(status) if reason(status).as_deref() == Some(INCOMPATIBLE) => {
            Problem::new(exit::INCOMPATIBLE, error.to_string()).into()
        }
        worker::Error::Url(_) => Problem::new(exit::USAGE, error.to_string()).into(),
        worker::Error::Identity(problem) => login::explain(problem),
        _ => error.into(),
    })
}

/// Refuses a device that this build cannot use before any work is taken.
///
/// # Errors
/// Exit code 2, saying how to build for it.
pub fn check_device(name: &str) -> anyhow::Result<()> {
    let opened = science::device::Kind::parse(name).and_then(science::device::Kind::open);
    opened.map(drop).map_err(|error| Problem::new(exit::USAGE, error.to_string()).into())
}

/// Processor cores to share out.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A worker of this program: each attempt is `lithogen attempt` with its share of
/// the cores.
///
/// # Errors
/// If the program's own file cannot be found.
pub fn config(
    coordinator: &str,
    name: &str,
    slots: usize,
    threads: usize,
    device: &str,
    state: PathBuf,
) -> anyhow::Result<worker::Config> {
    let path = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(worker::Config {
        coordinator: coordinator.to_owned(),
        join_token: None,
        id: unique_id(name),
        name: name.to_owned(),
        slots,
        stages: Stage::CATALOGUE.iter().filter(|stage| !is_command(stage)).map(owned).collect(),
        state,
        cache_bytes: worker::config::CACHE_BYTES,
        grace: Duration::from_secs(30),
        cadence: Cadence::default(),
        in_process: None,
        program: Program {
            path,
            arguments: vec!["attempt".to_owned()],
            environment: vec![
                ("RAYON_NUM_THREADS".to_owned(), threads.to_string()),
                (DEVICE.to_owned(), device.to_owned()),
            ],
        },
    })
}

/// The stage that runs whatever somebody asks for.
fn is_command((name, _): &&(&str, u32)) -> bool {
    *name == "command"
}

fn owned((name, version): &(&str, u32)) -> (String, u32) {
    ((*name).to_owned(), *version)
}
