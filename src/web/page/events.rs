//! What the page is told, as server-sent events: one line of JSON each.
//!
//! * `hello`: what does not change while the worker lives
//! * `plugins`: every plugin file with its plugins and its last error; sent again when it is different
//! * `requests`, `log`: what has come since; with `all` everything that is kept
//! * `pulse`: once a second, what is counted and how the workers are

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::{Site, control_routes, reply};
use crate::config::KeyRule;
use crate::handoff::Overview;
use crate::metrics::{self, PluginCounts};
use crate::plugins;
use crate::python;
use crate::recent;
use serde::Serialize;

fn event(name: &str, data: &impl Serialize) -> String {
    // Text of JSON has no line breaks: those inside strings are escaped.
    format!("event: {name}\ndata: {}\n\n", serde_json::to_string(data).unwrap_or_default())
}

pub(super) fn hello(site: &Site) -> String {
    let config = site.config.get();
    let bounds: Vec<f64> = metrics::BUCKETS.iter().map(|(_, micros)| *micros as f64 / 1e6).collect();
    event(
        "hello",
        &json!({
            "time": recent::now(),
            "version": env!("CARGO_PKG_VERSION"),
            "python": python::version(),
            "config": config.source.path.display().to_string(),
            "folder": config.settings.plugins_dir.display().to_string(),
            "has_key": config.settings.global_key.is_some(),
            "bounds_seconds": bounds,
        }),
    )
}

/// The files as this worker has them: all have the same.
pub(super) async fn plugins(site: &Site, overview: &Overview) -> String {
    let mut list = control_routes::verbose_list(site);
    let registry = site.plugins.registry();
    for (file, (_, state)) in list["files"].as_array_mut().into_iter().flatten().zip(registry.files()) {
        if let Some(error) = &state.error {
            file["error"] = reply::python_error(error, true);
        }
        for plugin in file["plugins"].as_array_mut().into_iter().flatten() {
            let loaded = plugin["name"].as_str().and_then(|id| registry.get(id));
            if let (Some(loaded), Some(entry)) = (loaded, plugin.as_object_mut()) {
                // That is in the pulse; here it would make the list another one each time.
                entry.remove("calls");
                entry.insert("key".to_owned(), key_name(&loaded.instance().key_rule()).into());
            }
        }
    }
    list["not_loaded"] = not_loaded(site).await;
    let quarantine = overview
        .quarantined
        .iter()
        .map(|entry| json!({"file": entry.path.display().to_string(), "plugins": entry.ids, "reason": entry.reason}));
    list["quarantine"] = quarantine.collect();
    list["last_reload_failure"] = overview.last_failure.clone().into();
    event("plugins", &list)
}

/// Stems of files in the plugins folder that serve nothing and have no error to show.
async fn not_loaded(site: &Site) -> Value {
    let config = site.config.get();
    let found = tokio::task::spawn_blocking(move || plugins::plugin_files(&config)).await;
    let registry = site.plugins.registry();
    let is_idle =
        |path: &std::path::Path| registry.file(path).is_none_or(|state| state.ids.is_empty() && state.error.is_none());
    let paths = found.ok().and_then(Result::ok).unwrap_or_default();
    let stems = paths.iter().filter(|path| is_idle(path)).filter_map(|path| path.file_stem());
    stems.map(|stem| Value::from(stem.to_string_lossy())).collect()
}

fn key_name(rule: &KeyRule) -> &'static str {
    match rule {
        KeyRule::Open => "none",
        KeyRule::Global => "global",
        KeyRule::Own(_) => "own",
        KeyRule::Custom => "custom",
        KeyRule::Never => "never",
    }
}

pub(super) fn requests(requests: &[impl Serialize], is_all: bool) -> String {
    event("requests", &json!({"all": is_all, "requests": requests}))
}

pub(super) fn log(lines: &[impl Serialize], is_all: bool) -> String {
    event("log", &json!({"all": is_all, "lines": lines}))
}

/// What all workers together have counted, and how each of them is.
pub(super) fn pulse(overview: &Overview, answered: &[u32]) -> String {
    let mut sums: BTreeMap<&str, PluginCounts> = BTreeMap::new();
    let snapshots = overview.workers.iter().map(|worker| &worker.counted).chain([&overview.ended]);
    for (id, counts) in snapshots.flat_map(|snapshot| &snapshot.plugins) {
        sums.entry(id).or_default().add(counts);
    }
    let plugins: BTreeMap<&str, Value> = sums.iter().map(|(id, counts)| (*id, of_plugin(counts))).collect();
    let workers: Vec<Value> = overview
        .workers
        .iter()
        .map(|worker| {
            let gauges = &worker.counted.worker;
            json!({
                "number": worker.number,
                "pid": worker.pid,
                "state": worker.state,
                "answers": answered.contains(&worker.pid),
                "age_seconds": worker.age_seconds,
                "restarts": worker.restarts.iter().cloned().collect::<BTreeMap<_, _>>(),
                "memory_bytes": gauges.resident_bytes,
                "loop_lag_seconds": gauges.loop_lag_seconds,
                "interpreter_wait_seconds": gauges.gil_wait_seconds,
                "connections": gauges.open_connections,
                "requests": gauges.requests,
                "lost_threads": gauges.lost_threads,
            })
        })
        .collect();
    event("pulse", &json!({"time": recent::now(), "started": overview.started, "plugins": plugins, "workers": workers}))
}

/// What it has counted; what is zero is left out, since of many plugins few are busy.
fn of_plugin(counts: &PluginCounts) -> Value {
    let server_errors = counts.codes.iter().filter(|(code, _)| **code == 5 || (500..600).contains(*code));
    let buckets: Vec<u64> = counts.times.cumulative().map(|(_, count)| count).collect();
    let mut told = json!({
        "answers": counts.codes.values().sum::<u64>(),
        "errors": server_errors.map(|(_, count)| count).sum::<u64>(),
        "raised": counts.errors,
        "timeouts": counts.timeouts,
        "disconnects": counts.disconnects,
        "waiting": counts.waiting,
        "running": counts.in_flight,
        "last_load": counts.last_load,
    });
    if let Some(told) = told.as_object_mut() {
        told.retain(|_, value| value.as_f64() != Some(0.0));
        if buckets.last().is_some_and(|all| *all > 0) {
            told.insert("buckets".to_owned(), buckets.into());
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let text = event("log", &json!({"message": "one\ntwo\r\u{2028}"}));
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with("event: log\ndata: {") && text.ends_with("}\n\n"));
    }

    #[test]
    fn errors_are_answers_of_5xx() {
        let counts =
            PluginCounts { codes: [(200, 3), (404, 2), (500, 4), (503, 1), (5, 1)].into(), ..PluginCounts::default() };
        let told = of_plugin(&counts);
        assert_eq!((&told["answers"], &told["errors"]), (&json!(11), &json!(6)));
        assert_eq!(of_plugin(&PluginCounts::default()), json!({}));
    }
}
