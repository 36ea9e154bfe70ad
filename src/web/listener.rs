//! Sockets that connections come in by: bound by the supervisor, accepted from here.

use std::io;
use std::net::SocketAddr;

use rustix::net::{AddressFamily, getsockname};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::handoff::Inherited;

/// A listener that a tokio runtime watches.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// One accepted connection.
#[derive(Debug)]
pub enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    /// Hands an inherited socket over to the runtime of the calling task.
    pub fn watch(inherited: Inherited) -> io::Result<Self> {
        let socket = inherited.socket;
        Ok(if getsockname(&socket)?.address_family() == AddressFamily::UNIX {
            Self::Unix(UnixListener::from_std(socket.into())?)
        } else {
            Self::Tcp(TcpListener::from_std(socket.into())?)
        })
    }

    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}
