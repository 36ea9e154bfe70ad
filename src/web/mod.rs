//! The only room that names warp and hyper. `routes` is the whole URL space on one screen.

mod accept;
mod access_line;
mod access_log;
mod activity;
mod auth;
mod body;
mod body_pace;
mod client;
mod client_stream;
mod compression;
mod connection;
mod connections;
mod control_routes;
mod cors;
mod deadlines;
mod documents;
mod farewell;
mod fields;
#[doc(hidden)]
pub mod fuzzing;
mod linger;
mod listener;
mod metrics_route;
mod openapi;
mod openapi_parts;
mod own_request;
mod page;
mod plugin_route;
mod probes;
mod problem;
mod refusal;
mod reply;
mod request_body;
mod request_id;
mod request_line;
mod request_lines;
mod server;
mod site;
mod socket;
mod tls;
mod upgrade;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Buf;
use futures_util::{FutureExt, Stream};
use warp::Filter;
use warp::reply::Response;

pub use access_log::AccessLog;
pub use connections::{Connections, Counts};
pub use deadlines::Leaving;
pub use own_request::{OwnAnswer, ask};
use plugin_route::Head;
pub use plugin_route::USUAL_METHODS;
use reply::{ApiError, error_reply};
pub use request_lines::RequestLines;
pub use server::Server;
pub use site::Site;

use crate::config::Settings;
use crate::exchange::{CallError, Raised};
use crate::handoff::TlsPem;

/// What makes TLS connections of TCP ones.
pub struct TlsAcceptor(tokio_native_tls::TlsAcceptor);

impl std::fmt::Debug for TlsAcceptor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TlsAcceptor")
    }
}

impl TlsAcceptor {
    /// Reads the files of `[SSL]`; `None` when TLS is not enabled. Errs when they cannot be used.
    pub fn load(settings: &Settings) -> anyhow::Result<Option<Self>> {
        Self::from_pem(settings, None)
    }

    /// As [`TlsAcceptor::load`], of what was read from the files before, where that is known.
    pub fn from_pem(settings: &Settings, pem: Option<&TlsPem>) -> anyhow::Result<Option<Self>> {
        settings.tls.as_ref().map(|files| tls::acceptor(files, pem)).transpose().map(|acceptor| acceptor.map(Self))
    }

    /// What is doubtful about the certificate, though it can be used.
    pub fn warnings(settings: &Settings) -> Vec<String> {
        settings.tls.as_ref().map(tls::warnings).unwrap_or_default()
    }
}

/// The URL space. One filter takes every path, and a map finds the plugin: a chain of filters, one for each plugin,
/// would cost more the more plugins there are.
///
/// * `/plugins`, `/reload/<plugin>`, `/reload/all`, `/load/<file stem>`, `/unload/<plugin>`: control routes
/// * `/<plugin>[/<subpath>]`: the plugin
/// * `/livez`, `/readyz`, `/healthz`, `/metrics`: probes, where no plugin has that name
/// * `/-/openapi.json`: what the plugins take, where no plugin has that name
/// * `/-/`: the live page and what it reads, where it is switched on and no plugin has that name
/// * `/<documents>/<path>`: a static file, where no plugin has that name
/// * anything else: 404
fn routes(site: Arc<Site>) -> impl Filter<Extract = (Response,), Error = warp::Rejection> + Clone {
    warp::ext::get::<HeadAside>()
        .and(warp::body::stream())
        .then(move |head, body| answer(Arc::clone(&site), head, body))
}

/// The head of a request beside warp's own request: its filters would copy it piece by piece.
#[derive(Debug, Clone)]
struct HeadAside(Arc<Mutex<Option<Box<Head>>>>);

impl HeadAside {
    fn new(head: Box<Head>) -> Self {
        Self(Arc::new(Mutex::new(Some(head))))
    }

    fn take(&self) -> Box<Head> {
        let head = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        head.expect("a request is answered once")
    }
}

async fn answer<B: Buf>(
    site: Arc<Site>,
    head: HeadAside,
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> Response {
    let head = head.take();
    let answer = AssertUnwindSafe(plugin_route::answer(&site, head, body)).catch_unwind().await;
    // A panic would drop the connection; the hook has already logged it.
    let answer = answer.unwrap_or_else(|_| {
        let message = "the server made a mistake; its log tells more".to_owned();
        Err(ApiError::Call(CallError::Raised(Raised { kind: "Panic".to_owned(), message, traceback: String::new() })))
    });
    if matches!(answer, Err(ApiError::BodyTooSlow)) {
        site.connections.counts.slow_bodies.fetch_add(1, Ordering::Relaxed);
    }
    let debug = site.config.get().settings.server.debug;
    answer.unwrap_or_else(|error| error_reply(error, debug))
}
