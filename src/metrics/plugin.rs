//! What is counted of one plugin. The requests of all objects that have had its id are in it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::codes::{CodeCounters, CodeCounts};
use super::histogram::{Histogram, Times};
use super::unix_seconds;

/// The counters of one plugin.
#[derive(Default)]
pub struct PluginMetrics {
    codes: CodeCounters,
    times: Histogram,
    errors: AtomicU64,
    timeouts: AtomicU64,
    disconnects: AtomicU64,
    waiting: AtomicU64,
    in_flight: AtomicU64,
    reloads_done: AtomicU64,
    reloads_failed: AtomicU64,
    /// The bits of a number of seconds.
    last_load: AtomicU64,
}

impl fmt::Debug for PluginMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PluginMetrics").finish_non_exhaustive()
    }
}

/// What has been counted of one plugin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginCounts {
    pub codes: CodeCounts,
    pub times: Times,
    pub errors: u64,
    pub timeouts: u64,
    pub disconnects: u64,
    pub reloads_done: u64,
    pub reloads_failed: u64,
    /// Unix time; 0 when it was never loaded.
    pub last_load: f64,
    /// Calls that wait for their turn now.
    pub waiting: u64,
    /// Calls whose handler runs now.
    pub in_flight: u64,
}

/// One request for a plugin, from its head on. Dropped without an answer, it counts as one whose client has left.
#[derive(Debug)]
pub struct Received<'a> {
    metrics: &'a PluginMetrics,
    is_answered: bool,
}

impl Received<'_> {
    /// Counts the answer, whatever its body does later.
    pub fn answered(mut self, code: u16) {
        self.is_answered = true;
        self.metrics.codes.count(code);
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        if !self.is_answered && !std::thread::panicking() {
            self.metrics.disconnects.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl PluginMetrics {
    /// A request has come.
    pub fn received(&self) -> Received<'_> {
        Received { metrics: self, is_answered: false }
    }

    /// A call has its answer, so long after it was handed over.
    pub fn took(&self, time: Duration) {
        self.times.observe(time);
    }

    /// The handler has raised.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A call was given up.
    pub fn timed_out(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    /// A call has come and waits for its turn; each of these is followed by [`Self::waits_no_more`].
    pub fn waits(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub fn waits_no_more(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// A handler begins; each of these is followed by [`Self::ends`].
    pub fn begins(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub fn ends(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The plugin has been loaded, for the first time or again.
    pub fn loaded(&self, is_reload: bool) {
        self.last_load.store(unix_seconds(SystemTime::now()).to_bits(), Ordering::Relaxed);
        if is_reload {
            self.reloads_done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The plugin's file does not load any more.
    pub fn reload_failed(&self) {
        self.reloads_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> PluginCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PluginCounts {
            codes: self.codes.counts(),
            times: self.times.times(),
            errors: read(&self.errors),
            timeouts: read(&self.timeouts),
            disconnects: read(&self.disconnects),
            reloads_done: read(&self.reloads_done),
            reloads_failed: read(&self.reloads_failed),
            last_load: f64::from_bits(read(&self.last_load)),
            waiting: read(&self.waiting),
            in_flight: read(&self.in_flight),
        }
    }
}

impl PluginCounts {
    /// Adds what another worker has counted, and what goes on there.
    pub fn add(&mut self, other: &Self) {
        for (code, count) in &other.codes {
            *self.codes.entry(*code).or_default() += count;
        }
        self.times.add(&other.times);
        self.errors += other.errors;
        self.timeouts += other.timeouts;
        self.disconnects += other.disconnects;
        self.reloads_done += other.reloads_done;
        self.reloads_failed += other.reloads_failed;
        self.last_load = self.last_load.max(other.last_load);
        self.waiting += other.waiting;
        self.in_flight += other.in_flight;
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use super::*;

    #[test]
    fn a_request_without_an_answer_is_a_client_that_has_left() {
        let metrics = PluginMetrics::default();
        metrics.received().answered(204);
        drop(metrics.received());
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let _received = metrics.received();
            panic!("a mistake of the server's is not the client's");
        }));
        assert_eq!(metrics.counts().disconnects, 1);
        assert_eq!(metrics.counts().codes, [(204, 1)].into());
    }

    #[test]
    fn the_first_load_is_no_reload() {
        let metrics = PluginMetrics::default();
        metrics.loaded(false);
        let first = metrics.counts();
        assert_eq!((first.reloads_done, first.last_load > 1e9), (0, true));
        metrics.loaded(true);
        metrics.reload_failed();
        let counts = metrics.counts();
        assert_eq!((counts.reloads_done, counts.reloads_failed), (1, 1));
        assert!(counts.last_load >= first.last_load);
    }

    #[test]
    fn counting_a_request_costs_next_to_nothing() {
        let metrics = PluginMetrics::default();
        let before = std::time::Instant::now();
        for _ in 0..10_000 {
            let received = metrics.received();
            metrics.waits();
            metrics.waits_no_more();
            metrics.begins();
            metrics.took(Duration::from_millis(3));
            metrics.ends();
            received.answered(200);
        }
        // Built without optimisation, on a machine that does other things, too: far above what it takes.
        assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
        assert_eq!(metrics.counts().times.count(), 10_000);
    }
}
