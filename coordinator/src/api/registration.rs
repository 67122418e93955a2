//! The gRPC service for joining: join tokens, certificates, identities.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::digest::Digest;
use domain::runner::registry::{Identity, IdentityId, Registry, Reject, Request as RegistryRequest, Role, Token};
use proto::clock::now_ms;
use proto::convert::{InvalidField, digest, invalid};
use proto::join_token::Secret;
use proto::status::{Reason, again_in, of_registry, status};
use proto::v1;
use proto::v1::registration_service_server::RegistrationService;
use tonic::{Request, Response, Status};

use crate::access::Caller;
use crate::api::find;
use crate::api::tries::Tries;
use crate::driver::Handle;
use crate::listen::Connections;
use crate::pki::{self, Pki, SigningRequest};

/// The CA, and the address at which those who join find the coordinator.
#[derive(Debug)]
pub(crate) struct CertAuthority {
    pub(crate) pki: Pki,
    pub(crate) url: String,
}

#[derive(Debug)]
pub struct Registration {
    driver: Handle,
    connections: Connections,
    /// None where nobody can join: plaintext on loopback.
    ca: Option<Arc<CertAuthority>>,
    tries: Tries,
}

impl Registration {
    pub(crate) fn new(driver: Handle, connections: Connections, ca: Option<Arc<CertAuthority>>) -> Self {
        Self { driver, connections, ca, tries: Tries::default() }
    }

    fn ca(&self) -> Result<&CertAuthority, Status> {
        self.ca.as_deref().ok_or_else(|| {
            let problem = "this coordinator serves its own machine only, so nobody can join from elsewhere; start it \
                           with --listen and an address that other machines reach";
            status(Reason::LoopbackOnly, problem)
        })
    }

    async fn decide(&self, request: RegistryRequest) -> Result<(), Status> {
        self.driver.registry(request).await?.map_err(of_registry)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Registry) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.driver.read(move |knowledge| read(&knowledge.registry)).await?
    }

    async fn token(&self, token: Digest) -> Result<v1::JoinToken, Status> {
        let found = move |registry: &Registry| {
            let known = registry.token(token).ok_or_else(|| of_registry(Reject::UnknownToken))?;
            Ok(join_token(token, known))
        };
        self.read(found).await
    }

    async fn join(&self, message: v1::EnrolRequest) -> Result<v1::EnrolResponse, Status> {
        let pki = &self.ca()?.pki;
        let secret: Secret =
            message.secret.parse().map_err(|_| invalid("secret", "has to be 32 hexadecimal digits"))?;
        let asked = signing_request(&message.csr_pem)?;
        let (key, certificate) = (asked.key, pki.next_certificate()?);
        let enrol = RegistryRequest::Enrol {
            token: secret.digest(),
            key,
            name: plain(&message.name),
            certificate: certificate.clone(),
        };
        if let Err(refused) = self.decide(enrol).await {
            tracing::warn!(name = plain(&message.name), problem = refused.message(), "refused to join");
            return Err(refused);
        }
        let joined = move |registry: &Registry| {
            let id = registry.of_key(key).ok_or_else(|| Status::internal("who joined is gone"))?;
            let known = registry.identity(id).map_err(of_registry)?;
            Ok((id.clone(), known.role))
        };
        let (identity, role) = self.read(joined).await?;
        tracing::info!(%identity, role = role.name(), "joined");
        Ok(v1::EnrolResponse {
            certificate_pem: pki.sign(&asked, &identity, &certificate)?,
            identity_id: identity.to_string(),
            ca_pem: pki.ca_pem().to_owned(),
            role: role.name().to_owned(),
        })
    }

    fn describe(&self, id: &IdentityId, known: &Identity) -> v1::Identity {
        v1::Identity {
            id: id.to_string(),
            name: known.name.clone(),
            role: known.role.name().to_owned(),
            labels: known.labels.clone().into_iter().collect(),
            serial: known.serial.clone(),
            not_after_ms: known.not_after_ms,
            revoked: known.revoked,
            connections: self.connections.count(id),
        }
    }
}

fn join_token(token: Digest, known: &Token) -> v1::JoinToken {
    v1::JoinToken {
        id: token.short(),
        role: known.role.name().to_owned(),
        uses: known.uses,
        used: known.used,
        created_ms: known.created_ms,
        expires_ms: known.expires_ms,
        labels: known.labels.clone().into_iter().collect(),
        revoked: known.revoked,
    }
}

fn signing_request(pem: &str) -> Result<SigningRequest, InvalidField> {
    SigningRequest::parse(pem).map_err(|error| invalid("csr_pem", format!("is not usable: {error}")))
}

/// Makes text safe to print as one line.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

impl From<pki::Error> for Status {
    fn from(error: pki::Error) -> Self {
        tracing::error!(%error, "certificate authority");
        status(Reason::Pki, error.to_string())
    }
}

#[tonic::async_trait]
impl RegistrationService for Registration {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let ca = self.ca()?;
        let message = request.into_inner();
        let token = digest("secret_digest", &message.secret_digest)?;
        let role = Role::parse(&message.role)
            .ok_or_else(|| invalid("role", "has to be worker, submitter, viewer or admin"))?;
        let ttl_ms = i64::try_from(message.ttl_ms).unwrap_or(i64::MAX);
        let labels = message.labels.iter().map(|(name, value)| (plain(name), plain(value))).collect();
        let expires_ms = now_ms().saturating_add(ttl_ms);
        self.decide(RegistryRequest::CreateToken { token, role, uses: message.uses, expires_ms, labels }).await?;
        Ok(Response::new(v1::CreateTokenResponse {
            token: Some(self.token(token).await?),
            ca_fingerprint: ca.pki.fingerprint().to_string(),
            url: ca.url.clone(),
        }))
    }

    async fn list_tokens(&self, _: Request<v1::ListTokensRequest>) -> Result<Response<v1::ListTokensResponse>, Status> {
        let mut tokens: Vec<v1::JoinToken> = self
            .read(|registry| Ok(registry.tokens().map(|(token, known)| join_token(token, known)).collect()))
            .await?;
        tokens.sort_by_key(|token| token.created_ms);
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let id = request.into_inner().id;
        let token = self
            .read(move |registry| {
                let matching =
                    registry.tokens().map(|(token, _)| token).filter(|token| token.to_string().starts_with(&id));
                find::registered(matching, "join token", &id)
            })
            .await?;
        self.decide(RegistryRequest::RevokeToken { token }).await?;
        tracing::info!(token = token.short(), "join token revoked");
        Ok(Response::new(v1::RevokeTokenResponse { token: Some(self.token(token).await?) }))
    }

    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let network = Caller::network_of(&request);
        if let Some(Err(wait)) = network.map(|network| self.tries.begin(network, Instant::now())) {
            // Whole seconds, for people.
            let wait = Duration::from_secs(wait.as_secs() + 1);
            let problem = format!("too many tries to join from there; try again in {} s", wait.as_secs());
            return Err(again_in(wait, problem));
        }
        let joined = self.join(request.into_inner()).await;
        if let (Some(network), Err(_)) = (network, &joined) {
            self.tries.refused(network, Instant::now());
        }
        joined.map(Response::new)
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let pki = &self.ca()?.pki;
        let Caller::Joined { identity, .. } = Caller::of(&request) else {
            let problem = "only who has joined has a certificate to renew";
            return Err(status(Reason::NotJoined, problem));
        };
        let asked = signing_request(&request.into_inner().csr_pem)?;
        let certificate = pki.next_certificate()?;
        let renew =
            RegistryRequest::Renew { identity: identity.clone(), key: asked.key, certificate: certificate.clone() };
        self.decide(renew).await?;
        tracing::debug!(%identity, "certificate renewed");
        Ok(Response::new(v1::RenewResponse { certificate_pem: pki.sign(&asked, &identity, &certificate)? }))
    }

    async fn revoke_identity(
        &self,
        request: Request<v1::RevokeIdentityRequest>,
    ) -> Result<Response<v1::RevokeIdentityResponse>, Status> {
        let text = request.into_inner().identity;
        let identity = self
            .read(move |registry| {
                let known = IdentityId(text.clone());
                if registry.identity(&known).is_ok() {
                    return Ok(known);
                }
                // A name that only revoked identities have finds them again, so that a repeat is one.
                let named = || registry.identities().filter(|(_, known)| known.name == text);
                let all: Vec<&IdentityId> = if named().any(|(_, known)| !known.revoked) {
                    named().filter(|(_, known)| !known.revoked).map(|(id, _)| id).collect()
                } else {
                    named().map(|(id, _)| id).collect()
                };
                find::registered(all.into_iter().cloned(), "identity", &text)
            })
            .await?;
        self.decide(RegistryRequest::Revoke { identity: identity.clone() }).await?;
        // After it is on disk: whoever comes back is refused.
        self.connections.cut(&identity);
        tracing::info!(%identity, "identity revoked");
        let found = identity.clone();
        let known = self.read(move |registry| registry.identity(&found).cloned().map_err(of_registry));
        let described = self.describe(&identity, &known.await?);
        Ok(Response::new(v1::RevokeIdentityResponse { identity: Some(described) }))
    }

    async fn list_identities(
        &self,
        _: Request<v1::ListIdentitiesRequest>,
    ) -> Result<Response<v1::ListIdentitiesResponse>, Status> {
        let all = self.read(|registry| {
            Ok(registry.identities().map(|(id, known)| (id.clone(), known.clone())).collect::<Vec<_>>())
        });
        let identities = all.await?.iter().map(|(id, known)| self.describe(id, known)).collect();
        Ok(Response::new(v1::ListIdentitiesResponse { identities }))
    }

    async fn get_server_info(
        &self,
        _: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        Ok(Response::new(v1::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: proto::PROTOCOL,
            time_ms: now_ms(),
        }))
    }
}
