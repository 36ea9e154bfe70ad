//! Two looks -> what has happened between them, in a second.

use std::time::Duration;

use super::sample::{Plugin, Sample, Worker};

/// What goes on in a server.
#[derive(Debug, Clone)]
pub struct Rates {
    /// As it is now.
    pub now: Sample,
    /// Answers in a second, whoever made them.
    pub responses: f64,
    pub plugins: Vec<PluginRates>,
    pub workers: Vec<WorkerRates>,
}

/// A plugin's row.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginRates {
    pub name: String,
    pub requests: f64,
    /// Seconds; `None` when no call has ended.
    pub half: Option<f64>,
    pub slowest: Option<f64>,
    /// Raised, timed out, or refused with a status of 500 and more, in a second.
    pub errors: f64,
    pub running: f64,
    pub waiting: f64,
    /// Since the server's start.
    pub total: f64,
}

/// A worker's row.
#[derive(Debug, Clone)]
pub struct WorkerRates {
    pub number: usize,
    pub requests: f64,
    pub now: Worker,
}

impl Rates {
    pub fn between(before: &Sample, now: &Sample, time: Duration) -> Self {
        // Another server has taken the place of the one before: it began at zero.
        let nothing = Sample::default();
        let before = if before.started == now.started { before } else { &nothing };
        let seconds = time.as_secs_f64().max(1e-3);
        let plugins = now.plugins.iter().map(|(name, plugin)| {
            let before = before.plugins.get(name).cloned().unwrap_or_default();
            PluginRates::between(name, &before, plugin, seconds)
        });
        let workers = now.workers.iter().map(|(number, worker)| {
            // Its counter begins again with each process.
            let before = before.workers.get(number).filter(|before| before.pid == worker.pid);
            let requests = growth(before.map_or(0.0, |before| before.requests), worker.requests) / seconds;
            WorkerRates { number: *number, requests, now: worker.clone() }
        });
        Self {
            responses: growth(before.responses, now.responses) / seconds,
            plugins: plugins.collect(),
            workers: workers.collect(),
            now: now.clone(),
        }
    }
}

impl PluginRates {
    fn between(name: &str, before: &Plugin, now: &Plugin, seconds: f64) -> Self {
        let times: Vec<(f64, f64)> = now
            .times
            .iter()
            .map(|(end, count)| {
                let earlier = before.times.iter().find(|(known, _)| known == end).map_or(0.0, |(_, count)| *count);
                (*end, growth(earlier, *count))
            })
            .collect();
        let refused = growth(before.refused, now.refused);
        let failed = growth(before.raised, now.raised) + growth(before.timed_out, now.timed_out);
        Self {
            name: name.to_owned(),
            requests: growth(before.requests, now.requests) / seconds,
            half: quantile(&times, 0.5),
            slowest: quantile(&times, 0.99),
            // One that raises is refused with 500, too, unless `legacy_status` says otherwise.
            errors: refused.max(failed) / seconds,
            running: now.running,
            waiting: now.waiting,
            total: now.requests,
        }
    }
}

/// How much a counter has grown. One that is smaller than before has begun again.
fn growth(before: f64, now: f64) -> f64 {
    if now < before { now } else { now - before }
}

/// The time within which this share of the calls ended, as Prometheus' `histogram_quantile` estimates it: evenly spread
/// over their bucket. For those beyond the last end it is infinite.
fn quantile(times: &[(f64, f64)], share: f64) -> Option<f64> {
    let all = times.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let rank = share * all;
    let (mut start, mut below) = (0.0, 0.0);
    for (end, count) in times {
        if *count >= rank {
            let part = (rank - below) / (count - below);
            return Some(if end.is_finite() { start + (end - start) * part } else { f64::INFINITY });
        }
        (start, below) = (*end, *count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(requests: f64, times: [f64; 3]) -> Plugin {
        let ends = [0.01, 0.1, f64::INFINITY];
        Plugin { requests, times: ends.into_iter().zip(times).collect(), ..Plugin::default() }
    }

    fn sample(started: f64, plugin: Plugin) -> Sample {
        Sample { started, plugins: [("a".to_owned(), plugin)].into(), ..Sample::default() }
    }

    #[test]
    fn only_what_came_between_two_looks_counts() {
        let before = sample(1.0, plugin(100.0, [100.0, 100.0, 100.0]));
        let now = sample(1.0, plugin(110.0, [100.0, 110.0, 110.0]));
        let rates = Rates::between(&before, &now, Duration::from_secs(2));
        let plugin = &rates.plugins[0];
        assert_eq!((plugin.requests, plugin.total), (5.0, 110.0));
        let half = plugin.half.expect("calls have ended");
        assert!((half - 0.055).abs() < 1e-9, "{half}");
        let idle = Rates::between(&now, &now, Duration::from_secs(2));
        assert_eq!((idle.plugins[0].requests, idle.plugins[0].half), (0.0, None));
    }

    #[test]
    fn calls_beyond_the_last_bucket_have_no_time() {
        assert_eq!(quantile(&[(1.0, 1.0), (f64::INFINITY, 2.0)], 0.99), Some(f64::INFINITY));
        assert_eq!(quantile(&[(1.0, 4.0), (f64::INFINITY, 4.0)], 0.5), Some(0.5));
    }

    #[test]
    fn a_server_that_has_started_again_counts_from_zero() {
        let before = sample(1.0, plugin(5.0, [5.0; 3]));
        let now = sample(2.0, plugin(8.0, [8.0; 3]));
        assert_eq!(Rates::between(&before, &now, Duration::from_secs(1)).plugins[0].requests, 8.0);
        let smaller = Rates::between(&now, &sample(2.0, plugin(3.0, [3.0; 3])), Duration::from_secs(1));
        assert_eq!(smaller.plugins[0].requests, 3.0);
    }

    #[test]
    fn an_error_counts_once() {
        let failed = Plugin { refused: 4.0, raised: 3.0, timed_out: 1.0, ..Plugin::default() };
        let rates = PluginRates::between("a", &Plugin::default(), &failed, 1.0);
        assert_eq!(rates.errors, 4.0);
        let hidden = Plugin { raised: 3.0, ..Plugin::default() };
        assert_eq!(PluginRates::between("a", &Plugin::default(), &hidden, 1.0).errors, 3.0, "legacy_status");
    }
}
