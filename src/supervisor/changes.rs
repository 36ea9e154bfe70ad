//! The control routes across all workers: one change at a time, on the worker that was asked first. When that one
//! cannot do it nothing has changed; else the others follow, and one that cannot is replaced.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use super::Supervisor;
use super::sets::START_PATIENCE;
use super::worker_process::{Key, State, Worker};
use crate::config::{Config, live};
use crate::exchange::{Change, Changed, ControlError, PluginFiles, Quarantined};
use crate::handoff::{Answer, Ask, Order};

/// Changes that may wait; more are refused.
const MOST_WAITING: usize = 1000;

/// Changes that wait, and the one that is under way.
#[derive(Default)]
pub(super) struct Changes {
    waiting: VecDeque<Wanted>,
    current: Option<Current>,
    next_ticket: u64,
}

pub(super) struct Wanted {
    pub origin: Origin,
    pub change: Change,
    pub since: Instant,
}

/// Who asks for a change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client of a worker, which knows it by this ticket.
    Client { worker: Key, ticket: u64 },
    /// A file that was saved under `pserve dev`.
    Saved,
}

impl Origin {
    /// The worker that was asked.
    fn worker(self) -> Option<Key> {
        match self {
            Self::Client { worker, .. } => Some(worker),
            Self::Saved => None,
        }
    }
}

struct Current {
    wanted: Wanted,
    /// Names the change to the workers.
    ticket: u64,
    /// What is in force when it succeeds.
    config: Option<Config>,
    /// Workers that have not answered yet.
    awaited: BTreeSet<Key>,
    /// What the first worker has done; `None` while it is at it.
    done: Option<Changed>,
    /// Why a worker could not follow.
    failed: Option<ControlError>,
}

impl Changes {
    /// What is being done.
    pub(super) fn under_way(&self) -> Option<&Wanted> {
        self.current.as_ref().map(|current| &current.wanted)
    }
}

impl Supervisor {
    /// Answers everybody that nothing will come of it.
    pub(super) fn interrupt_changes(&mut self, why: &str) {
        let current = self.changes.current.take().map(|current| current.wanted);
        let all: Vec<Wanted> = current.into_iter().chain(self.changes.waiting.drain(..)).collect();
        for wanted in all {
            self.reply(&wanted, Err(ControlError::Interrupted(why.to_owned())));
        }
    }

    /// Tells who asked what has come of it.
    fn reply(&mut self, wanted: &Wanted, result: Result<Changed, ControlError>) {
        match wanted.origin {
            Origin::Saved => self.has_taken_up(wanted, &result),
            Origin::Client { worker, ticket } => {
                if let Some(worker) = self.workers.get(&worker) {
                    worker.order(Order::Answer { ticket, answer: Answer::Changed(result) });
                }
                self.tell_of_other_change();
            }
        }
    }

    /// A worker asks on behalf of a client.
    pub(super) fn answer(&mut self, origin: Key, ticket: u64, ask: Ask) {
        match ask {
            Ask::Overview => self.begin_overview(origin, ticket, None),
            Ask::News(since) => self.begin_overview(origin, ticket, Some(since)),
            Ask::Pulses => {
                let answer = Answer::Pulses(self.pulses.concat());
                self.with(origin, |worker| worker.order(Order::Answer { ticket, answer }));
            }
            Ask::Change(change) => {
                let origin = Origin::Client { worker: origin, ticket };
                self.want(Wanted { origin, change, since: Instant::now() });
            }
        }
    }

    /// A change that is to be made when its turn comes.
    pub(super) fn want(&mut self, wanted: Wanted) {
        if self.ending.is_some() {
            let why = ControlError::Interrupted("the server is stopping".to_owned());
            return self.reply(&wanted, Err(why));
        }
        if self.changes.waiting.len() >= MOST_WAITING {
            let why = ControlError::Interrupted("too many changes wait".to_owned());
            return self.reply(&wanted, Err(why));
        }
        self.changes.waiting.push_back(wanted);
    }

    /// Starts the next change when none is under way, no reload by signal, and no worker that would miss it.
    pub(super) fn go_on_with_changes(&mut self) {
        while self.changes.current.is_none() && self.coming.is_none() {
            // Nobody waits any more for what was asked through a worker that has gone.
            let is_awaited = |worker: Key| self.workers.contains_key(&worker);
            self.changes.waiting.retain(|wanted| wanted.origin.worker().is_none_or(is_awaited));
            let Some(next) = self.changes.waiting.front() else { return };
            // Nobody would save the file again because a worker happened to be away.
            if next.origin == Origin::Saved && self.serving().next().is_none() {
                return;
            }
            let is_starting = |worker: &Worker| matches!(worker.state, State::Starting | State::Loaded);
            if self.workers.values().any(is_starting) && next.since.elapsed() < START_PATIENCE {
                return;
            }
            let Some(wanted) = self.changes.waiting.pop_front() else { return };
            self.begin_change(wanted);
        }
    }

    fn begin_change(&mut self, wanted: Wanted) {
        let takes_config = !matches!(wanted.change, Change::Unload(_) | Change::TakeUp(_));
        let config = match takes_config.then(|| self.config.read_again()).transpose() {
            Ok(config) => config,
            Err(problem) => return self.reply(&wanted, Err(problem.into())),
        };
        if let Some(config) = &config {
            live::hide_keys(config);
            for warning in &config.settings.warnings {
                log::warn!("{warning}");
            }
        }
        let is_serving = |key: &Key| self.workers.get(key).is_some_and(|worker| worker.state == State::Serving);
        let asked = wanted.origin.worker().filter(is_serving);
        let first = asked.or_else(|| self.serving().map(|(key, _)| key).next());
        let Some(first) = first else {
            let why = ControlError::Interrupted("no worker serves at the moment".to_owned());
            return self.reply(&wanted, Err(why));
        };
        self.changes.next_ticket += 1;
        let current = Current {
            wanted,
            ticket: self.changes.next_ticket,
            config,
            awaited: BTreeSet::from([first]),
            done: None,
            failed: None,
        };
        self.order_change(&current, first);
        self.changes.current = Some(current);
    }

    fn order_change(&self, current: &Current, key: Key) {
        if let Some(worker) = self.workers.get(&key) {
            let ini_text = current.config.as_ref().map(|config| config.text.clone());
            worker.order(Order::Change { ticket: current.ticket, change: current.wanted.change.clone(), ini_text });
        }
    }

    pub(super) fn change_is_done(
        &mut self,
        key: Key,
        ticket: u64,
        result: Result<Changed, ControlError>,
        files: PluginFiles,
    ) {
        self.with(key, |worker| worker.files = files);
        let Some(mut current) = self.changes.current.take_if(|current| current.ticket == ticket) else { return };
        current.awaited.remove(&key);
        let is_of_today = self.workers.get(&key).is_some_and(|worker| worker.generation == self.generation);
        match (&current.done, result) {
            // A reload by signal has overtaken it: what the new workers have read is newer.
            (None, Ok(changed)) if !is_of_today => return self.reply(&current.wanted, Ok(changed)),
            (None, Err(error)) => {
                // The first worker keeps what it had, and so do all.
                return self.reply(&current.wanted, Err(error));
            }
            (None, Ok(changed)) => {
                self.take_over(&mut current, key, changed);
                let others: Vec<Key> = self.serving().map(|(other, _)| other).filter(|other| *other != key).collect();
                for other in others {
                    self.order_change(&current, other);
                    current.awaited.insert(other);
                }
            }
            (Some(_), Ok(_)) => {}
            (Some(_), Err(error)) => {
                self.replace_one_out_of_step(key, &error);
                current.failed = Some(error);
            }
        }
        self.finish_change(current);
    }

    /// What the first worker has done holds for all that start from now on.
    fn take_over(&mut self, current: &mut Current, key: Key, changed: Changed) {
        if let Some(config) = current.config.take() {
            self.config = config;
            live::configure_log(&self.config.settings);
            current.config = Some(self.config.clone());
        }
        self.version += 1;
        let files = self.workers.get(&key).map(|worker| worker.files.clone()).unwrap_or_default();
        let serves = |id: &String| files.iter().any(|file| file.ids.contains(id));
        match &current.wanted.change {
            Change::Unload(id) => self.unloaded.push(id.clone()),
            Change::ReloadAll => {
                self.unloaded.clear();
                self.lift_quarantine(|_| true);
            }
            Change::TakeUp(saved) => {
                let is_saved = |entry: &Quarantined| saved.iter().any(|file| file.path == entry.path);
                self.lift_quarantine(is_saved);
            }
            Change::Reload(id) => self.lift_quarantine(|entry| entry.ids.contains(id)),
            Change::Load(stem) => {
                let is_meant = |path: &std::path::Path| {
                    path.file_stem().is_some_and(|found| found.to_string_lossy().eq_ignore_ascii_case(stem))
                };
                self.lift_quarantine(|entry| is_meant(&entry.path));
            }
        }
        self.unloaded.retain(|id| !serves(id));
        self.files = Some(files);
        current.done = Some(changed);
    }

    fn finish_change(&mut self, current: Current) {
        if !current.awaited.is_empty() {
            self.changes.current = Some(current);
            return;
        }
        let result = match current.failed {
            Some(error) => Err(error),
            None => Ok(current.done.unwrap_or_default()),
        };
        self.reply(&current.wanted, result);
    }

    /// A worker that could not do what another has done starts afresh, so that all serve the same.
    fn replace_one_out_of_step(&mut self, key: Key, error: &ControlError) {
        // One that is leaving has been replaced already.
        let Some(worker) = self.workers.get(&key).filter(|worker| worker.state == State::Serving) else { return };
        let number = worker.number;
        log::error!("worker {number} (PID {}) cannot follow the others: {error}", worker.pid);
        self.place(number).tired = Some(("out_of_step", "it does not serve what the others do".to_owned()));
    }

    /// A worker has gone: nobody waits for it any more.
    pub(super) fn changes_lose(&mut self, key: Key) {
        let Some(mut current) = self.changes.current.take() else { return };
        if !current.awaited.remove(&key) {
            self.changes.current = Some(current);
        } else if current.done.is_none() {
            let why = ControlError::Interrupted("the worker ended while it did this; the log tells why".to_owned());
            self.reply(&current.wanted, Err(why));
        } else {
            self.finish_change(current);
        }
    }
}
