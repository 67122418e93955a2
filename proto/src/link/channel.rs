//! The way to a coordinator, and deadlines and keepalive of both sides.
//!
//! HTTP/2 pings are off by default; without them a peer that vanished without a
//! word would hang every stream.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Server};
use tower::service_fn;

use crate::link::address::{Address, InvalidUrl};
use crate::status::Refused;
use crate::trace;

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

/// Calls on one connection at once: a worker's session and its call for work, and its
/// files.
const STREAMS: u32 = 256;

/// Bytes that a server takes of a connection before it has read them.
const WINDOW: u32 = 1024 * 1024;

/// The most bytes that the headers of one call may have.
const HEADERS: u32 = 16 * 1024;

/// Calls that a client may take back before the server has looked at them, and that a
/// stranger may break.
const RESETS: usize = 64;

/// What [`STREAMS`] is for a caller who shows no certificate.
const STRANGERS_STREAMS: u32 = 4;

/// What [`WINDOW`] is for a caller who shows no certificate.
const STRANGERS_WINDOW: u32 = 64 * 1024;

/// The Unix socket in a coordinator's state folder.
pub fn socket_path(state: &Path) -> PathBuf {
    state.join("coordinator.sock")
}

/// What a client shows and whom it believes. A replacement counts for connections made from then
/// on.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Arc<RwLock<Option<Arc<ClientConfig>>>>);

impl Credentials {
    /// Credentials that begin with this configuration.
    pub fn new(config: ClientConfig) -> Self {
        Self(Arc::new(RwLock::new(Some(Arc::new(config)))))
    }

    /// Replaces the configuration for connections made from now on.
    pub fn replace(&self, config: ClientConfig) {
        // An option is whole after any panic.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
    }

    fn get(&self) -> Option<Arc<ClientConfig>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The way to the coordinator at `urls`: one, or several that stand in for each
/// other, with commas between them. Connections are made when needed, to the
/// first that can be reached after the one reached last.
///
/// # Errors
/// If one is no URL, would be plaintext between machines, or needs credentials.
pub fn connect(urls: &str, credentials: &Credentials) -> Result<Channel, InvalidUrl> {
    let addresses = Address::parse_all(urls)?;
    if addresses.iter().any(Address::is_secure) && credentials.get().is_none() {
        return Err(InvalidUrl::NoIdentity(urls.to_owned()));
    }
    let origin = if addresses[0].is_secure() { "https://localhost" } else { "http://localhost" };
    let endpoint = Endpoint::from_static(origin)
        .connect_timeout(CONNECT_DEADLINE * u32::try_from(addresses.len()).unwrap_or(u32::MAX))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let dialer = Arc::new(Dialer { addresses, credentials: credentials.clone(), next: AtomicUsize::new(0) });
    let dial = move |_| {
        let dialer = dialer.clone();
        async move { dialer.dial().await.map(TokioIo::new) }
    };
    Ok(endpoint.connect_with_connector_lazy(service_fn(dial)))
}

/// A connection of whatever kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to one of several coordinators.
struct Dialer {
    addresses: Vec<Address>,
    credentials: Credentials,
    /// The address to try first: a connection that broke may have led to a leader that is gone.
    next: AtomicUsize,
}

impl Dialer {
    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        let (first, count) = (self.next.load(Relaxed), self.addresses.len());
        let mut failed = None;
        for place in (first..first + count).map(|place| place % count) {
            let reaching = tokio::time::timeout(CONNECT_DEADLINE, self.reach(&self.addresses[place]));
            match reaching.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    self.next.store((place + 1) % count, Relaxed);
                    return Ok(stream);
                }
                // What may be over soon outweighs a refusal by another.
                Err(error) if failed.as_ref().is_none_or(is_refusal) => failed = Some(error),
                Err(_) => {}
            }
        }
        Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    async fn reach(&self, address: &Address) -> io::Result<Box<dyn Stream>> {
        let tcp = async |host: &str, port| {
            let tcp = TcpStream::connect((host, port)).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, io::Error>(tcp)
        };
        match address {
            Address::Loopback { host, port } => {
                let tcp = tcp(host, *port).await?;
                // A name server may have its own mind about what `localhost` is.
                let refused = |problem, passes| {
                    Err(io::Error::other(Refused { address: format!("{host}:{port}"), problem, passes }))
                };
                if !tcp.peer_addr()?.ip().to_canonical().is_loopback() {
                    return refused("that is another machine, and plaintext is for this one only".to_owned(), false);
                }
                if let Some(user) = crate::link::peer::stranger(&tcp).await? {
                    return refused(of(user), true);
                }
                Ok(Box::new(tcp))
            }
            Address::Secure { host, port } => {
                let tcp = tcp(host, *port).await?;
                let config = self.credentials.get().ok_or_else(|| io::Error::other("there is no identity to show"))?;
                Ok(Box::new(handshake(host, *port, tcp, config).await?))
            }
            Address::Socket(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}

/// Says why nothing is said in plaintext at a port of another user.
fn of(user: u32) -> String {
    format!(
        "the port is held by another user of this machine (uid {user}), who would be told everything and could have \
         anything run; nothing was sent. Reach a coordinator of another user by its socket \
         (unix:STATE/coordinator.sock), or have it started with --tls and join it"
    )
}

fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|held| held.is::<Refused>())
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
    speak.await.map_err(|error| match crate::link::tls::refusal(&error) {
        Some(problem) => io::Error::other(Refused { address: format!("{host}:{port}"), problem, passes: false }),
        None => error,
    })
}

/// A server with the matching settings, for those who are known. Of what they send, it
/// holds as much unread for each connection as [`WINDOW`] says.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .http2_max_header_list_size(HEADERS)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
}

/// As [`server`], for those who show no certificate: room for a signing request.
pub fn server_for_strangers() -> Server {
    server()
        .max_concurrent_streams(STRANGERS_STREAMS)
        .initial_connection_window_size(STRANGERS_WINDOW)
        .initial_stream_window_size(STRANGERS_WINDOW)
        .http2_max_local_error_reset_streams(Some(RESETS))
}

/// A request that ends in an error after [`CALL_DEADLINE`], in the trace of the current span.
pub fn call<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    trace::mark(&mut request);
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
    fn an_encrypted_address_needs_credentials() {
        assert!(matches!(connect("https://lab:1", &Credentials::default()), Err(InvalidUrl::NoIdentity(_))));
    }
}
