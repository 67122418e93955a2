//! Where a coordinator is.

use std::net::IpAddr;
use std::path::PathBuf;

use tonic::transport::Uri;

/// The beginning of the address of a Unix socket.
const SOCKET: &str = "unix:";

/// Port of a coordinator whose address names none.
pub const PORT: u16 = 7443;

/// Why an address leads to no coordinator.
#[derive(Debug, thiserror::Error)]
pub enum InvalidUrl {
    /// The address is no URL.
    #[error(
        "{0:?} is not an address of a coordinator; expected for instance http://127.0.0.1:7443, https://lab:7443 or \
         unix:lithogen-data/coordinator.sock"
    )]
    Unreadable(String),
    /// The connection would be plaintext between machines, so others could listen.
    #[error(
        "{0} would be plaintext between machines; plaintext is for this machine only. Use https:// and join with a \
         token (`lithogen token create` on the coordinator's machine)"
    )]
    Plaintext(String),
    /// The coordinator asks for an identity, and there is none to show.
    #[error(
        "there is no identity for {0}; join with a token: `lithogen worker --join-token-file FILE` for a worker, \
         `lithogen login {0} --token-file FILE` for a person"
    )]
    NoIdentity(String),
}

/// Where a coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port of this machine, reached in plaintext.
    Loopback { host: String, port: u16 },
    /// A port of any machine, reached by an encrypted connection.
    Secure { host: String, port: u16 },
    /// A Unix socket.
    Socket(PathBuf),
}

impl Address {
    /// Reads the URLs of coordinators that stand in for each other, with commas
    /// between them; at least one. Nobody stands in for a socket, whose path may have
    /// commas.
    ///
    /// # Errors
    /// For the first that is none, or would be plaintext between machines.
    pub fn parse_all(urls: &str) -> Result<Vec<Self>, InvalidUrl> {
        if urls.trim_start().starts_with(SOCKET) {
            return Ok(vec![Self::parse(urls.trim())?]);
        }
        urls.split(',').map(|url| Self::parse(url.trim())).collect()
    }

    /// Whether the coordinator at this address asks for an identity.
    pub fn is_secure(&self) -> bool {
        matches!(self, Self::Secure { .. })
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// If it is none, or would be plaintext between machines.
    pub fn parse(url: &str) -> Result<Self, InvalidUrl> {
        let unreadable = || InvalidUrl::Unreadable(url.to_owned());
        if let Some(path) = url.strip_prefix(SOCKET).filter(|path| !path.is_empty()) {
            return Ok(Self::Socket(PathBuf::from(path)));
        }
        let uri: Uri = url.parse().map_err(|_| unreadable())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(unreadable)?;
        let host = unbracketed(host).to_owned();
        let port = uri.port_u16().unwrap_or(PORT);
        match uri.scheme_str() {
            Some("http") if is_loopback(&host) => Ok(Self::Loopback { host, port }),
            Some("http") => Err(InvalidUrl::Plaintext(url.to_owned())),
            Some("https") => Ok(Self::Secure { host, port }),
            _ => Err(unreadable()),
        }
    }
}

/// Whether a URL's host, without brackets, is this machine: what is called `localhost`,
/// or an address of loopback. No other name counts, whatever it begins with.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether a URL is one of plaintext HTTP to this machine.
pub fn is_plain_loopback(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    // Who is named before an @ is no part of where it leads; none is needed here.
    let is_bare = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    is_bare && uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| is_loopback(unbracketed(host)))
}

fn unbracketed(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_is_on_loopback_or_encrypted_or_a_socket() {
        assert!(matches!(Address::parse("http://127.0.0.1:7443"), Ok(Address::Loopback { .. })));
        assert!(matches!(Address::parse("http://[::1]:7443"), Ok(Address::Loopback { .. })));
        assert!(matches!(Address::parse("http://localhost:7443"), Ok(Address::Loopback { .. })));
        let secure = |host: &str, port| Address::Secure { host: host.to_owned(), port };
        assert_eq!(Address::parse("https://lab").unwrap(), secure("lab", 7443));
        assert_eq!(Address::parse("https://[fe80::1]:1/").unwrap(), secure("fe80::1", 1));
        assert_eq!(Address::parse("unix:a/b.sock").unwrap(), Address::Socket("a/b.sock".into()));
    }

    #[test]
    fn several_stand_in_for_each_other() {
        let both = Address::parse_all("https://one,https://two:1").unwrap();
        assert_eq!(both, [Address::parse("https://one").unwrap(), Address::parse("https://two:1").unwrap()]);
        assert!(Address::parse_all("https://one,").is_err() && Address::parse_all("").is_err());
        let socket = Address::Socket("a,b/coordinator.sock".into());
        assert_eq!(Address::parse_all("unix:a,b/coordinator.sock").unwrap(), [socket]);
    }

    #[test]
    fn plaintext_between_machines_is_refused() {
        let refused = |url| matches!(Address::parse(url), Err(InvalidUrl::Plaintext(_)));
        assert!(refused("http://192.0.2.10:7443") && refused("http://lab:7443") && refused("http://127.0.0.1.lab"));
        assert!(
            refused("http://localhost@evil:80")
                && refused("http://localhost:80@evil")
                && refused("http://localhost.evil")
        );
    }

    #[test]
    fn what_only_looks_like_this_machine_is_another() {
        for here in ["http://127.0.0.1:9000", "http://localhost", "http://LOCALHOST:1/x", "http://[::1]:9000/x"] {
            assert!(is_plain_loopback(here), "{here}");
        }
        for elsewhere in [
            "http://10.0.0.1:9000",
            "http://127.0.0.1.example.org",
            "http://localhost.example.org",
            "http://localhost@example.org",
            "http://localhost:80@example.org",
            "http://127.0.0.1\\@example.org",
            "http://example.org/localhost",
            "http://example.org#localhost",
            "https://127.0.0.1",
            "127.0.0.1:9000",
            "",
        ] {
            assert!(!is_plain_loopback(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["", "127.0.0.1:7443", "http://", "https://", "http:// space", "ftp://x", "unix:"] {
            assert!(matches!(Address::parse(bad), Err(InvalidUrl::Unreadable(_))), "{bad}");
        }
    }
}
