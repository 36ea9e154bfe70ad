//! The bodies of the server's own errors: `error`, which people and old clients read, beside the members of RFC 9457.
//!
//! Whoever makes an error does not know who asks. The reply is marked, and its body is finished on the way out: with the
//! request that it is about, and as `application/problem+json` for a client that asks for it.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::reply::json_reply;
use crate::request_id::RequestId;

/// RFC 9457, 3.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What a client may put into a path although it has no place in a URI (RFC 3986, 3.3).
const NOT_IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Marks a reply that is an error, with the body as it is without a request.
#[derive(Debug, Clone)]
struct Unfinished(Map<String, Value>);

/// What of a request an error about it needs.
#[derive(Debug)]
pub struct Asker {
    target: Option<PathAndQuery>,
    accept: Option<HeaderValue>,
}

impl Asker {
    /// Copies nothing: both parts are shared.
    pub fn of<B>(request: &Request<B>) -> Self {
        Self { target: request.uri().path_and_query().cloned(), accept: request.headers().get(header::ACCEPT).cloned() }
    }

    fn path(&self) -> &str {
        self.target.as_ref().map_or("/", PathAndQuery::path)
    }

    fn wants_problem(&self) -> bool {
        let accept = self.accept.as_ref().and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(PROBLEM_JSON));
            // A quality of zero is a no (RFC 9110, 12.4.2).
            let is_refused = |part: &str| {
                let quality = part.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
                quality.is_some_and(|(_, value)| value.trim().parse() == Ok(0.0_f32))
            };
            is_it && !parts.any(is_refused)
        })
    }
}

/// An error about which no more is known: the connection's, or of a head that is none.
pub fn body(status: StatusCode, reason: &str) -> Value {
    let mut body = Map::from_iter([("error".to_owned(), Value::from(reason))]);
    body.extend(members(status, reason));
    body.into()
}

/// An error as a reply, to be finished. Its body has `error`, or says `exception` in `status`, or both.
pub fn reply(status: StatusCode, body: Value) -> warp::reply::Response {
    let mut response = json_reply(status, &body);
    if let Value::Object(body) = body {
        response.extensions_mut().insert(Unfinished(body));
    }
    response
}

/// Finishes the body of a reply that is an error; any other one stays as it is.
pub fn finish<B: From<Bytes>>(mut response: Response<B>, asker: &Asker, request_id: &RequestId) -> Response<B> {
    let status = response.status();
    // `legacy_status` makes 200 of some: their bodies stay those of the Python program, too.
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let Some(Unfinished(own)) = response.extensions_mut().remove() else {
        return response;
    };
    let is_problem = asker.wants_problem();
    let Some(mut body) = with_members(own, status, is_problem) else {
        return varies(response);
    };
    body.insert("instance".to_owned(), instance(asker.path(), request_id).into());
    let (mut parts, _) = response.into_parts();
    if is_problem {
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    }
    let text = Value::from(body).to_string();
    varies(Response::from_parts(parts, B::from(text.into())))
}

/// Says that the answer hangs on what the client accepts.
fn varies<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// The members of RFC 9457 beside those that are there. `None` leaves an exception as old clients know it: its `status`
/// and `type` mean something else there.
fn with_members(mut own: Map<String, Value>, status: StatusCode, is_problem: bool) -> Option<Map<String, Value>> {
    let text = |name: &str| own.get(name).and_then(Value::as_str);
    let is_exception = text("status") == Some("exception");
    if is_exception && !is_problem {
        return None;
    }
    let of_exception = || format!("{}: {}", text("type").unwrap_or_default(), text("message").unwrap_or_default());
    // A file that does not load has both.
    let detail = text("error").map_or_else(of_exception, str::to_owned);
    if is_exception {
        let kind = own.get("type").cloned().unwrap_or_default();
        own.insert("exception".to_owned(), kind);
        own.insert("error".to_owned(), detail.as_str().into());
    }
    own.extend(members(status, &detail));
    Some(own)
}

fn members(status: StatusCode, detail: &str) -> Map<String, Value> {
    let title = status.canonical_reason().unwrap_or("Error");
    let members = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    members.as_object().cloned().unwrap_or_default()
}

/// What names this occurrence: the address that was asked, and the request.
fn instance(path: &str, request_id: &RequestId) -> String {
    format!("{}#{request_id}", utf8_percent_encode(path, NOT_IN_PATH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(accept: &'static str) -> Asker {
        Asker::of(&Request::builder().uri("/a%20b?apikey=x").header("accept", accept).body(()).expect("a request"))
    }

    #[test]
    fn only_who_asks_for_a_problem_gets_one() {
        for accept in ["application/problem+json", "text/html, Application/Problem+JSON ;q=0.5"] {
            assert!(asker(accept).wants_problem(), "{accept}");
        }
        for accept in
            ["", "*/*", "application/json", "application/problem+json;q=0", "application/problem+json; q=0.000"]
        {
            assert!(!asker(accept).wants_problem(), "{accept}");
        }
    }

    #[test]
    fn the_query_stays_out_of_the_instance() {
        let of = |path: &str| instance(path, &RequestId::Given(HeaderValue::from_static("id")));
        assert_eq!(of(asker("").path()), "/a%20b#id");
        assert_eq!(of("/{a}|é"), "/%7Ba%7D%7C%C3%A9#id");
    }

    #[test]
    fn what_is_no_error_any_more_keeps_its_body() {
        let mut response = reply(StatusCode::FORBIDDEN, json!({"error": "unauthorized"})).map(|_| Bytes::new());
        *response.status_mut() = StatusCode::OK;
        let finished = finish(response, &asker(PROBLEM_JSON), &RequestId::make());
        assert_eq!(finished.headers()[header::CONTENT_TYPE], crate::exchange::JSON);
        assert!(finished.into_body().is_empty());
    }
}
