//! One message to a child of ours: bytes with their length before them, and open descriptors (SCM_RIGHTS, unix(7)). It
//! comes through a socket that stands where the child's standard input will be.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::WORKER_VARIABLE;

/// Descriptors that one message can carry (`SCM_MAX_FD`).
pub(super) const MOST_DESCRIPTORS: usize = 253;

/// This program with its own command line, to be started as a part of this process, which [`channel_to_parent`] finds.
pub fn same_program() -> Command {
    let mut typed = std::env::args_os();
    let name = typed.next().unwrap_or_else(|| OsString::from("pserve"));
    // The same file as this process, even if another version has taken its place on the disk.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(typed).env(WORKER_VARIABLE, std::process::id().to_string());
    command
}

/// The socket to the pserve that started this process as a part of itself; `None` when somebody else did. This process
/// dies with that one. Errs when it has gone already.
pub fn channel_to_parent() -> io::Result<Option<UnixStream>> {
    let parent = std::env::var(WORKER_VARIABLE).ok().and_then(|text| text.parse::<i32>().ok());
    // The variable may have come from a worker through a plugin's child process: only the parent's word counts.
    let is_ours = |number: &i32| getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == *number);
    let Some(parent) = parent.filter(is_ours) else {
        return Ok(None);
    };
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if !is_ours(&parent) {
        return Err(gone());
    }
    Ok(Some(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?)))
}

/// This process's standard input, to be handed to a child; it may be closed, and a child always has one.
pub fn own_stdin() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    match rustix::io::fcntl_getfd(&stdin) {
        Ok(_) => stdin.as_fd().try_clone_to_owned(),
        Err(_) => Ok(File::open("/dev/null")?.into()),
    }
}

/// Sends it.
pub fn send(channel: &mut UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(descriptors).size()];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("the descriptors do not fit into a message"));
    }
    // Four bytes fit into any socket buffer: they go in one piece.
    sendmsg(&*channel, &[IoSlice::new(&length)], &mut ancillary, SendFlags::NOSIGNAL)?;
    channel.write_all(bytes)
}

/// Takes it.
pub fn receive(channel: &mut UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(&*channel, &mut [IoSliceMut::new(&mut length)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes != length.len() {
        return Err(gone());
    }
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    channel.read_exact(&mut bytes)?;
    Ok((bytes, descriptors))
}

fn gone() -> io::Error {
    io::Error::other("the parent has gone")
}
