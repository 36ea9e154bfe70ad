//! What this process counts for whoever watches it. Counting takes no lock: a plugin's counters are found once, when
//! it is loaded, and are then plain atomics.
//!
//! [`Metrics`] counts, [`Snapshot`] is what it has counted as plain data that can go from a worker to another process,
//! [`render`] makes the text of `/metrics` from the snapshots of all workers. Every metric is in `docs/metrics.md`.

mod codes;
mod histogram;
mod plugin;
mod process;
mod render;
mod snapshot;
mod text;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use codes::CodeCounters;
pub use histogram::BUCKETS;
pub use plugin::{PluginCounts, PluginMetrics, Received};
pub use process::{open_descriptors, resident_bytes};
pub use render::{RunningWorker, ServerFacts, WorkerReport, render};
pub use snapshot::{Snapshot, WorkerGauges};

/// What an answer with this text is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Plugins with counters of their own. A plugin that takes another id at each load must not fill the memory: those
/// beyond the limit count together, as [`OTHER_PLUGINS`].
const MOST_PLUGINS: usize = 2000;

/// The label of plugins beyond [`MOST_PLUGINS`]; no plugin has an empty id.
const OTHER_PLUGINS: &str = "";

/// The counters of this process.
pub struct Metrics {
    plugins: RwLock<HashMap<String, Arc<PluginMetrics>>>,
    responses: CodeCounters,
    started: SystemTime,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { plugins: RwLock::default(), responses: CodeCounters::default(), started: SystemTime::now() }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").field("started", &self.started).finish_non_exhaustive()
    }
}

impl Metrics {
    /// The counters of a plugin, the same for every object that has its id: they outlive a reload. Takes a lock; for
    /// when a plugin is loaded.
    pub fn of_plugin(&self, id: &str) -> Arc<PluginMetrics> {
        if let Some(known) = self.plugins.read().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Arc::clone(known);
        }
        let mut plugins = self.plugins.write().unwrap_or_else(PoisonError::into_inner);
        let id = if plugins.len() < MOST_PLUGINS || plugins.contains_key(id) { id } else { OTHER_PLUGINS };
        Arc::clone(plugins.entry(id.to_owned()).or_default())
    }

    /// Counts one answer to a client, whoever made it.
    pub fn answered(&self, code: u16) {
        self.responses.count(code);
    }

    /// Everything that has been counted so far. The caller says how the worker is.
    pub fn snapshot(&self, worker: WorkerGauges) -> Snapshot {
        let plugins = self.plugins.read().unwrap_or_else(PoisonError::into_inner);
        Snapshot {
            plugins: plugins.iter().map(|(id, counters)| (id.clone(), counters.counts())).collect(),
            responses: self.responses.counts(),
            started: unix_seconds(self.started),
            worker,
        }
    }
}

/// A time as Prometheus wants it.
pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_is_loaded_again_goes_on_counting() {
        let metrics = Metrics::default();
        metrics.of_plugin("a").received().answered(200);
        metrics.of_plugin("a").received().answered(200);
        metrics.answered(404);
        let snapshot = metrics.snapshot(WorkerGauges::default());
        assert_eq!(snapshot.plugins["a"].codes, [(200, 2)].into());
        assert_eq!(snapshot.responses, [(404, 1)].into());
        assert!(snapshot.started > 1e9);
    }

    #[test]
    fn ids_that_change_at_each_load_do_not_fill_the_memory() {
        let metrics = Metrics::default();
        for number in 0..MOST_PLUGINS + 50 {
            metrics.of_plugin(&format!("p{number}")).received().answered(200);
        }
        metrics.of_plugin("p0").received().answered(200);
        let snapshot = metrics.snapshot(WorkerGauges::default());
        assert_eq!(snapshot.plugins.len(), MOST_PLUGINS + 1);
        assert_eq!(snapshot.plugins[OTHER_PLUGINS].codes, [(200, 50)].into());
        assert_eq!(snapshot.plugins["p0"].codes, [(200, 2)].into());
    }
}
