//! One line for each request, written by a thread of its own. What it looks like is in `access_line.rs`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use super::access_line::Access;
use crate::config::settings::AccessLogFormat;
use crate::logging;

/// Lines that may wait for the disk. Beyond that they are dropped: a slow disk must not slow requests down.
const WAITING_LINES: usize = 65_536;

/// Where lines go; clones share the file.
#[derive(Debug, Clone)]
pub struct AccessLog {
    path: PathBuf,
    format: AccessLogFormat,
    sender: SyncSender<Message>,
}

#[derive(Debug)]
enum Message {
    Line(String),
    Reopen,
}

impl AccessLog {
    /// Starts the thread, which opens the file as soon as it can be: the supervisor has seen that it can.
    pub fn open(path: &Path, format: AccessLogFormat) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING_LINES);
        let name = path.to_owned();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_lines(&name, &receiver))?;
        Ok(Self { path: path.to_owned(), format, sender })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file again by its name, after a rotation.
    pub fn reopen(&self) {
        let _ = self.sender.try_send(Message::Reopen);
    }

    /// Writes one line, soon.
    pub fn write(&self, access: &Access<'_>) {
        if let Err(TrySendError::Disconnected(_)) = self.sender.try_send(Message::Line(access.line(self.format))) {
            log::debug!("the access log has ended");
        }
    }
}

fn write_lines(path: &Path, receiver: &Receiver<Message>) {
    let mut target = Target { path, writer: None, tried: None };
    let mut has_complained = false;
    let mut complain = |result: std::io::Result<()>| match result {
        Ok(()) => has_complained = false,
        Err(problem) if !has_complained => {
            log::error!("cannot write the access log {}: {problem}", path.display());
            has_complained = true;
        }
        Err(_) => {}
    };
    complain(target.reopen());
    while let Ok(first) = receiver.recv() {
        let mut result = target.handle(first);
        while let Ok(next) = receiver.try_recv() {
            result = result.and(target.handle(next));
        }
        complain(result.and(target.flush()));
    }
}

/// The file, when it can be opened.
struct Target<'a> {
    path: &'a Path,
    writer: Option<BufWriter<File>>,
    tried: Option<Instant>,
}

impl Target<'_> {
    fn handle(&mut self, message: Message) -> std::io::Result<()> {
        let line = match message {
            Message::Line(line) => line,
            Message::Reopen => return self.flush().and(self.reopen()),
        };
        if self.writer.is_none() {
            if self.tried.is_some_and(|tried| tried.elapsed() < logging::MISSING_FILE_PAUSE) {
                return Err(std::io::ErrorKind::NotFound.into());
            }
            self.reopen()?;
        }
        self.writer.as_mut().map_or(Ok(()), |writer| writer.write_all(line.as_bytes()))
    }

    /// The file before stays in use when there is none by its name.
    fn reopen(&mut self) -> std::io::Result<()> {
        self.tried = Some(Instant::now());
        self.writer = Some(BufWriter::new(logging::open_for_append(self.path)?));
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}
