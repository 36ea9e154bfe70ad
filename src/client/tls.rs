//! TLS with exactly one server: the one that has the certificate of the INI file. Names and dates do not count, since
//! the client knows the certificate itself: a self-signed one is as good as any, and nobody else gets the key.

use std::net::{IpAddr, TcpStream};
use std::path::Path;

use native_tls::{HandshakeError, TlsConnector, TlsStream};
use openssl::x509::X509;

use super::ClientError;

/// The certificate that the server must have.
#[derive(Debug)]
pub struct Pinned {
    leaf: Vec<u8>,
}

impl Pinned {
    /// The first certificate of a PEM file, which is the server's own.
    pub fn from_file(path: &Path) -> Result<Self, ClientError> {
        let refuse = |problem: String| ClientError::Certificate { path: path.to_owned(), problem };
        let pem = std::fs::read(path).map_err(|problem| refuse(problem.to_string()))?;
        let leaf = X509::from_pem(&pem).and_then(|leaf| leaf.to_der());
        let leaf = leaf.map_err(|_| refuse("holds no PEM certificate".to_owned()))?;
        Ok(Self { leaf })
    }

    /// The handshake. Errs when another certificate is shown.
    pub fn wrap(&self, stream: TcpStream, ip: &IpAddr, place: &str) -> Result<TlsStream<TcpStream>, ClientError> {
        let failed = |problem: String| ClientError::NoTls { place: place.to_owned(), problem };
        let connector = TlsConnector::builder()
            .danger_accept_invalid_certs(true)
            .danger_accept_invalid_hostnames(true)
            .use_sni(false)
            .build()
            .map_err(|problem| failed(problem.to_string()))?;
        let stream = connector.connect(&ip.to_string(), stream).map_err(|problem| match problem {
            HandshakeError::Failure(problem) => failed(problem.to_string()),
            HandshakeError::WouldBlock(_) => failed("it took too long".to_owned()),
        })?;
        let shown = stream.peer_certificate().ok().flatten().and_then(|certificate| certificate.to_der().ok());
        if shown.as_ref() != Some(&self.leaf) {
            return Err(ClientError::OtherCertificate { place: place.to_owned() });
        }
        Ok(stream)
    }
}
