//! How all workers are, put together for whoever asks one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use super::Supervisor;
use super::worker_process::{Key, State};
use crate::handoff::{Answer, Description, Order, Overview, WorkerView};
use crate::logging;
use crate::metrics::{self, Snapshot};
use crate::recent::{News, Since};

/// How long a worker may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Overviews that are being put together, by ticket.
pub(super) struct Overviews {
    open: BTreeMap<u64, Open>,
    next_ticket: u64,
    /// What workers that have ended have counted.
    ended: Snapshot,
    started: SystemTime,
}

impl Overviews {
    pub(super) fn new() -> Self {
        Self { open: BTreeMap::new(), next_ticket: 0, ended: Snapshot::default(), started: SystemTime::now() }
    }
}

struct Open {
    origin: Key,
    /// The asking worker's.
    ticket: u64,
    awaited: BTreeSet<Key>,
    reports: BTreeMap<Key, Description>,
    since: Instant,
    /// What is known already to who wants news, by process.
    known: Option<BTreeMap<u32, Since>>,
}

impl Supervisor {
    pub(super) fn begin_overview(&mut self, origin: Key, ticket: u64, known: Option<BTreeMap<u32, Since>>) {
        self.overviews.next_ticket += 1;
        let own_ticket = self.overviews.next_ticket;
        let awaited: BTreeSet<Key> = self
            .workers
            .iter()
            .filter(|(_, worker)| matches!(worker.state, State::Serving | State::Leaving))
            .map(|(key, _)| *key)
            .collect();
        for key in &awaited {
            self.with(*key, |worker| {
                let since = known.as_ref().map(|known| known.get(&worker.pid).copied().unwrap_or_default());
                worker.order(Order::Describe { ticket: own_ticket, since });
            });
        }
        let open = Open { origin, ticket, awaited, reports: BTreeMap::new(), since: Instant::now(), known };
        self.overviews.open.insert(own_ticket, open);
        self.finish_overviews();
    }

    pub(super) fn worker_is_described(&mut self, key: Key, ticket: u64, report: Description) {
        // Kept for its end: what has been shown once must not be less later.
        self.with(key, |worker| worker.counted = report.counted.clone());
        if let Some(open) = self.overviews.open.get_mut(&ticket) {
            open.awaited.remove(&key);
            open.reports.insert(key, report);
        }
        self.finish_overviews();
    }

    /// A worker has gone: nobody waits for it any more.
    pub(super) fn overviews_lose(&mut self, key: Key) {
        for open in self.overviews.open.values_mut() {
            open.awaited.remove(&key);
        }
        self.finish_overviews();
    }

    pub(super) fn remember_counts(&mut self, counted: &Snapshot) {
        self.overviews.ended.merge(counted);
    }

    /// Answers those who have waited long enough.
    pub(super) fn finish_overviews(&mut self) {
        let is_ready = |open: &Open| open.awaited.is_empty() || open.since.elapsed() >= PATIENCE;
        let ready: Vec<u64> =
            self.overviews.open.iter().filter(|(_, open)| is_ready(open)).map(|(ticket, _)| *ticket).collect();
        for ticket in ready {
            let Some(mut open) = self.overviews.open.remove(&ticket) else { continue };
            let mut overview = self.overview(&mut open.reports);
            overview.news = open.known.map(|known| {
                let since = known.get(&std::process::id()).copied().unwrap_or_default();
                let (line, log) = logging::lines_since(since.line);
                News { next: Since { request: 0, line }, requests: Vec::new(), log }
            });
            let order = Order::Answer { ticket: open.ticket, answer: Answer::Overview(Box::new(overview)) };
            self.with(open.origin, |worker| worker.order(order));
        }
    }

    fn overview(&self, reports: &mut BTreeMap<Key, Description>) -> Overview {
        let mut report_of =
            |key: &Key| reports.remove(key).map_or((None, None), |report| (report.plugins, report.news));
        let workers = self.workers.iter().map(|(key, worker)| (report_of(key), worker));
        let workers = workers.map(|((plugins, news), worker)| WorkerView {
            number: worker.number,
            pid: worker.pid,
            state: state_name(worker.state).to_owned(),
            restarts: self.places.get(&worker.number).map_or_else(Vec::new, |place| {
                place.restarts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
            }),
            age_seconds: worker.started.elapsed().as_secs(),
            plugins,
            news,
            counted: worker.counted.clone(),
        });
        Overview {
            workers: workers.collect(),
            ended: self.overviews.ended.clone(),
            started: metrics::unix_seconds(self.overviews.started),
            last_failure: self.last_failure.clone(),
            quarantined: self.quarantined.clone(),
            news: None,
        }
    }

    /// One line on how the server is.
    pub(super) fn describe(&self) -> String {
        let mut workers: Vec<String> = self
            .workers
            .values()
            .map(|worker| format!("worker {} (PID {}) is {}", worker.number, worker.pid, state_name(worker.state)))
            .collect();
        let plugins: usize =
            self.serving().next().map_or(0, |(_, worker)| worker.files.iter().map(|file| file.ids.len()).sum());
        workers.insert(0, format!("{plugins} plugins"));
        if !self.quarantined.is_empty() {
            workers.push(format!("{} files in quarantine", self.quarantined.len()));
        }
        if let Some(failure) = &self.last_failure {
            workers.push(format!("the last reload failed: {failure}"));
        }
        workers.join(", ")
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Starting | State::Loaded => "starting",
        State::Serving => "serving",
        State::Leaving => "retiring",
    }
}
