//! Standard output as the log writes to it: whoever does not read it holds nobody up.
//!
//! A pipe that is full lets a writer wait until somebody reads, and the server with it. Here a reader gets a moment;
//! then lines are left out until it reads again, and it is told how many.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::net::{self, SendFlags};

/// How long a reader who was there a moment ago is waited for.
const READER_PATIENCE: Duration = Duration::from_millis(200);

/// What a pipe that can be written to takes in one piece (`PIPE_BUF`).
const PIECE: usize = 4096;

/// Where lines go.
#[derive(Debug)]
pub struct Console {
    file: File,
    is_socket: bool,
    /// Nobody has read for a while: no more waiting until somebody does.
    is_stuck: bool,
    /// A line was cut where the reader stopped.
    is_torn: bool,
    lost_lines: u64,
}

impl Console {
    /// A descriptor of our own: a plugin that closes standard output does not silence the log.
    pub fn new(stream: impl AsFd) -> io::Result<Self> {
        let copy = File::from(stream.as_fd().try_clone_to_owned()?);
        let kind = copy.metadata()?.file_type();
        let is_socket = kind.is_socket();
        let file = if kind.is_fifo() || kind.is_char_device() { unshared(&copy).unwrap_or(copy) } else { copy };
        Ok(Self { file, is_socket, is_stuck: false, is_torn: false, lost_lines: 0 })
    }

    /// Writes the text, or as much of it as is taken. `complaint` makes a line out of the number of lines lost before.
    pub fn write(&mut self, text: &str, complaint: impl Fn(u64) -> String) {
        if self.lost_lines > 0 {
            let end_of_line = if self.is_torn { "\n" } else { "" };
            let confession = format!("{end_of_line}{}", complaint(self.lost_lines));
            if !self.write_piecewise(confession.as_bytes()) {
                self.lost_lines += 1;
                return;
            }
            (self.lost_lines, self.is_torn) = (0, false);
        }
        if !self.write_piecewise(text.as_bytes()) {
            self.lost_lines += 1;
        }
    }

    /// Whether all of it was taken. What cannot be written at all counts as taken: there is nobody to tell.
    fn write_piecewise(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        let deadline = Instant::now() + READER_PATIENCE;
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(PIECE)];
            let patience = if self.is_stuck { Duration::ZERO } else { deadline - Instant::now().min(deadline) };
            let written = if self.is_ready(patience) { self.write_piece(piece) } else { Ok(0) };
            match written {
                Ok(0) => {}
                Ok(count) => {
                    rest = &rest[count..];
                    continue;
                }
                Err(problem) if problem.kind() == ErrorKind::Interrupted => continue,
                Err(problem) if problem.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return true,
            }
            if self.is_stuck || Instant::now() >= deadline {
                self.is_stuck = true;
                self.is_torn |= rest.len() < bytes.len();
                return false;
            }
        }
        self.is_stuck = false;
        true
    }

    fn is_ready(&self, patience: Duration) -> bool {
        let mut descriptors = [PollFd::new(&self.file, PollFlags::OUT)];
        let limit = Timespec::try_from(patience).ok();
        // Whoever cannot be waited for, such as a file, is written to.
        poll(&mut descriptors, limit.as_ref()).map_or(true, |ready| ready > 0)
    }

    fn write_piece(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.is_socket {
            return Ok(net::send(&self.file, piece, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?);
        }
        self.file.write(piece)
    }
}

/// The same pipe or terminal, opened anew: that it must not wait is then said of this end of it only, and not of the
/// one that plugins and other programs have. It may belong to another user; then the copy has to do.
fn unshared(file: &File) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    OpenOptions::new().write(true).custom_flags(flags).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn complaint(lost: u64) -> String {
        format!("{lost} lost\n")
    }

    fn fill(console: &mut Console) {
        let since = Instant::now();
        for _ in 0..2000 {
            console.write(&format!("{}\n", "x".repeat(499)), complaint);
        }
        assert!(since.elapsed() < READER_PATIENCE * 10, "it waits again and again");
        assert!(console.lost_lines > 100);
    }

    fn read_what_is_there(mut reader: impl Read) -> String {
        let mut bytes = vec![0; 1 << 20];
        let count = reader.read(&mut bytes).expect("something");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_a_moment_and_then_the_lines() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut console = Console::new(&writer).expect("a console");
        fill(&mut console);
        let lost = console.lost_lines;
        read_what_is_there(&mut reader);
        console.write("again\n", complaint);
        drop((console, writer));
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        assert!(rest.ends_with(&format!("{lost} lost\nagain\n")), "{rest}");
    }

    #[test]
    fn a_socket_that_nobody_reads_costs_no_more() {
        let (reader, writer) = UnixStream::pair().expect("a pair");
        let mut console = Console::new(&writer).expect("a console");
        fill(&mut console);
        assert!(read_what_is_there(&reader).starts_with("xxx"));
    }

    #[test]
    fn the_others_who_have_the_pipe_are_not_touched() {
        let (_reader, writer) = io::pipe().expect("a pipe");
        let _console = Console::new(&writer).expect("a console");
        assert!(!rustix::fs::fcntl_getfl(&writer).expect("flags").contains(OFlags::NONBLOCK));
    }
}
