//! Log lines for people, files and journals: one sink for the `log` crate and for Python's records.
//!
//! `forms` makes lines of records, `outputs` writes them, `levels` says which ones, `secrets` keeps configured keys out.
//! What the command line asks for stands above what the INI file does, which may change while the server runs.

mod forms;
mod levels;
mod outputs;
mod secrets;
mod severity;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use arc_swap::ArcSwap;
use simplelog::{CombinedLogger, Config, LevelFilter, SharedLogger};

use crate::recent::{self, Latest, LogLine};
use crate::request_id::RequestId;
pub use forms::{Format, json_line};
pub use levels::{Levels, belongs_to};
use outputs::Outputs;
pub use outputs::{MISSING_FILE_PAUSE, Need, open_for_append};
pub use secrets::{hide, without_secrets};
pub use severity::Severity;

/// What one line or block of lines tells. A field that is not known is `None`.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    pub severity: Severity,
    /// The logger's name.
    pub name: &'a str,
    pub message: &'a str,
    /// The plugin whose code has made the record, or that it is about.
    pub plugin: Option<&'a str>,
    /// An exception, as Python prints it.
    pub traceback: Option<&'a str>,
    /// The request that it has to do with.
    pub request_id: Option<&'a RequestId>,
}

impl<'a> Record<'a> {
    /// A record without any of the fields that are not always there.
    pub fn new(severity: Severity, name: &'a str, message: &'a str) -> Self {
        Self { severity, name, message, plugin: None, traceback: None, request_id: None }
    }

    /// What the server tells about a plugin goes by the plugin's name.
    pub fn about(plugin: &'a str, severity: Severity, message: &'a str) -> Self {
        Self { plugin: Some(plugin), ..Self::new(severity, plugin, message) }
    }

    /// Writes it, when its level is asked for. Never panics and never fails: a log that cannot be written is no reason
    /// to stop serving.
    pub fn emit(&self) {
        let choices = CHOICES.load();
        if self.severity >= choices.levels.of_record(self.name, self.plugin) {
            self.write(choices.format);
        }
    }

    /// Writes a line of the server's own, unless such ones are held back.
    pub fn emit_own(&self) {
        if !holds_back(self.severity) {
            self.emit();
        }
    }

    /// Writes what is told of a file that does not load, unless that is held back.
    pub fn emit_of_load(&self) {
        if !HOLDS_BACK.load(Ordering::Relaxed) {
            self.emit();
        }
    }

    fn write(&self, format: Format) {
        let Some(outputs) = OUTPUTS.get() else { return };
        let message = without_secrets(self.message);
        let traceback = self.traceback.map(|text| without_secrets(text.trim_end_matches('\n')));
        let record = Record { message: &message, traceback: traceback.as_deref(), ..self.clone() };
        keep(&record);
        outputs.write(&record, format);
    }
}

/// What the command line says about the log, where it says anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    pub level: Option<Severity>,
    pub format: Option<Format>,
}

/// How the log is written now.
#[derive(Debug)]
struct Choices {
    format: Format,
    levels: Levels,
}

impl Default for Choices {
    fn default() -> Self {
        Self { format: Format::Auto, levels: Levels { general: Severity::Info, by_name: Default::default() } }
    }
}

/// The target of what is told of files that do not load.
pub const OF_LOADS: &str = "pserve::loads";

/// Set when somebody else tells people what goes on.
static HOLDS_BACK: AtomicBool = AtomicBool::new(false);

/// The last lines, and how much of one is kept, in bytes.
static RECENT: Latest<LogLine> = Latest::new(200);
const LONGEST_KEPT: usize = 4 << 10;

static OUTPUTS: OnceLock<Outputs> = OnceLock::new();
static ASKED: OnceLock<Asked> = OnceLock::new();
static CHOICES: LazyLock<ArcSwap<Choices>> = LazyLock::new(ArcSwap::default);

/// Installs the log for the whole process: that of a worker with its number. Errs when the file cannot be opened.
pub fn init(asked: Asked, file: Option<&Path>, need: Need, worker: Option<usize>) -> anyhow::Result<()> {
    let outputs = Outputs::open(file, need, worker)?;
    OUTPUTS.set(outputs).map_err(|_| anyhow::anyhow!("the log is installed twice"))?;
    let _ = ASKED.set(asked);
    CombinedLogger::init(vec![Box::new(Bridge)])?;
    let defaults = Choices::default();
    configure(defaults.format, defaults.levels);
    Ok(())
}

/// Takes up what the INI file says about the log, from now on.
pub fn configure(format: Format, mut levels: Levels) {
    let asked = ASKED.get().copied().unwrap_or_default();
    levels.general = asked.level.unwrap_or(levels.general);
    // The `log` crate asks nobody below it.
    log::set_max_level(levels.lowest().log_filter());
    CHOICES.store(Arc::new(Choices { format: asked.format.unwrap_or(format), levels }));
}

/// From now on the server's own INFO lines, unless DEBUG ones are wanted too, and those on files that do not load are
/// left out: they are told in another form.
pub fn hold_back() {
    HOLDS_BACK.store(true, Ordering::Relaxed);
}

/// A text that is fit to be shown: without keys, and without anything that moves the cursor.
pub fn presentable(text: &str) -> String {
    forms::printable(&without_secrets(text))
}

/// From which level on lines are written now.
pub fn levels() -> Levels {
    CHOICES.load().levels.clone()
}

/// The level that a logger has for itself.
pub fn level_of_logger(name: &str) -> Option<Severity> {
    CHOICES.load().levels.of_logger(name)
}

/// What every start tells, whatever the level.
pub fn announce(message: &str) {
    Record::new(Severity::Info, "pserve", message).write(CHOICES.load().format);
}

/// Writes a line about a plugin, when its level is asked for.
pub fn emit(severity: Severity, plugin: &str, message: &str) {
    Record::about(plugin, severity, message).emit();
}

/// Keeps a line for who watches.
fn keep(record: &Record<'_>) {
    let message = forms::whole_text(&Record { request_id: None, ..record.clone() });
    RECENT.push(LogLine {
        time: recent::now(),
        severity: record.severity.name().to_owned(),
        name: forms::printable(record.name),
        message: recent::shortened(&message, LONGEST_KEPT).to_owned(),
        request_id: record.request_id.map(ToString::to_string),
    });
}

/// The last lines that were written by this process from a number on, and the number of the next.
pub fn lines_since(number: u64) -> (u64, Vec<LogLine>) {
    RECENT.since(number)
}

/// Opens the log file again by its name, after a rotation. The old one stays in use when that fails.
pub fn reopen() {
    if let Some(outputs) = OUTPUTS.get() {
        outputs.reopen();
    }
}

/// Takes records of the `log` crate. Ours pass at the level asked for; those of other crates from WARNING on,
/// because their details are for their own developers and may quote requests.
struct Bridge;

impl log::Log for Bridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let ours = metadata.target().starts_with("pserve");
        // What HTTP/2 warns of is what clients do, as often as they like.
        let of_clients = metadata.target().starts_with("h2");
        let most = if of_clients { log::Level::Error } else { log::Level::Warn };
        let is_of_loads = || metadata.target() == OF_LOADS && HOLDS_BACK.load(Ordering::Relaxed);
        let is_held_back = ours && (is_of_loads() || holds_back(Severity::of_log_level(metadata.level())));
        (ours || metadata.level() <= most) && !is_held_back
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let crate_name = record.target().split("::").next().unwrap_or_default();
            Record::new(Severity::of_log_level(record.level()), crate_name, &record.args().to_string()).emit();
        }
    }

    fn flush(&self) {}
}

/// Whether lines of the server's own are left out that matter so much.
fn holds_back(severity: Severity) -> bool {
    severity == Severity::Info && HOLDS_BACK.load(Ordering::Relaxed) && CHOICES.load().levels.general > Severity::Debug
}

impl SharedLogger for Bridge {
    fn level(&self) -> LevelFilter {
        LevelFilter::Debug
    }

    fn config(&self) -> Option<&Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn log::Log> {
        self
    }
}
