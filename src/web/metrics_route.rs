//! `/metrics`: what the server has counted, for Prometheus. Nothing here waits for Python.

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

/// Asks every worker. There is one, this process.
async fn gather(site: &Site) -> Gathered {
    let snapshot = snapshot(site);
    let server = ServerFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        python: python::version(),
        started: snapshot.started,
    };
    let running = RunningWorker { pid: std::process::id(), snapshot };
    let worker = WorkerReport { number: 1, running: Some(running), ..WorkerReport::default() };
    Gathered { workers: vec![worker], ended: Snapshot::default(), server }
}

/// What this process has counted, and how it is.
pub fn snapshot(site: &Site) -> Snapshot {
    let registry = site.plugins.registry();
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
        requests: site.requests.load(Ordering::Relaxed),
        plugins_loaded: registry.ids().len() as u64,
        files_with_errors: registry.files().filter(|(_, state)| state.error.is_some()).count() as u64,
        ..WorkerGauges::default()
    })
}
