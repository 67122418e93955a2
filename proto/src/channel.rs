//! The way to a coordinator, and deadlines and keepalive of both sides.
//!
//! HTTP/2 pings are off by default; without them a peer that vanished without a
//! word would hang every stream.

use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncBufReadExt;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tower::service_fn;

/// Time without traffic after which the peer is pinged.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Time after which an unanswered ping ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Deadline of calls that move no files.
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// Deadline of calls that move one file.
pub const BLOB_DEADLINE: Duration = Duration::from_secs(3600);

/// Time to establish a connection.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Port of a coordinator whose address names none.
pub const PORT: u16 = 7443;

/// There is no way to such a coordinator.
#[derive(Debug, thiserror::Error)]
pub enum InvalidUrl {
    /// The address is no URL.
    #[error(
        "{0:?} is not an address of a coordinator; expected for instance http://127.0.0.1:7443, https://lab:7443 or \
         unix:lithogen-data/coordinator.sock"
    )]
    Unreadable(String),
    /// Others could listen.
    #[error(
        "{0} would be plaintext between machines; plaintext is for this machine only. Use https:// and join with a \
         token (`lithogen token create` on the coordinator's machine)"
    )]
    Plaintext(String),
    /// It would not know us, nor we it.
    #[error(
        "there is no identity for {0}; join with a token: `lithogen worker --join-token-file FILE` for a worker, \
         `lithogen login {0} --token-file FILE` for a person"
    )]
    NoIdentity(String),
}

/// Where a coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// In plaintext on this machine.
    Loopback(Uri),
    /// Encrypted, anywhere.
    Secure {
        /// A name or an address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A Unix socket.
    Socket(PathBuf),
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// If it is none, or would be plaintext between machines.
    pub fn parse(url: &str) -> Result<Self, InvalidUrl> {
        let unreadable = || InvalidUrl::Unreadable(url.to_owned());
        if let Some(path) = url.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Socket(PathBuf::from(path)));
        }
        let uri: Uri = url.parse().map_err(|_| unreadable())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(unreadable)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        match uri.scheme_str() {
            Some("http") if is_loopback(&host) => Ok(Self::Loopback(uri)),
            Some("http") => Err(InvalidUrl::Plaintext(url.to_owned())),
            Some("https") => Ok(Self::Secure { host, port: uri.port_u16().unwrap_or(PORT) }),
            _ => Err(unreadable()),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The Unix socket in a coordinator's state folder.
pub fn socket_path(state: &Path) -> PathBuf {
    state.join("coordinator.sock")
}

/// Who we are and whom we believe. What is replaced counts for connections made
/// from then on.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Arc<RwLock<Option<Arc<ClientConfig>>>>);

impl Credentials {
    /// Those of that configuration.
    pub fn new(config: ClientConfig) -> Self {
        Self(Arc::new(RwLock::new(Some(Arc::new(config)))))
    }

    /// Takes others from now on.
    pub fn replace(&self, config: ClientConfig) {
        // An option is whole after any panic.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
    }

    fn get(&self) -> Option<Arc<ClientConfig>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A coordinator that was reached and with which no connection can come about.
#[derive(Debug, thiserror::Error)]
#[error("no connection to the coordinator at {address}: {problem}")]
pub struct Refused {
    address: String,
    problem: String,
}

/// Why no connection came about, if trying again cannot help.
pub fn refused(status: &Status) -> Option<&Refused> {
    let mut source = status.source();
    while let Some(error) = source {
        // An I/O error does not count what it holds as its source.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(refused) = held.and_then(|held| held.downcast_ref::<Refused>()) {
            return Some(refused);
        }
        source = error.source();
    }
    None
}

/// The way to the coordinator at `url`. Connections are made when needed.
///
/// # Errors
/// If it is no URL, would be plaintext between machines, or needs credentials.
pub fn connect(url: &str, credentials: &Credentials) -> Result<Channel, InvalidUrl> {
    let unreadable = || InvalidUrl::Unreadable(url.to_owned());
    match Address::parse(url)? {
        Address::Loopback(uri) => Ok(with_deadlines(Endpoint::from(uri)).connect_lazy()),
        Address::Secure { host, port } => {
            if credentials.get().is_none() {
                return Err(InvalidUrl::NoIdentity(url.to_owned()));
            }
            let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| unreadable())?;
            let credentials = credentials.clone();
            let dial = move |_| {
                let (host, credentials) = (host.clone(), credentials.clone());
                async move { secure(&host, port, &credentials).await.map(TokioIo::new) }
            };
            Ok(with_deadlines(endpoint).connect_with_connector_lazy(service_fn(dial)))
        }
        Address::Socket(path) => {
            let dial = move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            };
            let endpoint = Endpoint::from_static("http://localhost");
            Ok(with_deadlines(endpoint).connect_with_connector_lazy(service_fn(dial)))
        }
    }
}

fn with_deadlines(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

async fn secure(host: &str, port: u16, credentials: &Credentials) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let config = credentials.get().ok_or_else(|| io::Error::other("there is no identity to show"))?;
    handshake(host, port, tcp, config).await
}

/// Encrypts a connection and waits for the coordinator's first word: whether it
/// takes the certificate that it was shown is known only then.
///
/// # Errors
/// A [`Refused`] inside if trying again cannot help.
pub async fn handshake(
    host: &str,
    port: u16,
    tcp: TcpStream,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let speak = async {
        let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
        match stream.fill_buf().await {
            Ok([]) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(stream),
            Err(error) => Err(error),
        }
    };
    speak.await.map_err(|error| match crate::tls::refusal(&error) {
        Some(problem) => io::Error::other(Refused { address: format!("{host}:{port}"), problem }),
        None => error,
    })
}

/// A server with the matching settings.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// A request that ends in an error after [`CALL_DEADLINE`].
pub fn call<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    request
}

/// A request that ends in an error after [`BLOB_DEADLINE`].
pub fn blob_call<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(BLOB_DEADLINE);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_is_on_loopback_or_encrypted_or_a_socket() {
        assert!(matches!(Address::parse("http://127.0.0.1:7443"), Ok(Address::Loopback(_))));
        assert!(matches!(Address::parse("http://[::1]:7443"), Ok(Address::Loopback(_))));
        assert!(matches!(Address::parse("http://localhost:7443"), Ok(Address::Loopback(_))));
        let secure = |host: &str, port| Address::Secure { host: host.to_owned(), port };
        assert_eq!(Address::parse("https://lab").unwrap(), secure("lab", 7443));
        assert_eq!(Address::parse("https://[fe80::1]:1/").unwrap(), secure("fe80::1", 1));
        assert_eq!(Address::parse("unix:a/b.sock").unwrap(), Address::Socket("a/b.sock".into()));
    }

    #[test]
    fn plaintext_between_machines_is_refused() {
        let refused = |url| matches!(Address::parse(url), Err(InvalidUrl::Plaintext(_)));
        assert!(refused("http://192.0.2.10:7443") && refused("http://lab:7443") && refused("http://127.0.0.1.lab"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["", "127.0.0.1:7443", "http://", "https://", "http:// space", "ftp://x", "unix:"] {
            assert!(matches!(Address::parse(bad), Err(InvalidUrl::Unreadable(_))), "{bad}");
        }
    }

    #[test]
    fn an_encrypted_address_needs_credentials() {
        assert!(matches!(connect("https://lab:1", &Credentials::default()), Err(InvalidUrl::NoIdentity(_))));
    }
}
