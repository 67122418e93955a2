//! The coordinator's own certificate authority (CA), which signs the certificates of the server
//! and of all identities that have joined.
//!
//! Only the CA has to survive a restart, in `STATE/tls`. The server's certificate is made anew
//! at each start, so that it has the current host names.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::digest::Digest;
use domain::runner::registry::{Certificate, IdentityId};
use proto::clock::now_ms;
use proto::join_token::Fingerprint;
use proto::private;
use proto::tls;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKey, PublicKeyData, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};

const DAY: Duration = Duration::from_secs(86_400);

/// Lifetime of the CA. When it ends, everybody has to join again.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);

/// Lifetime of the server's certificate: longer than any process runs without a restart.
const SERVER_LIFE: Duration = Duration::from_secs(5 * 365 * 86_400);

/// Why the CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the CA cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        source: io::Error,
    },
    /// Other users could change the CA's files.
    #[error(transparent)]
    Private(#[from] private::Error),
    /// The contents of the CA's files cannot be used.
    #[error("{} holds no usable CA: {problem}; restore it from a copy, or remove it and have everybody join again", path.display())]
    Unusable {
        /// The CA's folder.
        path: PathBuf,
        problem: String,
    },
    /// The server's certificate cannot be made.
    #[error("cannot make a certificate for {names:?}: {problem}; is each a host name or an address?")]
    Server {
        /// Host names that the certificate was to cover.
        names: BTreeSet<String>,
        problem: String,
    },
    /// A certificate cannot be signed.
    #[error("cannot sign a certificate: {0}")]
    Sign(#[from] rcgen::Error),
    /// The operating system gives no random numbers.
    #[error("the system's random number generator fails")]
    NoRandomness,
}

/// A certificate authority.
pub struct Pki {
    ca: CertificateDer<'static>,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    life: Duration,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pki {}", self.fingerprint())
    }
}

impl Pki {
    /// Opens the CA of a state folder, or creates one. Certificates that the CA signs are valid
    /// for `life`.
    ///
    /// # Errors
    /// If the CA's files cannot be read or written.
    pub fn open(state: &Path, life: Duration) -> Result<Self, Error> {
        let folder = state.join("tls");
        let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        let file = |path: &Path, source| Error::File { path: path.to_owned(), source };
        private::folder(&folder)?;
        if !certificate.exists() {
            let (fresh, fresh_key) = make_ca()?;
            private::write(&key, &fresh_key.serialize_pem()).map_err(|source| file(&key, source))?;
            // Last: with it, the CA is there.
            private::write(&certificate, &fresh).map_err(|source| file(&certificate, source))?;
        }
        let unusable =
            |problem: &dyn fmt::Display| Error::Unusable { path: folder.clone(), problem: problem.to_string() };
        let ca_pem = std::fs::read_to_string(&certificate).map_err(|source| file(&certificate, source))?;
        let key_pem = std::fs::read_to_string(&key).map_err(|source| file(&key, source))?;
        let ca = tls::certificate(&ca_pem).map_err(|error| unusable(&error))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| unusable(&error))?;
        let issuer = Issuer::from_ca_cert_der(&ca, key).map_err(|error| unusable(&error))?;
        Ok(Self { ca, ca_pem, issuer, life })
    }

    /// The fingerprint by which join tokens name the CA.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.ca)
    }

    /// The CA's certificate as PEM, for those who join.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The TLS configuration of the server: a new certificate for these names, and access for
    /// clients with a certificate of this CA or without any.
    ///
    /// # Errors
    /// If a name is not a valid host name or address.
    pub fn server(&self, names: BTreeSet<String>) -> Result<Arc<ServerConfig>, Error> {
        let (certificate, key) = self
            .server_certificate(&names)
            .map_err(|error| Error::Server { names: names.clone(), problem: error.to_string() })?;
        let refused = |error: &dyn fmt::Display| Error::Server { names: names.clone(), problem: error.to_string() };
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).map_err(|error| refused(&error))?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), tls::provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| refused(&error))?;
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| refused(&error))?
            .with_client_cert_verifier(clients)
            // The CA goes along: who joins knows only its fingerprint.
            .with_single_cert(vec![certificate, self.ca.clone()], key)
            .map_err(|error| refused(&error))?;
        config.alpn_protocols = vec![tls::ALPN.to_vec()];
        // A resumed session would not look at the certificate again, and it may have ended.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    fn server_certificate(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, "Lithogen coordinator");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = now_ms();
        // Clocks of other machines may be behind.
        valid(&mut params, now - ms(DAY), now + ms(SERVER_LIFE));
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into())))
    }

    /// Serial number and end of the next certificate to sign.
    ///
    /// # Errors
    /// If the operating system gives no random numbers.
    pub fn next_certificate(&self) -> Result<Certificate, Error> {
        let mut bytes = [0; 8];
        tls::provider().secure_random.fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
        // Positive, and always as long.
        let serial = u64::from_be_bytes(bytes) >> 1 | 1 << 62;
        Ok(Certificate { serial: format!("{serial:x}"), not_after_ms: now_ms() + ms(self.life) })
    }

    /// Signs a certificate. Of the request, only the public key is used.
    ///
    /// # Errors
    /// If signing fails.
    pub fn sign(&self, request: &SigningRequest, who: &IdentityId, what: &Certificate) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, who.to_string());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let serial = u64::from_str_radix(&what.serial, 16).unwrap_or_default();
        params.serial_number = Some(SerialNumber::from(serial));
        // Only this machine's clock judges it.
        valid(&mut params, what.not_after_ms - ms(self.life), what.not_after_ms);
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }
}

/// A certificate signing request whose signature is valid.
#[derive(Debug)]
pub struct SigningRequest {
    public_key: PublicKey,
    /// Digest of the public key.
    pub key: Digest,
}

impl SigningRequest {
    /// Parses a request and checks that its sender has the private key.
    ///
    /// # Errors
    /// If `pem` is not a valid request; the error says why.
    pub fn parse(pem: &str) -> Result<Self, rcgen::Error> {
        let request = CertificateSigningRequestParams::from_pem(pem)?;
        let key = Digest::of(&request.public_key.subject_public_key_info());
        Ok(Self { public_key: request.public_key, key })
    }
}

fn make_ca() -> Result<(String, KeyPair), Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Lithogen coordinator CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let now = now_ms();
    valid(&mut params, now - ms(DAY), now + ms(CA_LIFE));
    Ok((params.self_signed(&key)?.pem(), key))
}

/// All names of a coordinator that listens on an address, together with configured ones.
pub fn names(listen: SocketAddr, more: &[String]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(more.iter().cloned());
    let ip = listen.ip();
    let reached = if ip.is_unspecified() { outward() } else { Some(ip) };
    names.extend(reached.map(|ip| ip.to_string()));
    names
}

/// The address from which this machine would reach other networks. Nothing is sent.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

/// Sets the validity period of a certificate, in whole seconds.
fn valid(params: &mut CertificateParams, from_ms: i64, to_ms: i64) {
    // Years have four digits.
    let since_1970 = |ms: i64| Duration::from_secs(u64::try_from(ms / 1000).unwrap_or(0)).min(DAY * 365 * 8000);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970(from_ms);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(to_ms);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    #[test]
    fn the_ca_outlives_a_restart_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = Pki::open(folder.path(), LIFE).unwrap().fingerprint();
        assert_eq!(Pki::open(folder.path(), LIFE).unwrap().fingerprint(), first);
        let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("tls/ca.key"), mode("tls")), (0o600, 0o700));
    }

    #[test]
    fn a_ca_that_cannot_be_read_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        Pki::open(folder.path(), LIFE).unwrap();
        std::fs::write(folder.path().join("tls/ca.key"), "torn").unwrap();
        let error = Pki::open(folder.path(), LIFE).unwrap_err();
        assert!(matches!(&error, Error::Unusable { .. }), "{error}");
    }

    #[test]
    fn a_signed_certificate_says_who_and_until_when() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path(), LIFE).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut asks = CertificateParams::default();
        asks.distinguished_name.push(DnType::CommonName, "somebody else");
        asks.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = SigningRequest::parse(&asks.serialize_request(&key).unwrap().pem().unwrap()).unwrap();
        let what = pki.next_certificate().unwrap();
        let pem = pki.sign(&request, &IdentityId("gpu-1234".to_owned()), &what).unwrap();
        let said = tls::read(&tls::certificate(&pem).unwrap()).unwrap();
        assert_eq!(said.common_name, "gpu-1234");
        assert_eq!(said.not_after_ms / 1000, what.not_after_ms / 1000);
        assert_eq!(said.not_after_ms - said.not_before_ms, 60_000);
    }

    #[test]
    fn what_is_no_signing_request_is_refused() {
        assert!(SigningRequest::parse("").is_err());
        let key = KeyPair::generate().unwrap();
        let pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let other = KeyPair::generate().unwrap();
        // Another's key under this signature.
        let der = rustls::pki_types::CertificateSigningRequestDer::from(
            CertificateParams::default().serialize_request(&key).unwrap().der().to_vec(),
        );
        let (mine, theirs) = (key.public_key_raw(), other.public_key_raw());
        let at = der.windows(mine.len()).position(|window| window == mine).unwrap();
        let mut forged = der.to_vec();
        forged[at..at + mine.len()].copy_from_slice(theirs);
        assert!(CertificateSigningRequestParams::from_der(&forged.into()).is_err());
        assert!(SigningRequest::parse(&pem).is_ok());
    }

    #[test]
    fn the_server_answers_to_its_names() {
        let names = names("192.0.2.10:7443".parse().unwrap(), &["lab".to_owned()]);
        assert!(["lab", "192.0.2.10", "localhost"].iter().all(|name| names.contains(*name)), "{names:?}");
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path(), LIFE).unwrap();
        assert!(pki.server(names).is_ok());
        let error = pki.server(BTreeSet::from(["grün".to_owned()])).unwrap_err();
        assert!(error.to_string().contains("grün"), "{error}");
    }
}
