//! `/<plugin>[/<subpath>]` -> [`PluginRequest`] -> call -> reply, and the same way for the control routes.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::{HeaderMap, Method, StatusCode, header};
use warp::reply::Response;

use super::body_pace::TOO_SLOW;
use super::client::client;
use super::control_routes::{self, ControlRoute};
use super::fields::{body_fields, decode_path, url_encoded};
use super::probes::{self, Probe};
use super::reply::{ApiError, OwnStatus, error_reply, options_reply, plugin_reply};
use super::request_body::{self, ReceivedBody};
use super::request_id::Arrival;
use super::{Site, auth, documents, openapi};
use crate::config::KeyRule;
use crate::config::settings::BodyMode;
use crate::exchange::{CallError, PluginRequest};
use crate::metrics::PluginMetrics;
use crate::plugins::Held;

/// Methods that every plugin takes; HEAD is GET without the body.
const USUAL_METHODS: [&str; 4] = ["GET", "HEAD", "POST", "OPTIONS"];

/// The head of a request as warp's filters give it.
#[derive(Debug)]
pub struct Head {
    pub method: Method,
    pub raw_path: String,
    pub raw_query: String,
    pub headers: HeaderMap,
    pub arrival: Arrival,
}

/// Where a request goes.
enum Target {
    Control(ControlRoute),
    Plugin {
        id: String,
        metrics: Arc<PluginMetrics>,
        subpath: Option<String>,
        own_methods: Vec<String>,
        body_mode: BodyMode,
    },
    /// A plugin that waits for its old self, in another worker, to end.
    Awaited {
        id: String,
    },
    Probe(Probe),
    OpenApi,
    /// A static file: the decoded path under the documents' route.
    Document {
        rest: Option<String>,
    },
}

/// Answers one request, from the path to the reply.
pub async fn answer<B: Buf>(
    site: &Site,
    head: Head,
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> Result<Response, ApiError> {
    let limits = &site.config.get().settings.limits;
    let target = match find_target(site, &head.raw_path)? {
        Target::Awaited { id } if !site.plugins.has_come(&id).await => return Err(ApiError::NotThereYet { id }),
        Target::Awaited { .. } => find_target(site, &head.raw_path)?,
        found => found,
    };
    match target {
        Target::Awaited { id } => Err(ApiError::NotThereYet { id }),
        Target::Document { rest } => document(site, &head, rest.as_deref()).await,
        Target::Probe(probe) => probes::answer(site, probe, &head.method).await,
        Target::Control(route) => {
            if let Some(reply) = check_method(&head.method, &[])? {
                return Ok(reply);
            }
            // HEAD asks what GET would answer; it must not do it (RFC 9110, 9.2.1).
            if head.method == Method::HEAD && route != ControlRoute::Plugins {
                let allow = "GET, POST, OPTIONS".to_owned();
                return Err(ApiError::MethodNotAllowed { method: head.method.to_string(), allow });
            }
            let request = with_global_key(site, head, body).await?;
            control_routes::answer(site, route, &request).await
        }
        Target::OpenApi => {
            if !matches!(head.method, Method::GET | Method::HEAD) {
                let allow = "GET, HEAD".to_owned();
                return Err(ApiError::MethodNotAllowed { method: head.method.to_string(), allow });
            }
            let request = with_global_key(site, head, body).await?;
            Ok(openapi::answer(site, &request))
        }
        Target::Plugin { id, metrics, subpath, own_methods, body_mode } => {
            let received = metrics.received();
            let answer = async {
                if let Some(reply) = check_method(&head.method, &own_methods)? {
                    return Ok(reply);
                }
                let body = request_body::receive(&head.headers, body, limits, body_mode).await?;
                let request = plugin_request(site, head, subpath, body).await;
                let answer = match call_plugin(site, &id, request).await {
                    Err(ApiError::Call(CallError::UnreadableBody(reason))) if reason.contains(TOO_SLOW) => {
                        Err(ApiError::BodyTooSlow)
                    }
                    answer => answer,
                };
                let server = &site.config.get().settings.server;
                if server.legacy_status { with_legacy_status(answer, server.debug) } else { answer }
            };
            // An error becomes its answer here: the code that the client sees is the one that counts.
            let debug = site.config.get().settings.server.debug;
            let response = answer.await.unwrap_or_else(|error| error_reply(error, debug));
            received.answered(response.status().as_u16());
            Ok(response)
        }
    }
}

/// Receives a request for the server itself. Errs when it does not hold the global key, where one is set.
async fn with_global_key<B: Buf>(
    site: &Site,
    head: Head,
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> Result<PluginRequest, ApiError> {
    let config = site.config.get();
    let body = request_body::receive(&head.headers, body, &config.settings.limits, BodyMode::Read).await?;
    let request = plugin_request(site, head, None, body).await;
    let global = config.settings.global_key.as_ref();
    let rule = if global.is_some() { KeyRule::Global } else { KeyRule::Open };
    if !matches!(auth::judge(&rule, global, &request), auth::Verdict::Allowed) {
        return Err(ApiError::Unauthorized);
    }
    Ok(request)
}

async fn call_plugin(site: &Site, id: &str, mut request: PluginRequest) -> Result<Response, ApiError> {
    let entered = site.plugins.enter(id).await.ok_or_else(|| not_found(site, &request.raw_path))?;
    let config = site.config.get();
    match auth::judge(&entered.key_rule(), config.settings.global_key.as_ref(), &request) {
        auth::Verdict::Allowed => {}
        auth::Verdict::Refused => return Err(ApiError::Unauthorized),
        auth::Verdict::BodyDecides(key) => request.body_key = Some(key),
    }
    if entered.others_inside() >= config.settings.limits.max_waiting_calls {
        return Err(ApiError::Overloaded);
    }
    let reply = site.plugins.call(entered, request).await.map_err(ApiError::Call)?;
    Ok(plugin_reply(reply))
}

/// `[server] legacy_status`: the Python program answered 200 to everything but a response object's own status.
fn with_legacy_status(answer: Result<Response, ApiError>, debug: bool) -> Result<Response, ApiError> {
    match answer {
        Ok(mut response) => {
            if response.extensions().get::<OwnStatus>().is_none() {
                *response.status_mut() = StatusCode::OK;
            }
            Ok(response)
        }
        // The Python program had neither limits nor threads that could be lacking.
        Err(error @ ApiError::Call(CallError::TimedOut { .. } | CallError::NoThread)) => Err(error),
        Err(error @ (ApiError::Unauthorized | ApiError::Call(_))) => {
            let mut response = error_reply(error, debug);
            *response.status_mut() = StatusCode::OK;
            Ok(response)
        }
        Err(error) => Err(error),
    }
}

fn find_target(site: &Site, raw_path: &str) -> Result<Target, ApiError> {
    if let Some(route) = ControlRoute::parse(raw_path) {
        return Ok(Target::Control(route));
    }
    let rest = raw_path.strip_prefix('/').unwrap_or(raw_path);
    let segments: Vec<&str> = rest.split('/').collect();
    let registry = site.plugins.registry();
    let Some((plugin, used)) = registry.route(&segments, decode_path) else {
        match registry.held(&segments, decode_path) {
            Some((id, Held::Awaited { .. })) => return Ok(Target::Awaited { id }),
            Some((id, Held::Quarantined { reason, .. })) => {
                return Err(ApiError::Quarantined { id, reason: reason.clone() });
            }
            None => {}
        }
        if let Some(probe) = Probe::parse(raw_path) {
            return Ok(Target::Probe(probe));
        }
        if raw_path == openapi::PATH && site.config.get().settings.server.openapi {
            return Ok(Target::OpenApi);
        }
        return find_document(site, &segments).ok_or_else(|| not_found(site, raw_path));
    };
    let subpath = (used < segments.len()).then(|| decode_path(&segments[used..].join("/")));
    let own_methods = plugin.instance().methods().to_vec();
    let body_mode = plugin.instance().body_mode();
    let (id, metrics) = (plugin.id().to_owned(), Arc::clone(plugin.metrics()));
    Ok(Target::Plugin { id, metrics, subpath, own_methods, body_mode })
}

fn find_document(site: &Site, segments: &[&str]) -> Option<Target> {
    let config = site.config.get();
    let route = &config.settings.documents.as_ref()?.route;
    let used = route.split('/').count();
    let asked: Vec<String> = segments.get(..used)?.iter().map(|segment| decode_path(segment)).collect();
    let rest = (used < segments.len()).then(|| decode_path(&segments[used..].join("/")));
    (asked.join("/") == *route).then_some(Target::Document { rest })
}

async fn document(site: &Site, head: &Head, rest: Option<&str>) -> Result<Response, ApiError> {
    let config = site.config.get();
    let missing = || not_found(site, &head.raw_path);
    let documents = config.settings.documents.as_ref().ok_or_else(missing)?;
    let reply = documents::answer(documents, &head.method, &head.raw_path, rest, &head.headers).await?;
    reply.ok_or_else(missing)
}

/// HTTP/2 lets a client split its cookies; together they are one field (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(header::COOKIE).iter();
    if fields.next().is_none() || fields.next().is_none() {
        return;
    }
    let fields: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(http::HeaderValue::as_bytes).collect();
    if let Ok(joined) = http::HeaderValue::from_bytes(&fields.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// A 404 that helps: a file of that name may have failed to load.
fn not_found(site: &Site, raw_path: &str) -> ApiError {
    let wanted = decode_path(raw_path.trim_start_matches('/').split('/').next().unwrap_or_default());
    let registry = site.plugins.registry();
    let failed = registry.files().find(|(path, state)| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        state.error.is_some() && stem.eq_ignore_ascii_case(&wanted)
    });
    let hint = failed.map(|(path, _)| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        format!(" ({name} failed to load; the log and /plugins?verbose=1 say why)")
    });
    ApiError::NotFound { path: decode_path(raw_path), hint: hint.unwrap_or_default() }
}

/// The methods that a plugin takes: the usual ones and its own.
pub fn open_methods(own_methods: &[String]) -> Vec<&str> {
    let mut open = USUAL_METHODS.to_vec();
    open.extend(own_methods.iter().map(String::as_str).filter(|own| !USUAL_METHODS.contains(own)));
    open
}

/// Refuses methods that nobody takes; answers OPTIONS unless the plugin wants it itself.
fn check_method(method: &Method, own_methods: &[String]) -> Result<Option<Response>, ApiError> {
    let is_own = own_methods.iter().any(|own| own == method.as_str());
    if is_own || matches!(*method, Method::GET | Method::HEAD | Method::POST) {
        return Ok(None);
    }
    let allow = open_methods(own_methods).join(", ");
    if method == Method::OPTIONS {
        return Ok(Some(options_reply(&allow)));
    }
    Err(ApiError::MethodNotAllowed { method: method.to_string(), allow })
}

async fn plugin_request(site: &Site, head: Head, subpath: Option<String>, body: ReceivedBody) -> PluginRequest {
    let Head { method, raw_path, raw_query, mut headers, arrival: Arrival { connection, request_id } } = head;
    join_cookies(&mut headers);
    let config = site.config.get();
    let client = client(&connection, &headers, &config.settings.server.trusted_proxies);
    let (body, streamed_body) = match body {
        ReceivedBody::Whole(body) => (body, None),
        ReceivedBody::Streamed(reader) => (Bytes::new(), Some(reader)),
    };
    PluginRequest {
        method,
        client_ip: client.ip,
        scheme: client.scheme,
        forwarded_host: client.host,
        query: url_encoded(raw_query.as_bytes()),
        form: body_fields(&headers, &body).await,
        raw_path,
        raw_query,
        version: connection.version_numbers(),
        headers,
        peer: connection.peer,
        local: connection.local,
        subpath,
        request_id,
        body,
        streamed_body,
        max_body_bytes: config.settings.limits.max_body_bytes,
        body_key: None,
    }
}
