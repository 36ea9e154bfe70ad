//! Sockets that connections come in by: TCP addresses and Unix sockets.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::net::{self, AddressFamily, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::config::settings::ListenAddress;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// A bound socket that listens. Needs no runtime yet.
#[derive(Debug)]
pub enum BoundListener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// A listener that a tokio runtime watches.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// One accepted connection.
#[derive(Debug)]
pub enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

/// Binds every address, or none. The order is that of the addresses.
pub fn bind_listeners(addresses: &[ListenAddress]) -> anyhow::Result<Vec<BoundListener>> {
    addresses.iter().map(|address| bind(address).with_context(|| format!("cannot bind {address}"))).collect()
}

fn bind(address: &ListenAddress) -> anyhow::Result<BoundListener> {
    match address {
        ListenAddress::Tcp(address) => Ok(BoundListener::Tcp(bind_tcp(*address)?)),
        ListenAddress::Unix { path, mode } => bind_unix(path, *mode),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket =
        net::socket_with(family, SocketType::STREAM, net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK, None)?;
    // A restart must not wait for connections of the last run to be forgotten.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(std::net::TcpListener::from(socket))
}

/// Binds beside the path and moves the socket there when it is ready: nobody meets it before it listens, or with
/// another mode. A socket that nobody listens on, left by a server that was killed, is replaced.
fn bind_unix(path: &Path, mode: u32) -> anyhow::Result<BoundListener> {
    if let Some(objection) = path_objection(path) {
        bail!(objection);
    }
    if path.exists() {
        match UnixStream::connect(path) {
            Ok(_) => bail!("another program listens there"),
            // Nobody listens: it was left behind.
            Err(problem) if problem.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(problem) => bail!("there is a socket of that name, and who listens cannot be told: {problem}"),
        }
    }
    let folder = path.parent().context("the path has no folder")?;
    let folder = fs::File::open(folder).context("the folder cannot be opened")?;
    // Through the folder's descriptor: a temporary name is longer than the path, whose length has a narrow limit.
    let beside = PathBuf::from(format!("/proc/self/fd/{}/.pserve-{}", folder.as_raw_fd(), std::process::id()));
    let _ = fs::remove_file(&beside);
    let address = net::SocketAddrUnix::new(&beside)?;
    let socket = net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK,
        None,
    )?;
    net::bind(&socket, &address)?;
    let ready = fs::set_permissions(&beside, fs::Permissions::from_mode(mode))
        .and_then(|()| Ok(net::listen(&socket, BACKLOG)?))
        .and_then(|()| fs::rename(&beside, path));
    if let Err(problem) = ready {
        let _ = fs::remove_file(&beside);
        return Err(problem.into());
    }
    let file = SocketFile { identity: identity(path)?, path: path.to_owned() };
    Ok(BoundListener::Unix(std::os::unix::net::UnixListener::from(socket), file))
}

/// What speaks against a path for a socket, whoever may listen there.
fn path_objection(path: &Path) -> Option<String> {
    if net::SocketAddrUnix::new(path).is_err() {
        return Some("the path is longer than a socket's may be (107 bytes)".to_owned());
    }
    let found = fs::symlink_metadata(path).ok()?;
    (!found.file_type().is_socket()).then(|| "there is a file of that name which is no socket".to_owned())
}

/// Why a Unix socket cannot be made there, as far as it can be told without trying.
pub fn socket_objection(address: &ListenAddress) -> Option<String> {
    match address {
        ListenAddress::Tcp(_) => None,
        ListenAddress::Unix { path, .. } => {
            path_objection(path).map(|objection| format!("cannot bind {address}: {objection}"))
        }
    }
}

impl BoundListener {
    /// Hands it over to the runtime of the calling task.
    pub fn watch(self) -> io::Result<Listener> {
        Ok(match self {
            Self::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?),
            Self::Unix(listener, file) => Listener::Unix(UnixListener::from_std(listener)?, file),
        })
    }
}

impl Listener {
    /// Where it listens: with the port that the system chose for 0.
    pub fn address(&self, configured: &ListenAddress) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => Ok(ListenAddress::Tcp(listener.local_addr()?)),
            Self::Unix(..) => Ok(configured.clone()),
        }
    }

    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

/// The file of a Unix socket; removed when the listener goes, unless it is another's by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Gives the socket of an address that stays the mode that is asked for now.
pub fn set_mode(address: &ListenAddress) {
    if let ListenAddress::Unix { path, mode } = address
        && let Err(problem) = fs::set_permissions(path, fs::Permissions::from_mode(*mode))
    {
        log::error!("cannot set the mode of {}: {problem}", path.display());
    }
}
