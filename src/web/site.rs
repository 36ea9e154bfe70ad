//! What every request can reach, and what this worker tells of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;

use super::{AccessLog, Connections, RequestLines, TlsAcceptor, control_routes, metrics_route, page};
use crate::config::live::LiveConfig;
use crate::handoff::{Description, Link};
use crate::metrics::{Metrics, Snapshot};
use crate::plugins::Plugins;
use crate::recent::Since;

/// One worker's state.
#[derive(Debug)]
pub struct Site {
    pub config: Arc<LiveConfig>,
    pub plugins: Arc<Plugins>,
    pub metrics: Arc<Metrics>,
    /// To the supervisor, and through it to the other workers.
    pub link: Link,
    pub access_log: ArcSwapOption<AccessLog>,
    /// Requests since the start.
    pub requests: AtomicU64,
    pub started: Instant,
    /// Set when a stop has been asked for.
    pub is_draining: AtomicBool,
    /// Who is connected.
    pub connections: Arc<Connections>,
    /// The live page under `/-/`.
    pub page: page::Page,
    /// Set when the server speaks HTTPS.
    pub tls: Option<Arc<TlsAcceptor>>,
    /// Set under `pserve dev`: requests are shown, and a file that does not load answers with its error.
    pub dev: Option<Arc<RequestLines>>,
}

impl Site {
    pub fn new(
        config: Arc<LiveConfig>,
        plugins: Arc<Plugins>,
        metrics: Arc<Metrics>,
        link: Link,
        access_log: Option<AccessLog>,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        Self {
            config,
            plugins,
            metrics,
            link,
            access_log: ArcSwapOption::new(access_log.map(Arc::new)),
            requests: AtomicU64::new(0),
            started: Instant::now(),
            is_draining: AtomicBool::new(false),
            connections: Arc::default(),
            page: page::Page::default(),
            tls: tls.map(Arc::new),
            dev: None,
        }
    }

    /// How this worker is, for whoever asks any of them; its plugin files, or what it has seen since.
    pub fn report(&self, since: Option<Since>) -> Description {
        Description {
            plugins: since.is_none().then(|| control_routes::verbose_list(self)),
            news: since.map(|since| self.page.news(since)),
            counted: self.counted(),
        }
    }

    /// What it has counted.
    pub fn counted(&self) -> Snapshot {
        metrics_route::snapshot(self)
    }

    /// One line on how it is, for the log.
    pub fn describe(&self) -> String {
        let registry = self.plugins.registry();
        let calls: usize = registry.all().iter().map(|plugin| plugin.calls_inside()).sum();
        format!(
            "worker (PID {}): {} plugins, {} requests answered or in hand, {calls} calls run or wait, up for {} s",
            std::process::id(),
            registry.ids().len(),
            self.requests.load(Ordering::Relaxed),
            self.started.elapsed().as_secs()
        )
    }
}
