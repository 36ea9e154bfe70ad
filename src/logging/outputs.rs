//! Where lines go: standard output, and a file as well when one is named. Neither ever holds up who writes for long.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;

use super::forms::{Format, Writer};
use super::{Record, Severity};
use crate::console::Console;

/// What becomes of a process whose log file cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It does not start.
    Required,
    /// It serves without, and opens it as soon as it can: the file was there when the server started.
    Wanted,
}

/// How often a missing file is tried.
pub const MISSING_FILE_PAUSE: Duration = Duration::from_secs(1);

/// Opens a file to append to, making it when it is not there.
pub fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Everything that a record is written to.
pub(super) struct Outputs {
    console: Mutex<Console>,
    console_is_terminal: bool,
    file: Option<LogFile>,
    /// The worker's number, in a worker.
    worker: Option<usize>,
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

impl Outputs {
    /// Errs when the file cannot be opened, unless it is only wanted.
    pub(super) fn open(file: Option<&Path>, need: Need, worker: Option<usize>) -> anyhow::Result<Self> {
        let stdout = io::stdout();
        Ok(Self {
            console: Mutex::new(Console::new(&stdout)?),
            console_is_terminal: stdout.is_terminal(),
            file: file.map(|path| LogFile::open(path, need)).transpose()?,
            worker,
        })
    }

    pub(super) fn write(&self, record: &Record<'_>, format: Format) {
        let time = Utc::now();
        let on_console = format.on_console(self.console_is_terminal);
        self.write_to_console(&on_console.write(record, time, self.writer()), format);
        let Some(file) = &self.file else { return };
        if let Err(problem) = file.write(&format.in_file().write(record, time, self.writer())) {
            let complaint = format!("cannot write the log file {}: {problem}", file.path.display());
            let complaint = Record::new(Severity::Error, "pserve", &complaint);
            self.write_to_console(&on_console.write(&complaint, time, self.writer()), format);
        }
    }

    /// Asked each time: a plugin may have forked.
    fn writer(&self) -> Writer {
        Writer { pid: std::process::id(), worker: self.worker }
    }

    fn write_to_console(&self, text: &str, format: Format) {
        // What a reader of standard output is told who has not read for a while.
        let confession = |lost_lines: u64| {
            let words = format!("log lines left out here because nobody read them: {lost_lines}");
            let record = Record::new(Severity::Warning, "pserve", &words);
            format.on_console(self.console_is_terminal).write(&record, Utc::now(), self.writer())
        };
        lock(&self.console).write(text, confession);
    }

    /// Opens the file again by its name. The old one stays in use when that fails.
    pub(super) fn reopen(&self) {
        let Some(file) = &self.file else { return };
        match open_for_append(&file.path) {
            Ok(opened) => *lock(&file.handle) = Handle::Open(opened),
            Err(problem) => log::error!("cannot open the log file {} again: {problem}", file.path.display()),
        }
    }
}

impl LogFile {
    fn open(path: &Path, need: Need) -> anyhow::Result<Self> {
        // Absolute from the start: a plugin may change the current folder before the file is opened again.
        let path = std::path::absolute(path)?;
        let handle = match open_for_append(&path) {
            Ok(file) => Handle::Open(file),
            Err(problem) if need == Need::Required => {
                anyhow::bail!("cannot write the log file {}: {problem}", path.display())
            }
            Err(_) => Handle::Missing(Instant::now()),
        };
        Ok(Self { path, handle: Mutex::new(handle), complained: AtomicBool::new(false) })
    }

    /// Errs once, and again when it has worked in between: what is wrong is told once.
    fn write(&self, text: &str) -> io::Result<()> {
        match self.append(text) {
            Ok(()) => self.complained.store(false, Ordering::Relaxed),
            Err(problem) if !self.complained.swap(true, Ordering::Relaxed) => return Err(problem),
            Err(_) => {}
        }
        Ok(())
    }

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
}

/// Locks even after a panic elsewhere: what these locks guard is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
