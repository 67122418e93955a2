//! `lithogen attempt`: one stage in a process of its own, so that whatever ends
//! it ends nothing else. See `worker::child` for the lines that it speaks.

use std::path::Path;

use anyhow::Context;
use domain::resources;
use domain::study::stage::{Failure, FailureCode, Folder};
use science::device::{self, Kind};
use tracing::Span;
use worker::child::protocol::{ORDER, Order};
use worker::child::speaker::{Speaker, fail};
use worker::environment;

use crate::exit::Problem;

/// Environment variable with the kind of processor to compute on.
pub const DEVICE: &str = "LITHOGEN_DEVICE";

/// Environment variable with the memory of the GPU, MiB.
pub const DEVICE_MEMORY: &str = "LITHOGEN_DEVICE_MEMORY_MIB";

/// Runs the order found in the folder.
///
/// # Errors
/// If there is no result; `failure.json` then says why.
pub fn run(folder: &Path) -> anyhow::Result<()> {
    let speaker = Speaker::start();
    let _in_its_trace = environment::span().entered();
    let order = Order::read(folder).with_context(|| format!("cannot read {}", folder.join(ORDER).display()))?;
    Span::current().record("stage", order.stage.kind().name());
    let kind = Kind::parse(std::env::var(DEVICE).as_deref().unwrap_or("cpu"))?;
    let device = kind.open()?;
    let of_gpu = || std::env::var(DEVICE_MEMORY).ok()?.parse().ok().map(|mib: u64| mib << 20);
    let memory = match kind {
        Kind::Cpu => resources::CPU_MEMORY_BYTES,
        _ => of_gpu().unwrap_or(resources::GPU_MEMORY_BYTES),
    };
    device::dedicate(kind)?;
    let attempt = science::stages::Attempt {
        seed: order.seed,
        folder: &Folder::new(folder),
        monitor: &mut speaker.with_cadence(order.checkpoint),
        device: &device,
        memory,
    };
    science::run(&order.stage, attempt).map_err(|mut failure| {
        // The scratch copy is gone when somebody reads this: the file's name in its input is what helps.
        let scratch = format!("{}/", Folder::new(folder).inputs().display());
        failure.message = failure.message.replace(&scratch, "");
        fail(folder, &failure);
        Problem::new(code(&failure), failure.to_string()).into()
    })
}

fn code(failure: &Failure) -> u8 {
    if failure.code == FailureCode::Preempted { crate::exit::INTERRUPTED } else { crate::exit::ERROR }
}
