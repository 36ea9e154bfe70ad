//! Who is at the other end: the connection, and what a trusted proxy says of the client behind it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Version};
use ipnet::IpNet;

/// What is known of a connection; the accept loop puts it into every request.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub is_tls: bool,
    pub version: Version,
}

impl Connection {
    /// The HTTP version as two numbers.
    pub fn version_numbers(&self) -> (u8, u8) {
        match self.version {
            Version::HTTP_09 => (0, 9),
            Version::HTTP_10 => (1, 0),
            Version::HTTP_2 => (2, 0),
            Version::HTTP_3 => (3, 0),
            _ => (1, 1),
        }
    }
}

/// The client's address: the first of `X-Forwarded-For` when the peer is a trusted proxy, else the peer's.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> String {
    let peer = peer.to_canonical();
    if trusted.iter().any(|network| network.contains(&peer))
        && let Some(first) = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok())
    {
        let first = first.split(',').next().unwrap_or_default().trim();
        if !first.is_empty() {
            return first.to_owned();
        }
    }
    peer.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_peer_speaks_for_others() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "10.1.2.3, 10.9.9.9".parse().expect("a header value"));
        let trusted = ["127.0.0.0/8".parse().expect("a network")];
        assert_eq!(client_ip([127, 0, 0, 1].into(), &headers, &trusted), "10.1.2.3");
        assert_eq!(client_ip([192, 0, 2, 1].into(), &headers, &trusted), "192.0.2.1");
    }
}
