//! `/metrics`: what the server has counted, for Prometheus. Nothing here waits for Python.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use warp::reply::Response;

use super::Site;
use super::reply::plugin_reply;
use crate::exchange::PluginReply;
use crate::metrics::{self, RunningWorker, ServerFacts, Snapshot, WorkerGauges, WorkerReport};
use crate::python;

/// What the text is made from.
struct Gathered {
    workers: Vec<WorkerReport>,
    /// The sum of what workers that have ended had counted.
    ended: Snapshot,
    server: ServerFacts,
}

/// Answers with what all workers have counted.
pub async fn answer(site: &Site) -> Response {
    let Gathered { workers, ended, server } = gather(site).await;
    let text = metrics::render(&workers, &ended, &server);
    plugin_reply(PluginReply::new(200, metrics::CONTENT_TYPE, text))
}

/// Asks every worker, through the supervisor. One that does not answer in time is shown as it last was, by the
/// supervisor's word; when that does not answer either, this worker tells of itself alone.
async fn gather(site: &Site) -> Gathered {
    let server =
        |started| ServerFacts { version: env!("CARGO_PKG_VERSION").to_owned(), python: python::version(), started };
    let Some(overview) = site.link.overview().await.map(Arc::unwrap_or_clone) else {
        let snapshot = snapshot(site);
        let started = snapshot.started;
        let running = RunningWorker { pid: std::process::id(), snapshot };
        let worker = WorkerReport { number: 1, running: Some(running), ..WorkerReport::default() };
        return Gathered { workers: vec![worker], ended: Snapshot::default(), server: server(started) };
    };
    let mut workers: Vec<WorkerReport> = Vec::new();
    // One that leaves is listed after the one that has taken its place.
    let (leaving, staying): (Vec<_>, Vec<_>) = overview.workers.into_iter().partition(|one| one.state == "retiring");
    for view in staying.into_iter().chain(leaving) {
        workers.push(WorkerReport {
            number: view.number,
            restarts: view.restarts.into_iter().collect(),
            running: Some(RunningWorker { pid: view.pid, snapshot: view.counted }),
        });
    }
    Gathered { workers, ended: overview.ended, server: server(overview.started) }
}

/// What this process has counted, and how it is.
pub fn snapshot(site: &Site) -> Snapshot {
    let (registry, health) = (site.plugins.registry(), site.plugins.health());
    let counts = &site.connections.counts;
    let dropped = [
        ("full", &counts.refused_full),
        ("client_full", &counts.refused_client),
        ("evicted", &counts.evicted),
        ("slow_head", &counts.slow_heads),
        ("slow_body", &counts.slow_bodies),
        ("slow_reader", &counts.cut_off),
    ];
    site.metrics.snapshot(WorkerGauges {
        resident_bytes: metrics::resident_bytes(),
        open_descriptors: metrics::open_descriptors(),
        open_connections: Some(counts.open.load(Ordering::Relaxed) as u64),
        accepted_connections: counts.accepted.load(Ordering::Relaxed),
        dropped_connections: dropped
            .map(|(reason, count)| (reason.to_owned(), count.load(Ordering::Relaxed)))
            .into_iter()
            .collect(),
        handler_threads: Some(site.plugins.handler_threads() as u64),
        lost_threads: Some(site.plugins.lost_threads() as u64),
        loop_lag_seconds: Some(health.lag.max(health.stalled_for).as_secs_f64()),
        gil_wait_seconds: Some(health.gil_wait.as_secs_f64()),
        requests: site.requests.load(Ordering::Relaxed),
        plugins_loaded: registry.ids().len() as u64,
        files_with_errors: registry.files().filter(|(_, state)| state.error.is_some()).count() as u64,
    })
}
