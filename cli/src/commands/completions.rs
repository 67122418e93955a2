//! `lithogen completions`.

use clap::CommandFactory;

use crate::args::Cli;
use crate::out;

/// Prints the script for a shell.
pub fn run(shell: clap_complete::Shell) {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Cli::command(), "lithogen", &mut script);
    out::raw(&script);
}
