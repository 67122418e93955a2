//! A cable on loopback that can be cut after a number of bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes that went one way, and after how many of them the connection breaks.
#[derive(Debug)]
struct Way {
    passed: AtomicU64,
    cut_at: AtomicU64,
}

impl Way {
    fn new() -> Arc<Self> {
        Arc::new(Self { passed: AtomicU64::new(0), cut_at: AtomicU64::new(u64::MAX) })
    }

    /// Passes bytes on until either side ends or it is cut, once.
    async fn pass(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let passed = self.passed.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
            if to.write_all(&buffer[..length]).await.is_err() {
                return;
            }
            if passed >= self.cut_at.load(Ordering::Relaxed) {
                self.cut_at.store(u64::MAX, Ordering::Relaxed);
                return;
            }
        }
    }
}

/// Listens on a port of its own and passes on to another.
pub(crate) struct Proxy {
    address: SocketAddr,
    up: Arc<Way>,
    down: Arc<Way>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (up, down) = (Way::new(), Way::new());
        let ways = (up.clone(), down.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (up, down) = ways.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    // Whichever way ends first takes the other along: both sockets close.
                    tokio::select! {
                        () = up.pass(from_client, to_server) => {}
                        () = down.pass(from_server, to_client) => {}
                    }
                });
            }
        });
        Self { address, up, down }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks the connection once after so many bytes to the server in all.
    pub(crate) fn cut_up_at(&self, bytes: u64) {
        self.up.cut_at.store(bytes, Ordering::Relaxed);
    }

    /// Breaks the connection once after so many bytes from the server in all.
    pub(crate) fn cut_down_at(&self, bytes: u64) {
        self.down.cut_at.store(bytes, Ordering::Relaxed);
    }

    /// Bytes to the server so far.
    pub(crate) fn up(&self) -> u64 {
        self.up.passed.load(Ordering::Relaxed)
    }

    /// Bytes from the server so far.
    pub(crate) fn down(&self) -> u64 {
        self.down.passed.load(Ordering::Relaxed)
    }
}
