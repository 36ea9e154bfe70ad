//! The serving process's start order and stop order, on one screen: stopping is starting read backwards.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwapOption;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::cli::Cli;
use crate::config::live::LiveConfig;
use crate::config::settings::{ListenAddress, Scheduling};
use crate::config::{Config, Settings};
use crate::metrics::Metrics;
use crate::plugins::Plugins;
use crate::python::{self, Interpreter, InterpreterOptions};
use crate::shutdown::{SignalEvents, StopRequests};
use crate::web::{AccessLog, BoundListener, Leaving, Server, Site, TlsAcceptor, bind_listeners};
use crate::{logging, shutdown};

/// How long terminating all plugins may take at a stop, tasks included.
const TERMINATE_LIMIT: Duration = Duration::from_secs(8);

/// How long calls without a connection are waited for at least.
const LEFT_BEHIND_LIMIT: Duration = Duration::from_millis(200);

/// Requests after which memory is worth giving back, and requests in a second that are few enough to do it between.
const LOAD_REQUESTS: u64 = 1000;
const QUIET_REQUESTS: u64 = 20;

/// How long Python may take for its last steps before the process ends without it.
const LAST_STEPS_LIMIT: Duration = Duration::from_secs(5);

/// Serves until a signal asks for the end. Must run on the process's main thread, which becomes Python's.
pub fn run(cli: &Cli, config: Config) -> anyhow::Result<()> {
    let settings = config.settings.clone();
    logging::init(cli.severity(), cli.log.as_deref())?;
    logging::announce(&format!(
        "pserve {} with Python {} starts, PID {}, {}",
        env!("CARGO_PKG_VERSION"),
        python::version(),
        std::process::id(),
        config.path.display()
    ));
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    let signals = shutdown::listen().context("cannot listen for signals")?;
    let listeners = bind_listeners(&settings.listen)?;
    let access_log = open_access_log(&settings)?;
    let tls = TlsAcceptor::load(&settings)?;
    let config = Arc::new(LiveConfig::new(config));
    if settings.server.scheduling == Scheduling::Batch {
        python::share_the_core_in_turns();
    }
    let interpreter = Interpreter::start(&interpreter_options(cli, &config, &settings))?;
    let pidfile = Arc::new(Mutex::new(settings.pidfile.as_deref().map(PidFile::write).transpose()?));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.server.io_threads)
        .thread_name("io")
        .enable_all()
        .build()
        .context("cannot start the I/O threads")?;
    let metrics = Arc::new(Metrics::default());
    let plugins = Arc::new(Plugins::new(interpreter.clone(), Arc::clone(&config), Arc::clone(&metrics)));
    let site = Arc::new(Site {
        config,
        plugins,
        metrics,
        access_log: ArcSwapOption::new(access_log.map(Arc::new)),
        requests: AtomicU64::new(0),
        started: Instant::now(),
        is_draining: AtomicBool::new(false),
        connections: Arc::default(),
        tls: ArcSwapOption::new(tls.map(Arc::new)),
    });
    runtime.spawn(tidy_up_after_load(Arc::clone(&site)));
    let conductor = Conductor { site, interpreter: interpreter.clone(), pidfile: Arc::clone(&pidfile) };
    runtime.spawn(conductor.run(settings, listeners, signals));
    let ended = interpreter.run();
    remove_pidfile(&pidfile);
    ended
}

/// What Python is told at its start.
pub fn interpreter_options(cli: &Cli, config: &LiveConfig, settings: &Settings) -> InterpreterOptions {
    let as_text = |path: &PathBuf| path.to_string_lossy().into_owned();
    InterpreterOptions {
        venv: settings.python.venv.clone(),
        plugins_dir: settings.plugins_dir.clone(),
        handler_threads: settings.limits.handler_threads,
        max_lost_threads: settings.limits.max_lost_threads,
        flight: None,
        crash_report_fd: None,
        log_level: cli.severity(),
        ini_file: cli.ini_file.as_ref().map_or_else(|| config.path().to_string_lossy().into_owned(), as_text),
        log_file: cli.log.as_ref().map(as_text),
        level_as_typed: cli.level.as_ref().map_or_else(|| "DEBUG".to_owned(), |level| level.as_typed.clone()),
    }
}

fn open_access_log(settings: &Settings) -> anyhow::Result<Option<AccessLog>> {
    let path = settings.server.access_log.as_ref();
    path.map(|path| AccessLog::open(path).with_context(|| format!("cannot write the access log {}", path.display())))
        .transpose()
}

/// What runs on the I/O threads from the first load to the last drain.
struct Conductor {
    site: Arc<Site>,
    interpreter: Interpreter,
    pidfile: Arc<Mutex<Option<PidFile>>>,
}

impl Conductor {
    async fn run(self, settings: Settings, listeners: Vec<BoundListener>, signals: SignalEvents) {
        let SignalEvents { mut reloads, stops } = signals;
        // A constructor may hang: a signal must end the server all the same.
        let started = tokio::select! {
            () = self.load_first() => true,
            name = stops.asked(1) => {
                log::info!("{name}: stopping before the plugins are loaded");
                false
            }
        };
        let server = started.then(|| Server::start(Arc::clone(&self.site), &settings.listen, listeners)).transpose();
        match server {
            Ok(Some(mut server)) => {
                announce(&server, &self.site);
                self.serve(&mut server, &mut reloads, &stops).await;
                self.stop(Some(server), &stops).await;
            }
            Ok(None) => self.stop(None, &stops).await,
            Err(problem) => {
                log::error!("{problem:#}");
                self.stop(None, &stops).await;
            }
        }
    }

    async fn load_first(&self) {
        match self.site.plugins.load_all().await {
            Ok(failed) if failed.is_empty() => {}
            Ok(failed) => log::warn!("plugin files with errors: {}; the others serve", failed.len()),
            Err(problem) => log::error!("{problem}"),
        }
    }

    /// Handles signals until one asks for the end, also in the middle of a reload.
    async fn serve(&self, server: &mut Server, reloads: &mut UnboundedReceiver<&'static str>, stops: &StopRequests) {
        let loop_replaced = self.interpreter.loop_replaced();
        loop {
            let asked = tokio::select! {
                name = stops.asked(1) => Err(name),
                name = reloads.recv() => Ok(name),
                () = loop_replaced.notified() => Ok(None),
            };
            let work = async {
                match asked {
                    Ok(Some(name)) => self.reload(name, server).await,
                    Ok(None) => self.load_everything_again().await,
                    Err(_) => {}
                }
            };
            let stopped = tokio::select! {
                () = work => asked.err(),
                name = stops.asked(1) => Some(name),
            };
            if let Some(name) = stopped {
                log::info!("{name}: finishing what is in flight");
                return;
            }
        }
    }

    /// Takes up the INI file, the plugins and the log files as they are now. Whatever cannot work stays as it was.
    async fn reload(&self, signal: &str, server: &mut Server) {
        log::info!("{signal}: reading {} and reloading every plugin", self.site.config.path().display());
        logging::reopen();
        let before = self.site.config.get();
        self.load_everything_again().await;
        let settings = &self.site.config.get().settings;
        for (name, changed) in [
            ("[python]", settings.python != before.settings.python),
            ("[server] io_threads", settings.server.io_threads != before.settings.server.io_threads),
            ("[limits] handler_threads", settings.limits.handler_threads != before.settings.limits.handler_threads),
        ] {
            if changed {
                log::warn!("{name} has changed; that takes a restart of the server");
            }
        }
        if settings.pidfile != before.settings.pidfile {
            self.move_pidfile(settings.pidfile.as_deref());
        }
        match server.move_to(&settings.listen) {
            Ok(true) => announce(server, &self.site),
            Ok(false) => {}
            Err(problem) => log::error!("{problem:#}; the old addresses stay"),
        }
        self.reload_access_log(settings);
        // Connections that stand keep what they were made with; new ones take the renewed files.
        match TlsAcceptor::load(settings) {
            Ok(tls) => self.site.tls.store(tls.map(Arc::new)),
            Err(problem) => log::error!("{problem:#}; the old certificate stays"),
        }
    }

    fn move_pidfile(&self, path: Option<&Path>) {
        let mut current = self.pidfile.lock().unwrap_or_else(PoisonError::into_inner);
        match path.map(PidFile::write).transpose() {
            Ok(new) => {
                if let Some(old) = std::mem::replace(&mut *current, new) {
                    old.remove();
                }
            }
            Err(problem) => log::error!("{problem:#}; the old one stays"),
        }
    }

    fn reload_access_log(&self, settings: &Settings) {
        let current = self.site.access_log.load_full();
        match (&current, &settings.server.access_log) {
            (Some(open), Some(path)) if open.path() == path => open.reopen(),
            _ => match open_access_log(settings) {
                Ok(access_log) => self.site.access_log.store(access_log.map(Arc::new)),
                Err(problem) => log::error!("{problem:#}; the old access log stays"),
            },
        }
    }

    async fn load_everything_again(&self) {
        match self.site.plugins.reload_all().await {
            Ok(failed) if failed.is_empty() => log::info!("every plugin is reloaded"),
            Ok(failed) => log::warn!("plugin files with errors: {}; what they served before stays", failed.len()),
            Err(problem) => log::error!("{problem}"),
        }
    }

    /// Drains, terminates the plugins, and ends Python. A second signal, or a step that takes too long, ends the
    /// process at once.
    async fn stop(self, server: Option<Server>, stops: &StopRequests) {
        self.site.is_draining.store(true, Ordering::Relaxed);
        let limit = self.site.config.get().settings.limits.drain_timeout;
        let deadline = tokio::time::Instant::now() + limit;
        let orderly = async {
            if let Some(server) = server
                && !server.drain(limit, Leaving::LastOne).await
            {
                log::warn!("some connections were still busy after {limit:?}");
            }
            // Connections that ended early, and those that were taken over, have left calls behind: what was accepted
            // is finished.
            let rest = deadline.saturating_duration_since(tokio::time::Instant::now());
            self.site.plugins.drain(rest.max(LEFT_BEHIND_LIMIT)).await;
            if tokio::time::timeout(TERMINATE_LIMIT, self.site.plugins.terminate_all()).await.is_err() {
                log::warn!("plugins did not terminate within {TERMINATE_LIMIT:?}");
            }
            log::info!("stopped");
            self.interpreter.stop();
            tokio::time::sleep(LAST_STEPS_LIMIT).await;
            log::warn!("Python did not end within {LAST_STEPS_LIMIT:?}; ending without it");
        };
        tokio::select! {
            () = orderly => {}
            name = stops.asked(2) => log::warn!("{name} again: ending at once"),
        }
        remove_pidfile(&self.pidfile);
        crate::exit_status::leave(crate::exit_status::CLEAN);
    }
}

/// Gives memory back once a load has ended, so that an idle server is as small as it was.
async fn tidy_up_after_load(site: Arc<Site>) {
    let (mut at_last_look, mut at_last_tidying) = (0, 0);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = site.requests.load(Ordering::Relaxed);
        let is_quiet = now - at_last_look < QUIET_REQUESTS;
        if is_quiet && now - at_last_tidying >= LOAD_REQUESTS {
            at_last_tidying = now;
            let _ = tokio::task::spawn_blocking(python::give_back_free_memory).await;
        }
        at_last_look = now;
    }
}

fn remove_pidfile(pidfile: &Mutex<Option<PidFile>>) {
    if let Some(pidfile) = pidfile.lock().unwrap_or_else(PoisonError::into_inner).take() {
        pidfile.remove();
    }
}

fn announce(server: &Server, site: &Site) {
    for id in site.plugins.registry().ids() {
        logging::announce(&format!("route /{id}"));
    }
    let scheme = if site.tls.load().is_some() { "https" } else { "http" };
    for address in server.addresses() {
        let place = match address {
            ListenAddress::Tcp(address) => format!("{scheme}://{address}"),
            ListenAddress::Unix { .. } => address.to_string(),
        };
        logging::announce(&format!("PID {} serves {place}", std::process::id()));
    }
}

/// The file that holds this process's number while it serves.
#[derive(Debug, Clone)]
struct PidFile(PathBuf);

impl PidFile {
    /// Written after the addresses are bound: a second server that fails for want of the port leaves it alone.
    fn write(path: &Path) -> anyhow::Result<Self> {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("cannot write the pidfile {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Removes it, unless another process has written its own number meanwhile.
    fn remove(&self) {
        let is_ours = std::fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if is_ours && let Err(problem) = std::fs::remove_file(&self.0) {
            log::warn!("cannot remove the pidfile {}: {problem}", self.0.display());
        }
    }
}
