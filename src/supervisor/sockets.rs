//! Listeners: TCP addresses and Unix sockets, bound once and kept across every worker.

#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use rustix::net::{self, AddressFamily, SocketType, sockopt};

use crate::config::settings::ListenAddress;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// A bound socket that listens.
#[derive(Debug)]
pub struct BoundListener {
    /// As configured: the port may be 0.
    configured: ListenAddress,
    actual: ListenAddress,
    socket: OwnedFd,
    /// Removed with it.
    _file: Option<SocketFile>,
}

impl BoundListener {
    pub fn configured(&self) -> &ListenAddress {
        &self.configured
    }

    /// Where it listens: with the port that the system chose for 0.
    pub fn actual(&self) -> &ListenAddress {
        &self.actual
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// A socket whose file somebody has removed can no longer be reached.
    fn is_reachable(&self) -> bool {
        match &self.configured {
            ListenAddress::Tcp(_) => true,
            ListenAddress::Unix { path, .. } => path.exists(),
        }
    }
}

/// The listeners for these addresses: those that there are already, shared, and new ones. Binds all or none.
pub fn listeners_for(
    addresses: &[ListenAddress],
    known: &[Arc<BoundListener>],
) -> anyhow::Result<Vec<Arc<BoundListener>>> {
    let listener_for = |address: &ListenAddress| {
        let fits = |known: &&Arc<BoundListener>| known.configured.is_same_place(address) && known.is_reachable();
        if let Some(known) = known.iter().find(fits) {
            set_mode(address);
            return Ok(Arc::clone(known));
        }
        bind_beside(address, known).map(Arc::new).with_context(|| format!("cannot bind {address}"))
    };
    let mut listeners: Vec<Arc<BoundListener>> = addresses.iter().map(listener_for).collect::<anyhow::Result<_>>()?;
    // Closing a listener resets whoever comes in that moment. One whose place another covers need not be closed.
    let covered: Vec<_> =
        known.iter().filter(|known| listeners.iter().any(|new| covers(&new.actual, &known.actual))).cloned().collect();
    listeners.extend(covered);
    Ok(listeners)
}

/// Whether clients of one address are meant by another, which stands for every address of the machine.
fn covers(all: &ListenAddress, one: &ListenAddress) -> bool {
    let (ListenAddress::Tcp(all), ListenAddress::Tcp(one)) = (all, one) else { return false };
    let is_wildcard = all.ip().is_unspecified() && all != one && !one.ip().is_unspecified();
    is_wildcard && all.port() == one.port() && (all.is_ipv6() || one.is_ipv4())
}

/// Binds an address while those that it may take the place of are still served: `0.0.0.0:80` and `127.0.0.1:80` keep
/// each other out unless both sides agree. They do for that moment only: another server gets no part of the port.
fn bind_beside(address: &ListenAddress, known: &[Arc<BoundListener>]) -> anyhow::Result<BoundListener> {
    let ListenAddress::Tcp(wanted) = address else { return bind(address) };
    let rivals = || {
        known.iter().filter(|known| match known.actual {
            ListenAddress::Tcp(bound) => bound.port() == wanted.port() && bound != *wanted,
            ListenAddress::Unix { .. } => false,
        })
    };
    if rivals().next().is_none() {
        return bind(address);
    }
    let agree =
        |is_agreed: bool| rivals().try_for_each(|rival| sockopt::set_socket_reuseport(&rival.socket, is_agreed));
    agree(true)?;
    let socket = bind_tcp(*wanted, true);
    agree(false)?;
    Ok(BoundListener { configured: address.clone(), actual: address.clone(), socket: socket?, _file: None })
}

/// Binds these addresses and lets them go again. Errs when one of them cannot be had.
pub fn bind_for_trial(addresses: &[ListenAddress]) -> anyhow::Result<()> {
    listeners_for(addresses, &[]).map(drop)
}

/// The sockets that the service manager has bound (socket activation, sd_listen_fds(3)); none when there is none.
pub fn activated() -> anyhow::Result<Vec<Arc<BoundListener>>> {
    let descriptors = sd_notify::listen_fds().context("LISTEN_FDS makes no sense")?;
    let listener = |raw| {
        // SAFETY: the service manager opened this descriptor for us and names it once; it is asked for once, at the
        // start, and nothing else in this process owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let configured = address_of(&socket).context("a socket of the service manager has no address")?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Arc::new(BoundListener { actual: configured.clone(), configured, socket, _file: None }))
    };
    descriptors.map(listener).collect()
}

fn address_of(socket: &OwnedFd) -> anyhow::Result<ListenAddress> {
    let address = net::getsockname(socket)?;
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Ok(ListenAddress::Tcp(address));
    }
    let unix = net::SocketAddrUnix::try_from(address)?;
    let path = PathBuf::from(OsStr::from_bytes(unix.path_bytes().context("an abstract socket")?));
    let mode = fs::metadata(&path).map_or(0o660, |found| found.permissions().mode() & 0o777);
    Ok(ListenAddress::Unix { path, mode })
}

fn bind(address: &ListenAddress) -> anyhow::Result<BoundListener> {
    match address {
        ListenAddress::Tcp(wanted) => {
            let socket = bind_tcp(*wanted, false)?;
            let actual = address_of(&socket)?;
            Ok(BoundListener { configured: address.clone(), actual, socket, _file: None })
        }
        ListenAddress::Unix { path, mode } => {
            let (socket, file) = bind_unix(path, *mode)?;
            Ok(BoundListener { configured: address.clone(), actual: address.clone(), socket, _file: Some(file) })
        }
    }
}

fn bind_tcp(address: SocketAddr, beside_another: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket =
        net::socket_with(family, SocketType::STREAM, net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK, None)?;
    // A restart must not wait for connections of the last run to be forgotten.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if beside_another {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    if beside_another {
        sockopt::set_socket_reuseport(&socket, false)?;
    }
    Ok(socket)
}

/// Binds beside the path and moves the socket there when it is ready: nobody meets it before it listens, or with
/// another mode. A socket that nobody listens on, left by a server that was killed, is replaced.
fn bind_unix(path: &Path, mode: u32) -> anyhow::Result<(OwnedFd, SocketFile)> {
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
    Ok((socket, file))
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

/// The file of a Unix socket; removed when the listener goes, unless it is another's by then.
#[derive(Debug)]
struct SocketFile {
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
fn set_mode(address: &ListenAddress) {
    if let ListenAddress::Unix { path, mode } = address
        && let Err(problem) = fs::set_permissions(path, fs::Permissions::from_mode(*mode))
    {
        log::error!("cannot set the mode of {}: {problem}", path.display());
    }
}
