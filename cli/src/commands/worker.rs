//! `lithogen worker`.

use crate::args::{Worker, WorkerCommand};
use crate::commands::{check, workers};

/// Works until told to stop, or looks after workers.
///
/// # Errors
/// If the device or the state folder cannot be used, or the coordinator refuses.
pub async fn run(args: Worker) -> anyhow::Result<()> {
    match &args.command {
        Some(WorkerCommand::List(status)) => workers::list(status).await,
        Some(WorkerCommand::Revoke { name, remote, state }) => workers::revoke(name, remote, state).await,
        Some(WorkerCommand::Drain(worker)) => workers::drain(worker).await,
        Some(WorkerCommand::Readmit(worker)) => workers::readmit(worker).await,
        Some(WorkerCommand::Check(args)) => check::run(args).await,
        None => work(args).await,
    }
}

#[cfg(not(feature = "worker"))]
async fn work(_: Worker) -> anyhow::Result<()> {
    use crate::exit::{self, Problem};
    Err(Problem::new(exit::USAGE, "this build holds no stages to run; use one with the feature `worker`").into())
}

#[cfg(feature = "worker")]
use running::work;
#[cfg(feature = "worker")]
pub use running::{check_device, config, cores, gpus, slots};

#[cfg(feature = "worker")]
mod running;
#[cfg(feature = "worker")]
mod signals;
