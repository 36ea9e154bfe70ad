//! The accept loops on the listeners, one request, and the drain at the end.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use futures_util::future::Either;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use serde_json::json;
use tokio::task::JoinHandle;
use tower_service::Service;

use super::accept::{StopAccepting, accept};
use super::access_line::{Access, ServedBy};
use super::access_log::AccessLog;
use super::activity::{Activity, InFlight};
use super::body::{BoxError, FlowingBody, Handed, Outgoing, PIECE_BYTES, SetAside};
use super::client::{Connection, client};
use super::compression::{accepts, compress, is_worth_it};
use super::cors::Verdict;
use super::deadlines::Leaving;
use super::listener::Listener;
use super::plugin_route::Head;
use super::probes::Unlogged;
use super::problem::{self, Asker};
use super::request_id;
use super::request_lines::Begun;
use super::upgrade::carry;
use super::{HeadAside, Site, cors, page};
use crate::config::Settings;
use crate::exchange::ReplyBody;
use crate::handoff::Inherited;
use crate::request_id::{HEADER, RequestId};

/// The name in the `Server` field of every reply.
pub const SERVER_NAME: &str = concat!("pserve/", env!("CARGO_PKG_VERSION"));

/// The running server: one accept loop for each listener.
#[derive(Debug)]
pub struct Server {
    site: Arc<Site>,
    loops: Vec<AcceptLoop>,
}

#[derive(Debug)]
struct AcceptLoop {
    stop: Arc<StopAccepting>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts to accept on the sockets that this worker has inherited.
    pub fn start(site: Arc<Site>, listeners: Vec<Inherited>) -> anyhow::Result<Self> {
        let mut server = Self { site, loops: Vec::new() };
        for inherited in listeners {
            let listener = Listener::watch(inherited).context("a listener cannot be watched")?;
            let stop = Arc::new(StopAccepting::default());
            let task = tokio::spawn(accept(listener, Arc::clone(&server.site), Arc::clone(&stop)));
            server.loops.push(AcceptLoop { stop, task });
        }
        Ok(server)
    }

    /// Stops accepting. Every answer from now on is the last of its connection, and idle connections are let go.
    pub async fn stop_accepting(&mut self, leaving: Leaving) {
        // When others accept, the server is as ready as it was: only this worker goes.
        self.site.is_draining.store(leaving == Leaving::LastOne, Ordering::Relaxed);
        self.site.connections.retire(leaving);
        for accepting in &self.loops {
            accepting.stop.ask(leaving);
        }
        for accepting in self.loops.drain(..) {
            let _ = accepting.task.await;
        }
    }

    /// Waits for those who are still connected, no longer than the limit. False when some were still busy then.
    pub async fn drain(self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.site.connections.all_left()).await.is_ok()
    }
}

/// Answers one request, from its head to the head of the answer. All that can be done at once is done before there is a
/// future: hyper moves that to its place, and keeps room for it on every connection.
pub fn answer<S, B>(
    site: Arc<Site>,
    mut filter: S,
    mut request: Request<Incoming>,
    connection: Connection,
    mut in_flight: InFlight,
) -> impl Future<Output = Result<Response<Handed<B>>, Infallible>> + use<S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes> + From<Bytes> + Default + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    site.requests.fetch_add(1, Ordering::Relaxed);
    let config = site.config.get();
    let version = connection.version;
    let request_id = request_id::of(&connection, request.headers(), &config.settings.server.trusted_proxies);
    let asker = Asker::of(&request);
    let logged = site
        .access_log
        .load_full()
        .map(|log| Box::new(LoggedRequest::new(log, &request, &connection, &config.settings, &request_id)));
    let shown = site.dev.clone().map(|lines| (lines, Begun::new(&request)));
    let watched = config.settings.server.page.then(|| page::Watched::begin(&request, &request_id)).flatten();
    let is_head = request.method() == Method::HEAD;
    let compression = config.settings.server.compression.then(|| accepts(request.headers(), "gzip"));
    let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let verdict =
        config.settings.cors.as_ref().map(|settings| cors::judge(settings, request.method(), request.headers()));
    let refused = match (objection(&request), &verdict) {
        (None, _) if expects_more(&request) => {
            Some(refuse(StatusCode::EXPECTATION_FAILED, "no such expectation is met here"))
        }
        (Some(reason), _) => Some(refuse(StatusCode::BAD_REQUEST, &format!("malformed request: {reason}"))),
        (None, Some(Verdict::Refused)) => Some(refuse(StatusCode::FORBIDDEN, "this origin is not allowed")),
        (None, Some(Verdict::Preflight(_))) => Some(cors::preflight(request.headers())),
        _ => None,
    };
    let answered = match refused {
        Some(response) => Either::Left(std::future::ready(Ok(response))),
        None => Either::Right(filter.call(head_aside(request, connection, request_id.clone()))),
    };
    async move {
        let response = answered.await?;
        let response = problem::finish(response, &asker, &request_id);
        site.metrics.answered(response.status().as_u16());
        let mut response = with_own_body(response, upgrade, in_flight.activity());
        if let Some(verdict) = &verdict {
            cors::add_headers(&mut response, verdict);
        }
        if let Some(is_accepted) = compression
            && is_worth_it(&response)
        {
            response = Box::pin(compress(response, is_accepted, is_head)).await;
        }
        if is_head {
            leave_body_out(&mut response);
        }
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {}
            // What is left of the body comes too late for anybody.
            StatusCode::REQUEST_TIMEOUT if is_last(&response) => in_flight.activity().linger_at_end(),
            _ if site.connections.is_retiring() => {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        if version == Version::HTTP_10 && must_close(&response) {
            // hyper would add `keep-alive` to a reply of version 1.1, whatever it says itself.
            *response.version_mut() = Version::HTTP_10;
            response.headers_mut().remove(header::CONNECTION);
        }
        // A plugin that passes another's answer on may have one already.
        response.headers_mut().entry(HEADER).or_insert_with(|| request_id.header_value());
        response.headers_mut().entry(header::SERVER).or_insert(HeaderValue::from_static(SERVER_NAME));
        if let Some(logged) = logged
            && response.extensions().get::<Unlogged>().is_none()
        {
            logged.log(&mut response);
        }
        if let Some((lines, begun)) = shown
            && response.extensions().get::<Unlogged>().is_none()
        {
            begun.answered(lines, &mut response);
        }
        if let Some(watched) = watched
            && response.extensions().get::<Unlogged>().is_none()
        {
            site.page.saw(watched, &response);
        }
        if comes_in_own_pieces(&response, version) {
            in_flight.activity().own_pieces().set();
        }
        in_flight.answered();
        Ok(response.map(|body| Handed::new(body, in_flight)))
    }
}

/// What warp gets of a request: its body, with the head beside it.
fn head_aside(request: Request<Incoming>, connection: Connection, request_id: RequestId) -> Request<Incoming> {
    let has_body = !request.body().is_end_stream();
    let (parts, body) = request.into_parts();
    let target = parts.uri.into_parts().path_and_query.unwrap_or(PathAndQuery::from_static("/"));
    let head = Head { method: parts.method, target, headers: parts.headers, connection, request_id, has_body };
    let mut request = Request::new(body);
    request.extensions_mut().insert(HeadAside::new(Box::new(head)));
    request
}

/// Whether a response says that it is the last of its connection.
fn is_last<B>(response: &Response<B>) -> bool {
    response.headers().get(header::CONNECTION).is_some_and(|value| value == "close")
}

/// Whether pieces of this response are sent just as they are made, without a chunk's size before them.
fn comes_in_own_pieces<B>(response: &Response<Outgoing<B>>, version: Version) -> bool
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let is_chunked = version == Version::HTTP_11 && response.body().size_hint().exact().is_none();
    let is_streamed = matches!(response.body(), Outgoing::Flowing(_)) && !is_chunked;
    let is_large = response.body().size_hint().exact().is_some_and(|size| size > PIECE_BYTES as u64);
    is_streamed || is_large || version == Version::HTTP_2 || response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// Whether an HTTP/1.0 connection ends with this response: it was asked to, or only its end tells where the body ends.
fn must_close<B>(response: &Response<Outgoing<B>>) -> bool
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let is_unknown = response.body().size_hint().exact().is_none();
    let has_length = response.headers().contains_key(header::CONTENT_LENGTH);
    is_last(response) || (is_unknown && !has_length)
}

/// Gives a response the body that a handler writes, or the connection to a handler that has taken it over.
fn with_own_body<B: Default>(
    mut response: Response<B>,
    upgrade: Option<OnUpgrade>,
    activity: &Arc<Activity>,
) -> Response<Outgoing<B>> {
    let own = SetAside::take_from(&mut response);
    let (parts, body) = response.into_parts();
    let body = match own {
        None | Some(ReplyBody::Whole(_)) => Outgoing::Whole(body),
        Some(ReplyBody::Streamed { bytes, length }) => Outgoing::Flowing(FlowingBody::of_handler(bytes, length)),
        Some(ReplyBody::Upgraded { received, sent }) => {
            if let Some(upgrade) = upgrade {
                activity.take_over();
                tokio::spawn(carry(upgrade, received, sent, Arc::clone(activity)));
            }
            Outgoing::Whole(body)
        }
    };
    Response::from_parts(parts, body)
}

/// A request as its line in the access log tells it, once the answer is known.
struct LoggedRequest {
    log: Arc<AccessLog>,
    began: Instant,
    client: Arc<str>,
    method: Method,
    target: String,
    version: Version,
    headers: HeaderMap,
    request_id: RequestId,
    /// Known when it is answered.
    plugin: Option<String>,
}

impl LoggedRequest {
    fn new(
        log: Arc<AccessLog>,
        request: &Request<Incoming>,
        connection: &Connection,
        settings: &Settings,
        request_id: &RequestId,
    ) -> Self {
        Self {
            log,
            began: Instant::now(),
            client: client(connection, request.headers(), &settings.server.trusted_proxies).ip,
            method: request.method().clone(),
            target: request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            version: connection.version,
            headers: request.headers().clone(),
            request_id: request_id.clone(),
            plugin: None,
        }
    }

    /// Writes the line: now, or when a body that is still being written has come to its end.
    fn log<B: http_body::Body>(mut self: Box<Self>, response: &mut Response<Outgoing<B>>) {
        let status = response.status().as_u16();
        self.plugin = response.extensions_mut().remove().map(|ServedBy(plugin)| plugin);
        let announced = response.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        match response.body_mut() {
            Outgoing::Flowing(body) => body.at_end(move |sent_bytes| self.write(status, sent_bytes)),
            Outgoing::Whole(body) => {
                let size = body.size_hint().exact().or(announced).unwrap_or(0);
                self.write(status, size);
            }
        }
    }

    fn write(&self, status: u16, body_bytes: u64) {
        self.log.write(&Access {
            client: &self.client,
            method: &self.method,
            target: &self.target,
            version: self.version,
            status,
            body_bytes,
            headers: &self.headers,
            duration: self.began.elapsed(),
            plugin: self.plugin.as_deref(),
            request_id: &self.request_id,
        });
    }
}

/// What is wrong with a head that hyper lets through, in words for the client.
fn objection<B>(request: &Request<B>) -> Option<String> {
    let headers = request.headers();
    let count = |name| headers.get_all(name).iter().count();
    if request.method() == Method::CONNECT || !request.uri().path().starts_with('/') {
        return Some("the address must begin with a slash".to_owned());
    }
    // RFC 9112, 3.2.
    if count(header::HOST) > 1 || (request.version() == Version::HTTP_11 && count(header::HOST) == 0) {
        return Some("exactly one Host is needed".to_owned());
    }
    if !headers.get(header::HOST).is_none_or(is_host) {
        return Some("Host holds no host".to_owned());
    }
    // Any transfer coding but a single `chunked`: hyper would read such a body as far as it understands it, and take
    // the rest for the next request (RFC 9112, 6.1).
    let coding = headers.get(header::TRANSFER_ENCODING)?;
    let is_chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let is_odd = !is_chunked || count(header::TRANSFER_ENCODING) > 1 || request.version() == Version::HTTP_10;
    is_odd.then(|| "the only transfer coding is a single `chunked`".to_owned())
}

/// `name`, `name:port`, `[address]:port` or nothing (RFC 9110, 7.2).
fn is_host(value: &HeaderValue) -> bool {
    let Ok(value) = value.to_str() else {
        return false;
    };
    let (name, port) = match value.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port),
        None => value.split_at(value.find(':').unwrap_or(value.len())),
    };
    let is_port = port.strip_prefix(':').unwrap_or(port).bytes().all(|byte| byte.is_ascii_digit());
    is_port && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:".contains(&byte))
}

/// Whether the client expects what nobody here knows (RFC 9110, 10.1.1).
fn expects_more<B>(request: &Request<B>) -> bool {
    let expected = request.headers().get(header::EXPECT);
    let is_known = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"100-continue");
    request.version() != Version::HTTP_10 && expected.is_some_and(|value| !is_known(value))
}

fn refuse<B: From<Bytes>>(status: StatusCode, reason: &str) -> Response<B> {
    let body = json!({"error": reason});
    let text = body.to_string();
    let (mut parts, _) = problem::reply(status, body).into_parts();
    if status != StatusCode::FORBIDDEN {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Response::from_parts(parts, B::from(text.into()))
}

/// HEAD tells the length of the body and does not send it; HTTP/2 takes a body for a violation (RFC 9110, 9.3.2).
fn leave_body_out<B>(response: &mut Response<Outgoing<B>>)
where
    B: http_body::Body<Data = Bytes> + Default + Unpin,
    B::Error: Into<BoxError>,
{
    let has_body = !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(length) = response.body().size_hint().exact().filter(|_| has_body) {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Outgoing::Whole(B::default());
}
