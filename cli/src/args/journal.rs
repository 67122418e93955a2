//! The coordinator's journal.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{JournalUrl, State};

/// `lithogen journal`.
#[derive(Debug, Args)]
pub struct Journal {
    /// What to do.
    #[command(subcommand)]
    pub command: JournalCommand,
}

/// `lithogen journal <verb>`.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Copy the journal to a file, while its coordinator runs or not
    Backup {
        /// The copy; must not exist
        file: PathBuf,
        /// Where it lives.
        #[command(flatten)]
        state: State,
    },
    /// Go on with what can be read of a damaged journal, or with an older copy of it
    Recover {
        /// Only say what would be kept and what is lost
        #[arg(long)]
        dry_run: bool,
        /// The journal, if it is in PostgreSQL
        #[arg(long, env = "LITHOGEN_JOURNAL", hide_env_values = true, value_name = "postgres://…")]
        journal: Option<JournalUrl>,
        /// Where it lives.
        #[command(flatten)]
        state: State,
    },
}
