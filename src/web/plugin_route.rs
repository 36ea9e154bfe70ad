//! `/<plugin>[/<subpath>]` -> [`PluginRequest`] -> call -> reply, and the same way for the control routes.

use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, header};
use warp::reply::Response;

use super::access_line::ServedBy;
use super::body_pace::TOO_SLOW;
use super::client::{Connection, client};
use super::control_routes::{self, ControlRoute};
use super::fields::{body_fields, decode_path};
use super::page::{self, PageRoute};
use super::probes::{self, Probe};
use super::reply::{ApiError, OwnStatus, error_reply, options_reply, plugin_reply};
use super::request_body::{self, ReceivedBody};
use super::{Site, auth, documents, openapi};
use crate::config::settings::BodyMode;
use crate::config::{KeyRule, Settings};
use crate::dev::errors;
use crate::exchange::{BodyFields, CallError, PluginRequest, PythonError};
use crate::plugins::{Held, Plugin};
use crate::request_id::RequestId;

/// Methods that every plugin takes; HEAD is GET without the body.
pub const USUAL_METHODS: [&str; 4] = ["GET", "HEAD", "POST", "OPTIONS"];

/// The head of a request.
#[derive(Debug)]
pub struct Head {
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    pub connection: Connection,
    pub request_id: RequestId,
    /// False when the request is known to end with its head.
    pub has_body: bool,
}

/// Where a request goes.
enum Target {
    Plugin {
        plugin: Arc<Plugin>,
        subpath: Option<String>,
    },
    /// A plugin that waits for its old self, in another worker, to end.
    Awaited {
        id: String,
    },
    Own(OwnRoute),
}

/// What the server answers itself.
enum OwnRoute {
    Control(ControlRoute),
    Probe(Probe),
    OpenApi,
    Page(PageRoute),
    /// A static file: the decoded path under the documents' route.
    Document {
        rest: Option<String>,
    },
}

/// Answers one request, from the path to the reply. What is not a call of a plugin stands in boxes: hyper moves the whole
/// future of a request to its place, and keeps room for it on every connection.
pub async fn answer<B: Buf>(
    site: &Arc<Site>,
    head: Box<Head>,
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> Result<Response, ApiError> {
    let mut target = find_target(site, head.target.path())?;
    if let Target::Awaited { id } = target {
        if !Box::pin(site.plugins.has_come(&id)).await {
            return Err(ApiError::NotThereYet { id });
        }
        target = find_target(site, head.target.path())?;
    }
    match target {
        Target::Plugin { plugin, subpath } => answer_of_plugin(site, &plugin, subpath, head, body).await,
        Target::Awaited { id } => Err(ApiError::NotThereYet { id }),
        Target::Own(route) => Box::pin(own_answer(site, route, head, body)).await,
    }
}

/// The server's answer where no plugin is asked.
async fn own_answer<B: Buf>(
    site: &Arc<Site>,
    route: OwnRoute,
    head: Box<Head>,
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> Result<Response, ApiError> {
    let config = site.config.get();
    let settings = &config.settings;
    match route {
        OwnRoute::Document { rest } => document(site, &head, rest.as_deref()).await,
        OwnRoute::Page(route) => {
            if !matches!(head.method, Method::GET | Method::HEAD) {
                let allow = "GET, HEAD".to_owned();
                return Err(ApiError::MethodNotAllowed { method: head.method.to_string(), allow });
            }
            if route.needs_key() {
                page::check_reader(settings, &head.connection, &head.headers)?;
                let no_body = ReceivedBody::Whole(Bytes::new());
                let request = plugin_request(settings, head, None, no_body, BodyFields::None);
                check_global_key(settings, &request)?;
            }
            page::answer(site, route)
        }
        OwnRoute::Probe(probe) => probes::answer(site, probe, &head.method).await,
        OwnRoute::Control(route) => {
            if let Some(reply) = check_method(&head.method, &[])? {
                return Ok(reply);
            }
            // HEAD asks what GET would answer; it must not do it (RFC 9110, 9.2.1).
            if head.method == Method::HEAD && route != ControlRoute::Plugins {
                let allow = "GET, POST, OPTIONS".to_owned();
                return Err(ApiError::MethodNotAllowed { method: head.method.to_string(), allow });
            }
            if route != ControlRoute::Plugins {
                page::check_control(settings, &head.headers)?;
            }
            let request = with_global_key(settings, head, body).await?;
            control_routes::answer(site, route, &request).await
        }
        OwnRoute::OpenApi => {
            if !matches!(head.method, Method::GET | Method::HEAD) {
                let allow = "GET, HEAD".to_owned();
                return Err(ApiError::MethodNotAllowed { method: head.method.to_string(), allow });
            }
            let request = with_global_key(settings, head, body).await?;
            Ok(openapi::answer(site, &request))
        }
    }
}

/// Lets a plugin answer, and counts it.
async fn answer_of_plugin<B: Buf>(
    site: &Arc<Site>,
    plugin: &Arc<Plugin>,
    subpath: Option<String>,
    head: Box<Head>,
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> Result<Response, ApiError> {
    let config = site.config.get();
    let settings = &config.settings;
    let received = plugin.metrics().received();
    let answer = match check_method(&head.method, plugin.instance().methods()) {
        Ok(None) => {
            let request = if head.has_body {
                Box::pin(request_with_body(settings, plugin, subpath, head, body)).await
            } else {
                let no_body = ReceivedBody::Whole(Bytes::new());
                Ok(plugin_request(settings, head, subpath, no_body, BodyFields::None))
            };
            match request {
                Ok(request) => {
                    let answer = match call_plugin(site, settings, plugin, request).await {
                        Err(ApiError::Call(CallError::UnreadableBody(reason))) if reason.contains(TOO_SLOW) => {
                            Err(ApiError::BodyTooSlow)
                        }
                        answer => answer,
                    };
                    let server = &settings.server;
                    if server.legacy_status { with_legacy_status(answer, server.debug) } else { answer }
                }
                Err(error) => Err(error),
            }
        }
        Ok(Some(reply)) => Ok(reply),
        Err(error) => Err(error),
    };
    // An error becomes its answer here: the code that the client sees is the one that counts.
    let mut response = answer.unwrap_or_else(|error| error_reply(error, settings.server.debug));
    received.answered(response.status().as_u16());
    if site.access_log.load().is_some() {
        response.extensions_mut().insert(ServedBy(plugin.id().to_owned()));
    }
    Ok(response)
}

/// Receives the body of a request to a plugin, as far as the plugin does not want to do that itself.
async fn request_with_body<B: Buf>(
    settings: &Settings,
    plugin: &Plugin,
    subpath: Option<String>,
    head: Box<Head>,
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> Result<Box<PluginRequest>, ApiError> {
    let body = request_body::receive(&head.headers, body, &settings.limits, plugin.instance().body_mode()).await?;
    Ok(with_fields(settings, head, subpath, body).await)
}

/// Receives a request for the server itself. Errs when it does not hold the global key, where one is set.
async fn with_global_key<B: Buf>(
    settings: &Settings,
    head: Box<Head>,
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> Result<Box<PluginRequest>, ApiError> {
    let body = request_body::receive(&head.headers, body, &settings.limits, BodyMode::Read).await?;
    let request = with_fields(settings, head, None, body).await;
    check_global_key(settings, &request)?;
    Ok(request)
}

/// For what is not a plugin: the global key, where one is set.
fn check_global_key(settings: &Settings, request: &PluginRequest) -> Result<(), ApiError> {
    let global = settings.global_key.as_ref();
    let rule = if global.is_some() { KeyRule::Global } else { KeyRule::Open };
    let is_allowed = matches!(auth::judge(&rule, global, request), auth::Verdict::Allowed);
    if is_allowed { Ok(()) } else { Err(ApiError::Unauthorized) }
}

async fn call_plugin(
    site: &Site,
    settings: &Settings,
    plugin: &Plugin,
    mut request: Box<PluginRequest>,
) -> Result<Response, ApiError> {
    let entered = site.plugins.enter(plugin).await.ok_or_else(|| not_found(site, request.raw_path()))?;
    match auth::judge(&entered.key_rule(), settings.global_key.as_ref(), &request) {
        auth::Verdict::Allowed => {}
        auth::Verdict::Refused => return Err(ApiError::Unauthorized),
        auth::Verdict::BodyDecides(key) => request.body_key = Some(key),
    }
    if entered.others_inside() >= settings.limits.max_waiting_calls {
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
        return Ok(Target::Own(OwnRoute::Control(route)));
    }
    let rest = raw_path.strip_prefix('/').unwrap_or(raw_path);
    let (one, many);
    let segments: &[&str] = if rest.contains('/') {
        many = rest.split('/').collect::<Vec<&str>>();
        &many
    } else {
        one = [rest];
        &one
    };
    let registry = site.plugins.registry();
    let Some((plugin, used)) = registry.route(segments, decode_path) else {
        match registry.held(segments, decode_path) {
            Some((id, Held::Awaited { .. })) => return Ok(Target::Awaited { id }),
            Some((id, Held::Quarantined { reason, .. })) => {
                return Err(ApiError::Quarantined { id, reason: reason.clone() });
            }
            None => {}
        }
        if let Some(probe) = Probe::parse(raw_path) {
            return Ok(Target::Own(OwnRoute::Probe(probe)));
        }
        if raw_path == openapi::PATH && site.config.get().settings.server.openapi {
            return Ok(Target::Own(OwnRoute::OpenApi));
        }
        if let Some(route) = PageRoute::parse(raw_path).filter(|_| site.config.get().settings.server.page) {
            return Ok(Target::Own(OwnRoute::Page(route)));
        }
        return find_document(site, segments).map(Target::Own).ok_or_else(|| not_found(site, raw_path));
    };
    if site.dev.is_some()
        && let Some(state) = registry.file(plugin.path()).filter(|state| state.is_broken)
    {
        return Err(does_not_load(site, plugin.path(), state.error.as_ref()));
    }
    let subpath = (used < segments.len()).then(|| decode_path(&segments[used..].join("/")).into_owned());
    Ok(Target::Plugin { plugin: Arc::clone(plugin), subpath })
}

fn find_document(site: &Site, segments: &[&str]) -> Option<OwnRoute> {
    let config = site.config.get();
    let route = &config.settings.documents.as_ref()?.route;
    let used = route.split('/').count();
    let asked: Vec<_> = segments.get(..used)?.iter().map(|segment| decode_path(segment)).collect();
    let rest = (used < segments.len()).then(|| decode_path(&segments[used..].join("/")).into_owned());
    (asked.join("/") == *route).then_some(OwnRoute::Document { rest })
}

async fn document(site: &Site, head: &Head, rest: Option<&str>) -> Result<Response, ApiError> {
    let config = site.config.get();
    let missing = || not_found(site, head.target.path());
    let documents = config.settings.documents.as_ref().ok_or_else(missing)?;
    let reply = documents::answer(documents, &head.method, head.target.path(), rest, &head.headers).await?;
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
    if let Some((path, state)) = failed.filter(|_| site.dev.is_some()) {
        return does_not_load(site, path, state.error.as_ref());
    }
    let hint = failed.map(|(path, _)| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        format!(" ({name} failed to load; the log and /plugins?verbose=1 say why)")
    });
    ApiError::NotFound { path: decode_path(raw_path).into_owned(), hint: hint.unwrap_or_default() }
}

/// The methods that a plugin takes: the usual ones and its own.
pub fn open_methods(own_methods: &[String]) -> Vec<&str> {
    let mut open = USUAL_METHODS.to_vec();
    open.extend(own_methods.iter().map(String::as_str).filter(|own| !USUAL_METHODS.contains(own)));
    open
}

/// Whoever writes the file wants to see what is wrong with it, and not that its old self still works.
fn does_not_load(site: &Site, path: &Path, error: Option<&PythonError>) -> ApiError {
    let folder = site.config.get().settings.plugins_dir.clone();
    let error = error.cloned().unwrap_or_default();
    let excerpt = errors::excerpt(&error, &folder);
    let (file, words) = (errors::short_name(path, &folder), errors::in_one_line(&error, &folder));
    ApiError::DoesNotLoad { file, words, error: Box::new(error), excerpt }
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

/// The request of a body whose fields are still to be read.
async fn with_fields(
    settings: &Settings,
    head: Box<Head>,
    subpath: Option<String>,
    body: ReceivedBody,
) -> Box<PluginRequest> {
    let form = match &body {
        ReceivedBody::Whole(body) if !body.is_empty() => body_fields(&head.headers, body).await,
        _ => BodyFields::None,
    };
    plugin_request(settings, head, subpath, body, form)
}

fn plugin_request(
    settings: &Settings,
    head: Box<Head>,
    subpath: Option<String>,
    body: ReceivedBody,
    form: BodyFields,
) -> Box<PluginRequest> {
    let Head { method, target, mut headers, connection, request_id, .. } = *head;
    join_cookies(&mut headers);
    let client = client(&connection, &headers, &settings.server.trusted_proxies);
    let (body, streamed_body) = match body {
        ReceivedBody::Whole(body) => (body, None),
        ReceivedBody::Streamed(reader) => (Bytes::new(), Some(reader)),
    };
    Box::new(PluginRequest {
        method,
        target,
        client_ip: client.ip,
        scheme: client.scheme,
        forwarded_host: client.host,
        form,
        version: connection.version_numbers(),
        headers,
        peer: connection.peer,
        local: connection.local,
        subpath,
        request_id,
        body,
        streamed_body,
        max_body_bytes: settings.limits.max_body_bytes,
        body_key: None,
    })
}
