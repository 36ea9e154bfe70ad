//! Workers that end unasked: what is known of it, who has to answer for it, and when the next one starts.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::Supervisor;
use super::worker_process::{Key, State, Worker, was_killed};
use crate::exchange::Quarantined;
use crate::exit_status;
use crate::flight::{self, Culprits, FlightReport, Suspect};
use crate::handoff::Order;

/// Calls that the log names after a crash.
const NAMED_CALLS: usize = 10;

/// How often the first set is tried again after deaths that nothing explains, such as want of memory.
const UNEXPLAINED_TRIES: u32 = 2;

/// Lines of Python's stacks that the log takes.
const STACK_LINES: usize = 120;

impl Supervisor {
    /// A child has ended.
    pub(super) fn bury(&mut self, key: Key, status: &io::Result<ExitStatus>) {
        let Some(mut worker) = self.workers.remove(&key) else { return };
        self.changes_lose(key);
        self.overviews_lose(key);
        self.worker_accepts_no_more(key);
        self.remember_counts(&worker.counted);
        if worker.state == State::Leaving || self.ending.is_some() {
            log::info!("worker {} (PID {}) has ended", worker.number, worker.pid);
            self.load_what_had_to_wait();
            return;
        }
        if let Some((message, is_usage)) = worker.cannot_start.take() {
            return self.could_not_start(&worker, message, is_usage);
        }
        let culprit = self.report_death(&worker, status);
        let file = culprit.filter(|_| self.config.settings.limits.crash_quarantine > 0);
        let coming = self.coming.as_ref().filter(|coming| coming.generation == worker.generation);
        let (is_of_coming, is_first) = (coming.is_some(), coming.is_some_and(|coming| coming.signal.is_none()));
        // What a reload tries says nothing of what the old workers serve under that name.
        if let Some(file) = file.as_ref().filter(|_| !is_of_coming || is_first) {
            self.count_crash(&worker, file, status);
        }
        if is_of_coming {
            // The first set loses a file that kills it and starts without it, and is tried again after a death that
            // nothing explains; a reload leaves the old set serving.
            let starts_again = is_first && (file.is_some() || self.may_try_again());
            if starts_again {
                self.restart(&worker);
            } else {
                let why =
                    format!("worker {} ended {} before it could serve", worker.number, exit_status::in_words(status));
                self.coming_failed(why, exit_status::FAILURE);
            }
            return;
        }
        if worker.accepts {
            self.place(worker.number).tired = None;
        }
        self.count_restart(worker.number, "crash");
        self.restart(&worker);
        self.load_what_had_to_wait();
    }

    /// Whether the first set is tried once more.
    fn may_try_again(&mut self) -> bool {
        let Some(coming) = &mut self.coming else { return false };
        coming.tries += 1;
        coming.tries <= UNEXPLAINED_TRIES
    }

    /// It has said why, in words for people.
    fn could_not_start(&mut self, worker: &Worker, message: String, is_usage: bool) {
        if self.coming.as_ref().is_some_and(|coming| coming.generation == worker.generation) {
            let status = if is_usage { exit_status::USAGE } else { exit_status::FAILURE };
            return self.coming_failed(message, status);
        }
        let place = self.place(worker.number);
        if place.last_complaint.as_ref() != Some(&message) {
            log::error!("worker {} cannot start again: {message}; it is tried on", worker.number);
            place.last_complaint = Some(message);
        }
        self.restart(worker);
    }

    /// Has a worker started in the place of one that died, at once or after a pause.
    fn restart(&mut self, worker: &Worker) {
        let served = worker.serving_since.map(|since| since.elapsed());
        let pause = self.place(worker.number).patience.pause_after(served);
        self.place(worker.number).due = Some(Instant::now() + pause);
        if pause > Duration::ZERO {
            log::info!("worker {} starts again in {pause:?}", worker.number);
        }
    }

    pub(super) fn next_start(&self) -> Option<Instant> {
        self.places.values().filter_map(|place| place.due).min()
    }

    pub(super) fn start_what_is_due(&mut self) {
        let now = Instant::now();
        if self.ending.is_some() {
            self.places.values_mut().for_each(|place| place.due = None);
            return;
        }
        let due: Vec<usize> = self
            .places
            .iter()
            .filter(|(_, place)| place.due.is_some_and(|due| due <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            self.place(number).due = None;
            // The first set is not complete yet; later ones are started by the generation in service.
            let first = self.coming.as_ref().filter(|coming| coming.signal.is_none());
            let generation = first.map_or(self.generation, |coming| coming.generation);
            let is_taken = self.workers.values().any(|worker| {
                worker.number == number && worker.generation == generation && worker.state != State::Leaving
            });
            if is_taken {
                continue;
            }
            if let Err(problem) = self.start_worker(number, generation, None) {
                log::error!("worker {number} cannot be started: {problem:#}");
                let pause = self.place(number).patience.pause_after(None);
                self.place(number).due = Some(Instant::now() + pause.max(Duration::from_millis(500)));
            }
        }
    }

    /// Writes what is known of a death into the log; the answer is the plugin file that has to answer for it.
    fn report_death(&self, worker: &Worker, status: &io::Result<ExitStatus>) -> Option<PathBuf> {
        let report = worker.flight_report();
        let stacks = worker.crash_report();
        let (number, pid) = (worker.number, worker.pid);
        let mut text = format!("worker {number} (PID {pid}) ended {}", exit_status::in_words(status));
        if let Some(note) = &report.note {
            text.push_str(&format!("; {note}"));
        }
        text.push_str(&running(&report));
        if !stacks.trim().is_empty() {
            text.push('\n');
            text.push_str(&stacks.lines().take(STACK_LINES).collect::<Vec<_>>().join("\n"));
        }
        log::error!("{text}");
        if worker.is_condemned {
            // Killed by the supervisor, for a file that did not come to an end.
            let file = report.running.iter().find(|one| one.plugin.is_empty()).map(|one| PathBuf::from(&one.request));
            return file.filter(|_| worker.state == State::Starting);
        }
        let culprit = match flight::culprits(&report, &stacks, &self.config.settings.plugins_dir) {
            Culprits::OnStack(file) => Some(file),
            Culprits::Noted(name) => self.file_of(worker, &name),
            // Somebody else's SIGKILL says nothing of what happens to run; neither do several calls at a time.
            Culprits::Running(suspects) if !was_killed(status) || worker.state == State::Starting => {
                match suspects.as_slice() {
                    [Suspect::File(path)] => Some(path.clone()),
                    [Suspect::Plugin(id)] => self.file_of(worker, id),
                    _ => None,
                }
            }
            Culprits::Running(_) => None,
        };
        if let Some(file) = &culprit {
            log::error!("{} is held responsible for the end of worker {number}", file.display());
        }
        culprit
    }

    /// The file of a plugin's id, or of a file's stem: a plugin that is not up yet goes by that.
    fn file_of(&self, worker: &Worker, name: &str) -> Option<PathBuf> {
        let by_id = worker.file_of(name).map(|file| file.path.clone());
        by_id
            .or_else(|| {
                let others = self.workers.values().filter_map(|other| other.file_of(name));
                others.map(|file| file.path.clone()).next()
            })
            .or_else(|| {
                let path = self.config.settings.plugins_dir.join(format!("{name}.py"));
                path.is_file().then_some(path)
            })
    }

    fn count_crash(&mut self, worker: &Worker, file: &Path, status: &io::Result<ExitStatus>) {
        let limit = self.config.settings.limits.crash_quarantine;
        let count = self.crashes.note(file, Instant::now());
        if count < limit || self.quarantined.iter().any(|known| known.path == file) {
            return;
        }
        let known = self.workers.values().chain([worker]).find_map(|any| any.files.iter().find(|f| f.path == file));
        let ids = known.map(|file| file.ids.clone()).unwrap_or_default();
        let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
        let reason = format!("it has ended its worker {times}, the last time {}", exit_status::in_words(status));
        log::error!(
            "{} is in quarantine: {reason}. The others serve on; /reload/<name> or /load/{} lifts it",
            file.display(),
            file.file_stem().unwrap_or_default().to_string_lossy()
        );
        let entry = Quarantined { path: file.to_owned(), ids, reason };
        for worker in self.workers.values().filter(|worker| worker.state != State::Leaving) {
            worker.order(Order::Quarantine(entry.clone()));
        }
        self.quarantined.push(entry);
        self.version += 1;
    }

    /// Gives a file another chance.
    pub(super) fn lift_quarantine(&mut self, is_meant: impl Fn(&Quarantined) -> bool) {
        let crashes = &mut self.crashes;
        self.quarantined.retain(|entry| {
            let stays = !is_meant(entry);
            if !stays {
                crashes.forgive(&entry.path);
            }
            stays
        });
    }
}

fn running(report: &FlightReport) -> String {
    if report.running.is_empty() {
        return "; no call was running".to_owned();
    }
    let mut lines: Vec<String> = report.running.iter().take(NAMED_CALLS).map(|one| format!("  {one}")).collect();
    if report.running.len() > NAMED_CALLS {
        lines.push(format!("  and {} more", report.running.len() - NAMED_CALLS));
    }
    format!("; running were:\n{}", lines.join("\n"))
}
