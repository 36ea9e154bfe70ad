//! Python's stacks without the interpreter's leave: `faulthandler` writes them at a signal, into memory of ours.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::MemfdFlags;

use super::ticket::ThreadIdent;

/// Among the real-time signals, away from both ends, which libraries take first.
const REAL_TIME_OFFSET: i32 = 13;

/// Where `faulthandler` writes, and the signal at which it does.
#[derive(Debug)]
pub(super) struct StackDump {
    file: Mutex<File>,
    fd: RawFd,
    signal: i32,
}

impl StackDump {
    pub(super) fn new() -> io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("pserve-stacks", MemfdFlags::CLOEXEC)?);
        let fd = file.as_raw_fd();
        Ok(Self { file: Mutex::new(file), fd, signal: libc::SIGRTMIN() + REAL_TIME_OFFSET })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd
    }

    pub(super) fn signal(&self) -> i32 {
        self.signal
    }

    /// Every thread's stack, as `faulthandler` writes it. It looks at what other threads are changing; ask for it only
    /// when the interpreter is not to be had. Python must have registered the signal.
    pub(super) fn take(&self) -> io::Result<String> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.set_len(0)?;
        file.rewind()?;
        // On this thread: the handler has written all when this returns.
        signal_hook::low_level::raise(self.signal)?;
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The stack of one thread.
    pub(super) fn take_thread(&self, ident: ThreadIdent) -> io::Result<String> {
        let all = self.take()?;
        let head = format!("0x{ident:016x}");
        let found = all.split("\n\n").find(|part| part.lines().next().is_some_and(|line| line.contains(&head)));
        Ok(found.unwrap_or("its stack is not to be had").to_owned())
    }
}
