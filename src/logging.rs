//! Log lines for people, files and journals: one sink for the `log` crate and for Python's records.
//!
//! Lines go to standard output, and to a file as well when one is named. A terminal and a file get `time - name - level - message`; a pipe gets the systemd form
//! `<priority>LEVEL - name - message` on every physical line (sd-daemon(3)). Configured keys never pass.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use simplelog::{CombinedLogger, Config, LevelFilter, SharedLogger};

use crate::console::Console;
use crate::recent::{self, Latest, LogLine};

/// How much a line matters, in Python's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

impl Severity {
    /// The name in a log line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }

    /// The number of Python's `logging` for it.
    pub fn python_number(self) -> i32 {
        match self {
            Self::Debug => 10,
            Self::Info => 20,
            Self::Warning => 30,
            Self::Error => 40,
            Self::Critical => 50,
        }
    }

    /// The severity of a number of Python's `logging`; one between two names counts as the lower.
    pub fn from_python_number(number: i32) -> Self {
        match number {
            50.. => Self::Critical,
            40.. => Self::Error,
            30.. => Self::Warning,
            20.. => Self::Info,
            _ => Self::Debug,
        }
    }

    /// The priority of syslog(3), which the journal reads from `<N>`.
    fn priority(self) -> u8 {
        match self {
            Self::Debug => 7,
            Self::Info => 6,
            Self::Warning => 4,
            Self::Error => 3,
            Self::Critical => 2,
        }
    }

    fn of_log_level(level: log::Level) -> Self {
        match level {
            log::Level::Error => Self::Error,
            log::Level::Warn => Self::Warning,
            log::Level::Info => Self::Info,
            log::Level::Debug | log::Level::Trace => Self::Debug,
        }
    }

    fn log_filter(self) -> LevelFilter {
        match self {
            Self::Debug => LevelFilter::Debug,
            Self::Info => LevelFilter::Info,
            Self::Warning => LevelFilter::Warn,
            Self::Error | Self::Critical => LevelFilter::Error,
        }
    }
}

struct Sink {
    level: Severity,
    console: Mutex<Console>,
    console_is_terminal: bool,
    file: Option<LogFile>,
}

struct LogFile {
    path: PathBuf,
    handle: Mutex<Handle>,
    complained: AtomicBool,
}

/// The open file, or when it was last tried to open it.
enum Handle {
    Open(File),
    Missing(Instant),
}

/// What becomes of a process whose log file cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It does not start.
    Required,
    /// It serves without, and opens it as soon as it can: the file was there when the server started.
    Wanted,
}

/// The target of what is told of files that do not load.
pub const OF_LOADS: &str = "pserve::loads";

/// Set when somebody else tells people what goes on.
static HOLDS_BACK: AtomicBool = AtomicBool::new(false);

/// From now on the server's own INFO lines, unless DEBUG ones are wanted too, and those on files that do not load are
/// left out: they are told in another form.
pub fn hold_back() {
    HOLDS_BACK.store(true, Ordering::Relaxed);
}

/// A text that is fit to be shown: without keys, and without anything that moves the cursor.
pub fn presentable(text: &str) -> String {
    printable(&without_secrets(text))
}

/// How often a missing file is tried.
pub const MISSING_FILE_PAUSE: Duration = Duration::from_secs(1);

static SINK: OnceLock<Sink> = OnceLock::new();

/// The last lines, and how much of one is kept, in bytes.
static RECENT: Latest<LogLine> = Latest::new(200);
const LONGEST_KEPT: usize = 4 << 10;

/// Keys that are hidden, the longest first.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Installs the log for the whole process. Errs when the file cannot be opened.
pub fn init(level: Severity, file: Option<&Path>, need: Need) -> anyhow::Result<()> {
    let stdout = io::stdout();
    let console = Console::new(&stdout)?;
    let file = match file {
        Some(path) => {
            // Absolute from the start: a plugin may change the current folder before the file is opened again.
            let path = std::path::absolute(path)?;
            let handle = match open_for_append(&path) {
                Ok(file) => Handle::Open(file),
                Err(problem) if need == Need::Required => {
                    anyhow::bail!("cannot write the log file {}: {problem}", path.display())
                }
                Err(_) => Handle::Missing(Instant::now()),
            };
            Some(LogFile { path, handle: Mutex::new(handle), complained: AtomicBool::new(false) })
        }
        None => None,
    };
    let sink = Sink { level, console: Mutex::new(console), console_is_terminal: stdout.is_terminal(), file };
    SINK.set(sink).map_err(|_| anyhow::anyhow!("the log is installed twice"))?;
    CombinedLogger::init(vec![Box::new(Bridge { filter: level.log_filter() })])?;
    Ok(())
}

/// What every start tells, whatever the level.
pub fn announce(message: &str) {
    if let Some(sink) = SINK.get() {
        sink.write(Severity::Info, "pserve", message);
    }
}

/// A text for another log, with every configured key replaced.
pub fn without_secrets(text: &str) -> String {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    let mut clean = text.to_owned();
    for secret in secrets.iter().filter(|secret| text.contains(secret.as_str())) {
        clean = clean.replace(secret.as_str(), "***");
    }
    clean
}

/// Writes one record. Never panics and never fails: a log that cannot be written is no reason to stop serving.
pub fn emit(severity: Severity, name: &str, message: &str) {
    if let Some(sink) = SINK.get().filter(|sink| severity >= sink.level) {
        sink.write(severity, name, message);
    }
}

/// A key that must never be written: it is replaced by `***` wherever it turns up, also after it has been changed.
/// One of less than four letters is not hidden: it would be found in every other word.
pub fn hide(secret: &str) {
    if secret.chars().count() < 4 {
        return;
    }
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    if !secrets.iter().any(|known| known == secret) {
        secrets.push(secret.to_owned());
        // The longest first: one may begin another.
        secrets.sort_by_key(|known| std::cmp::Reverse(known.len()));
    }
}

/// Opens the log file again by its name, after a rotation. The old one stays in use when that fails.
pub fn reopen() {
    let Some(file) = SINK.get().and_then(|sink| sink.file.as_ref()) else {
        return;
    };
    match open_for_append(&file.path) {
        Ok(opened) => *lock(&file.handle) = Handle::Open(opened),
        Err(problem) => log::error!("cannot open the log file {} again: {problem}", file.path.display()),
    }
}

/// Opens a file to append to, making it when it is not there.
pub fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Locks even after a panic elsewhere: what these locks guard is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogFile {
    fn append(&self, text: &str) -> io::Result<()> {
        let mut handle = lock(&self.handle);
        if let Handle::Missing(tried) = &mut *handle {
            if tried.elapsed() < MISSING_FILE_PAUSE {
                return Err(io::ErrorKind::NotFound.into());
            }
            *tried = Instant::now();
            *handle = Handle::Open(open_for_append(&self.path)?);
        }
        match &mut *handle {
            Handle::Open(file) => file.write_all(text.as_bytes()),
            Handle::Missing(_) => Ok(()),
        }
    }

    fn write(&self, sink: &Sink, text: &str) {
        match self.append(text) {
            Ok(()) => self.complained.store(false, Ordering::Relaxed),
            Err(problem) if !self.complained.swap(true, Ordering::Relaxed) => {
                let complaint = format!("cannot write the log file {}: {problem}", self.path.display());
                sink.write_to_console(&systemd_lines(Severity::Error, "pserve", &complaint));
            }
            Err(_) => {}
        }
    }
}

impl Sink {
    fn write(&self, severity: Severity, name: &str, message: &str) {
        let message = printable(&without_secrets(message));
        note(severity, name, &message);
        let dated = format!("{} - {name} - {} - {message}\n", timestamp(), severity.name());
        let text = if self.console_is_terminal { dated.clone() } else { systemd_lines(severity, name, &message) };
        self.write_to_console(&text);
        if let Some(file) = &self.file {
            file.write(self, &dated);
        }
    }

    fn write_to_console(&self, text: &str) {
        lock(&self.console).write(text, confession);
    }
}

/// Keeps a line for who watches.
fn note(severity: Severity, name: &str, message: &str) {
    RECENT.push(LogLine {
        time: recent::now(),
        severity: severity.name().to_owned(),
        name: name.to_owned(),
        message: recent::shortened(message, LONGEST_KEPT).to_owned(),
    });
}

/// The last lines that were written by this process from a number on, and the number of the next.
pub fn lines_since(number: u64) -> (u64, Vec<LogLine>) {
    RECENT.since(number)
}

/// What a reader of standard output is told who has not read for a while.
fn confession(lost_lines: u64) -> String {
    let words = format!("log lines left out here because nobody read them: {lost_lines}");
    systemd_lines(Severity::Warning, "pserve", &words)
}

/// Control characters but for line breaks and tabs are escaped: a message cannot rewrite a terminal or a line.
fn printable(message: &str) -> String {
    let is_harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if message.chars().all(is_harmless) {
        return message.to_owned();
    }
    let mut clean = String::with_capacity(message.len());
    for c in message.replace("\r\n", "\n").chars() {
        if is_harmless(c) { clean.push(c) } else { clean.push_str(&format!("\\x{:02x}", u32::from(c))) }
    }
    clean
}

/// Python's `%(asctime)s`: local time with milliseconds.
fn timestamp() -> String {
    chrono::Local::now().format("%Y-%m-%d %H:%M:%S,%3f").to_string()
}

fn systemd_lines(severity: Severity, name: &str, message: &str) -> String {
    let mut text = String::new();
    for line in message.trim_end_matches('\n').split('\n') {
        text.push_str(&format!("<{}>{} - {name} - {line}\n", severity.priority(), severity.name()));
    }
    text
}

/// Takes records of the `log` crate. Ours pass at the level asked for; those of other crates from WARNING on,
/// because their details are for their own developers and may quote requests.
struct Bridge {
    filter: LevelFilter,
}

impl log::Log for Bridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let ours = metadata.target().starts_with("pserve");
        // What HTTP/2 warns of is what clients do, as often as they like.
        let of_clients = metadata.target().starts_with("h2");
        let most = if of_clients { log::Level::Error } else { log::Level::Warn };
        let is_info = metadata.level() == log::Level::Info && self.filter < LevelFilter::Debug;
        let is_told = is_info || metadata.target() == OF_LOADS;
        let is_held_back = ours && is_told && HOLDS_BACK.load(Ordering::Relaxed);
        metadata.level() <= self.filter && (ours || metadata.level() <= most) && !is_held_back
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let crate_name = record.target().split("::").next().unwrap_or_default();
            emit(Severity::of_log_level(record.level()), crate_name, &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

impl SharedLogger for Bridge {
    fn level(&self) -> LevelFilter {
        self.filter
    }

    fn config(&self) -> Option<&Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn log::Log> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_physical_line_carries_its_priority() {
        assert_eq!(
            systemd_lines(Severity::Critical, "plug", "one\ntwo\n"),
            "<2>CRITICAL - plug - one\n<2>CRITICAL - plug - two\n"
        );
    }

    #[test]
    fn a_message_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\rc\td\r\ne"), "a\\x1b[2Jb\\x0dc\td\ne");
    }

    #[test]
    fn numbers_of_python_levels_fold_down() {
        assert_eq!(Severity::from_python_number(45), Severity::Error);
        assert_eq!(Severity::from_python_number(5), Severity::Debug);
    }
}
