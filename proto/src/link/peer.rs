//! Whose a port of this machine is. Any user may listen on loopback, also at the port
//! of a coordinator that is away: whoever is about to speak plaintext there looks first.
//!
//! Linux lists all sockets with their owners. Elsewhere nobody can be told apart.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;

/// The files in which Linux lists all sockets.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The user id of root, who may do everything anyway.
const ROOT: u32 = 0;

/// States of a socket, as they are listed.
const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

/// The user at the other end of a loopback connection, if that is neither this
/// process's own nor root. Nobody if that is not known: no table, or a peer outside
/// this network namespace, where only root can lead a connection.
///
/// # Errors
/// If the connection has ended.
pub async fn stranger(connection: &TcpStream) -> io::Result<Option<u32>> {
    let ends = (connection.peer_addr()?, connection.local_addr()?);
    let own = rustix::process::geteuid().as_raw();
    let mut table = String::new();
    for path in TABLES {
        // Without IPv6 there is one.
        table += &tokio::fs::read_to_string(path).await.unwrap_or_default();
    }
    Ok(owners(&table, ends).find(|user| ![own, ROOT].contains(user)))
}

/// Who listens where a connection leads, and who has taken it.
fn owners(table: &str, (peer, local): (SocketAddr, SocketAddr)) -> impl Iterator<Item = u32> {
    let leads_to = move |at: SocketAddr| {
        at.port() == peer.port() && (at.ip() == peer.ip().to_canonical() || at.ip().is_unspecified())
    };
    let taken = move |at: SocketAddr, from: SocketAddr| same(at, peer) && same(from, local);
    table.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, at, from, state, _, _, _, user, _, inode, ..] = fields[..] else { return None };
        let (at, from) = (address(at)?, address(from)?);
        let is_theirs = match state {
            LISTENING => leads_to(at),
            // One that nobody has taken yet has neither owner nor inode.
            ESTABLISHED => inode != "0" && taken(at, from),
            _ => false,
        };
        is_theirs.then(|| user.parse().ok())?
    })
}

fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
}

/// An address as the tables write it: words of the machine's byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |place: usize| Some(u32::from_str_radix(ip.get(place * 8..place * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(<[u8; 16]>::try_from(words).ok()?).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

// The table below is one of a little-endian machine.
#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    /// Port 7443 of 127.0.0.1 listened at by 1000, of ::1 by 1001, of all by 1002; a
    /// connection to it from port 40000, taken by 1003, and one that nobody has taken.
    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1D13 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0
   1: 0100007F:1D14 00000000:0000 0A 00000000:00000000 00:00000000 00000000     7        0 12 1 0
   2: 0100007F:1D13 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1003        0 13 1 0
   3: 0100007F:1D13 0100007F:9C41 01 00000000:00000000 00:00000000 00000000     8        0 0 1 0
   4: 0100007F:9C40 0100007F:1D13 01 00000000:00000000 00:00000000 00000000     9        0 14 1 0
   0: 00000000000000000000000001000000:1D13 00000000000000000000000000000000:0000 0A 00:0 00:0 0 1001 0 15 1
   1: 00000000000000000000000000000000:1D13 00000000000000000000000000000000:0000 0A 00:0 00:0 0 1002 0 16 1
";

    fn found(peer: &str, local: &str) -> Vec<u32> {
        owners(TABLE, (peer.parse().unwrap(), local.parse().unwrap())).collect()
    }

    #[test]
    fn those_who_listen_where_a_connection_leads_and_who_took_it_are_found() {
        assert_eq!(found("127.0.0.1:7443", "127.0.0.1:40000"), [1000, 1003, 1002]);
        assert_eq!(found("127.0.0.1:7443", "127.0.0.1:40001"), [1000, 1002]);
        assert_eq!(found("[::1]:7443", "[::1]:40000"), [1001, 1002]);
        assert_eq!(found("127.0.0.1:7444", "127.0.0.1:40000"), [7]);
        assert_eq!(found("127.0.0.1:7445", "127.0.0.1:40000"), [0; 0]);
    }

    #[tokio::test]
    async fn a_port_of_ones_own_is_no_strangers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(stranger(&connection).await.unwrap(), None);
    }
}
