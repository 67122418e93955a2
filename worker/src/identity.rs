//! Joining an encrypted coordinator, and staying joined.

use std::time::Duration;

use proto::address::{Address, InvalidUrl};
use proto::channel::Credentials;
use proto::clock::now_ms;
use proto::identity::{Error, Identity};
use proto::status::is_final;
use tonic::transport::Channel;

use crate::config::Config;
use crate::session::BACKOFF;

/// Least and longest time between two tries to renew a certificate.
const RENEW_PAUSE_MIN: Duration = Duration::from_millis(100);
const RENEW_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// The identity in the worker's folder. Where nobody has joined yet, the join token
/// is used; a coordinator that is away is waited for. Nothing for a coordinator
/// that asks for no identity.
///
/// # Errors
/// If there is neither identity nor token, or the coordinator refuses.
pub(crate) async fn open(addresses: &[Address], config: &Config) -> Result<Option<Identity>, Error> {
    if !addresses.iter().any(Address::is_secure) {
        return Ok(None);
    }
    let folder = config.state.join("identity");
    let found = Identity::load(&folder)?;
    let Some(token) = &config.join_token else {
        let nobody = || InvalidUrl::NoIdentity(config.coordinator.clone());
        return Ok(Some(found.ok_or_else(nobody)?));
    };
    // One that has ended, or is of another coordinator, opens no door: the token may.
    if let Some(identity) = found
        && identity.ca == token.ca
        && identity.not_after_ms > now_ms()
    {
        return Ok(Some(identity));
    }
    let mut backoff = BACKOFF;
    loop {
        match Identity::join(&config.coordinator, token, &config.name, &folder).await {
            Err(Error::Call(status)) if !is_final(&status) => {
                tracing::warn!(reason = status.message(), "cannot join yet; trying again");
                tokio::time::sleep(backoff.pause()).await;
            }
            joined => return joined.map(Some),
        }
    }
}

/// Renews the certificate at two thirds of its life, for ever. Connections made
/// from then on show the new one; the coordinator ends the others in time.
pub(crate) async fn keep(mut identity: Identity, credentials: Credentials, channel: Channel) {
    let life = between(identity.not_before_ms, identity.not_after_ms);
    // A clock that is behind makes it no longer.
    let mut wait = (life * 2 / 3).saturating_sub(between(identity.not_before_ms, now_ms()));
    loop {
        tokio::time::sleep(wait).await;
        let renewed = match identity.renew(channel.clone()).await {
            Ok(fresh) => fresh.config().map(|config| (fresh, config)),
            Err(error) => Err(error),
        };
        let life = between(identity.not_before_ms, identity.not_after_ms);
        match renewed {
            Ok((fresh, config)) => {
                tracing::info!(identity = fresh.id, "certificate renewed");
                credentials.replace(config);
                identity = fresh;
                wait = life * 2 / 3;
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate could not be renewed; trying again");
                wait = (life / 30).clamp(RENEW_PAUSE_MIN, RENEW_PAUSE_MAX);
            }
        }
    }
}

/// The time from one moment to another; zero if the second is the earlier one.
fn between(from_ms: i64, to_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(to_ms.saturating_sub(from_ms)).unwrap_or(0))
}
