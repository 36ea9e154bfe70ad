//! [`PluginReply`] or [`ApiError`] -> HTTP. The one place that picks an error's status code.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::ext::ReasonPhrase;
use serde_json::{Value, json};
use warp::reply::{Reply, Response};

use super::body::SetAside;
use super::body_pace::TOO_SLOW;
use super::problem;
use crate::dev::errors::Excerpt;
use crate::exchange::{CallError, ControlError, JSON, PluginReply, PythonError, Raised, ReplyBody};

/// Every reason to answer with an error.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("no such route: {path}{hint}")]
    NotFound { path: String, hint: String },
    #[error("method {method} is not allowed here")]
    MethodNotAllowed { method: String, allow: String },
    #[error("the body is larger than {limit_bytes} bytes")]
    BodyTooLarge { limit_bytes: usize },
    #[error("{TOO_SLOW}")]
    BodyTooSlow,
    #[error("{0}")]
    BadRequest(String),
    #[error("unauthorized")]
    Unauthorized,
    /// What a page of another site had a browser ask for.
    #[error("{0}")]
    Foreign(&'static str),
    #[error("too many calls of this plugin are waiting")]
    Overloaded,
    #[error("too many watch this server already")]
    TooManyWatch,
    #[error("/{id} is in quarantine: {reason}; /reload/{id} gives it another chance")]
    Quarantined { id: String, reason: String },
    #[error("/{id} is not there yet: it waits for its old self to end")]
    NotThereYet { id: String },
    /// Under `pserve dev`: what the file's last load said, and the source around it.
    #[error("{file} does not load: {words}")]
    DoesNotLoad { file: String, words: String, error: Box<PythonError>, excerpt: Option<Excerpt> },
    #[error("{0}")]
    Call(CallError),
    #[error("{0}")]
    Control(#[from] ControlError),
}

/// Marks a reply whose status a plugin has set in a response object.
#[derive(Debug, Clone, Copy)]
pub struct OwnStatus;

/// A JSON reply.
pub fn json_reply(status: StatusCode, body: &Value) -> Response {
    plugin_reply(PluginReply::new(status.as_u16(), JSON, body.to_string()))
}

/// A plugin's reply as it is. Its length is that of the body that is sent, and the connection is the server's own
/// affair, but for a plugin that wants it closed or has taken it over.
pub fn plugin_reply(reply: PluginReply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let is_upgrade = matches!(reply.body, ReplyBody::Upgraded { .. });
    let has_no_body = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let mut response = match reply.body {
        _ if has_no_body => Response::default(),
        ReplyBody::Whole(bytes) => Response::new(bytes.into()),
        body => {
            let mut response = Response::default();
            response.extensions_mut().insert(SetAside::new(body));
            response
        }
    };
    *response.status_mut() = status;
    if reply.is_response {
        response.extensions_mut().insert(OwnStatus);
    }
    let own_reason = reply.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok());
    // hyper would write `<none>` after a code that has no usual words.
    let no_words = || status.canonical_reason().is_none().then(|| ReasonPhrase::from_static(b""));
    if let Some(reason) = own_reason.or_else(no_words) {
        response.extensions_mut().insert(reason);
    }
    let headers = response.headers_mut();
    if let Some(content_type) = reply.content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    for (name, value) in reply.headers {
        let is_ours = match name {
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => true,
            header::CONNECTION => !is_upgrade && !value.as_bytes().eq_ignore_ascii_case(b"close"),
            _ => false,
        };
        if !is_ours {
            headers.append(name, value);
        }
    }
    if has_no_body {
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    response
}

/// A reply without a body that names the methods a route takes.
pub fn options_reply(allow: &str) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(header::ALLOW, header_value(allow));
    response
}

/// An error as JSON. `debug` adds the traceback.
pub fn error_reply(error: ApiError, debug: bool) -> Response {
    let mut headers = HeaderMap::new();
    let (status, body) = match error {
        ApiError::NotFound { .. } => (StatusCode::NOT_FOUND, named(&error)),
        ApiError::MethodNotAllowed { ref allow, .. } => {
            headers.insert(header::ALLOW, header_value(allow));
            (StatusCode::METHOD_NOT_ALLOWED, named(&error))
        }
        ApiError::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, named(&error)),
        ApiError::BodyTooSlow => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            (StatusCode::REQUEST_TIMEOUT, named(&error))
        }
        ApiError::BadRequest(_) | ApiError::Call(CallError::UnreadableBody(_)) => {
            // Where a body ends that cannot be read, nobody knows.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            (StatusCode::BAD_REQUEST, named(&error))
        }
        ApiError::Unauthorized | ApiError::Call(CallError::Refused) => {
            (StatusCode::FORBIDDEN, json!({"error": "unauthorized"}))
        }
        ApiError::Call(CallError::TimedOut { .. }) => (StatusCode::GATEWAY_TIMEOUT, named(&error)),
        ApiError::Foreign(_) => (StatusCode::FORBIDDEN, named(&error)),
        ApiError::Overloaded
        | ApiError::TooManyWatch
        | ApiError::NotThereYet { .. }
        | ApiError::Call(CallError::NoThread | CallError::LoopStalled) => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            (StatusCode::SERVICE_UNAVAILABLE, named(&error))
        }
        ApiError::Quarantined { .. } => (StatusCode::SERVICE_UNAVAILABLE, named(&error)),
        ApiError::Call(CallError::Raised(raised)) => (StatusCode::INTERNAL_SERVER_ERROR, exception(raised, debug)),
        ApiError::DoesNotLoad { error: ref failed, ref excerpt, .. } => {
            let mut body = named(&error);
            if let (Some(members), Value::Object(more)) = (body.as_object_mut(), python_error(failed, debug)) {
                members.extend(more);
            }
            body["source"] = excerpt.as_ref().map(|excerpt| excerpt.lines.clone()).into();
            (StatusCode::INTERNAL_SERVER_ERROR, body)
        }
        ApiError::Call(CallError::Lost) => (StatusCode::INTERNAL_SERVER_ERROR, named(&error)),
        ApiError::Control(ControlError::NoSuchPlugin(_) | ControlError::NoSuchFile(_) | ControlError::Gone { .. }) => {
            (StatusCode::NOT_FOUND, named(&error))
        }
        ApiError::Control(ControlError::Config(ref problem)) => {
            let failed = PythonError {
                file: Some(problem.file.display().to_string()),
                line: problem.line.and_then(|line| line.try_into().ok()),
                ..PythonError::new("ConfigError", error.to_string())
            };
            (StatusCode::INTERNAL_SERVER_ERROR, without_success(python_error(&failed, false)))
        }
        ApiError::Control(ControlError::Folder(_)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, without_success(named(&error)))
        }
        ApiError::Control(ControlError::Interrupted(_)) => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            (StatusCode::SERVICE_UNAVAILABLE, without_success(named(&error)))
        }
        ApiError::Control(ControlError::Failed(failed)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, without_success(python_error(&failed, debug)))
        }
    };
    let mut response = problem::reply(status, body);
    response.headers_mut().extend(headers);
    response
}

/// An error of Python code as replies and the status name it. The traceback only when asked for.
pub fn python_error(error: &PythonError, with_traceback: bool) -> Value {
    let mut body = json!({
        "status": "exception",
        "type": error.kind,
        "message": error.message,
        "file": error.file,
        "line": error.line,
    });
    if with_traceback {
        body["traceback"] = error.traceback.clone().into();
    }
    body
}

fn exception(raised: Raised, with_traceback: bool) -> Value {
    let mut body = json!({"status": "exception", "type": raised.kind, "message": raised.message});
    if with_traceback {
        body["traceback"] = raised.traceback.into();
    }
    body
}

fn named(error: &ApiError) -> Value {
    json!({"error": error.to_string()})
}

/// What clients of the control routes look at.
fn without_success(mut body: Value) -> Value {
    body["success"] = Value::Bool(false);
    body
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("GET, POST"))
}
