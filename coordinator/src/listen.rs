//! Connections, and who is at their other end.
//!
//! Who calls is settled once per connection. A connection of an identity is cut
//! when its certificate ends or its identity is revoked, with all calls on it.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use domain::registry::IdentityId;
use proto::tls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::access::Caller;
use crate::driver::{Handle, now_ms};

/// Time in which a peer has to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Peers that may be saying who they are at once.
const HANDSHAKES: usize = 256;

/// Pause after the system could give no connection, for instance as all file
/// descriptors are taken.
const PAUSE: Duration = Duration::from_millis(100);

/// First byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// Open connections of identities.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<BTreeMap<IdentityId, (CancellationToken, u32)>>>);

impl Connections {
    /// Cuts all connections of an identity.
    pub fn cut(&self, identity: &IdentityId) {
        if let Some((token, _)) = self.lock().get(identity) {
            token.cancel();
        }
    }

    /// How many an identity has.
    pub fn count(&self, identity: &IdentityId) -> u32 {
        self.lock().get(identity).map_or(0, |(_, open)| *open)
    }

    fn add(&self, identity: IdentityId) -> Counted {
        let mut open = self.lock();
        let (token, count) = open.entry(identity.clone()).or_default();
        if token.is_cancelled() {
            *token = CancellationToken::new();
        }
        *count += 1;
        let cut = token.clone();
        drop(open);
        Counted { connections: self.clone(), identity, cut }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IdentityId, (CancellationToken, u32)>> {
        // No call leaves the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open connection of an identity.
struct Counted {
    connections: Connections,
    identity: IdentityId,
    cut: CancellationToken,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        if let Some((_, count)) = open.get_mut(&self.identity) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.identity);
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection whose other end is known.
pub struct Connection {
    stream: Box<dyn Stream>,
    caller: Caller,
    /// Ready when the connection has to end.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Connection {
    fn new(stream: impl Stream + 'static, caller: Caller) -> Self {
        Self { stream: Box::new(stream), caller, cut: None }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    /// A server reads from every connection at all times, so it hears of the cut.
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(context).is_ready()
        {
            self.cut = Some(Box::pin(std::future::ready(())));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What is needed to learn who somebody is.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) driver: Handle,
    pub(crate) connections: Connections,
    /// Absent: plaintext, for this machine only.
    pub(crate) tls: Option<TlsAcceptor>,
}

/// Where connections come out.
pub(crate) type Incoming = ReceiverStream<io::Result<Connection>>;

type Sender = mpsc::Sender<io::Result<Connection>>;

/// Takes connections from both listeners until the stream is dropped.
pub(crate) fn incoming(tcp: TcpListener, socket: Option<UnixListener>, door: Door) -> Incoming {
    let (sender, receiver) = mpsc::channel(16);
    if let Some(socket) = socket {
        tokio::spawn(accept_local(socket, sender.clone()));
    }
    tokio::spawn(accept(tcp, door, sender));
    ReceiverStream::new(receiver)
}

async fn accept(tcp: TcpListener, door: Door, sender: Sender) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = sender.closed() => return,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (door, sender) = (door.clone(), sender.clone());
        tokio::spawn(async move {
            let met = tokio::time::timeout(HANDSHAKE, door.meet(stream)).await;
            drop(permit);
            match met {
                // A server that is ending takes no more connections.
                Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no connection"),
                Err(_) => tracing::debug!(%peer, "a peer does not say who it is"),
            }
        });
    }
}

async fn accept_local(socket: UnixListener, sender: Sender) {
    let path = socket.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    let owner = path.and_then(|path| std::fs::metadata(path).ok()).map(|file| file.uid());
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = sender.closed() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // The file's mode says the same; this also holds while the file is being made.
        let peer = stream.peer_cred().map(|peer| peer.uid()).ok();
        if peer == Some(0) || peer.is_some() && peer == owner {
            drop(sender.send(Ok(Connection::new(stream, Caller::Local))).await);
        }
    }
}

impl Door {
    async fn meet(&self, stream: TcpStream) -> io::Result<Connection> {
        // Small answers must not wait for more to send along with them: 40 ms a call.
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Connection::new(stream, Caller::Local)) };
        let mut first = [0];
        stream.peek(&mut first).await?;
        if first != [TLS_HANDSHAKE] {
            return Ok(Connection::new(stream, Caller::Plaintext));
        }
        let stream = tls.accept(stream).await?;
        let Some(certificate) = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) else {
            return Ok(Connection::new(stream, Caller::Nameless));
        };
        let said = tls::read(certificate).map_err(io::Error::other)?;
        self.know(stream, IdentityId(said.common_name), said.not_after_ms).await
    }

    async fn know(
        &self,
        stream: TlsStream<TcpStream>,
        identity: IdentityId,
        not_after_ms: i64,
    ) -> io::Result<Connection> {
        // Counted before it is looked up: whoever is revoked in between is cut.
        let counted = self.connections.add(identity.clone());
        let id = identity.clone();
        let known = self
            .driver
            .read(move |knowledge| knowledge.registry.identity(&id).map(|known| (known.role, known.revoked)).ok());
        let caller = match known.await.map_err(io::Error::other)? {
            None => Caller::Unknown(identity),
            Some((_, true)) => Caller::Revoked(identity),
            Some((role, false)) => Caller::Joined { identity, role },
        };
        // It counts to the end of its last second.
        let left_ms = not_after_ms.saturating_add(1000).saturating_sub(now_ms());
        let life = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
        let cut = async move {
            tokio::select! {
                () = counted.cut.cancelled() => {}
                () = tokio::time::sleep(life) => {}
            }
        };
        Ok(Connection { stream: Box::new(stream), caller, cut: Some(Box::pin(cut)) })
    }
}

/// The Unix socket of a state folder: whoever may open it is an administrator.
///
/// # Errors
/// If it cannot be made, for instance as its path is longer than sockets may have.
pub(crate) fn socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        // Left by a coordinator that was killed; the folder's lock says that it is gone.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_reaches_the_connections_that_are_open_and_no_later_ones() {
        let (connections, id) = (Connections::default(), IdentityId("a-1".to_owned()));
        let (first, second) = (connections.add(id.clone()), connections.add(id.clone()));
        assert_eq!(connections.count(&id), 2);
        connections.cut(&id);
        assert!(first.cut.is_cancelled() && second.cut.is_cancelled());
        let later = connections.add(id.clone());
        assert!(!later.cut.is_cancelled());
        drop((first, second, later));
        assert_eq!(connections.count(&id), 0);
        assert!(connections.lock().is_empty());
    }
}
