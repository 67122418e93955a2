//! Deadlines and keepalive, the same on both sides.
//!
//! HTTP/2 pings are off by default; without them a peer that vanished without a
//! word would hang every stream.

use std::time::Duration;

use tonic::transport::{Endpoint, Server};

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

/// The coordinator's address is no URL.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is not an address of a coordinator; expected for instance http://127.0.0.1:7443")]
pub struct InvalidUrl {
    url: String,
}

/// How to reach the coordinator at `url`.
///
/// # Errors
/// If it is not an `http://` URL with a host.
pub fn endpoint(url: &str) -> Result<Endpoint, InvalidUrl> {
    let invalid = || InvalidUrl { url: url.to_owned() };
    if !url.starts_with("http://") {
        return Err(invalid());
    }
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| invalid())?;
    endpoint.uri().host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
    Ok(endpoint
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
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
    fn only_urls_with_a_host_are_accepted() {
        assert!(endpoint("http://127.0.0.1:7443").is_ok());
        for bad in ["", "127.0.0.1:7443", "https://lab:1", "http://", "http:// space", "ftp://x"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
