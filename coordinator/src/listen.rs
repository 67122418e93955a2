//! Accepting connections, and establishing who is at the other end.
//!
//! The caller is established once per connection. A connection of an identity is cut, with all
//! calls on it, when the certificate ends or the identity is revoked. A connection without a
//! certificate has a short life and a place in a [`Crowd`].

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use domain::runner::registry::IdentityId;
use proto::channel::Stream;
use proto::clock::now_ms;
use proto::tls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::access::{Caller, Peer};
use crate::background::Background;
use crate::config::Limits;
use crate::crowd::{Crowd, Network, Place};
use crate::driver::Handle;

/// Pause after the operating system could not accept a connection, for instance as all file
/// descriptors are taken.
const PAUSE: Duration = Duration::from_millis(100);

/// How often the expiry of certificates is compared with the clock. A timer alone stands still
/// while the machine sleeps.
const LOOK: Duration = Duration::from_secs(1);

/// First byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// The open connections of identities.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<BTreeMap<IdentityId, (CancellationToken, u32)>>>);

impl Connections {
    /// Cuts all connections of an identity.
    pub fn cut(&self, identity: &IdentityId) {
        if let Some((token, _)) = self.lock().get(identity) {
            token.cancel();
        }
    }

    /// Number of open connections of an identity.
    pub fn count(&self, identity: &IdentityId) -> u32 {
        self.lock().get(identity).map_or(0, |(_, open)| *open)
    }

    /// Counts one more connection, unless the identity has `most` already.
    fn add(&self, identity: IdentityId, most: usize) -> Option<Counted> {
        let mut open = self.lock();
        let (token, count) = open.entry(identity.clone()).or_default();
        if usize::try_from(*count).is_ok_and(|count| count >= most) {
            return None;
        }
        if token.is_cancelled() {
            *token = CancellationToken::new();
        }
        *count += 1;
        let cut = token.clone();
        drop(open);
        Some(Counted { connections: self.clone(), identity, cut })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IdentityId, (CancellationToken, u32)>> {
        // No call leaves the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One counted connection of an identity; dropping it uncounts it.
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

/// Ready when the connection has to end.
type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection whose other end is known.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    peer: Peer,
    cut: Option<Cut>,
    /// The connection's permit among those that may last.
    _room: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn new(stream: impl Stream + 'static, peer: Peer) -> Self {
        Self { stream: Box::new(stream), peer, cut: None, _room: None }
    }

    fn cut(mut self, cut: impl Future<Output = ()> + Send + 'static) -> Self {
        self.cut = Some(Box::pin(cut));
        self
    }

    /// An error from the moment when the connection has to end. Checked before reading and
    /// before writing: a server whose client takes nothing may only try to write.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(context).is_ready()
        {
            self.cut = Some(Box::pin(std::future::ready(())));
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Establishes who is at the other end of new connections.
#[derive(Clone)]
pub(crate) struct Acceptor {
    /// None: plaintext, for this machine only.
    guests: Option<Guests>,
    limits: Limits,
    /// Connections on which no byte has arrived yet.
    silent: Crowd,
    /// Connections in the TLS handshake.
    greeting: Crowd,
    /// Open connections without a certificate.
    strangers: Crowd,
    /// Permits for connections of identities.
    room: Arc<Semaphore>,
}

/// What is needed to establish who calls from another machine.
#[derive(Clone)]
pub(crate) struct Guests {
    /// None until the journal is read, which says who has joined.
    pub(crate) driver: watch::Receiver<Option<Handle>>,
    pub(crate) connections: Connections,
    pub(crate) tls: TlsAcceptor,
}

/// Streams of accepted connections. Those from other machines without a certificate come apart,
/// as they are served in another way.
pub(crate) struct Incoming {
    pub(crate) known: ReceiverStream<io::Result<Connection>>,
    pub(crate) strangers: ReceiverStream<io::Result<Connection>>,
}

/// The senders of [`Incoming`].
#[derive(Clone)]
struct Outgoing {
    known: mpsc::Sender<io::Result<Connection>>,
    strangers: mpsc::Sender<io::Result<Connection>>,
}

impl Outgoing {
    async fn send(&self, connection: Connection) {
        let is_known = matches!(connection.peer.caller, Caller::Local | Caller::Joined { .. });
        let sender = if is_known { &self.known } else { &self.strangers };
        // A server that is ending takes no more connections.
        let _ = sender.send(Ok(connection)).await;
    }
}

/// Accepts connections from both listeners until the streams are dropped or the coordinator
/// ends.
pub(crate) fn incoming(
    tcp: TcpListener,
    socket: Option<UnixListener>,
    acceptor: Acceptor,
    background: &Background,
) -> Incoming {
    let ((known, known_receiver), (strangers, receiver)) = (mpsc::channel(16), mpsc::channel(16));
    let outgoing = Outgoing { known, strangers };
    if let Some(socket) = socket {
        background.spawn_until_closed(accept_local(socket, outgoing.clone()));
    }
    background.spawn_until_closed(accept(tcp, acceptor, outgoing, background.clone()));
    Incoming { known: ReceiverStream::new(known_receiver), strangers: ReceiverStream::new(receiver) }
}

async fn accept(tcp: TcpListener, acceptor: Acceptor, outgoing: Outgoing, background: Background) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = outgoing.known.closed() => return,
            accepted = tcp.accept() => accepted,
        };
        let Ok((stream, address)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (acceptor, outgoing, network) = (acceptor.clone(), outgoing.clone(), Network::from(address.ip()));
        // Now: whoever comes next takes the place of whoever came before.
        let place = acceptor.silent.enter(network);
        background.spawn_until_closed(async move {
            match acceptor.meet(stream, network, place).await {
                Ok(connection) => outgoing.send(connection).await,
                Err(error) => tracing::debug!(%address, %error, "no connection"),
            }
        });
    }
}

async fn accept_local(socket: UnixListener, outgoing: Outgoing) {
    let path = socket.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    let owner = path.and_then(|path| std::fs::metadata(path).ok()).map(|file| file.uid());
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = outgoing.known.closed() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // The file's mode says the same; this also holds while the file is being made.
        let peer = stream.peer_cred().map(|peer| peer.uid()).ok();
        if peer == Some(0) || peer.is_some() && peer == owner {
            outgoing
                .send(Connection::new(stream, Peer { caller: Caller::Local, network: None, by_socket: true }))
                .await;
        }
    }
}

impl Acceptor {
    /// An acceptor for other machines, or without `guests` for this machine only.
    pub(crate) fn new(guests: Option<Guests>, limits: Limits) -> Self {
        // This machine is one network.
        let of_one = if guests.is_some() { limits.strangers_of_one } else { limits.strangers };
        let crowd = || Crowd::new(limits.strangers, of_one);
        let room = Arc::new(Semaphore::new(limits.connections));
        Self { guests, limits, silent: crowd(), greeting: crowd(), strangers: crowd(), room }
    }

    async fn meet(&self, stream: TcpStream, network: Network, place: Place) -> io::Result<Connection> {
        // Small answers must not wait for more to send along with them: 40 ms a call.
        stream.set_nodelay(true)?;
        let mut first = [0];
        self.in_time(&place, stream.peek(&mut first)).await?;
        // Whoever has begun to speak is not in the way of those who have not.
        drop(place);
        let Some(guests) = &self.guests else {
            let full = |_| io::Error::other("there are as many connections as may be");
            let room = self.room.clone().try_acquire_owned().map_err(full)?;
            let connection = Connection::new(stream, Peer { caller: Caller::Local, network: None, by_socket: false });
            return Ok(Connection { _room: Some(room), ..connection });
        };
        if first != [TLS_HANDSHAKE] {
            return Ok(self.stranger(stream, Caller::Plaintext, network));
        }
        let place = self.greeting.enter(network);
        let stream = self.in_time(&place, guests.tls.accept(stream)).await?;
        let Some(certificate) = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) else {
            return Ok(self.stranger(stream, Caller::Nameless, network));
        };
        let Some(driver) = guests.driver.borrow().clone() else {
            return Ok(self.stranger(stream, Caller::Nameless, network));
        };
        let said = tls::read(certificate).map_err(io::Error::other)?;
        let identity = IdentityId(said.common_name);
        // Counted before it is looked up: whoever is revoked in between is cut.
        let counted = guests.connections.add(identity.clone(), self.limits.connections_of_one);
        let id = identity.clone();
        let known = driver
            .read(move |knowledge| knowledge.registry.identity(&id).map(|known| (known.role, known.revoked)).ok());
        let role = match known.await.map_err(io::Error::other)? {
            None => return Ok(self.stranger(stream, Caller::Unknown(identity), network)),
            Some((_, true)) => return Ok(self.stranger(stream, Caller::Revoked(identity), network)),
            Some((role, false)) => role,
        };
        let (Some(counted), Ok(room)) = (counted, self.room.clone().try_acquire_owned()) else {
            tracing::warn!(%identity, "has more connections than it may");
            return Ok(self.stranger(stream, Caller::Crowded(identity), network));
        };
        let cut = async move {
            tokio::select! {
                () = counted.cut.cancelled() => {}
                () = end(said.not_after_ms, now_ms) => {}
            }
        };
        let peer = Peer { caller: Caller::Joined { identity, role }, network: Some(network), by_socket: false };
        Ok(Connection { _room: Some(room), ..Connection::new(stream, peer).cut(cut) })
    }

    /// Runs a step of the handshake, which has to end in time and before `place` is lost.
    async fn in_time<T>(&self, place: &Place, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::select! {
            biased;
            done = tokio::time::timeout(self.limits.handshake, step) => done?,
            () = place.lost() => Err(io::Error::other("others who came later have its place")),
        }
    }

    /// A connection that lasts as long as its place is kept, and for a limited time.
    fn stranger(&self, stream: impl Stream + 'static, caller: Caller, network: Network) -> Connection {
        let (place, life) = (self.strangers.enter(network), self.limits.stranger_life);
        let cut = async move {
            // Too late or out of place, it ends alike.
            let _ = tokio::time::timeout(life, place.lost()).await;
        };
        Connection::new(stream, Peer { caller, network: Some(network), by_socket: false }).cut(cut)
    }
}

/// Resolves when a certificate ends by the clock, after the last second in which it is valid.
/// The clock may be set, and goes on while the machine sleeps.
async fn end(not_after_ms: i64, now_ms: impl Fn() -> i64) {
    loop {
        let left_ms = not_after_ms.saturating_add(1000).saturating_sub(now_ms());
        match u64::try_from(left_ms) {
            Ok(left_ms @ 1..) => tokio::time::sleep(LOOK.min(Duration::from_millis(left_ms))).await,
            _ => return,
        }
    }
}

/// Opens the Unix socket of a state folder: whoever may open it is an administrator.
///
/// # Errors
/// If the socket cannot be made, for instance as its path is longer than the system allows.
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
        let add = || connections.add(id.clone(), 3).unwrap();
        let (first, second) = (add(), add());
        assert_eq!(connections.count(&id), 2);
        connections.cut(&id);
        assert!(first.cut.is_cancelled() && second.cut.is_cancelled());
        let later = add();
        assert!(!later.cut.is_cancelled());
        drop((first, second, later));
        assert_eq!(connections.count(&id), 0);
        assert!(connections.lock().is_empty());
    }

    #[test]
    fn an_identity_has_so_many_connections() {
        let (connections, id) = (Connections::default(), IdentityId("a-1".to_owned()));
        let first = connections.add(id.clone(), 2).unwrap();
        let _second = connections.add(id.clone(), 2).unwrap();
        assert!(connections.add(id.clone(), 2).is_none());
        drop(first);
        assert!(connections.add(id, 2).is_some());
    }

    #[tokio::test]
    async fn a_certificate_ends_by_the_clock_also_after_a_sleep_of_the_machine() {
        let hour_ms = 3_600_000;
        let looks = std::sync::atomic::AtomicI64::new(0);
        // The second look finds that an hour has gone by.
        let clock = || hour_ms * looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let ended = tokio::time::timeout(Duration::from_secs(60), end(hour_ms - 1000, clock));
        assert!(ended.await.is_ok());
        assert_eq!(looks.into_inner(), 2);
    }
}
