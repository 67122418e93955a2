//! `lithogen completions`.

use clap::CommandFactory;

use crate::args::Cli;

/// Prints the script for a shell.
pub fn run(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "lithogen", &mut std::io::stdout());
}
