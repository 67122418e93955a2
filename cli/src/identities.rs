//! Who a person is to coordinators of other machines: join tokens, and what came of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use proto::address::{Address, InvalidUrl};
use proto::channel::Credentials;
use proto::clock::now_ms;
use proto::identity::{Error, Identity};
use proto::join_token::{Invalid, JoinToken};
use tonic::transport::Channel;

use crate::exit::{self, Problem};

/// A join token from a file.
///
/// # Errors
/// Exit code 2 if it holds none.
pub fn read_token(path: &Path) -> anyhow::Result<JoinToken> {
    let text = fs::read_to_string(path)
        .map_err(|error| Problem::new(exit::USAGE, format!("cannot read {}: {error}", path.display())))?;
    parse_token(&path.display().to_string(), &text)
}

/// A join token that was found at some place.
///
/// # Errors
/// Exit code 2 if it is none.
pub fn parse_token(place: &str, text: &str) -> anyhow::Result<JoinToken> {
    text.parse().map_err(|error: Invalid| Problem::new(exit::USAGE, format!("{place}: {error}")).into())
}

/// An error of joining, with its exit code.
pub fn explain(error: &Error) -> anyhow::Error {
    let code = match error {
        Error::Url(_) => exit::USAGE,
        Error::Call(status) if proto::status::refused(status).is_none() && !proto::status::is_final(status) => {
            exit::UNREACHABLE
        }
        _ => exit::ERROR,
    };
    Problem::new(code, error.to_string()).into()
}

/// What to show to the coordinator at `url`: the identity of who has logged in
/// there, or nothing where nothing is asked for.
///
/// # Errors
/// If nobody has logged in, or the identity cannot be used.
pub fn credentials(url: &str) -> anyhow::Result<(Credentials, Option<Identity>)> {
    let Some(folder) = folder(url)? else { return Ok((Credentials::default(), None)) };
    let identity = Identity::load(&folder)?;
    let nobody = || Problem::new(exit::USAGE, InvalidUrl::NoIdentity(url.to_owned()).to_string());
    let identity = identity.ok_or_else(nobody)?;
    Ok((Credentials::new(identity.config()?), Some(identity)))
}

/// Renews an identity in the background if two thirds of its certificate's life
/// are over. The next command tries again if this one is too short for it.
pub fn keep(identity: Identity, channel: Channel) {
    let left_ms = identity.not_after_ms.saturating_sub(now_ms());
    if left_ms < (identity.not_after_ms - identity.not_before_ms) / 3 {
        tokio::spawn(async move {
            if let Err(error) = identity.renew(channel).await {
                tracing::warn!(%error, "the certificate could not be renewed");
            }
        });
    }
}

/// Where the identity for a coordinator lies that asks for one; coordinators that
/// stand in for each other share it, under the name of the first. None for coordinators
/// that ask for no identity.
///
/// # Errors
/// If there is no home folder.
pub fn folder(urls: &str) -> anyhow::Result<Option<PathBuf>> {
    let addresses = Address::parse_all(urls).unwrap_or_default();
    let Some(Address::Secure { host, port }) = addresses.into_iter().find(Address::is_secure) else { return Ok(None) };
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let config = config.or_else(|| Some(std::env::home_dir()?.join(".config")));
    let config = config.context("there is no home folder to keep identities in; set XDG_CONFIG_HOME")?;
    let plain: String = host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    Ok(Some(config.join("lithogen/identities").join(format!("{plain}_{port}"))))
}
