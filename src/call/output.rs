//! Standard output belongs to the answer alone: whatever plugins print goes to standard error.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;

use http::{HeaderMap, StatusCode, Version};

/// Where the answer goes.
#[derive(Debug)]
pub struct Output {
    file: File,
    is_terminal: bool,
    ends_in_line: bool,
}

impl Output {
    /// Takes standard output away from everybody else in this process. Call it before there are others.
    pub fn take_over() -> io::Result<Self> {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let file = File::from(stdout.as_fd().try_clone_to_owned()?);
        rustix::stdio::dup2_stdout(io::stderr())?;
        Ok(Self { file, is_terminal, ends_in_line: true })
    }

    pub fn write_head(&mut self, version: Version, status: StatusCode, headers: &HeaderMap) -> io::Result<()> {
        let mut head = format!("{version:?} {status}\r\n").into_bytes();
        for (name, value) in headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        self.write(&head).map(drop)
    }

    /// Writes a piece at once. False when nobody reads any more.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<bool> {
        if let Some(last) = piece.last() {
            self.ends_in_line = *last == b'\n';
        }
        // A reader may take its time.
        match tokio::task::block_in_place(|| self.file.write_all(piece)) {
            Err(problem) if problem.kind() == ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true),
        }
    }

    /// The prompt of a terminal begins on a line of its own; to others not a byte is added.
    pub fn end(&mut self) -> io::Result<()> {
        if self.is_terminal && !self.ends_in_line {
            self.write(b"\n")?;
        }
        Ok(())
    }
}
