//! A small blocking HTTP client for commands that ask the server of an INI file: the address, the certificate and the
//! global key are those of its settings. One request, one connection.

mod response;
mod tls;

use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

pub use response::Response;
use tls::Pinned;

use crate::config::settings::{ListenAddress, Settings};

/// How long a connection may take to come about. The server is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server may send nothing, or take nothing.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks one server.
#[derive(Debug)]
pub struct Client {
    places: Vec<Place>,
    tls: Option<Pinned>,
    /// The value of `Authorization`, when there is a global key.
    authorization: Option<String>,
}

/// Where the server may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    /// Plain HTTP whatever `[SSL]` says: TLS ends before a Unix socket.
    Unix(PathBuf),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "the port in the INI file is 0, so that the server takes a free one; its log names it: give it as PSERVE_NETWORK_PORT=..."
    )]
    NoPort,
    #[error("[auth] apikey has a control character and cannot be sent")]
    UnsendableKey,
    #[error("[SSL] certfile {}: {problem}", path.display())]
    Certificate { path: PathBuf, problem: String },
    #[error("no server at {place}: {source}; is it running?")]
    Unreachable { place: String, source: io::Error },
    #[error(
        "the server at {place} has another certificate than [SSL] certfile; it may need a SIGHUP to take the new one up"
    )]
    OtherCertificate { place: String },
    #[error("no TLS with the server at {place}: {problem}")]
    NoTls { place: String, problem: String },
    #[error("the server at {place} gave no whole answer: {source}")]
    BadAnswer { place: String, source: io::Error },
}

impl Client {
    /// A client for the server that runs, or would run, with these settings. Connects to nothing yet.
    /// Errs when they do not say where it is, or when its certificate cannot be read.
    pub fn for_settings(settings: &Settings) -> Result<Self, ClientError> {
        let places: Vec<Place> = settings.listen.iter().filter_map(place_of).collect();
        if places.is_empty() {
            return Err(ClientError::NoPort);
        }
        let is_tcp = |place: &Place| matches!(place, Place::Tcp(_));
        let tls = settings.tls.as_ref().filter(|_| places.iter().any(is_tcp));
        let key = settings.global_key.as_ref().map(|key| key.reveal());
        if key.is_some_and(|key| key.contains(char::is_control)) {
            return Err(ClientError::UnsendableKey);
        }
        Ok(Self {
            places,
            tls: tls.map(|files| Pinned::from_file(&files.certificate)).transpose()?,
            authorization: key.map(|key| format!("Bearer {key}")),
        })
    }

    /// The first address, for people: what the answers are from.
    pub fn place(&self) -> String {
        self.places.first().map(|place| self.name(place)).unwrap_or_default()
    }

    /// Asks for a path (and query), which must be escaped already. Any status is an answer.
    pub fn get(&self, path: &str) -> Result<Response, ClientError> {
        let (stream, place) = self.connect()?;
        let host = match &place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(_) => "localhost".to_owned(),
        };
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nUser-Agent: pserve/{}\r\n",
            env!("CARGO_PKG_VERSION")
        );
        if let Some(authorization) = &self.authorization {
            head.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        head.push_str("\r\n");
        self.exchange(stream, head.as_bytes(), &place)
    }

    fn exchange(&self, mut stream: Box<dyn Stream>, head: &[u8], place: &Place) -> Result<Response, ClientError> {
        let sent = stream.write_all(head).and_then(|()| stream.flush());
        // Also when not all of it could be sent: a server that refuses says why before it closes.
        let answer = Response::read(&mut BufReader::new(stream));
        answer.map_err(|problem| {
            let source = match sent.err().unwrap_or(problem) {
                // What the system calls "resource temporarily unavailable".
                late if late.kind() == io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                source => source,
            };
            ClientError::BadAnswer { place: self.name(place), source }
        })
    }

    /// A connection with the first address that takes one.
    fn connect(&self) -> Result<(Box<dyn Stream>, Place), ClientError> {
        let mut first_problem = None;
        for place in &self.places {
            match self.connect_to(place) {
                Ok(stream) => return Ok((stream, place.clone())),
                Err(problem) => {
                    first_problem.get_or_insert(problem);
                }
            }
        }
        Err(first_problem.unwrap_or(ClientError::NoPort))
    }

    fn connect_to(&self, place: &Place) -> Result<Box<dyn Stream>, ClientError> {
        let unreachable = |source| ClientError::Unreachable { place: self.name(place), source };
        match place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(unreachable)?;
                stream.set_read_timeout(Some(SILENCE_TIMEOUT)).map_err(unreachable)?;
                stream.set_write_timeout(Some(SILENCE_TIMEOUT)).map_err(unreachable)?;
                Ok(Box::new(stream))
            }
            Place::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT).map_err(unreachable)?;
                stream.set_read_timeout(Some(SILENCE_TIMEOUT)).map_err(unreachable)?;
                stream.set_write_timeout(Some(SILENCE_TIMEOUT)).map_err(unreachable)?;
                match &self.tls {
                    None => Ok(Box::new(stream)),
                    Some(pinned) => Ok(Box::new(pinned.wrap(stream, &address.ip(), &self.name(place))?)),
                }
            }
        }
    }

    fn name(&self, place: &Place) -> String {
        match place {
            Place::Tcp(address) => format!("{}://{address}", if self.tls.is_some() { "https" } else { "http" }),
            Place::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

/// A connection, whatever is below it.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Where to knock for an address that the server listens on; `None` when only its log knows.
fn place_of(address: &ListenAddress) -> Option<Place> {
    match address {
        ListenAddress::Unix { path, .. } => Some(Place::Unix(path.clone())),
        ListenAddress::Tcp(address) if address.port() == 0 => None,
        ListenAddress::Tcp(address) => {
            // "Every address of this machine" is none to connect to.
            let ip = match address.ip() {
                ip if !ip.is_unspecified() => ip,
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            Some(Place::Tcp(SocketAddr::new(ip, address.port())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn client(network: &str) -> Result<Client, ClientError> {
        let text = format!("[network]\n{network}\n[paths]\nplugins=.\n");
        let config = Config::parse(&text, std::path::Path::new("x.ini"), &|_| None).expect("it is right");
        Client::for_settings(&config.settings)
    }

    #[test]
    fn every_address_of_the_machine_is_asked_on_its_loopback() {
        let both = client("bindto=0.0.0.0 ::\nport=81").expect("places");
        assert_eq!(both.places, ["127.0.0.1:81", "[::1]:81"].map(|text| Place::Tcp(text.parse().expect("address"))));
        assert_eq!(both.place(), "http://127.0.0.1:81");
    }

    #[test]
    fn a_port_that_only_the_log_knows_is_no_place() {
        let problem = client("port=0").expect_err("no port");
        assert!(problem.to_string().contains("PSERVE_NETWORK_PORT"), "{problem}");
        let socket = client("port=0\nbindto=127.0.0.1 unix:/tmp/x.sock").expect("a place");
        assert_eq!(socket.place(), "unix:/tmp/x.sock");
    }

    #[test]
    fn nobody_there_is_said_with_the_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        drop(listener);
        let problem = client(&format!("port={port}")).expect("a place").get("/").expect_err("nobody");
        assert!(problem.to_string().starts_with(&format!("no server at http://127.0.0.1:{port}: ")), "{problem}");
    }
}
