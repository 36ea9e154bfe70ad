//! One line for each request in Combined Log Format with the request's id behind it, keys masked, written by a thread of its own.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use http::{HeaderMap, Method, Version, header};

use super::auth::KEY_FIELD;
use crate::logging;
use crate::request_id::RequestId;

/// Lines that may wait for the disk. Beyond that they are dropped: a slow disk must not slow requests down.
const WAITING_LINES: usize = 65_536;

/// Where lines go; clones share the file.
#[derive(Debug, Clone)]
pub struct AccessLog {
    path: PathBuf,
    sender: SyncSender<Message>,
}

#[derive(Debug)]
enum Message {
    Line(String),
    Reopen,
}

/// What a line tells.
#[derive(Debug)]
pub struct Access<'a> {
    pub client: &'a str,
    pub method: &'a Method,
    /// Path and query as the client sent them.
    pub target: &'a str,
    pub version: Version,
    pub status: u16,
    pub body_bytes: u64,
    pub headers: &'a HeaderMap,
    pub request_id: &'a RequestId,
}

impl AccessLog {
    /// Starts the thread, which opens the file as soon as it can be: the supervisor has seen that it can.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING_LINES);
        let name = path.to_owned();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_lines(&name, &receiver))?;
        Ok(Self { path: path.to_owned(), sender })
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
        if let Err(TrySendError::Disconnected(_)) = self.sender.try_send(Message::Line(line(access))) {
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

pub(super) fn line(access: &Access<'_>) -> String {
    let time = chrono::Local::now().format("%d/%b/%Y:%H:%M:%S %z");
    let version = match access.version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    };
    let size = if access.body_bytes == 0 { "-".to_owned() } else { access.body_bytes.to_string() };
    let field = |name| {
        let value = access.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        value.map_or_else(|| "-".to_owned(), |value| quoted(&masked(&value)))
    };
    let line = format!(
        "{} - - [{time}] \"{} {} {version}\" {} {size} \"{}\" \"{}\" {}\n",
        // Not between quotes: a space would begin the next column.
        quoted(access.client).replace(' ', "\\x20"),
        access.method,
        quoted(&masked(access.target)),
        access.status,
        field(header::REFERER),
        field(header::USER_AGENT),
        access.request_id,
    );
    logging::without_secrets(&line)
}

/// Puts `***` in the place of every key in a query, whatever its spelling.
fn masked(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else {
        return target.to_owned();
    };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            let is_key = form_urlencoded::parse(name.as_bytes()).any(|(name, _)| name.eq_ignore_ascii_case(KEY_FIELD));
            if is_key { format!("{name}=***") } else { pair.to_owned() }
        })
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

/// Escapes what would break a line or its quotes, as Apache's mod_log_config does.
fn quoted(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_masked_however_they_are_spelt() {
        assert_eq!(masked("/a?apikey=s&x=1&API%4bey=t&apikey"), "/a?apikey=***&x=1&API%4bey=***&apikey=***");
        assert_eq!(masked("/a"), "/a");
    }

    #[test]
    fn a_client_is_one_column() {
        let headers = HeaderMap::new();
        let (method, version) = (&Method::GET, Version::HTTP_11);
        let request_id = &RequestId::Made(1);
        let client = "10.1.1.1 - - \"GET";
        let access =
            Access { client, method, target: "/", version, status: 200, body_bytes: 1, headers: &headers, request_id };
        let line = line(&access);
        assert!(line.starts_with("10.1.1.1\\x20-\\x20-\\x20\\\"GET - - ["), "{line}");
    }

    #[test]
    fn a_line_cannot_be_broken_from_outside() {
        assert_eq!(quoted("a\"b\\c\nd"), "a\\\"b\\\\c\\x0ad");
    }
}
