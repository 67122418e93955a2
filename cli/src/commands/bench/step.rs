//! One step in a process of its own, so that its peak of memory is the process's. See
//! [`super::way`] for the lines that it speaks.

use anyhow::Context;
use science::device::{self, Kind};
use science::steps::Step;

use crate::out;

/// Does the step once for each line of standard input.
///
/// # Errors
/// If it cannot be done.
pub(super) fn run(name: &str, device: &str) -> anyhow::Result<()> {
    let kind = Kind::parse(device)?;
    device::dedicate(kind)?;
    let device = kind.open()?;
    let mut once = Step::named(name).context("there is no such step")?.prepare(&device);
    out::line(format_args!("ready lithogen {}, {}", env!("CARGO_PKG_VERSION"), device::name(&device)));
    for line in std::io::stdin().lines() {
        line?;
        out::line(once()?);
    }
    // What a GPU holds is no part of the process.
    let peak = if kind == Kind::Cpu { peak_bytes() } else { None };
    out::line(serde_json::to_string(&peak)?);
    Ok(())
}

/// Most memory that this process has had, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
