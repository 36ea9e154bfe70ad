//! The text of `/metrics` -> what plugins and workers had done until then. Metrics that are not known here are passed
//! over: the server may be a newer one.

use std::collections::BTreeMap;

/// One look at a server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    pub version: String,
    pub python: String,
    /// Unix time.
    pub started: f64,
    pub responses: f64,
    /// By name.
    pub plugins: BTreeMap<String, Plugin>,
    /// By number.
    pub workers: BTreeMap<usize, Worker>,
}

/// What has been counted of a plugin, and what goes on in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plugin {
    pub requests: f64,
    /// Answers with a status of 500 and more.
    pub refused: f64,
    pub raised: f64,
    pub timed_out: f64,
    /// The upper ends of the buckets, in seconds, with how many calls took up to that long.
    pub times: Vec<(f64, f64)>,
    pub running: f64,
    pub waiting: f64,
}

/// How a worker is. What is not known is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Worker {
    pub pid: String,
    pub started: Option<f64>,
    pub memory: Option<f64>,
    pub loop_lag: Option<f64>,
    pub connections: Option<f64>,
    pub threads: Option<f64>,
    pub requests: f64,
    pub restarts: f64,
    pub broken_files: f64,
}

impl Sample {
    /// Reads the text format of Prometheus, version 0.0.4. `None` when it is not a pserve's.
    pub fn parse(text: &str) -> Option<Self> {
        let mut sample = Self::default();
        text.lines().filter_map(Line::parse).for_each(|line| sample.add(&line));
        (!sample.version.is_empty()).then_some(sample)
    }

    fn add(&mut self, line: &Line<'_>) {
        match line.name {
            "pserve_build_info" => {
                self.version = line.label("version").to_owned();
                self.python = line.label("python").to_owned();
            }
            "pserve_start_time_seconds" => self.started = line.value,
            "pserve_http_responses_total" => self.responses += line.value,
            name if name.starts_with("pserve_worker_") => {
                if let Ok(number) = line.label("worker").parse() {
                    self.workers.entry(number).or_default().add(line);
                }
            }
            _ if line.has("plugin") => self.plugins.entry(line.label("plugin").to_owned()).or_default().add(line),
            _ => {}
        }
    }
}

impl Plugin {
    fn add(&mut self, line: &Line<'_>) {
        match line.name {
            "pserve_requests_total" => {
                self.requests += line.value;
                if line.label("code").starts_with('5') {
                    self.refused += line.value;
                }
            }
            "pserve_request_duration_seconds_bucket" => {
                let end = line.label("le").replace("+Inf", "inf");
                self.times.extend(end.parse().map(|end: f64| (end, line.value)));
            }
            "pserve_request_errors_total" => self.raised = line.value,
            "pserve_request_timeouts_total" => self.timed_out = line.value,
            "pserve_requests_in_flight" => self.running = line.value,
            "pserve_requests_waiting" => self.waiting = line.value,
            _ => {}
        }
    }
}

impl Worker {
    fn add(&mut self, line: &Line<'_>) {
        match line.name {
            "pserve_worker_info" => self.pid = line.label("pid").to_owned(),
            "pserve_worker_start_time_seconds" => self.started = Some(line.value),
            "pserve_worker_resident_memory_bytes" => self.memory = Some(line.value),
            "pserve_worker_loop_lag_seconds" => self.loop_lag = Some(line.value),
            "pserve_worker_open_connections" => self.connections = Some(line.value),
            "pserve_worker_handler_threads" => self.threads = Some(line.value),
            "pserve_worker_requests_total" => self.requests = line.value,
            "pserve_worker_restarts_total" => self.restarts += line.value,
            "pserve_worker_plugin_files_failed" => self.broken_files = line.value,
            _ => {}
        }
    }
}

/// One line with a value.
#[derive(Debug, PartialEq)]
struct Line<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl<'a> Line<'a> {
    /// `None` for comments and for what is none of the format.
    fn parse(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' ']).filter(|_| !line.starts_with('#'))?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (label, after) = rest.trim_start_matches([',', ' ']).split_once("=\"")?;
                let (value, after) = unquoted(after)?;
                labels.push((label, value));
                rest = after;
            }
            rest = &rest[1..];
        }
        // A time may follow.
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Self { name, labels, value })
    }

    fn has(&self, label: &str) -> bool {
        self.labels.iter().any(|(name, _)| *name == label)
    }

    fn label(&self, label: &str) -> &str {
        self.labels.iter().find(|(name, _)| *name == label).map_or("", |(_, value)| value)
    }
}

/// A label's value up to its quotation mark, and what follows that.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{self, Metrics, RunningWorker, ServerFacts, Snapshot, WorkerGauges, WorkerReport};

    #[test]
    fn what_the_server_writes_is_read_back() {
        let counted = Metrics::default();
        let plugin = counted.of_plugin("a\"b\\c\nd}");
        plugin.received().answered(200);
        plugin.received().answered(503);
        plugin.took(Duration::from_millis(20));
        plugin.failed();
        plugin.waits();
        counted.answered(200);
        let gauges = WorkerGauges { resident_bytes: Some(5), requests: 9, ..WorkerGauges::default() };
        let running = RunningWorker { pid: 42, snapshot: counted.snapshot(gauges) };
        let restarts = [("crash".to_owned(), 2), ("signal".to_owned(), 1)].into();
        let worker = WorkerReport { number: 3, restarts, running: Some(running) };
        let server = ServerFacts { version: "1.2".to_owned(), python: "3.11".to_owned(), started: 5.5 };
        let sample = Sample::parse(&metrics::render(&[worker], &Snapshot::default(), &server)).expect("of a pserve");
        assert_eq!((sample.version.as_str(), sample.python.as_str(), sample.started), ("1.2", "3.11", 5.5));
        assert_eq!(sample.responses, 1.0);
        let plugin = &sample.plugins["a\"b\\c\nd}"];
        assert_eq!((plugin.requests, plugin.refused, plugin.raised, plugin.waiting), (2.0, 1.0, 1.0, 1.0));
        assert_eq!(plugin.times.last(), Some(&(f64::INFINITY, 1.0)));
        let worker = &sample.workers[&3];
        assert_eq!((worker.pid.as_str(), worker.memory, worker.loop_lag), ("42", Some(5.0), None));
        assert_eq!((worker.requests, worker.restarts), (9.0, 3.0));
    }

    #[test]
    fn what_is_no_metric_is_passed_over() {
        assert_eq!(Sample::parse("<html>\nx{\ny{a=\"b\nz 1 2\n"), None);
        assert_eq!(Line::parse("z 1.5 1700"), Some(Line { name: "z", labels: Vec::new(), value: 1.5 }));
        assert_eq!(Line::parse("# HELP z 1"), None);
    }
}
