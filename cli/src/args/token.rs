//! Letting others join, and joining.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use domain::runner::registry::Role;

use super::{Remote, State, Status};

/// `lithogen token`.
#[derive(Debug, Args)]
pub struct Token {
    /// What to do with join tokens.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// One verb of `lithogen token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a join token; it is shown once
    Create {
        /// How many may join with it
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// How long it may be used, for instance 90s, 30m, 24h or 7d
        #[arg(long, default_value = "24h", value_name = "TIME", value_parser = duration)]
        ttl: Duration,
        /// What those who join may do
        #[arg(long, value_enum, default_value = "worker")]
        role: RoleName,
        /// A word about those who join, for people and placement; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// Whom to ask.
        #[command(flatten)]
        remote: Remote,
        /// Where it lives, without a coordinator.
        #[command(flatten)]
        state: State,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// List join tokens, without their secrets
    List(Status),
    /// Call a join token back; who has joined stays
    Revoke {
        /// The first digits of its id
        id: String,
        /// Whom to ask.
        #[command(flatten)]
        remote: Remote,
        /// Where it lives, without a coordinator.
        #[command(flatten)]
        state: State,
    },
}

/// See [`Role`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Lease tasks and hand results in
    Worker,
    /// Hand in studies, watch and cancel them
    Submitter,
    /// Watch studies and fetch results
    Viewer,
    /// Everything, also letting others join
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Worker => Role::Worker,
            RoleName::Submitter => Role::Submitter,
            RoleName::Viewer => Role::Viewer,
            RoleName::Admin => Role::Admin,
        }
    }
}

/// A span of time: a number and its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("{text:?} is no span of time; write for instance 90s, 30m, 24h or 7d");
    let split = text.len().saturating_sub(1);
    let (number, unit) = text.split_at_checked(split).ok_or_else(problem)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(problem()),
    };
    let number: u32 = number.parse().map_err(|_| problem())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// A label: a key and its value.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label; write KEY=VALUE")),
    }
}

/// `lithogen login`.
#[derive(Debug, Args)]
pub struct Login {
    /// The coordinator, for instance https://lab:7443
    #[arg(value_name = "URL")]
    pub coordinator: String,
    /// A file with the join token
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// A name for the administrator's list; the account's by default
    #[arg(long)]
    pub name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_have_a_unit() {
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "h", "24", "-1h", "1.5h", "2w", "9999999999d", "5µ"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
