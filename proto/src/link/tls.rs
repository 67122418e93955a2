//! Encryption of both sides: one provider, TLS 1.3, HTTP/2, and the coordinator's
//! own CA as the only root.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, PeerIncompatible,
    RootCertStore, SignatureScheme,
};

use crate::link::join_token::Fingerprint;

/// The protocol that is spoken inside of TLS.
pub const ALPN: &[u8] = b"h2";

/// Why a certificate, a key or the library refuses a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// An error that says `problem`.
    pub fn new(problem: impl std::fmt::Display) -> Self {
        Self(problem.to_string())
    }
}

/// The provider of cryptography that both sides use.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Makes [`provider`] the default of the whole process. To be called first in `main`.
pub fn install() {
    // It fails only if one is installed already, which then is this one.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// Which coordinator is believed.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The coordinator that has this CA certificate.
    Root(CertificateDer<'static>),
    /// The coordinator whose CA certificate has this fingerprint and is part of the chain that is
    /// shown.
    Pinned(Fingerprint),
    /// Any coordinator that shows a chain that is valid in itself. Nothing secret may be sent to
    /// it.
    OnSight,
}

/// Settings of the side that dials: whom it believes, and what it shows.
///
/// # Errors
/// If a certificate or the key cannot be used.
pub fn client(
    trust: Trust,
    shows: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::new)?
        .dangerous() // The word of the library; the verifier below ends in the library's own.
        .with_custom_certificate_verifier(Arc::new(OneRoot { trust, provider: provider() }));
    let mut config = match shows {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).map_err(Error::new)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Chooses the root; all checks of certificates and signatures are webpki's.
#[derive(Debug)]
struct OneRoot {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OneRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let root = match &self.trust {
            Trust::Root(root) => Some(root),
            Trust::Pinned(fingerprint) => intermediates.iter().find(|shown| Fingerprint::of(shown) == *fingerprint),
            Trust::OnSight => intermediates.last(),
        };
        let mut roots = RootCertStore::empty();
        roots.add(root.ok_or(CertificateError::UnknownIssuer)?.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone())
            .build()
            .map_err(|error| TlsError::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why no encrypted connection came about, if trying again cannot help.
pub fn refusal(error: &io::Error) -> Option<String> {
    let told = match error.get_ref()?.downcast_ref::<TlsError>()? {
        TlsError::InvalidMessage(_) => {
            "it does not speak TLS there: is it plaintext on loopback? Then use http://".to_owned()
        }
        TlsError::InvalidCertificate(problem) => match problem {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for other names; start the coordinator with --tls-name and the name used here"
                    .to_owned()
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its CA is not the one of the join token or identity, so nothing was sent to it; is it the right \
                 coordinator, and does it still have its state folder?"
                    .to_owned()
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                format!("its certificate is not valid at this time ({problem}); is this machine's clock right?")
            }
            other => format!("its certificate cannot be used: {other}"),
        },
        TlsError::AlertReceived(AlertDescription::CertificateExpired) => {
            "the certificate shown to it has expired; join again with a new join token".to_owned()
        }
        TlsError::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown,
        ) => "it does not know the CA of this identity; join again with a join token of this coordinator".to_owned(),
        _ => return None,
    };
    Some(told)
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The common name of the subject.
    pub common_name: String,
    pub not_before_ms: i64,
    pub not_after_ms: i64,
}

/// Reads a certificate, whose signature the caller has had checked.
///
/// # Errors
/// If it is none or has no common name.
pub fn read(certificate: &CertificateDer<'_>) -> Result<Said, Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(Error::new)?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let validity = parsed.validity();
    Ok(Said {
        common_name: name.ok_or_else(|| Error::new("the certificate has no common name"))?.to_owned(),
        not_before_ms: validity.not_before.timestamp().saturating_mul(1000),
        not_after_ms: validity.not_after.timestamp().saturating_mul(1000),
    })
}

/// Reads a certificate from its PEM form.
///
/// # Errors
/// If it is none.
pub fn certificate(pem: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(Error::new)
}

/// Reads a private key from its PEM form.
///
/// # Errors
/// If it is none.
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(Error::new)
}
