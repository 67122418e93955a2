//! `lithogen bench`.

mod compute;
mod step;
mod way;

use crate::args::{Bench, BenchCommand};
use crate::block_on;

/// Measures what was asked for.
///
/// # Errors
/// Exit code 2 for a device or a Python that is none, 1 if a step of ours cannot be measured.
pub fn run(args: &Bench, quiet: bool) -> anyhow::Result<()> {
    match &args.command {
        BenchCommand::Compute(args) => block_on(compute::run(args, quiet)),
        BenchCommand::Step { name, device } => step::run(name, device),
    }
}
