//! Workers that take another's place while all is well with the others: those that hang at their start, that are tired,
//! or whose event loop stands still.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::sets::START_PATIENCE;
use super::worker_process::{Key, State, Worker};
use crate::handoff::{Order, TiredBecause};

/// What a file may take to load beyond the limit for `initialize`: import and constructor have none of their own.
const LOADING_PATIENCE: Duration = Duration::from_secs(15);

/// How much longer than a drain a worker may stay whose event loop stands still.
const STALLED_MARGIN: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Asks a worker to finish and to go.
    pub(super) fn retire(&mut self, key: Key) {
        let limit = self.leaving_limit();
        let drain = self.config.settings.limits.drain_timeout;
        self.with(key, |worker| match worker.state {
            State::Leaving => {}
            // Plain handlers have their time; on the loop nothing will come to an end.
            _ if worker.has_stalled => worker.leave(Order::Abandon, drain + STALLED_MARGIN),
            _ => worker.leave(Order::Retire, limit),
        });
    }

    /// A file that hangs while it is imported or constructed holds its worker for ever; so does whatever hangs before the
    /// first file, or keeps a worker from taking up its service.
    pub(super) fn mind_the_starting(&mut self) {
        let of_coming =
            self.coming.as_ref().map_or(Duration::ZERO, |coming| coming.config.settings.limits.load_timeout);
        let limit = self.config.settings.limits.load_timeout.max(of_coming) + LOADING_PATIENCE;
        for worker in self.workers.values_mut().filter(|worker| !worker.accepts && !worker.is_condemned) {
            let stuck_at = match worker.state {
                State::Leaving => None,
                State::Starting => {
                    let report = worker.flight_report();
                    if !report.running.is_empty() {
                        worker.idle_since = Instant::now();
                    }
                    let stuck = report.running.iter().find(|one| one.seconds > limit.as_secs_f64());
                    let is_idle = worker.idle_since.elapsed() > limit;
                    stuck.map(ToString::to_string).or(is_idle.then(|| "it loads no file".to_owned()))
                }
                State::Loaded | State::Serving => {
                    let is_mute = worker.last_beat.elapsed() > LOADING_PATIENCE;
                    is_mute.then(|| "it has loaded its plugins and says nothing more".to_owned())
                }
            };
            if let Some(place) = stuck_at {
                log::error!("worker {} (PID {}) does not get on: {place}; it is killed", worker.number, worker.pid);
                worker.kill();
            }
        }
    }

    /// A worker that wants to be replaced gets a successor beside it, one worker at a time.
    pub(super) fn worker_is_tired(&mut self, key: Key, reason: TiredBecause, words: String) {
        let Some(worker) = self.workers.get(&key).filter(|worker| worker.state == State::Serving) else { return };
        let number = worker.number;
        let place = self.place(number);
        if place.tired.is_none() {
            place.tired = Some((reason_name(reason), words));
        }
    }

    pub(super) fn relieve_the_tired(&mut self) {
        let is_busy = self.workers.values().any(|worker| !worker.accepts && worker.state != State::Leaving);
        if self.ending.is_some() || self.coming.is_some() || is_busy {
            return;
        }
        let Some((number, reason, words)) = self.places.iter().find_map(|(number, place)| {
            let may_start = place.due.is_none_or(|due| due <= Instant::now());
            let (reason, words) = place.tired.clone().filter(|_| may_start)?;
            Some((*number, reason, words))
        }) else {
            return;
        };
        let Some((key, worker)) = self.serving().find(|(_, worker)| worker.number == number) else { return };
        log::info!("worker {number} (PID {}) is replaced: {words}", worker.pid);
        self.count_restart(number, reason);
        self.start_in_place_of(key);
    }

    /// Starts a worker that takes another's place once it serves. When that cannot be done, a later try is due.
    pub(super) fn start_in_place_of(&mut self, key: Key) {
        let Some(worker) = self.workers.get(&key) else { return };
        let (number, generation) = (worker.number, worker.generation);
        if let Err(problem) = self.start_worker(number, generation, Some(key)) {
            log::error!("no worker can be started in the place of worker {number}: {problem:#}");
            self.place(number).due = Some(Instant::now() + START_PATIENCE);
        }
    }

    pub(super) fn count_restart(&mut self, number: usize, reason: &'static str) {
        *self.place(number).restarts.entry(reason).or_default() += 1;
    }

    /// A worker whose event loop stands still is replaced: at once by the others, else by a new one that starts first.
    pub(super) fn mind_the_stalled(&mut self) {
        let limit = self.config.settings.limits.loop_stall;
        if limit.is_zero() || self.ending.is_some() {
            return;
        }
        let must_wait = |key: Key, number: usize| {
            let due = self.places.get(&number).and_then(|place| place.due);
            self.workers.values().any(|worker| worker.replaces == Some(key))
                || due.is_some_and(|due| due > Instant::now())
        };
        let has_stalled = |worker: &Worker| {
            worker.accepts && (worker.stalled >= limit || worker.last_beat.elapsed() >= limit + Duration::from_secs(5))
        };
        let stalled: Vec<Key> = self
            .serving()
            .filter(|(key, worker)| has_stalled(worker) && !must_wait(*key, worker.number))
            .map(|(key, _)| key)
            .collect();
        for key in stalled {
            let has_others =
                self.serving().any(|(other, worker)| other != key && worker.accepts && !has_stalled(worker));
            let Some(worker) = self.workers.get(&key) else { continue };
            let number = worker.number;
            let running: Vec<String> = worker.flight_report().running.iter().take(5).map(ToString::to_string).collect();
            log::error!(
                "the event loop of worker {number} (PID {}) has stood still for {:.0} s; it is replaced. Running: {}",
                worker.pid,
                worker.stalled.max(worker.last_beat.elapsed()).as_secs_f64(),
                if running.is_empty() { "no call".to_owned() } else { running.join("; ") }
            );
            worker.order(Order::Dump);
            self.with(key, |worker| worker.has_stalled = true);
            self.count_restart(number, "stall");
            self.start_in_place_of(key);
            if has_others {
                self.retire(key);
            }
        }
    }
}

fn reason_name(reason: TiredBecause) -> &'static str {
    match reason {
        TiredBecause::Requests => "max_requests",
        TiredBecause::Memory => "max_memory_mb",
        TiredBecause::Age => "max_age",
        TiredBecause::LostThreads => "lost_threads",
        TiredBecause::NoDescriptors => "no_descriptors",
        TiredBecause::Signal => "signal",
    }
}
