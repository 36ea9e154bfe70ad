//! Workers that start together: the first ones, those of a reload, and single ones that take another's place.
//!
//! A set is proven before its predecessor goes: every worker has loaded its plugins before any of it accepts, and all
//! of it accepts before the old one is asked to leave.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::pidfile::PidFile;
use super::sockets::{self, BoundListener};
use super::worker_process::{Key, Plan, State, Worker};
use super::{Supervisor, addresses};
use crate::config::settings::{ListenAddress, Settings};
use crate::config::{Config, live};
use crate::exchange::PluginFiles;
use crate::handoff::{Assignment, Order, TlsPem};
use crate::{exit_status, logging};

/// How long old workers may take to close their listeners; one that stands still does not do it.
const HANDOVER_LIMIT: Duration = Duration::from_secs(2);

/// How long a reload may take until the next one does not wait for it any more.
const RELOAD_PATIENCE: Duration = Duration::from_secs(2);

/// What workers may take for their end that have served nobody.
pub(super) const UNUSED_LIMIT: Duration = Duration::from_secs(2);

/// How long changes wait for a worker that is starting.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(5);

/// A set on its way into service.
pub(super) struct Coming {
    pub generation: u64,
    pub config: Config,
    pub listeners: Vec<Arc<BoundListener>>,
    pub tls: Option<TlsPem>,
    /// The signal that asked for it; `None` for the first.
    pub signal: Option<&'static str>,
    pub since: Instant,
    /// How often it has been tried again after a death that nothing explains.
    pub tries: u32,
}

/// A set that has taken over, and those of the one before that may still accept.
pub(super) struct Handover {
    signal: Option<&'static str>,
    old: BTreeSet<Key>,
    since: Instant,
}

impl Supervisor {
    pub(super) fn start_first_set(&mut self, listeners: Vec<Arc<BoundListener>>) {
        let config = self.config.clone();
        self.start_set(config, listeners, None);
    }

    /// Takes up everything as it is now, in new workers; whatever cannot work leaves the old ones serving.
    pub(super) fn reload(&mut self, signal: &'static str) {
        if self.ending.is_some() {
            return;
        }
        // Many signals in a row are one reload more, not as many workers that start and are given up again.
        let must_wait = |coming: &Coming| coming.signal.is_none() || coming.since.elapsed() < RELOAD_PATIENCE;
        if self.coming.as_ref().is_some_and(must_wait) {
            self.reload_waits = Some(signal);
            return;
        }
        self.reload_waits = None;
        log::info!("{signal}: reading {} and starting new workers", self.config.source.path.display());
        self.service_manager.reloading("starting new workers");
        logging::reopen();
        self.abandon_coming("another reload has been asked for");
        let config = match self.config.read_again() {
            Ok(config) => config,
            Err(problem) => {
                return self.reload_failed(format!("{problem}; the old configuration stays"));
            }
        };
        // One that cannot be written any more is no reason to refuse what else is new.
        if config.settings.server.access_log != self.config.settings.server.access_log
            && let Err(problem) = try_access_log(&config.settings)
        {
            return self.reload_failed(format!("{problem:#}; the old configuration stays"));
        }
        live::hide_keys(&config);
        for warning in &config.settings.warnings {
            log::warn!("{warning}");
        }
        let known: Vec<_> = self.listeners.iter().chain(&self.activated).cloned().collect();
        match sockets::listeners_for(&addresses(&config.settings, &self.activated), &known) {
            Ok(listeners) => self.start_set(config, listeners, Some(signal)),
            Err(problem) => self.reload_failed(format!("{problem:#}; the old addresses stay")),
        }
    }

    fn reload_failed(&mut self, why: String) {
        match &mut self.dev {
            Some(dev) => dev.ini_refused(&why),
            None => log::error!("the reload failed, the old workers go on: {why}"),
        }
        self.last_failure = Some(why);
        self.service_manager.ready("the last reload failed; the log tells why");
    }

    fn start_set(&mut self, config: Config, listeners: Vec<Arc<BoundListener>>, signal: Option<&'static str>) {
        let generation = self.next_generation();
        let count = config.settings.server.workers;
        let tls = config.settings.tls.as_ref().and_then(TlsPem::read);
        self.coming = Some(Coming { generation, config, listeners, tls, signal, since: Instant::now(), tries: 0 });
        for number in 1..=count {
            if let Err(problem) = self.start_worker(number, generation, None) {
                return self.coming_failed(format!("{problem:#}"), exit_status::FAILURE);
            }
        }
    }

    fn next_generation(&self) -> u64 {
        let known = self.workers.values().map(|worker| worker.generation);
        known.chain([self.generation]).max().unwrap_or_default() + 1
    }

    /// Starts one worker, of the set that is coming or of the one in service.
    pub(super) fn start_worker(&mut self, number: usize, generation: u64, replaces: Option<Key>) -> anyhow::Result<()> {
        let coming = self.coming.as_ref().filter(|coming| coming.generation == generation);
        let config = coming.map_or(&self.config, |coming| &coming.config);
        let listeners = coming.map_or(&self.listeners, |coming| &coming.listeners);
        // A reload by signal takes everything up afresh.
        let is_fresh = coming.is_some();
        let assignment = Assignment {
            number,
            addresses: listeners.iter().map(|listener| listener.configured().clone()).collect(),
            source: config.source.clone(),
            ini_text: config.text.clone(),
            tls: coming.map_or(&self.tls, |coming| &coming.tls).clone(),
            files: self.files.clone().filter(|_| !is_fresh),
            later: self.exclusive_files(config, is_fresh || replaces.is_some() || self.is_leaving_from(number)),
            unloaded: if is_fresh { Vec::new() } else { self.unloaded.clone() },
            // The first set may lose files on its way; a reload by signal gives all of them another chance.
            quarantined: if coming.is_some_and(|coming| coming.signal.is_some()) {
                Vec::new()
            } else {
                self.quarantined.clone()
            },
        };
        let plan = Plan { generation, version: self.version, replaces, assignment };
        let listeners = listeners.clone();
        self.next_key += 1;
        let worker = Worker::start(self.next_key, plan, &listeners, &self.events)?;
        log::debug!("worker {number} starts, PID {}", worker.pid);
        self.workers.insert(self.next_key, worker);
        Ok(())
    }

    fn is_leaving_from(&self, number: usize) -> bool {
        self.workers.values().any(|worker| worker.number == number && worker.state == State::Leaving)
    }

    /// Files of plugins that cannot stand beside their old selves, when an old self is there.
    fn exclusive_files(&self, config: &Config, has_predecessor: bool) -> PluginFiles {
        let is_old = |worker: &&Worker| matches!(worker.state, State::Serving | State::Leaving);
        let files = self.workers.values().filter(|_| has_predecessor).filter(is_old).flat_map(|worker| &worker.files);
        let is_exclusive = |id: &String| config.settings.options_of(id).restart_on_reload;
        let mut exclusive: PluginFiles = files.filter(|file| file.ids.iter().any(is_exclusive)).cloned().collect();
        exclusive.sort_by(|one, other| one.path.cmp(&other.path));
        exclusive.dedup_by(|one, other| one.path == other.path);
        exclusive
    }

    pub(super) fn worker_has_loaded(&mut self, key: Key, files: PluginFiles) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        worker.files = files;
        if worker.state != State::Starting {
            return;
        }
        worker.state = State::Loaded;
        let (generation, version, number, replaces) =
            (worker.generation, worker.version, worker.number, worker.replaces);
        if self.coming.as_ref().is_some_and(|coming| coming.generation == generation) {
            self.promote_when_all_are_loaded();
        } else if version != self.version {
            // The plugins have changed meanwhile: it would not know of that.
            self.with(key, |worker| worker.leave(Order::Stop, UNUSED_LIMIT));
            match replaces.filter(|old| self.workers.contains_key(old)) {
                Some(old) => self.start_in_place_of(old),
                None => self.place(number).due = Some(Instant::now()),
            }
        } else {
            self.let_serve(key);
        }
    }

    fn let_serve(&mut self, key: Key) {
        self.with(key, |worker| {
            worker.state = State::Serving;
            worker.order(Order::Serve);
        });
    }

    fn promote_when_all_are_loaded(&mut self) {
        let Some(coming) = &self.coming else { return };
        let count = coming.config.settings.server.workers;
        let mates = self.mates(coming.generation, State::Loaded);
        // Of the first set one may have died between its mates' first request and its own.
        if mates.len() + self.mates(coming.generation, State::Serving).len() < count {
            return;
        }
        if let Some(objection) = self.objection(&mates) {
            return self.coming_failed(objection, exit_status::FAILURE);
        }
        for key in mates {
            self.let_serve(key);
        }
    }

    fn mates(&self, generation: u64, state: State) -> Vec<Key> {
        let is_mate = |worker: &Worker| worker.generation == generation && worker.state == state;
        self.workers.iter().filter(|(_, worker)| is_mate(worker)).map(|(key, _)| *key).collect()
    }

    /// A file that serves now and would not any more.
    fn objection(&self, mates: &[Key]) -> Option<String> {
        // Whoever writes it wants to see its error, and not its old self.
        if self.dev.is_some() {
            return None;
        }
        let (_, old) = self.serving().next()?;
        let new = mates.iter().filter_map(|key| self.workers.get(key)).flat_map(|worker| &worker.files);
        let failed = new.filter(|file| file.error.is_some());
        let lost = failed.filter(|file| old.files.iter().any(|known| known.path == file.path && !known.ids.is_empty()));
        // What was broken before the reload is no news, and no loss.
        let lost = lost.filter(|file| {
            let known = old.files.iter().find(|known| known.path == file.path);
            known.is_some_and(|known| known.ids.iter().any(|id| !file.ids.contains(id)))
        });
        let lines: Vec<String> = lost
            .map(|file| {
                let error = file.error.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("{}: {error}", file.path.display())
            })
            .collect();
        lines.first().map(|first| format!("a plugin that serves now does not load: {first}"))
    }

    pub(super) fn worker_serves(&mut self, key: Key) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        worker.accepts = true;
        worker.serving_since = Some(Instant::now());
        worker.last_beat = Instant::now();
        let (number, pid, generation, replaces) = (worker.number, worker.pid, worker.generation, worker.replaces);
        let place = self.place(number);
        (place.last_complaint, place.tired) = (None, None);
        if self.coming.as_ref().is_some_and(|coming| coming.generation == generation) {
            return self.finish_promotion();
        }
        log::info!("worker {number} (PID {pid}) serves");
        if let Some(old) = replaces {
            self.retire(old);
        }
        self.load_what_had_to_wait();
    }

    /// The step in which a set takes over, once all of it accepts.
    fn finish_promotion(&mut self) {
        let Some(coming) = &self.coming else { return };
        let mates = self.mates(coming.generation, State::Serving);
        let is_complete = mates.iter().all(|key| self.workers.get(key).is_some_and(|worker| worker.accepts));
        if mates.len() < coming.config.settings.server.workers || !is_complete {
            return;
        }
        let Some(coming) = self.coming.take() else { return };
        let limit = self.leaving_limit();
        let changed = coming.listeners.len() != self.listeners.len()
            || coming.listeners.iter().zip(&self.listeners).any(|(new, old)| !Arc::ptr_eq(new, old));
        // Whoever waits at an address that is given up is nobody else's to accept.
        let is_given_up = |old: &Arc<BoundListener>| !coming.listeners.iter().any(|new| Arc::ptr_eq(new, old));
        let farewell = if self.listeners.iter().any(is_given_up) { Order::Stop } else { Order::Retire };
        self.generation = coming.generation;
        self.version += 1;
        self.config = coming.config;
        live::configure_log(&self.config.settings);
        self.listeners = coming.listeners;
        self.tls = coming.tls;
        self.last_failure = None;
        self.unloaded.clear();
        let first = mates.first().and_then(|key| self.workers.get(key));
        self.files = first.map(|worker| worker.files.clone());
        if coming.signal.is_some() {
            self.lift_quarantine(|_| true);
        }
        let count = self.config.settings.server.workers;
        self.places.retain(|number, _| *number <= count);
        self.places.values_mut().for_each(|place| place.tired = None);
        for worker in self.workers.values_mut().filter(|worker| worker.generation < coming.generation) {
            if worker.state != State::Leaving {
                worker.leave(farewell.clone(), limit);
            }
        }
        self.move_pidfile();
        if self.dev.is_some() {
            self.tell_of_new_set(coming.signal, coming.since);
        } else if coming.signal.is_none() || changed {
            self.announce();
        }
        let is_old = |worker: &Worker| worker.generation < coming.generation && worker.accepts;
        let old = self.workers.iter().filter(|(_, worker)| is_old(worker)).map(|(key, _)| *key).collect();
        self.handover = Some(Handover { signal: coming.signal, old, since: Instant::now() });
        self.finish_handover();
        self.load_what_had_to_wait();
        self.reload_if_asked_again();
    }

    /// One of those who leave has closed its listeners.
    pub(super) fn worker_accepts_no_more(&mut self, key: Key) {
        if let Some(handover) = &mut self.handover {
            handover.old.remove(&key);
            self.finish_handover();
        }
    }

    /// The word that a set has taken over: from now on nobody meets the one before.
    pub(super) fn finish_handover(&mut self) {
        let is_over = |handover: &mut Handover| handover.old.is_empty() || handover.since.elapsed() > HANDOVER_LIMIT;
        let Some(handover) = self.handover.take_if(is_over) else { return };
        if let Some(signal) = handover.signal {
            log::info!("{signal}: the new workers serve, every plugin is reloaded");
        }
        self.service_manager.ready(&self.describe());
    }

    /// Does what was asked for while another set was on its way.
    pub(super) fn reload_if_asked_again(&mut self) {
        if let Some(signal) = self.reload_waits.take() {
            self.reload(signal);
        }
    }

    /// Once the workers before have ended, what they owned is free.
    pub(super) fn load_what_had_to_wait(&mut self) {
        // Those before it are of its place, or of an earlier set.
        let is_leaving = |key: Key, worker: &Worker| {
            let is_before = |old: &Worker| old.number == worker.number || old.generation < worker.generation;
            self.workers.iter().any(|(other, old)| *other < key && is_before(old))
        };
        let free: Vec<Key> = self
            .workers
            .iter()
            .filter(|(key, worker)| worker.later && worker.accepts && !is_leaving(**key, worker))
            .map(|(key, _)| *key)
            .collect();
        for key in free {
            self.with(key, |worker| {
                worker.later = false;
                worker.order(Order::LoadLater);
            });
        }
    }

    fn announce(&self) {
        let Some((_, first)) = self.serving().next() else { return };
        for id in
            first.files.iter().filter(|file| file.error.is_none() || !file.ids.is_empty()).flat_map(|file| &file.ids)
        {
            logging::announce(&format!("route /{id}"));
        }
        let scheme = if self.config.settings.tls.is_some() { "https" } else { "http" };
        for listener in &self.listeners {
            let place = match listener.actual() {
                ListenAddress::Tcp(address) => format!("{scheme}://{address}"),
                unix @ ListenAddress::Unix { .. } => unix.to_string(),
            };
            logging::announce(&format!("PID {} serves {place}", std::process::id()));
        }
    }

    fn move_pidfile(&mut self) {
        let wanted = self.config.settings.pidfile.clone();
        if wanted.as_deref() == self.pidfile.as_ref().map(PidFile::path) {
            return;
        }
        match wanted.as_deref().map(PidFile::write).transpose() {
            Ok(new) => {
                if let Some(old) = std::mem::replace(&mut self.pidfile, new) {
                    old.remove();
                }
            }
            Err(problem) => log::error!("{problem:#}; the old one stays"),
        }
    }

    /// Gives a set up that does not get into service.
    pub(super) fn coming_failed(&mut self, why: String, status: i32) {
        let Some(coming) = &self.coming else { return };
        if coming.signal.is_none() {
            log::error!("the server cannot start: {why}");
            self.end(status, Some(why));
            return;
        }
        self.kill_generation(coming.generation);
        self.coming = None;
        self.reload_failed(why);
        self.reload_if_asked_again();
    }

    fn abandon_coming(&mut self, why: &str) {
        if let Some(coming) = self.coming.take() {
            log::warn!("the workers that are starting are given up: {why}");
            self.kill_generation(coming.generation);
        }
    }

    fn kill_generation(&mut self, generation: u64) {
        let limit = self.leaving_limit();
        for worker in self.workers.values_mut().filter(|worker| worker.generation == generation) {
            match worker.state {
                // It may have connections already.
                State::Serving => worker.leave(Order::Retire, limit),
                _ => worker.leave(Order::Stop, UNUSED_LIMIT),
            }
        }
    }
}

/// Errs when the access log cannot be written. Workers take it as it comes: they have to start on a bad day, too.
pub(super) fn try_access_log(settings: &Settings) -> anyhow::Result<()> {
    let Some(path) = &settings.server.access_log else { return Ok(()) };
    let opened = logging::open_for_append(path);
    opened.map(drop).with_context(|| format!("cannot write the access log {}", path.display()))
}
