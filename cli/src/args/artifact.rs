//! Files of studies.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Remote, State};
use crate::units;

/// `lithogen artifact`.
#[derive(Debug, Args)]
pub struct Artifact {
    /// What to do with artifacts.
    #[command(subcommand)]
    pub command: ArtifactCommand,
}

/// One verb of `lithogen artifact`.
#[derive(Debug, Subcommand)]
pub enum ArtifactCommand {
    /// Write an artifact's files to a folder
    Get {
        /// An artifact's digest, or the first digits of a run for its report
        #[arg(value_name = "DIGEST|RUN")]
        what: String,
        /// Only this file, or the files below this folder
        path: Option<String>,
        /// Folder to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Whom to ask.
        #[command(flatten)]
        at: At,
    },
    /// Store a folder or a file and print its digest
    Put {
        /// The folder or file
        path: PathBuf,
        /// Whom to ask.
        #[command(flatten)]
        at: At,
    },
    /// Read every stored file again and name what is damaged or missing
    Verify {
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        at: At,
    },
    /// Remove stored files that no task needs
    Gc {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
        /// Keep what was stored or asked for within this time
        #[arg(long, default_value = "24h", value_name = "TIME", value_parser = units::duration)]
        grace: Duration,
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        at: At,
    },
}

/// Some coordinator.
#[derive(Debug, Args)]
pub struct At {
    /// Whom to ask.
    #[command(flatten)]
    pub remote: Remote,
    /// Where it lives, without a coordinator.
    #[command(flatten)]
    pub state: State,
}
