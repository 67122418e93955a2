//! The program: parse, run, say what went wrong, exit with a documented code.

use std::process::ExitCode;

use clap::Parser;
use lithogen_cli::args::Cli;

fn main() -> ExitCode {
    proto::tls::install();
    lithogen_cli::run(Cli::parse())
}
