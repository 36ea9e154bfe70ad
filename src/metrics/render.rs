//! The text of `/metrics` from what every worker has counted. What plugins do is added up over the workers, those that
//! have ended included, so that no counter goes down when a worker is replaced; how a worker is stands under its number.

use std::collections::{BTreeMap, BTreeSet};

use super::codes::{CodeCounts, label};
use super::plugin::PluginCounts;
use super::snapshot::{Snapshot, WorkerGauges};
use super::text::{Kind, Text};

/// Why a worker may be started in the place of another: the words that the supervisor has for it.
const RESTART_REASONS: [&str; 9] = [
    "crash",
    "lost_threads",
    "max_age",
    "max_memory_mb",
    "max_requests",
    "no_descriptors",
    "out_of_step",
    "signal",
    "stall",
];

/// One place for a worker, and who has it now.
#[derive(Debug, Clone, Default)]
pub struct WorkerReport {
    /// From 1 on. A worker that still drains has the number of the one that took its place, and is listed after it.
    pub number: usize,
    /// How often a worker had to be started again here, by reason: a few fixed words.
    pub restarts: BTreeMap<String, u64>,
    /// `None` while there is no worker here.
    pub running: Option<RunningWorker>,
}

/// A worker that runs.
#[derive(Debug, Clone, Default)]
pub struct RunningWorker {
    pub pid: u32,
    pub snapshot: Snapshot,
}

/// What holds for the whole server.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    pub version: String,
    /// The version of the Python inside.
    pub python: String,
    /// When the server started, as Unix time.
    pub started: f64,
}

/// Makes the text. `ended` is the sum of what workers that are no more had counted, by [`Snapshot::merge`].
pub fn render(workers: &[WorkerReport], ended: &Snapshot, server: &ServerFacts) -> String {
    let mut total = ended.clone();
    for running in workers.iter().filter_map(|worker| worker.running.as_ref()) {
        total.add_counters(&running.snapshot);
    }
    let mut text = Text::default();
    server_facts(&mut text, server);
    requests(&mut text, &total.plugins);
    loads(&mut text, &total.plugins);
    connections(&mut text, &total);
    places(&mut text, workers);
    gauges(&mut text, workers);
    text.into_string()
}

fn server_facts(text: &mut Text, server: &ServerFacts) {
    let mut family = text.family("pserve_build_info", Kind::Gauge, "The versions of pserve and of the Python inside.");
    family.sample(&[("version", &server.version), ("python", &server.python)], 1);
    let help = "When the server started, as Unix time.";
    text.family("pserve_start_time_seconds", Kind::Gauge, help).sample(&[], server.started);
}

type Plugins = BTreeMap<String, PluginCounts>;

fn requests(text: &mut Text, plugins: &Plugins) {
    let help = "Requests that a plugin's route has answered, by status code.";
    let mut family = text.family("pserve_requests_total", Kind::Counter, help);
    for (id, counts) in plugins {
        // A counter that is there from the start shows its first step.
        if !counts.codes.contains_key(&200) {
            family.sample(&[("plugin", id), ("code", "200")], 0);
        }
        for (code, count) in &counts.codes {
            family.sample(&[("plugin", id), ("code", &label(*code))], count);
        }
    }
    let help = "From handing a request to the plugin to the head of its answer, waiting included.";
    let mut family = text.family("pserve_request_duration_seconds", Kind::Histogram, help);
    for (id, counts) in plugins {
        for (end, count) in counts.times.cumulative() {
            family.sample_of_part("_bucket", &[("plugin", id), ("le", end)], count);
        }
        family.sample_of_part("_sum", &[("plugin", id)], counts.times.sum_seconds());
        family.sample_of_part("_count", &[("plugin", id)], counts.times.count());
    }
    let help = "Calls whose handler raised an exception.";
    each_plugin(text, ("pserve_request_errors_total", Kind::Counter, help), plugins, |counts| counts.errors);
    let help = "Calls that were given up because they took too long.";
    each_plugin(text, ("pserve_request_timeouts_total", Kind::Counter, help), plugins, |counts| counts.timeouts);
    let help = "Requests whose client left before its answer began.";
    each_plugin(text, ("pserve_client_disconnects_total", Kind::Counter, help), plugins, |counts| counts.disconnects);
    let help = "Calls whose handler runs now.";
    each_plugin(text, ("pserve_requests_in_flight", Kind::Gauge, help), plugins, |counts| counts.in_flight);
    let help = "Calls that wait for their turn now: for a thread, or for the event loop.";
    each_plugin(text, ("pserve_requests_waiting", Kind::Gauge, help), plugins, |counts| counts.waiting);
}

fn loads(text: &mut Text, plugins: &Plugins) {
    let help = "Reloads of a plugin, by result; each worker counts its own.";
    let mut family = text.family("pserve_plugin_reloads_total", Kind::Counter, help);
    for (id, counts) in plugins {
        family.sample(&[("plugin", id), ("result", "success")], counts.reloads_done);
        family.sample(&[("plugin", id), ("result", "failure")], counts.reloads_failed);
    }
    let help = "When the plugin was last loaded with success, as Unix time.";
    let mut family = text.family("pserve_plugin_last_load_success_timestamp_seconds", Kind::Gauge, help);
    for (id, counts) in plugins.iter().filter(|(_, counts)| counts.last_load > 0.0) {
        family.sample(&[("plugin", id)], counts.last_load);
    }
}

fn each_plugin(
    text: &mut Text,
    (name, kind, help): (&'static str, Kind, &'static str),
    plugins: &Plugins,
    value: impl Fn(&PluginCounts) -> u64,
) {
    let mut family = text.family(name, kind, help);
    for (id, counts) in plugins {
        family.sample(&[("plugin", id)], value(counts));
    }
}

fn connections(text: &mut Text, total: &Snapshot) {
    let help = "All answers to clients, those that no plugin gave included, by status code.";
    codes(text, ("pserve_http_responses_total", help), &total.responses);
    let help = "Connections that clients have made.";
    let mut family = text.family("pserve_connections_accepted_total", Kind::Counter, help);
    family.sample(&[], total.worker.accepted_connections);
    let help = "Connections that were refused, or ended before their time, by reason.";
    let mut family = text.family("pserve_connections_dropped_total", Kind::Counter, help);
    for (reason, count) in &total.worker.dropped_connections {
        family.sample(&[("reason", reason)], count);
    }
}

fn codes(text: &mut Text, (name, help): (&'static str, &'static str), counts: &CodeCounts) {
    let mut family = text.family(name, Kind::Counter, help);
    for (code, count) in counts {
        family.sample(&[("code", &label(*code))], count);
    }
}

fn places(text: &mut Text, workers: &[WorkerReport]) {
    let mut family = text.family("pserve_worker_info", Kind::Gauge, "The process that each worker is.");
    for (number, running) in current(workers) {
        family.sample(&[("worker", &number), ("pid", &running.pid.to_string())], 1);
    }
    let help = "How often a worker was started in the place of one that ended, by reason.";
    let mut family = text.family("pserve_worker_restarts_total", Kind::Counter, help);
    let mut seen = BTreeSet::new();
    for worker in workers.iter().filter(|worker| seen.insert(worker.number)) {
        // A counter that is there from the start shows its first step, which an alert must not miss.
        let never = RESTART_REASONS.iter().map(|reason| ((*reason).to_owned(), 0));
        let restarts: BTreeMap<String, u64> = never.chain(worker.restarts.clone()).collect();
        for (reason, count) in restarts {
            family.sample(&[("worker", &worker.number.to_string()), ("reason", &reason)], count);
        }
    }
}

/// The worker that has each number now: a series may occur once only, and one that drains has its successor's number.
fn current(workers: &[WorkerReport]) -> impl Iterator<Item = (String, &RunningWorker)> {
    let mut seen = BTreeSet::new();
    let running = workers.iter().filter_map(|worker| Some((worker.number, worker.running.as_ref()?)));
    running.filter(move |(number, _)| seen.insert(*number)).map(|(number, running)| (number.to_string(), running))
}

fn gauges(text: &mut Text, workers: &[WorkerReport]) {
    type Value = fn(&WorkerGauges) -> Option<f64>;
    let families: [(_, _, _, Value); 10] = [
        ("pserve_worker_resident_memory_bytes", Kind::Gauge, "Memory of the worker that is in RAM.", |worker| {
            worker.resident_bytes.map(number)
        }),
        ("pserve_worker_open_fds", Kind::Gauge, "Open file descriptors of the worker.", |worker| {
            worker.open_descriptors.map(number)
        }),
        ("pserve_worker_loop_lag_seconds", Kind::Gauge, "How late the event loop was when last looked at.", |worker| {
            worker.loop_lag_seconds
        }),
        (
            "pserve_worker_gil_wait_seconds",
            Kind::Gauge,
            "How long the last look waited for the interpreter.",
            |worker| worker.gil_wait_seconds,
        ),
        ("pserve_worker_open_connections", Kind::Gauge, "Connections of clients that stand open.", |worker| {
            worker.open_connections.map(number)
        }),
        ("pserve_worker_handler_threads", Kind::Gauge, "Threads for plain handlers, idle ones included.", |worker| {
            worker.handler_threads.map(number)
        }),
        ("pserve_worker_lost_threads", Kind::Gauge, "Threads lost to handlers that were given up.", |worker| {
            worker.lost_threads.map(number)
        }),
        ("pserve_worker_requests_total", Kind::Counter, "Requests since the worker's start.", |worker| {
            Some(number(worker.requests))
        }),
        ("pserve_worker_plugins", Kind::Gauge, "Plugins that the worker serves.", |worker| {
            Some(number(worker.plugins_loaded))
        }),
        ("pserve_worker_plugin_files_failed", Kind::Gauge, "Plugin files whose last load failed.", |worker| {
            Some(number(worker.files_with_errors))
        }),
    ];
    for (name, kind, help, value) in families {
        let mut family = text.family(name, kind, help);
        for (worker, running) in current(workers) {
            if let Some(value) = value(&running.snapshot.worker) {
                family.sample(&[("worker", &worker)], value);
            }
        }
    }
    let help = "When the worker started, as Unix time.";
    let mut family = text.family("pserve_worker_start_time_seconds", Kind::Gauge, help);
    for (worker, running) in current(workers) {
        family.sample(&[("worker", &worker)], running.snapshot.started);
    }
}

/// Every value of the format is a float.
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;

    fn worker(number: usize, requests: usize) -> WorkerReport {
        let metrics = Metrics::default();
        let plugin = metrics.of_plugin("a\"b");
        for _ in 0..requests {
            plugin.received().answered(201);
            plugin.took(Duration::from_millis(30));
            metrics.answered(201);
        }
        plugin.begins();
        let gauges = WorkerGauges { resident_bytes: Some(100 + number as u64), ..WorkerGauges::default() };
        let running = RunningWorker { pid: 10, snapshot: metrics.snapshot(gauges) };
        WorkerReport { number, restarts: [("crash".to_owned(), 2)].into(), running: Some(running) }
    }

    #[track_caller]
    fn assert_has(text: &str, line: &str) {
        assert_eq!(text.lines().filter(|known| *known == line).count(), 1, "{line} is not in\n{text}");
    }

    #[test]
    fn counters_are_summed_over_workers_and_gauges_are_theirs() {
        let text = render(&[worker(1, 2), worker(2, 3)], &Snapshot::default(), &ServerFacts::default());
        assert_has(&text, r#"pserve_requests_total{plugin="a\"b",code="201"} 5"#);
        assert_has(&text, r#"pserve_requests_total{plugin="a\"b",code="200"} 0"#);
        assert_has(&text, r#"pserve_request_duration_seconds_bucket{plugin="a\"b",le="0.025"} 0"#);
        assert_has(&text, r#"pserve_request_duration_seconds_bucket{plugin="a\"b",le="+Inf"} 5"#);
        assert_has(&text, r#"pserve_request_duration_seconds_sum{plugin="a\"b"} 0.15"#);
        assert_has(&text, r#"pserve_requests_in_flight{plugin="a\"b"} 2"#);
        assert_has(&text, r#"pserve_http_responses_total{code="201"} 5"#);
        assert_has(&text, r#"pserve_worker_resident_memory_bytes{worker="1"} 101"#);
        assert_has(&text, r#"pserve_worker_resident_memory_bytes{worker="2"} 102"#);
        assert_has(&text, r#"pserve_worker_restarts_total{worker="2",reason="crash"} 2"#);
        assert_has(&text, r#"pserve_worker_restarts_total{worker="2",reason="stall"} 0"#);
        assert!(!text.contains("loop_lag"), "what is not known is not shown");
    }

    #[test]
    fn no_counter_goes_down_when_a_worker_is_replaced() {
        let old = worker(1, 4);
        let mut ended = Snapshot::default();
        ended.merge(&old.running.expect("it runs").snapshot);
        let empty = WorkerReport { number: 1, ..WorkerReport::default() };
        let text = render(&[empty], &ended, &ServerFacts::default());
        assert_has(&text, r#"pserve_requests_total{plugin="a\"b",code="201"} 4"#);
        assert_has(&text, r#"pserve_requests_in_flight{plugin="a\"b"} 0"#);
        assert!(!text.contains("pserve_worker_info"), "{text}");
        let text = render(&[worker(1, 1)], &ended, &ServerFacts::default());
        assert_has(&text, r#"pserve_requests_total{plugin="a\"b",code="201"} 5"#);
    }

    #[test]
    fn a_worker_that_drains_counts_and_has_no_series_of_its_own() {
        let text = render(&[worker(1, 1), worker(1, 7)], &Snapshot::default(), &ServerFacts::default());
        assert_has(&text, r#"pserve_requests_total{plugin="a\"b",code="201"} 8"#);
        assert_has(&text, r#"pserve_worker_info{worker="1",pid="10"} 1"#);
        assert_has(&text, r#"pserve_worker_restarts_total{worker="1",reason="crash"} 2"#);
        let mut series: Vec<&str> =
            text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name).collect();
        let all = series.len();
        series.sort_unstable();
        series.dedup();
        assert_eq!(series.len(), all, "a series is there twice:\n{text}");
    }
}
