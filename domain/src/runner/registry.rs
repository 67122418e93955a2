//! The registry of join tokens and of the identities that joined with them.
//! [`Registry::decide`] changes nothing; [`Registry::apply`] cannot fail.
//!
//! Only the digest of a token's secret is kept. The time is an argument, in milliseconds since
//! 1970, as the end of a token is a promise to people.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// What an identity may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May lease tasks and commit their results, as itself only.
    Worker,
    /// May submit and cancel studies, and do all that a viewer may.
    Submitter,
    /// May watch runs and fetch results.
    Viewer,
    /// May do everything.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Worker, Self::Submitter, Self::Viewer, Self::Admin];

    /// The role's name in commands and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Submitter => "submitter",
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Names an identity: the name that it calls itself and the digest of its public key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdentityId(pub String);

impl IdentityId {
    /// Letters and digits of the name, one dash, twelve digits of the key. As there is only one
    /// dash, no identity's name followed by a dash is the beginning of another's.
    fn new(name: &str, key: Digest) -> Self {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
        let plain = if plain.is_empty() { "nameless" } else { &plain };
        Self(format!("{plain}-{}", &key.to_string()[..12]))
    }

    /// Whether a worker process of that name belongs to this identity.
    pub fn owns(&self, worker: &str) -> bool {
        worker.strip_prefix(&self.0).is_some_and(|rest| rest.starts_with('-'))
    }
}

impl fmt::Display for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Labels by name, for people and for the placement of tasks.
pub type Labels = BTreeMap<String, String>;

/// A join token, named by the digest of its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Role of those who join.
    pub role: Role,
    /// Number of identities that may join with the token.
    pub uses: u32,
    /// Number of identities that have joined with the token.
    pub used: u32,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// End of the token's validity, in milliseconds since 1970.
    pub expires_ms: i64,
    /// Labels given to those who join.
    pub labels: Labels,
    /// Whether the token was revoked.
    pub revoked: bool,
}

/// An identity that has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The name that the identity calls itself.
    pub name: String,
    pub role: Role,
    /// Labels from the join token.
    pub labels: Labels,
    /// Digest of the identity's public key.
    pub key: Digest,
    /// The token with which the identity joined last.
    pub token: Digest,
    /// Serial number of the newest certificate, in hexadecimal digits.
    pub serial: String,
    /// End of the newest certificate, in milliseconds since 1970.
    pub not_after_ms: i64,
    /// Whether the identity was revoked and may not call any more.
    pub revoked: bool,
}

/// A certificate that is signed if the request is granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Serial number, in hexadecimal digits.
    pub serial: String,
    /// End of the certificate, in milliseconds since 1970.
    pub not_after_ms: i64,
}

/// A request to the registry. Each may be repeated.
#[derive(Clone, Debug)]
pub enum Request {
    /// Creates a token. Repeated with the same secret, it is the same token.
    CreateToken {
        /// Digest of the token's secret.
        token: Digest,
        /// Role of those who join.
        role: Role,
        /// Number of identities that may join with the token.
        uses: u32,
        /// End of the token's validity, in milliseconds since 1970.
        expires_ms: i64,
        /// Labels given to those who join.
        labels: Labels,
    },
    /// Revokes a token, so that nobody may join with it any more. Identities that joined with
    /// it stay.
    RevokeToken {
        /// Digest of the token's secret.
        token: Digest,
    },
    /// Joins. Repeated with the same key, this takes no further use of the token.
    Enrol {
        /// Digest of the presented secret.
        token: Digest,
        /// Digest of the public key.
        key: Digest,
        /// The name that the identity calls itself.
        name: String,
        certificate: Certificate,
    },
    /// Asks for another certificate before the last one ends.
    Renew {
        identity: IdentityId,
        /// Digest of the public key, which has to be the one the identity joined with.
        key: Digest,
        certificate: Certificate,
    },
    /// Revokes an identity, which may not call any more.
    Revoke { identity: IdentityId },
}

/// A change of the registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "registry", rename_all = "snake_case")]
pub enum Event {
    /// A token was created.
    TokenCreated {
        /// Digest of the token's secret.
        token: Digest,
        /// Role of those who join.
        role: Role,
        /// Number of identities that may join with the token.
        uses: u32,
        /// Milliseconds since 1970.
        created_ms: i64,
        /// End of the token's validity, in milliseconds since 1970.
        expires_ms: i64,
        /// Labels given to those who join.
        #[serde(default)]
        labels: Labels,
    },
    /// A token was revoked.
    TokenRevoked {
        /// Digest of the token's secret.
        token: Digest,
    },
    /// An identity joined.
    Enrolled {
        identity: IdentityId,
        /// Digest of the token's secret.
        token: Digest,
        /// Digest of the public key.
        key: Digest,
        /// The name that the identity calls itself.
        name: String,
    },
    /// An identity was given a certificate.
    CertificateIssued { identity: IdentityId, certificate: Certificate },
    /// An identity was revoked.
    IdentityRevoked { identity: IdentityId },
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// A token without uses was requested.
    #[error("a join token needs at least one use; say how many may join with --uses")]
    NoUses,
    /// No token has that secret.
    #[error(
        "this coordinator knows no such join token; is it another coordinator's? An administrator makes one with `lithogen token create`"
    )]
    UnknownToken,
    /// The token has expired.
    #[error("join token {} has expired; ask an administrator for another (`lithogen token create`)", .0.short())]
    TokenExpired(Digest),
    /// As many identities have joined with the token as may.
    #[error("join token {} has been used as often as it may be; ask an administrator for another (`lithogen token create`)", .0.short())]
    TokenUsedUp(Digest),
    /// The token was revoked.
    #[error("join token {} was revoked; ask an administrator for another (`lithogen token create`)", .0.short())]
    TokenRevoked(Digest),
    /// No identity has that name.
    #[error("there is no identity {0}; `lithogen worker list` shows those that there are")]
    UnknownIdentity(IdentityId),
    /// The identity was revoked.
    #[error("identity {0} was revoked; to join again, remove its identity folder and use a new join token")]
    IdentityRevoked(IdentityId),
    /// The key is not the one that the identity joined with.
    #[error("identity {0} has another key; remove the identity folder and use a new join token")]
    OtherKey(IdentityId),
}

/// All tokens and identities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    tokens: BTreeMap<Digest, Token>,
    identities: BTreeMap<IdentityId, Identity>,
    by_key: BTreeMap<Digest, IdentityId>,
}

impl Registry {
    /// The events that follow from a request at time `now_ms`, in milliseconds since 1970.
    ///
    /// # Errors
    /// Why the request is refused.
    pub fn decide(&self, now_ms: i64, request: Request) -> Result<Vec<Event>, Reject> {
        match request {
            Request::CreateToken { token, .. } if self.tokens.contains_key(&token) => Ok(vec![]),
            Request::CreateToken { uses: 0, .. } => Err(Reject::NoUses),
            Request::CreateToken { token, role, uses, expires_ms, labels } => {
                Ok(vec![Event::TokenCreated { token, role, uses, created_ms: now_ms, expires_ms, labels }])
            }
            Request::RevokeToken { token } => match self.tokens.get(&token) {
                None => Err(Reject::UnknownToken),
                Some(known) if known.revoked => Ok(vec![]),
                Some(_) => Ok(vec![Event::TokenRevoked { token }]),
            },
            Request::Enrol { token, key, name, certificate } => self.enrol(now_ms, token, key, name, certificate),
            Request::Renew { identity, key, certificate } => {
                let known = self.identity(&identity)?;
                if known.revoked {
                    return Err(Reject::IdentityRevoked(identity));
                }
                if known.key != key {
                    return Err(Reject::OtherKey(identity));
                }
                Ok(vec![Event::CertificateIssued { identity, certificate }])
            }
            Request::Revoke { identity } if self.identity(&identity)?.revoked => Ok(vec![]),
            Request::Revoke { identity } => Ok(vec![Event::IdentityRevoked { identity }]),
        }
    }

    fn enrol(
        &self,
        now_ms: i64,
        token: Digest,
        key: Digest,
        name: String,
        certificate: Certificate,
    ) -> Result<Vec<Event>, Reject> {
        let leave = self.tokens.get(&token).ok_or(Reject::UnknownToken)?;
        if leave.revoked {
            return Err(Reject::TokenRevoked(token));
        }
        if now_ms >= leave.expires_ms {
            return Err(Reject::TokenExpired(token));
        }
        let identity = self.by_key.get(&key).cloned().unwrap_or_else(|| IdentityId::new(&name, key));
        match self.identities.get(&identity) {
            Some(known) if known.key != key => return Err(Reject::OtherKey(identity)),
            Some(known) if known.revoked => return Err(Reject::IdentityRevoked(identity)),
            Some(known) if known.token == token => return Ok(vec![Event::CertificateIssued { identity, certificate }]),
            Some(_) | None => {}
        }
        if leave.used >= leave.uses {
            return Err(Reject::TokenUsedUp(token));
        }
        let enrolled = Event::Enrolled { identity: identity.clone(), token, key, name };
        Ok(vec![enrolled, Event::CertificateIssued { identity, certificate }])
    }

    /// Applies an event.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::TokenCreated { token, role, uses, created_ms, expires_ms, labels } => {
                let new = Token {
                    role: *role,
                    uses: *uses,
                    used: 0,
                    created_ms: *created_ms,
                    expires_ms: *expires_ms,
                    labels: labels.clone(),
                    revoked: false,
                };
                self.tokens.insert(*token, new);
            }
            Event::TokenRevoked { token } => {
                if let Some(token) = self.tokens.get_mut(token) {
                    token.revoked = true;
                }
            }
            Event::Enrolled { identity, token, key, name } => {
                let Some(leave) = self.tokens.get_mut(token) else { return };
                leave.used += 1;
                let new = Identity {
                    name: name.clone(),
                    role: leave.role,
                    labels: leave.labels.clone(),
                    key: *key,
                    token: *token,
                    serial: String::new(),
                    not_after_ms: 0,
                    revoked: false,
                };
                self.by_key.insert(*key, identity.clone());
                self.identities.insert(identity.clone(), new);
            }
            Event::CertificateIssued { identity, certificate } => {
                if let Some(identity) = self.identities.get_mut(identity) {
                    identity.serial.clone_from(&certificate.serial);
                    identity.not_after_ms = certificate.not_after_ms;
                }
            }
            Event::IdentityRevoked { identity } => {
                if let Some(identity) = self.identities.get_mut(identity) {
                    identity.revoked = true;
                }
            }
        }
    }

    /// The identity with that id.
    ///
    /// # Errors
    /// [`Reject::UnknownIdentity`].
    pub fn identity(&self, id: &IdentityId) -> Result<&Identity, Reject> {
        self.identities.get(id).ok_or_else(|| Reject::UnknownIdentity(id.clone()))
    }

    /// The identity that joined with a public key.
    pub fn of_key(&self, key: Digest) -> Option<&IdentityId> {
        self.by_key.get(&key)
    }

    /// The token whose secret has that digest.
    pub fn token(&self, token: Digest) -> Option<&Token> {
        self.tokens.get(&token)
    }

    /// All tokens, by the digests of their secrets.
    pub fn tokens(&self) -> impl Iterator<Item = (Digest, &Token)> {
        self.tokens.iter().map(|(digest, token)| (*digest, token))
    }

    /// All identities, by their ids.
    pub fn identities(&self) -> impl Iterator<Item = (&IdentityId, &Identity)> {
        self.identities.iter()
    }
}

#[cfg(test)]
mod tests;
