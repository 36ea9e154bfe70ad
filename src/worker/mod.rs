//! The serving process's start order and stop order, on one screen: stopping is starting read backwards.
//!
//! A supervisor has started this process and given it a seat (`handoff`); `orders` does what the supervisor asks for
//! from then on.

mod orders;
mod recycling;

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::cli::Cli;
use crate::config::live::LiveConfig;
use crate::config::settings::Scheduling;
use crate::config::{Config, ConfigError, Settings};
use crate::flight::FlightRecorder;
use crate::handoff::{Link, Report, Seat};
use crate::logging::Need;
use crate::metrics::Metrics;
use crate::plugins::Plugins;
use crate::python::{self, Interpreter, InterpreterOptions};
use crate::web::{AccessLog, Leaving, RequestLines, Server, Site, TlsAcceptor};
use crate::{exit_status, logging, shutdown};
use orders::Conductor;

/// How long terminating all plugins may take at a stop, tasks included.
const TERMINATE_LIMIT: Duration = Duration::from_secs(8);

/// How long a stop waits for requests in flight when a person at the terminal waits for the stop.
const IMPATIENT_LIMIT: Duration = Duration::from_millis(500);

/// How long calls without a connection are waited for at least.
const LEFT_BEHIND_LIMIT: Duration = Duration::from_millis(200);

/// How long Python may take for its last steps before the process ends without it.
const LAST_STEPS_LIMIT: Duration = Duration::from_secs(5);

/// How long the supervisor is given to take the last report.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// Serves until the supervisor asks for the end; the answer is the exit status. Must run on the process's main thread,
/// which becomes Python's.
pub fn run(cli: &Cli, seat: Seat) -> i32 {
    let channel = seat.channel.try_clone();
    let Err(problem) = serve(cli, seat) else {
        return exit_status::CLEAN;
    };
    let is_usage = problem.downcast_ref::<ConfigError>().is_some();
    let report = Report::CannotStart { message: format!("{problem:#}"), is_usage };
    if let Err(trouble) = channel.and_then(|channel| Seat::tell_at_once(channel, &report)) {
        log::error!("{problem:#} (and the supervisor cannot be told: {trouble})");
    }
    exit_status::CANNOT_START
}

fn serve(cli: &Cli, seat: Seat) -> anyhow::Result<()> {
    let Seat { assignment, listeners, flight, crash_report, channel } = seat;
    // Started by way of /proc, it would go by the name of that file.
    let _ = rustix::thread::set_name(c"pserve");
    if cli.is_dev() {
        logging::hold_back();
    }
    logging::init(cli.asked_of_log(), cli.log.as_deref(), Need::Wanted, Some(assignment.number))?;
    let config = Config::from_known_text(&assignment.ini_text, &assignment.source)?;
    let settings = config.settings.clone();
    let config = Arc::new(LiveConfig::new(config));
    let signals = shutdown::listen_as_worker().context("cannot listen for signals")?;
    let access_log = open_access_log(&settings)?;
    let tls = TlsAcceptor::from_pem(&settings, assignment.tls.as_ref())?;
    if settings.server.scheduling == Scheduling::Batch {
        python::share_the_core_in_turns();
    }
    python::keep_free_memory_under_load();
    let flight = Arc::new(FlightRecorder::open(flight).context("cannot open the flight recorder")?);
    let options = InterpreterOptions {
        flight: Some(flight),
        crash_report_fd: Some(crash_report.as_raw_fd()),
        ..interpreter_options(cli, &config, &settings)
    };
    let sockets = listeners.iter().map(|listener| listener.socket.as_fd());
    python::keep_from_children(sockets.chain([channel.as_fd()]));
    let interpreter = Interpreter::start(&options)?;
    log::info!("worker {} (PID {}) has Python {}", assignment.number, std::process::id(), python::version());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.server.io_threads)
        .thread_name("io")
        .on_thread_start(python::io_thread_starts)
        .on_thread_stop(python::io_thread_ends)
        .enable_all()
        .build()
        .context("cannot start the I/O threads")?;
    let (link, orders) = {
        let _on_runtime = runtime.enter();
        Link::open(channel).context("cannot talk to the supervisor")?
    };
    let metrics = Arc::new(Metrics::default());
    let plugins = Plugins::new(interpreter.clone(), Arc::clone(&config), Arc::clone(&metrics));
    let plugins = Arc::new(if cli.is_dev() { plugins.without_patience() } else { plugins });
    let mut site = Site::new(config, plugins, metrics, link, access_log, tls);
    if cli.is_dev() {
        site.dev = Some(Arc::new(RequestLines::of_stdout()?));
    }
    let site = Arc::new(site);
    runtime.spawn(orders::tidy_up_after_load(Arc::clone(&site)));
    runtime.spawn(recycling::watch(Arc::clone(&site), interpreter.clone(), signals));
    let conductor = Conductor::new(site, interpreter.clone());
    runtime.spawn(conductor.run(assignment, listeners, orders));
    let ended = interpreter.run();
    // Python writes to it to the very end.
    drop(crash_report);
    ended
}

/// What Python is told at its start.
pub fn interpreter_options(cli: &Cli, config: &LiveConfig, settings: &Settings) -> InterpreterOptions {
    let as_text = |path: &PathBuf| path.to_string_lossy().into_owned();
    InterpreterOptions {
        venv: settings.python.venv.clone(),
        plugins_dir: settings.plugins_dir.clone(),
        handler_threads: settings.limits.handler_threads,
        ini_file: cli.ini_file.as_ref().map_or_else(|| config.path().to_string_lossy().into_owned(), as_text),
        log_file: cli.log.as_ref().map(as_text),
        level_as_typed: cli.level.as_ref().map_or_else(|| "DEBUG".to_owned(), |level| level.as_typed.clone()),
        max_lost_threads: settings.limits.max_lost_threads,
        flight: None,
        crash_report_fd: None,
    }
}

fn open_access_log(settings: &Settings) -> anyhow::Result<Option<AccessLog>> {
    let (path, format) = (settings.server.access_log.as_ref(), settings.server.access_log_format);
    path.map(|path| {
        AccessLog::open(path, format).with_context(|| format!("cannot write the access log {}", path.display()))
    })
    .transpose()
}

impl Conductor {
    /// Drains, terminates the plugins, and ends Python, each step within its limit; the process ends here.
    async fn leave(&self, server: Option<Server>, leaving: Leaving) {
        let mut limit = self.site.config.get().settings.limits.drain_timeout;
        if self.site.dev.is_some() && leaving == Leaving::LastOne {
            limit = limit.min(IMPATIENT_LIMIT);
        }
        let deadline = tokio::time::Instant::now() + limit;
        if let Some(mut server) = server {
            let _ = tokio::time::timeout(limit, server.stop_accepting(leaving)).await;
            self.site.link.report(Report::Closed);
            if !server.drain(deadline.saturating_duration_since(tokio::time::Instant::now())).await {
                log::warn!("some connections were still busy after {limit:?}");
            }
        }
        // Connections that ended early, and those that were taken over, have left calls behind: what was accepted is
        // finished.
        let rest = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.site.plugins.drain(rest.max(LEFT_BEHIND_LIMIT)).await;
        if tokio::time::timeout(TERMINATE_LIMIT, self.site.plugins.terminate_all()).await.is_err() {
            log::warn!("plugins did not terminate within {TERMINATE_LIMIT:?}");
        }
        self.site.link.report(Report::Counted(Box::new(self.site.counted())));
        let _ = tokio::time::timeout(GOODBYE_LIMIT, self.site.link.flush()).await;
        self.interpreter.stop();
        tokio::time::sleep(LAST_STEPS_LIMIT).await;
        log::warn!("Python did not end within {LAST_STEPS_LIMIT:?}; ending without it");
        exit_status::leave(exit_status::CLEAN);
    }
}
