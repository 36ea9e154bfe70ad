//! Who is at the other end: the connection, and what a trusted proxy says of the client behind it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, Version};
use ipnet::IpNet;

/// What is known of a connection; the accept loop puts it into every request.
#[derive(Debug, Clone)]
pub struct Connection {
    pub peer: SocketAddr,
    /// Its address as text.
    pub peer_ip: Arc<str>,
    pub local: SocketAddr,
    pub is_tls: bool,
    pub version: Version,
}

impl Connection {
    pub fn new(peer: SocketAddr, local: SocketAddr, is_tls: bool, version: Version) -> Self {
        Self { peer, peer_ip: peer.ip().to_canonical().to_string().into(), local, is_tls, version }
    }

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

/// Who asks, and what of this server they see: the connection's word, or a trusted proxy's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub ip: Arc<str>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The `Host` that the client named, when a proxy has replaced it.
    pub host: Option<String>,
}

/// The client behind a connection. `X-Forwarded-For`, `-Proto` and `-Host`, or else `Forwarded` (RFC 7239), are believed
/// of a trusted peer only; of several proxies' words the first counts.
pub fn client(connection: &Connection, headers: &HeaderMap, trusted: &[IpNet]) -> Client {
    let scheme = if connection.is_tls { "https" } else { "http" };
    let mut client = Client { ip: Arc::clone(&connection.peer_ip), scheme, host: None };
    if !is_trusted(connection, trusted) {
        return client;
    }
    let of = |name: &str, parameter: &str| first_of(headers, name).or_else(|| forwarded(headers, parameter));
    if let Some(ip) = of("x-forwarded-for", "for") {
        client.ip = ip.into();
    }
    match of("x-forwarded-proto", "proto") {
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => client.scheme = "http",
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => client.scheme = "https",
        _ => {}
    }
    client.host = of("x-forwarded-host", "host");
    client
}

/// Whether the peer is believed what it says of a request.
pub fn is_trusted(connection: &Connection, trusted: &[IpNet]) -> bool {
    if trusted.is_empty() {
        return false;
    }
    let peer = connection.peer.ip().to_canonical();
    trusted.iter().any(|network| network.contains(&peer))
}

/// The first of a list in a field.
fn first_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let first = headers.get(name)?.to_str().ok()?.split(',').next()?.trim();
    (!first.is_empty() && !first.contains('\t')).then(|| first.to_owned())
}

/// A parameter of the first element of `Forwarded`; an address without its port and brackets.
fn forwarded(headers: &HeaderMap, parameter: &str) -> Option<String> {
    let element = first_of(headers, "forwarded")?;
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case(parameter))?;
    let value = value.trim().trim_matches('"');
    if parameter != "for" {
        return Some(value.to_owned());
    }
    let bare = match value.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => value.split(':').next()?,
    };
    bare.parse::<IpAddr>().ok().map(|address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(fields: &[(&'static str, &str)], peer: [u8; 4]) -> Client {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().expect("a header value"));
        }
        let local = SocketAddr::from(([127, 0, 0, 1], 80));
        let connection = Connection::new(SocketAddr::from((peer, 1)), local, false, Version::HTTP_11);
        client(&connection, &headers, &["127.0.0.0/8".parse().expect("a network")])
    }

    #[test]
    fn only_a_trusted_peer_speaks_for_others() {
        let fields =
            [("x-forwarded-for", "10.1.2.3, 10.9.9.9"), ("x-forwarded-proto", "HTTPS"), ("x-forwarded-host", "a.b")];
        let behind = Client { ip: "10.1.2.3".into(), scheme: "https", host: Some("a.b".into()) };
        assert_eq!(seen(&fields, [127, 0, 0, 1]), behind);
        let itself = Client { ip: "192.0.2.1".into(), scheme: "http", host: None };
        assert_eq!(seen(&fields, [192, 0, 2, 1]), itself);
        assert_eq!(seen(&[("x-forwarded-for", "10.1.2.3\t\"GET")], [127, 0, 0, 1]).ip.as_ref(), "127.0.0.1");
    }

    #[test]
    fn the_standard_field_says_the_same() {
        let fields = [("forwarded", "for=\"[2001:db8::1]:4711\";proto=https;host=a.b, for=10.0.0.1")];
        let behind = Client { ip: "2001:db8::1".into(), scheme: "https", host: Some("a.b".into()) };
        assert_eq!(seen(&fields, [127, 0, 0, 1]), behind);
        assert_eq!(seen(&[("forwarded", "for=_hidden;proto=gopher")], [127, 0, 0, 1]).ip.as_ref(), "127.0.0.1");
    }
}
