//! Descriptors that a child forked by a plugin must not keep: with the listeners it would hold the server's addresses
//! after the server has ended, and with the channel its end would go unnoticed.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;

/// A descriptor, and what it was when it was named: numbers are used again.
#[derive(Debug, Clone, Copy)]
struct Known {
    raw: RawFd,
    device: u64,
    inode: u64,
}

static NOT_FOR_CHILDREN: OnceLock<Vec<Known>> = OnceLock::new();

/// Names them, once, before Python starts.
pub fn keep_from_children<'a>(descriptors: impl Iterator<Item = BorrowedFd<'a>>) {
    let known = descriptors.filter_map(|descriptor| {
        let found = rustix::fs::fstat(descriptor).ok()?;
        Some(Known { raw: descriptor.as_raw_fd(), device: found.st_dev, inode: found.st_ino })
    });
    let _ = NOT_FOR_CHILDREN.set(known.collect());
}

/// Closes them. For a child right after the fork, in which no other thread runs.
pub(super) fn close_in_child() {
    for known in NOT_FOR_CHILDREN.get().into_iter().flatten() {
        // SAFETY: a system call that writes into the structure, which may be all zeroes; a number that is not open is an
        // error and no more.
        let is_same = unsafe {
            let mut found = std::mem::zeroed::<libc::stat>();
            libc::fstat(known.raw, &raw mut found) == 0 && (found.st_dev, found.st_ino) == (known.device, known.inode)
        };
        if is_same {
            // SAFETY: it is the server's descriptor still; the objects that own it are never dropped in this child,
            // which leaves by `_exit` when it comes back to the server's code.
            unsafe { libc::close(known.raw) };
        }
    }
}
