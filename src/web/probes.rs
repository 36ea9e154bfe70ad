//! `/livez`, `/readyz`, `/healthz`, `/metrics`: for whoever watches the server. No Python is asked: they answer while it is busy.

use std::sync::atomic::Ordering;

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use warp::reply::Response;

use super::reply::{ApiError, json_reply};
use super::{Site, metrics_route};

/// Which probe a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The process serves.
    Live,
    /// It should get requests.
    Ready,
    /// How it is, in words and numbers.
    Health,
    /// What it has counted.
    Metrics,
}

impl Probe {
    pub const ALL: [Self; 4] = [Self::Live, Self::Ready, Self::Health, Self::Metrics];

    /// Its path without the slash.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "livez",
            Self::Ready => "readyz",
            Self::Health => "healthz",
            Self::Metrics => "metrics",
        }
    }

    pub fn parse(raw_path: &str) -> Option<Self> {
        let name = raw_path.strip_prefix('/')?;
        Self::ALL.into_iter().find(|probe| probe.name() == name)
    }
}

/// Marks a probe's good answer, which stays out of the access log.
#[derive(Debug, Clone, Copy)]
pub struct Unlogged;

/// Answers a probe; 503 says that something is not as it should be.
pub async fn answer(site: &Site, probe: Probe, method: &Method) -> Result<Response, ApiError> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { method: method.to_string(), allow: "GET, HEAD".to_owned() });
    }
    let (mut response, is_good) = match probe {
        Probe::Metrics => (metrics_route::answer(site).await, true),
        Probe::Live | Probe::Ready | Probe::Health => judge(site, probe),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if is_good {
        response.extensions_mut().insert(Unlogged);
    }
    Ok(response)
}

/// The answer of a probe, and whether it is a good one.
fn judge(site: &Site, probe: Probe) -> (Response, bool) {
    let objections = if probe == Probe::Live { Vec::new() } else { objections(site) };
    let is_good = objections.is_empty();
    let mut body = json!({"status": if is_good { "ok" } else { "unavailable" }});
    if !is_good {
        body["reasons"] = objections.into();
    }
    if probe == Probe::Health {
        describe(site, &mut body);
    }
    let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (json_reply(status, &body), is_good)
}

/// Why the server should get no requests.
fn objections(site: &Site) -> Vec<String> {
    let mut found = Vec::new();
    if site.is_draining.load(Ordering::Relaxed) {
        found.push("the server is stopping".to_owned());
    }
    let registry = site.plugins.registry();
    for name in &site.config.get().settings.server.required_plugins {
        if registry.get(name).is_none() {
            found.push(format!("the plugin {name} is not loaded"));
        }
    }
    found
}

fn describe(site: &Site, body: &mut Value) {
    let registry = site.plugins.registry();
    let failed: Vec<String> = registry
        .files()
        .filter(|(_, state)| state.error.is_some())
        .map(|(path, _)| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    body["version"] = env!("CARGO_PKG_VERSION").into();
    body["uptime_seconds"] = site.started.elapsed().as_secs().into();
    body["requests"] = site.requests.load(Ordering::Relaxed).into();
    body["plugins"] = registry.ids().len().into();
    body["files_with_errors"] = failed.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_is_one_that_plugins_are_warned_of() {
        for name in crate::plugins::PROBES {
            assert!(Probe::parse(&format!("/{name}")).is_some(), "{name}");
        }
        assert_eq!(Probe::parse("/livez/x"), None);
    }
}
