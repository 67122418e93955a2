//! `lithogen bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use science::steps::Step;

use crate::units;

/// `lithogen bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Measure the machine's peaks, every kernel and every step of a training, beside PyTorch if asked to
    Compute(Compute),
    /// Do a step once for each line of standard input; started by `compute`
    #[command(hide = true)]
    Step {
        /// Which one.
        #[arg(value_parser = step_name())]
        name: String,
        /// Kind of processor to compute on.
        device: String,
    },
}

/// `lithogen bench compute`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    lithogen bench compute\n  \
    lithogen bench compute --peer python3 --json > compute.json\n  \
    lithogen bench compute --step resnet50_train_24x256 --peer ~/torch/bin/python --rounds 5\n  \
    lithogen bench compute --kernel 'weight gradient'")]
pub struct Compute {
    /// Steps to measure, and no kernels; without it all of both
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = step_name())]
    pub step: Vec<String>,
    /// Kernels to measure, those whose name contains this, and no steps but those of `--step`
    #[arg(long, value_name = "PART")]
    pub kernel: Option<String>,
    /// A Python that has torch, to do the same steps in turn; for Swin2SR it needs transformers too
    #[arg(long, value_name = "PYTHON")]
    pub peer: Option<PathBuf>,
    /// Times that each way of a step is measured, after one that does not count
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// How long a way may take to be ready, or for a step, before it is given up
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = units::duration)]
    pub timeout: Duration,
    /// Which processor computes: cpu, webgpu, vulkan or cuda. The peaks and kernels are the processor's
    #[arg(long, env = "LITHOGEN_DEVICE", default_value = "cpu")]
    pub device: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

fn step_name() -> PossibleValuesParser {
    PossibleValuesParser::new(Step::ALL.iter().map(|step| step.name))
}
