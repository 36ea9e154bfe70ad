//! The live page under `/-/`: what the server does, in a browser. The page itself holds nothing that is secret and is
//! given to everybody; what it shows comes from `/-/events`, behind the global key.
//!
//! `assets` are the files in the binary, `feed` gathers what goes on while somebody looks, `events` writes it down,
//! `guard` keeps other sites' pages away.

mod assets;
mod events;
mod feed;
mod guard;

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body::Body;
use warp::reply::Response;

use super::Site;
use super::reply::{ApiError, plugin_reply};
use crate::exchange::{PluginReply, ReplyBody};
use crate::logging;
use crate::recent::{self, Latest, News, SeenRequest, Since};
use crate::request_id::RequestId;
use assets::Asset;
use feed::Feed;
pub use guard::{check_control, check_reader};

/// Where the page lives.
const PREFIX: &str = "/-/";

/// Requests that are kept, and how much of a path, in bytes.
const KEPT_REQUESTS: usize = 100;
const LONGEST_PATH: usize = 256;

/// What a path under the prefix asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageRoute {
    /// The prefix without its last slash.
    Redirect,
    Asset(Asset),
    Events,
}

impl PageRoute {
    pub fn parse(raw_path: &str) -> Option<Self> {
        if raw_path == PREFIX.trim_end_matches('/') {
            return Some(Self::Redirect);
        }
        match raw_path.strip_prefix(PREFIX)? {
            "events" => Some(Self::Events),
            name => Asset::named(name).map(Self::Asset),
        }
    }

    /// Whether the global key is asked for, where one is set.
    pub fn needs_key(self) -> bool {
        self == Self::Events
    }
}

/// What this worker keeps for the page.
#[derive(Debug)]
pub struct Page {
    requests: Latest<Seen>,
    feed: Feed,
}

impl Default for Page {
    fn default() -> Self {
        Self { requests: Latest::new(KEPT_REQUESTS), feed: Feed::default() }
    }
}

/// A request under way that will be shown.
#[derive(Debug)]
pub struct Watched {
    began: Instant,
    time: f64,
    id: RequestId,
    method: Method,
    path: String,
}

/// One that has been answered, as it is kept: what it costs to make it readable is paid by who reads it.
#[derive(Debug, Clone)]
struct Seen {
    request: Arc<Watched>,
    seconds: f64,
    status: u16,
    bytes: Option<u64>,
}

impl Watched {
    /// Notes a request that has come. The page's own are not shown: it would watch itself.
    pub fn begin<B>(request: &Request<B>, id: &RequestId) -> Option<Self> {
        let path = request.uri().path();
        PageRoute::parse(path).is_none().then(|| Self {
            began: Instant::now(),
            time: recent::now(),
            id: id.clone(),
            method: request.method().clone(),
            path: recent::shortened(path, LONGEST_PATH).to_owned(),
        })
    }
}

impl Page {
    /// Keeps a request whose answer begins.
    pub fn saw<B: Body>(&self, request: Watched, response: &http::Response<B>) {
        let announced = response.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        self.requests.push(Seen {
            seconds: request.began.elapsed().as_secs_f64(),
            status: response.status().as_u16(),
            bytes: announced.or(response.body().size_hint().exact()),
            request: Arc::new(request),
        });
    }

    /// What this worker has seen since.
    pub fn news(&self, since: Since) -> News {
        let (request, seen) = self.requests.since(since.request);
        let (line, log) = logging::lines_since(since.line);
        let requests = seen.iter().map(|seen| SeenRequest {
            pid: std::process::id(),
            id: seen.request.id.to_string(),
            time: seen.request.time,
            method: seen.request.method.to_string(),
            path: logging::without_secrets(&seen.request.path),
            status: seen.status,
            seconds: seen.seconds,
            bytes: seen.bytes,
        });
        News { next: Since { request, line }, requests: requests.collect(), log }
    }
}

/// Answers a request that may be answered: method, origin and key have been checked.
pub fn answer(site: &Arc<Site>, route: PageRoute) -> Result<Response, ApiError> {
    let mut response = match route {
        PageRoute::Redirect => {
            let mut response = plugin_reply(PluginReply::new(308, "text/plain; charset=utf-8", PREFIX));
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(PREFIX));
            response
        }
        PageRoute::Asset(asset) => plugin_reply(PluginReply::new(200, asset.content_type(), asset.text())),
        PageRoute::Events => {
            let bytes = site.page.feed.join(site).ok_or(ApiError::TooManyWatch)?;
            let mut reply = PluginReply::new(200, "text/event-stream; charset=utf-8", "");
            reply.body = ReplyBody::Streamed { bytes, length: None };
            plugin_reply(reply)
        }
    };
    let caching = if route == PageRoute::Events { "no-store" } else { "no-cache" };
    for (name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    Ok(response)
}

/// Nothing comes from elsewhere, nothing inline is run, nobody frames it, nobody learns where it was left for.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_open_for_others() {
        assert_eq!(PageRoute::parse("/-"), Some(PageRoute::Redirect));
        assert_eq!(PageRoute::parse("/-/events"), Some(PageRoute::Events));
        assert!(matches!(PageRoute::parse("/-/"), Some(PageRoute::Asset(_))));
        for path in ["/-/other", "/-/page.css/", "/-//", "/--/", "/"] {
            assert_eq!(PageRoute::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_path_is_kept_without_its_query_and_bounded() {
        let long = format!("/{}?apikey=secret", "x".repeat(1000));
        let request = Request::get(long).body(()).expect("a request");
        let id = RequestId::make();
        assert_eq!(Watched::begin(&request, &id).expect("watched").path.len(), LONGEST_PATH);
        let request = Request::get("/a?apikey=secret").body(()).expect("a request");
        assert_eq!(Watched::begin(&request, &id).expect("watched").path, "/a");
        let own = Request::get("/-/events").body(()).expect("a request");
        assert!(Watched::begin(&own, &id).is_none());
    }
}
