//! What a process has counted, as plain data: what a worker tells whoever answers `/metrics` for all of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::codes::CodeCounts;
use super::plugin::PluginCounts;

/// Everything that one process has counted. Members that are missing are zero, so that workers of the version before
/// and after can be added up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// By plugin id.
    pub plugins: BTreeMap<String, PluginCounts>,
    /// All answers, by code.
    pub responses: CodeCounts,
    /// When the process began to count, as Unix time.
    pub started: f64,
    pub worker: WorkerGauges,
}

/// How a worker is, told by whoever knows it. What is `None` is not known and not shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerGauges {
    pub resident_bytes: Option<u64>,
    pub open_descriptors: Option<u64>,
    /// How late the event loop was when it was last looked at.
    pub loop_lag_seconds: Option<f64>,
    /// How long the last look had to wait for the interpreter.
    pub gil_wait_seconds: Option<f64>,
    pub open_connections: Option<u64>,
    /// Connections since the worker's start. This and the next are counters.
    pub accepted_connections: u64,
    /// Connections that were refused or ended before their time, by reason: a few fixed words.
    pub dropped_connections: BTreeMap<String, u64>,
    /// Threads for plain handlers, idle ones included.
    pub handler_threads: Option<u64>,
    /// Threads that are lost to handlers which were given up.
    pub lost_threads: Option<u64>,
    /// Requests since the worker's start.
    pub requests: u64,
    pub plugins_loaded: u64,
    /// Plugin files whose last load failed.
    pub files_with_errors: u64,
}

impl Snapshot {
    /// Adds what a worker that has ended had counted. What went on in it goes on no more, and its gauges end with it.
    pub fn merge(&mut self, ended: &Self) {
        self.add_counters(ended);
        for counts in self.plugins.values_mut() {
            (counts.waiting, counts.in_flight) = (0, 0);
        }
    }

    /// Adds everything that can be added up over the workers.
    pub(super) fn add_counters(&mut self, other: &Self) {
        for (id, counts) in &other.plugins {
            self.plugins.entry(id.clone()).or_default().add(counts);
        }
        for (code, count) in &other.responses {
            *self.responses.entry(*code).or_default() += count;
        }
        self.worker.accepted_connections += other.worker.accepted_connections;
        for (reason, count) in &other.worker.dropped_connections {
            *self.worker.dropped_connections.entry(reason.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;

    fn snapshot() -> Snapshot {
        let metrics = Metrics::default();
        let plugin = metrics.of_plugin("a");
        plugin.received().answered(200);
        plugin.took(Duration::from_millis(20));
        plugin.failed();
        plugin.waits();
        plugin.begins();
        plugin.loaded(true);
        metrics.answered(200);
        let dropped_connections = [("too_many".to_owned(), 3)].into();
        metrics.snapshot(WorkerGauges { resident_bytes: Some(5), dropped_connections, ..WorkerGauges::default() })
    }

    #[test]
    fn what_ended_workers_counted_is_added_and_what_went_on_in_them_is_not() {
        let mut ended = Snapshot::default();
        ended.merge(&snapshot());
        ended.merge(&snapshot());
        let plugin = &ended.plugins["a"];
        assert_eq!((&plugin.codes, plugin.errors, plugin.reloads_done), (&[(200, 2)].into(), 2, 2));
        assert_eq!((plugin.times.count(), plugin.waiting, plugin.in_flight), (2, 0, 0));
        assert_eq!(ended.responses, [(200, 2)].into());
        assert_eq!(ended.worker.dropped_connections["too_many"], 6);
        assert_eq!(ended.worker.resident_bytes, None);
    }

    #[test]
    fn a_snapshot_goes_to_another_process_and_back() {
        let sent = snapshot();
        let text = serde_json::to_string(&sent).expect("JSON");
        assert!(text.len() < 1000, "{text}");
        assert_eq!(serde_json::from_str::<Snapshot>(&text).expect("a snapshot"), sent);
    }

    #[test]
    fn a_worker_of_another_version_may_know_less_or_more() {
        let read: Snapshot =
            serde_json::from_str(r#"{"plugins": {"a": {"errors": 2, "new": 1}}, "more": []}"#).expect("a snapshot");
        assert_eq!(read.plugins["a"].errors, 2);
    }
}
