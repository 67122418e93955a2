//! Being a worker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use domain::study::stage::{Cadence, StageKind};
use proto::status::{Reason, reason};
use science::device::{self, Kind};
use tokio_util::sync::CancellationToken;
use worker::config::{Program, unique_id};
use worker::devices::{self, Choice, Device};
use worker::memory::limit_mib;

use crate::args::Worker;
use crate::commands::attempt::DEVICE;
use crate::commands::coordinator::listen_for_pages;
use crate::commands::worker::signals::Signals;
use crate::commands::workers::in_words;
use crate::exit::{self, Problem};
use crate::identities;
use crate::units::MIB;

/// Works until told to stop.
pub(super) async fn work(args: Worker) -> anyhow::Result<()> {
    let mut signals = Signals::listen(&args.preempt_signals).context("cannot listen for signals")?;
    check_device(&args.device)?;
    let gpus = gpus(&args.device, args.gpus.as_ref(), args.allow_exec)?;
    let cores = cores();
    let slots = args.slots.map_or_else(|| slots(gpus.len(), cores), usize::from);
    let name = args.name.unwrap_or_else(|| sysinfo::System::host_name().unwrap_or_else(|_| "worker".to_owned()));
    let coordinator = args.coordinator.context("--coordinator is missing")?;
    let mut config = config(&coordinator, &name, slots, (cores / slots).max(1), &args.device, args.state)?;
    config.gpus = gpus;
    config.memory_mib = args.memory.map_or_else(|| limit_mib().unwrap_or(0), |bytes| bytes.div_ceil(MIB));
    config.labels = args.labels.into_iter().collect();
    config.grace = Duration::from_secs(args.grace);
    config.pass_env = args.pass_env;
    config.cache_bytes = args.cache;
    if args.allow_exec {
        config.stages.extend([StageKind::Command.offered()]);
    }
    config.cadence = Cadence { every_steps: None, every_seconds: Some(args.checkpoint_every.as_secs().max(1)) };
    config.join_token = match (&args.join_token_file, args.join_token.as_deref()) {
        (Some(path), _) => Some(identities::read_token(path)?),
        // Environment files like to set what they have no value for.
        (None, None | Some("")) => None,
        (None, Some(token)) => Some(identities::parse_token("LITHOGEN_JOIN_TOKEN", token)?),
    };
    let offered = match &config.gpus[..] {
        [] => String::new(),
        gpus => format!(" · {}", in_words(gpus.iter().map(|device| device.gpu.name.as_str()))),
    };
    note!("worker {name} · {slots} slots{offered} · coordinator {} · ^C drains", config.coordinator);
    let http = match args.http {
        Some(address) => {
            worker::window::check(address).map_err(|error| Problem::new(exit::USAGE, error.to_string()))?;
            let listener = listen_for_pages(address).await?;
            note!("pages http://{}/metrics, /healthz and /readyz", listener.local_addr()?);
            Some(listener)
        }
        None => None,
    };
    let drain = CancellationToken::new();
    let told = drain.clone();
    tokio::spawn(async move {
        signals.any().await;
        note!("draining: what runs may end; ^C again ends at once, and what runs is handed to others");
        drain.cancel();
        signals.interrupt().await;
        std::process::exit(i32::from(exit::INTERRUPTED));
    });
    worker::run(config, http, told.cancelled_owned()).await.map_err(|error| match &error {
        worker::Error::Refused(status) if reason(status) == Some(Reason::Incompatible) => {
            Problem::new(exit::INCOMPATIBLE, error.to_string()).into()
        }
        worker::Error::Url(_) => Problem::new(exit::USAGE, error.to_string()).into(),
        worker::Error::Identity(problem) => identities::explain(problem),
        _ => error.into(),
    })
}

/// Refuses a device that this build cannot use, or instructions that the processor lacks,
/// before any work is taken.
///
/// # Errors
/// Exit code 2, saying how to build for it.
pub fn check_device(name: &str) -> anyhow::Result<()> {
    let opened = Kind::parse(name).and_then(Kind::open).and_then(|_| device::check_instructions());
    opened.map_err(|error| Problem::new(exit::USAGE, error.to_string()).into())
}

/// The GPUs to offer. Unless somebody chooses, those that attempts can use: all that
/// commands or `cuda` may find, one for other kinds of GPU, none on the processor.
///
/// # Errors
/// If GPUs are asked for that are not there, or that the device cannot use.
pub fn gpus(device: &str, choice: Option<&Choice>, allow_exec: bool) -> anyhow::Result<Vec<Device>> {
    let usage = |message: String| anyhow::Error::from(Problem::new(exit::USAGE, message));
    let kind = Kind::parse(device).map_err(|error| usage(error.to_string()))?;
    if choice == Some(&Choice::First(0)) || (choice.is_none() && kind == Kind::Cpu && !allow_exec) {
        return match kind {
            Kind::Cpu => Ok(vec![]),
            _ => Err(usage(format!("--device {device} computes on a GPU, and --gpus offers none"))),
        };
    }
    let found = match devices::look() {
        Ok(driver) => driver.devices,
        Err(devices::Error::NoDriver) => vec![],
        Err(error) => {
            tracing::warn!("{error}");
            vec![]
        }
    };
    let usual = match kind {
        Kind::Cpu => Choice::All,
        Kind::Cuda if !found.is_empty() => Choice::All,
        // It computes on one, whether that can be looked at or not.
        Kind::Cuda | Kind::Webgpu | Kind::Vulkan => Choice::First(1),
    };
    let visible = std::env::var(devices::VISIBLE).ok();
    let gpus = choice.unwrap_or(&usual).of(&found, visible.as_deref()).map_err(|error| usage(error.to_string()))?;
    match kind {
        Kind::Webgpu | Kind::Vulkan if gpus.len() > 1 => Err(usage(format!(
            "--device {device} computes on one GPU: start a worker for each with --gpus 1, and say which with \
             CUBECL_WGPU_DEFAULT_DEVICE=DiscreteGpu(0), (1) and so on"
        ))),
        _ => Ok(gpus),
    }
}

/// Attempts to run at once, unless somebody says how many.
pub fn slots(gpus: usize, cores: usize) -> usize {
    if gpus > 0 { gpus } else { cores }
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
    // Whatever somebody asks for is run only where that was allowed.
    let of_the_study = StageKind::ALL.iter().filter(|kind| **kind != StageKind::Command);
    Ok(worker::Config {
        coordinator: coordinator.to_owned(),
        join_token: None,
        id: unique_id(name),
        name: name.to_owned(),
        slots,
        gpus: vec![],
        memory_mib: 0,
        labels: BTreeMap::new(),
        stages: of_the_study.map(|kind| kind.offered()).collect(),
        state,
        cache_bytes: worker::config::CACHE_BYTES,
        grace: Duration::from_secs(30),
        cadence: Cadence::default(),
        pass_env: vec![],
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
