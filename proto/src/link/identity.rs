//! Who somebody is to a coordinator: a key that never leaves its folder, a
//! certificate, and the CA that is believed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use tonic::Status;

use crate::link::address::InvalidUrl;
use crate::link::channel::{self, Credentials, call};
use crate::link::join_token::{Fingerprint, JoinToken};
use crate::link::tls::{self, Trust};
use crate::private;
use crate::v1;
use crate::v1::registration_service_client::RegistrationServiceClient;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder of the identity cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    /// Others could change what is in the folder.
    #[error(transparent)]
    Private(#[from] private::Error),
    /// What is in the folder, or came from the coordinator, is no identity.
    #[error("{} holds no usable identity: {problem}; remove it and join again with a new join token", path.display())]
    Unusable { path: PathBuf, problem: String },
    /// The address is no URL.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The coordinator is away, or refuses.
    #[error("cannot join: {}", .0.message())]
    Call(Box<Status>),
    /// The coordinator is not the one of the join token.
    #[error("cannot join: the coordinator sent another CA than the join token names")]
    OtherCa,
}

/// An identity as it lies in its folder.
#[derive(Debug)]
pub struct Identity {
    folder: PathBuf,
    /// The name by which the coordinator knows the identity.
    pub id: String,
    /// The beginning of the certificate, in milliseconds since 1970.
    pub not_before_ms: i64,
    /// The end of the certificate, in milliseconds since 1970.
    pub not_after_ms: i64,
    /// The fingerprint of the coordinator's CA.
    pub ca: Fingerprint,
    key: KeyPair,
    certificate_pem: String,
    ca_pem: String,
}

impl Identity {
    /// The identity in a folder, if somebody has joined there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(folder: &Path) -> Result<Option<Self>, Error> {
        if !folder.exists() {
            return Ok(None);
        }
        private::folder(folder)?;
        let Some(certificate_pem) = read(&folder.join("cert.pem"))? else { return Ok(None) };
        let missing = |name: &str| unusable(folder, format!("{name} is missing"));
        let key_pem = read(&folder.join("key.pem"))?.ok_or_else(|| missing("key.pem"))?;
        let ca_pem = read(&folder.join("ca.pem"))?.ok_or_else(|| missing("ca.pem"))?;
        let said = tls::certificate(&certificate_pem).and_then(|certificate| tls::read(&certificate));
        let said = said.map_err(|error| unusable(folder, error))?;
        let ca = tls::certificate(&ca_pem).map_err(|error| unusable(folder, error))?;
        Ok(Some(Self {
            folder: folder.to_owned(),
            id: said.common_name,
            not_before_ms: said.not_before_ms,
            not_after_ms: said.not_after_ms,
            ca: Fingerprint::of(&ca),
            key: KeyPair::from_pem(&key_pem).map_err(|error| unusable(folder, error))?,
            certificate_pem,
            ca_pem,
        }))
    }

    /// Joins a coordinator and keeps what came of it in the folder. The key is kept
    /// before it is used, so that trying again takes no further use of the token.
    ///
    /// # Errors
    /// If the coordinator is away, is another than the token's, or refuses.
    pub async fn join(url: &str, token: &JoinToken, name: &str, folder: &Path) -> Result<Self, Error> {
        private::folder(folder)?;
        let key_path = folder.join("key.pem");
        let key = match read(&key_path)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|error| unusable(folder, error))?,
            None => {
                let key = KeyPair::generate().map_err(|error| unusable(folder, error))?;
                write(&key_path, &key.serialize_pem())?;
                key
            }
        };
        let config = tls::client(Trust::Pinned(token.ca), None).map_err(|error| unusable(folder, error))?;
        let mut client = RegistrationServiceClient::new(channel::connect(url, &Credentials::new(config))?);
        let request = v1::EnrolRequest {
            secret: token.secret.expose(),
            csr_pem: request(&key).map_err(|error| unusable(folder, error))?,
            name: name.to_owned(),
        };
        let answer = client.enrol(call(request)).await.map_err(|status| Error::Call(Box::new(status)))?.into_inner();
        let ca = tls::certificate(&answer.ca_pem).map_err(|_| Error::OtherCa)?;
        if Fingerprint::of(&ca) != token.ca {
            return Err(Error::OtherCa);
        }
        write(&folder.join("ca.pem"), &answer.ca_pem)?;
        // Last: with it, the identity is there.
        write(&folder.join("cert.pem"), &answer.certificate_pem)?;
        Self::load(folder)?.ok_or_else(|| unusable(folder, "the certificate is gone again"))
    }

    /// Gets another certificate for the same key and keeps it.
    ///
    /// # Errors
    /// If the coordinator is away or refuses.
    pub async fn renew(&self, channel: tonic::transport::Channel) -> Result<Self, Error> {
        let csr_pem = request(&self.key).map_err(|error| unusable(&self.folder, error))?;
        let mut client = RegistrationServiceClient::new(channel);
        let answer = client.renew(call(v1::RenewRequest { csr_pem })).await;
        let answer = answer.map_err(|status| Error::Call(Box::new(status)))?.into_inner();
        write(&self.folder.join("cert.pem"), &answer.certificate_pem)?;
        Self::load(&self.folder)?.ok_or_else(|| unusable(&self.folder, "the certificate is gone again"))
    }

    /// The configuration to dial with as this identity.
    ///
    /// # Errors
    /// If key and certificate do not fit.
    pub fn config(&self) -> Result<ClientConfig, Error> {
        let config = || {
            let key = tls::private_key(&self.key.serialize_pem())?;
            let shows = (tls::certificate(&self.certificate_pem)?, key);
            tls::client(Trust::Root(tls::certificate(&self.ca_pem)?), Some(shows))
        };
        config().map_err(|error| unusable(&self.folder, error))
    }
}

fn unusable(folder: &Path, problem: impl std::fmt::Display) -> Error {
    Error::Unusable { path: folder.to_owned(), problem: problem.to_string() }
}

/// A signing request. What the certificate is for is decided by the coordinator.
fn request(key: &KeyPair) -> Result<String, rcgen::Error> {
    CertificateParams::default().serialize_request(key)?.pem()
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Folder { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    private::write(path, text).map_err(|source| Error::Folder { path: path.to_owned(), source })
}
