//! The parent process, which people signal: it binds the addresses once and keeps workers serving on them. It never
//! starts Python, so that nothing a plugin does reaches it.
//!
//! Everything happens in one loop on one thread: a signal, a worker's word, a worker's end or a second that has passed
//! becomes one step. `sets` starts workers that serve together, `replacing` puts one in the place of
//! another, `deaths` sees to those that end unasked, `changes`
//! carries the control routes to all of them, `developing` what is saved under `pserve dev`.

mod changes;
mod deaths;
mod developing;
mod overview;
mod pidfile;
mod replacing;
mod restart;
mod service_manager;
mod sets;
mod sockets;
mod worker_process;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, getrlimit, setrlimit, waitpid};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub use sockets::{bind_for_trial, socket_objection};

use crate::cli::Cli;
use crate::config::settings::{ListenAddress, Settings};
use crate::config::{Config, live};
use crate::dev::{Plan, Saved, Session};
use crate::exchange::{PluginFiles, Quarantined};
use crate::handoff::{Order, Report, TlsPem};
use crate::logging::Need;
use crate::recent::Pulses;
use crate::shutdown::Wish;
use crate::{exit_status, logging, shutdown};
use changes::Changes;
use overview::Overviews;
use pidfile::PidFile;
use restart::{CrashBook, Patience};
use service_manager::ServiceManager;
use sets::{Coming, Handover};
use sockets::BoundListener;
use worker_process::{Key, State, Worker, WorkerEvent};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);

/// What a worker may take for terminating its plugins and Python's last steps, after its drain.
const LAST_STEPS: Duration = Duration::from_secs(15);

/// Descriptors that the server asks for, where the system lets it.
const DESCRIPTORS: u64 = 65_536;

/// Serves until a signal asks for the end; the answer is the exit status. Must run on the process's main thread.
pub fn run(cli: &Cli, config: Config) -> anyhow::Result<i32> {
    serve(cli, config, None)
}

/// As [`run`], for somebody who writes plugins meanwhile.
pub fn run_dev(cli: &Cli, plan: Plan) -> anyhow::Result<i32> {
    logging::hold_back();
    let opened = Session::open(&plan).context("cannot watch files")?;
    serve(cli, plan.config, Some(opened))
}

fn serve(cli: &Cli, config: Config, dev: Option<(Session, UnboundedReceiver<Saved>)>) -> anyhow::Result<i32> {
    logging::init(cli.asked_of_log(), cli.log.as_deref(), Need::Required, None)?;
    live::configure_log(&config.settings);
    live::hide_keys(&config);
    if dev.is_none() {
        logging::announce(&format!(
            "pserve {} starts, PID {}, {}",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            config.source.path.display()
        ));
    }
    for warning in &config.settings.warnings {
        log::warn!("{warning}");
    }
    sets::try_access_log(&config.settings)?;
    let wishes = shutdown::listen().context("cannot listen for signals")?;
    raise_descriptor_limit();
    let activated = sockets::activated()?;
    let listeners = sockets::listeners_for(&addresses(&config.settings, &activated), &activated)?;
    let pidfile = config.settings.pidfile.as_deref().map(PidFile::write).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the supervisor's event loop")?;
    let (events, incoming) = unbounded_channel();
    let (session, saved) = dev.unzip();
    let mut supervisor = Supervisor::new(config, activated, pidfile, session, events);
    let status = runtime.block_on(async {
        supervisor.start_first_set(listeners);
        supervisor.run(wishes, incoming, saved).await
    });
    // Workers that are still there die with this process.
    if let Some(pidfile) = supervisor.pidfile.take() {
        pidfile.remove();
    }
    Ok(status)
}

/// Where to listen: at the service manager's sockets, when it has made any, else as configured.
fn addresses(settings: &Settings, activated: &[Arc<BoundListener>]) -> Vec<ListenAddress> {
    if activated.is_empty() {
        return settings.listen.clone();
    }
    activated.iter().map(|listener| listener.configured().clone()).collect()
}

/// Connections are descriptors; the usual limit of 1024 is for programs that call select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        if let Err(problem) = setrlimit(Resource::Nofile, raised) {
            log::debug!("the limit of descriptors cannot be raised: {problem}");
        }
    }
}

/// What is known of one worker's place, whoever sits there.
#[derive(Debug, Default)]
struct Place {
    patience: Patience,
    /// When the next worker is to be started there.
    due: Option<Instant>,
    /// How often its worker has been replaced, by reason.
    restarts: BTreeMap<&'static str, u64>,
    /// Why its worker is to be replaced, as a name and in words; kept until a fresh one serves there.
    tired: Option<(&'static str, String)>,
    /// What was said last of a start that failed: it is not said again.
    last_complaint: Option<String>,
}

/// The end, once it has been asked for.
#[derive(Debug)]
struct Ending {
    status: i32,
    /// A line for standard error, when nobody asked for it.
    complaint: Option<String>,
}

struct Supervisor {
    /// In force.
    config: Config,
    /// What the service manager has bound.
    activated: Vec<Arc<BoundListener>>,
    /// What the workers in service listen on.
    listeners: Vec<Arc<BoundListener>>,
    /// The certificate and its key that they use.
    tls: Option<TlsPem>,
    workers: BTreeMap<Key, Worker>,
    next_key: Key,
    places: BTreeMap<usize, Place>,
    /// Of the workers in service.
    generation: u64,
    /// Counts the changes of what a new worker has to load.
    version: u64,
    /// The files that a new worker loads; `None` is all of the folder.
    files: Option<PluginFiles>,
    unloaded: Vec<String>,
    quarantined: Vec<Quarantined>,
    crashes: CrashBook,
    coming: Option<Coming>,
    /// A reload that is done but for what the old workers still accept.
    handover: Option<Handover>,
    /// A reload that was asked for while a set was on its way.
    reload_waits: Option<&'static str>,
    changes: Changes,
    overviews: Overviews,
    /// What was told those who watch; workers come and go meanwhile.
    pulses: Pulses,
    /// Why the last reload by signal failed.
    last_failure: Option<String>,
    pidfile: Option<PidFile>,
    service_manager: ServiceManager,
    ending: Option<Ending>,
    /// Set when somebody writes plugins while they are served.
    dev: Option<Session>,
    events: UnboundedSender<WorkerEvent>,
}

impl Supervisor {
    fn new(
        config: Config,
        activated: Vec<Arc<BoundListener>>,
        pidfile: Option<PidFile>,
        dev: Option<Session>,
        events: UnboundedSender<WorkerEvent>,
    ) -> Self {
        Self {
            config,
            activated,
            listeners: Vec::new(),
            tls: None,
            workers: BTreeMap::new(),
            next_key: 0,
            places: BTreeMap::new(),
            generation: 0,
            version: 0,
            files: None,
            unloaded: Vec::new(),
            quarantined: Vec::new(),
            crashes: CrashBook::default(),
            coming: None,
            handover: None,
            reload_waits: None,
            changes: Changes::default(),
            overviews: Overviews::new(),
            pulses: Pulses::default(),
            last_failure: None,
            pidfile,
            service_manager: ServiceManager::of_environment(),
            ending: None,
            dev,
            events,
        }
    }

    async fn run(
        &mut self,
        mut wishes: UnboundedReceiver<Wish>,
        mut events: UnboundedReceiver<WorkerEvent>,
        mut saved: Option<UnboundedReceiver<Saved>>,
    ) -> i32 {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                Some(wish) = wishes.recv() => self.grant(wish),
                Some(event) = events.recv() => self.hear(event),
                Some(saved) = next_saved(&mut saved) => self.take_up(saved),
                _ = ticks.tick() => self.look_around(),
                () = sleep_until(self.next_start()) => {}
            }
            self.start_what_is_due();
            self.go_on_with_changes();
            if let Some(ending) = self.ending.as_ref().filter(|_| self.workers.is_empty()) {
                if let Some(complaint) = &ending.complaint {
                    exit_status::complain(complaint);
                }
                return ending.status;
            }
        }
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            // The terminal has been closed.
            Wish::Reload("SIGHUP") if self.dev.is_some() => self.end(exit_status::CLEAN, None),
            Wish::Reload(signal) => self.reload(signal),
            Wish::Stop(signal) if self.ending.is_some() => {
                log::warn!("{signal} again: ending at once");
                self.workers.values_mut().for_each(Worker::kill);
            }
            Wish::Stop(signal) => {
                log::info!("{signal}: finishing what is in flight");
                self.service_manager.stopping("finishing what is in flight");
                if let Some(dev) = &mut self.dev {
                    dev.stopping();
                }
                self.end(exit_status::CLEAN, None);
            }
            Wish::Dump(signal) => self.dump(signal),
        }
    }

    fn hear(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Ended(key, status) => self.bury(key, &status),
            WorkerEvent::Said(key, report) => match *report {
                Report::Loaded(files) => self.worker_has_loaded(key, files),
                Report::Serving => self.worker_serves(key),
                Report::Closed => self.worker_accepts_no_more(key),
                Report::CannotStart { message, is_usage } => {
                    self.with(key, |worker| worker.cannot_start = Some((message, is_usage)));
                }
                Report::Beat { stalled } => self.with(key, |worker| {
                    worker.last_beat = Instant::now();
                    worker.stalled = stalled;
                }),
                Report::Tired { reason, words } => self.worker_is_tired(key, reason, words),
                Report::Pulse(pulse) => self.pulses.push(pulse, Instant::now()),
                Report::Counted(counted) => self.with(key, |worker| worker.counted = *counted),
                Report::Ask { ticket, ask } => self.answer(key, ticket, ask),
                Report::Done { ticket, result, files } => self.change_is_done(key, ticket, result, files),
                Report::Described { ticket, report } => self.worker_is_described(key, ticket, *report),
            },
        }
    }

    fn with(&mut self, key: Key, act: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.workers.get_mut(&key) {
            act(worker);
        }
    }

    /// Workers that answer clients.
    fn serving(&self) -> impl Iterator<Item = (Key, &Worker)> {
        self.workers.iter().filter(|(_, worker)| worker.state == State::Serving).map(|(key, worker)| (*key, worker))
    }

    fn place(&mut self, number: usize) -> &mut Place {
        self.places.entry(number).or_default()
    }

    /// Begins the end: nobody is accepted any more once the workers have closed what they hold.
    fn end(&mut self, status: i32, complaint: Option<String>) {
        self.ending = Some(Ending { status, complaint });
        self.coming = None;
        self.listeners.clear();
        self.activated.clear();
        self.interrupt_changes("the server is stopping");
        let limit = self.leaving_limit();
        for worker in self.workers.values_mut() {
            let is_unused = !worker.accepts && worker.state != State::Leaving;
            worker.leave(Order::Stop, if is_unused { sets::UNUSED_LIMIT } else { limit });
        }
    }

    /// How long a worker may take to go.
    fn leaving_limit(&self) -> Duration {
        self.config.settings.limits.drain_timeout + LAST_STEPS
    }

    fn look_around(&mut self) {
        self.kill_those_who_stay();
        self.finish_handover();
        self.reload_if_asked_again();
        self.mind_the_starting();
        self.mind_the_stalled();
        self.relieve_the_tired();
        self.finish_overviews();
        self.mind_slow_saves();
        reap_strangers(&self.workers);
        let limit = self.config.settings.limits.loop_stall;
        let is_well = |worker: &Worker| limit.is_zero() || worker.stalled < limit;
        let starts = |worker: &Worker| matches!(worker.state, State::Starting | State::Loaded);
        let is_on_it = self.places.values().any(|place| place.due.is_some()) || self.workers.values().any(starts);
        let is_served = self.serving().next().is_some() || is_on_it;
        if self.ending.is_none() && is_served && self.serving().all(|(_, worker)| is_well(worker)) {
            self.service_manager.sign_of_life();
        }
    }

    fn kill_those_who_stay(&mut self) {
        let now = Instant::now();
        for worker in self.workers.values_mut() {
            if worker.leave_by.is_some_and(|by| by <= now) && !worker.is_condemned {
                log::warn!("worker {} (PID {}) does not end; it is killed", worker.number, worker.pid);
                worker.kill();
            }
        }
    }

    fn dump(&self, signal: &str) {
        log::info!("{signal}: {}", self.describe());
        for worker in self.workers.values() {
            worker.order(Order::Dump);
        }
    }
}

/// What has been saved, where anybody watches.
async fn next_saved(saved: &mut Option<UnboundedReceiver<Saved>>) -> Option<Saved> {
    match saved {
        Some(saved) => saved.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// As the first process of a container, this one inherits children that plugins have left behind.
fn reap_strangers(workers: &BTreeMap<Key, Worker>) {
    if std::process::id() != 1 {
        return;
    }
    let children = std::fs::read_to_string("/proc/1/task/1/children").unwrap_or_default();
    for pid in children.split_whitespace().filter_map(|word| word.parse::<i32>().ok()) {
        // A worker's end is noticed by whoever watches it.
        let is_worker = workers.values().any(|worker| i32::try_from(worker.pid) == Ok(pid));
        if let Some(pid) = Pid::from_raw(pid).filter(|_| !is_worker) {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}
