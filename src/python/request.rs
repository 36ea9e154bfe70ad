//! The server's side of the request object that plugins see: parts of a request, made when Python asks for them.

use std::sync::Arc;

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::event_loop::LoopQueue;
use super::reply;
use super::streams::{ByteSink, ByteSource};
use super::ticket::Ticket;
use crate::exchange::{BodyFields, PluginReply, PluginRequest, ReplyBody};
use crate::pipe::{PipeWriter, pipe};

/// What `pserve_runtime.request.Request` is built on.
#[pyclass(frozen)]
pub(super) struct NativeRequest {
    ticket: Arc<Ticket>,
    queue: Arc<LoopQueue>,
}

impl NativeRequest {
    pub(super) fn new(ticket: Arc<Ticket>, queue: Arc<LoopQueue>) -> Self {
        Self { ticket, queue }
    }

    fn request(&self) -> &PluginRequest {
        &self.ticket.request
    }

    fn begin_with(&self, reply: PluginReply, writer: PipeWriter) -> PyResult<ByteSink> {
        let writer = Arc::new(writer);
        if !self.ticket.outlet.begin(reply, Arc::clone(&writer)) {
            return Err(PyRuntimeError::new_err("this request has been answered already"));
        }
        Ok(ByteSink::new(writer, &self.queue))
    }
}

type HeaderPairs = Vec<(String, String)>;

#[pymethods]
impl NativeRequest {
    #[getter]
    fn method(&self) -> &str {
        self.request().method.as_str()
    }

    #[getter]
    fn raw_path(&self) -> &str {
        self.request().raw_path()
    }

    #[getter]
    fn path(&self) -> String {
        percent_decode_str(self.request().raw_path()).decode_utf8_lossy().into_owned()
    }

    #[getter]
    fn query_string(&self) -> &str {
        self.request().raw_query()
    }

    #[getter]
    fn query(&self) -> Vec<(String, String)> {
        self.request().query().into_owned().collect()
    }

    #[getter]
    fn version(&self) -> (u8, u8) {
        self.request().version
    }

    #[getter]
    fn scheme(&self) -> &str {
        self.request().scheme
    }

    #[getter]
    fn forwarded_host(&self) -> Option<&str> {
        self.request().forwarded_host.as_deref()
    }

    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for (name, value) in &self.request().headers {
            list.append((usual_spelling(name.as_str()), header_text(py, value.as_bytes())?))?;
        }
        Ok(list)
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.request().body)
    }

    #[getter]
    fn has_body(&self) -> bool {
        !self.request().body.is_empty()
            || self.request().streamed_body.is_some()
            || announces_body(&self.request().headers)
    }

    /// Form fields as (name, value, file name or None, content type or None).
    #[getter]
    fn form<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        match &self.request().form {
            BodyFields::None => {}
            BodyFields::UrlEncoded(fields) => {
                for (name, value) in fields {
                    list.append((name, value, py.None(), py.None()))?;
                }
            }
            BodyFields::Multipart(parts) => {
                for part in parts {
                    let value = match part.file_name {
                        Some(_) => PyBytes::new(py, &part.data).into_any(),
                        None => PyString::new(py, &part.text()).into_any(),
                    };
                    list.append((&part.name, value, &part.file_name, &part.content_type))?;
                }
            }
        }
        Ok(list)
    }

    #[getter]
    fn peername<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        address(py, self.request().peer)
    }

    #[getter]
    fn sockname<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        address(py, self.request().local)
    }

    #[getter]
    fn client_ip(&self) -> &str {
        &self.request().client_ip
    }

    #[getter]
    fn request_id(&self) -> String {
        self.request().request_id.to_string()
    }

    #[getter]
    fn plugin_id(&self) -> &str {
        self.ticket.instance.id()
    }

    /// The body as it comes; `None` when it has been read already.
    #[getter]
    fn body_source(&self) -> Option<ByteSource> {
        ByteSource::of_body(&self.ticket, &self.queue)
    }

    /// How much of a body `read()` takes.
    #[getter]
    fn max_body_bytes(&self) -> usize {
        self.request().max_body_bytes
    }

    /// Whether the client has left before its answer was complete.
    #[getter]
    fn is_disconnected(&self) -> bool {
        self.ticket.outlet.is_disconnected()
    }

    /// Sends the head of a reply; the body goes into what this gives.
    fn begin(&self, status: u16, reason: String, headers: HeaderPairs, length: Option<u64>) -> PyResult<ByteSink> {
        let (writer, bytes) = pipe();
        let body = ReplyBody::Streamed { bytes, length };
        self.begin_with(reply::streamed_reply(status, reason, &headers, body)?, writer)
    }

    /// Sends the head of a reply after which the connection is the handler's own.
    fn upgrade(&self, reason: String, headers: HeaderPairs) -> PyResult<(ByteSource, ByteSink)> {
        let (received, incoming) = pipe();
        let (writer, sent) = pipe();
        let body = ReplyBody::Upgraded { received, sent };
        let sink = self.begin_with(reply::streamed_reply(101, reason, &headers, body)?, writer)?;
        Ok((ByteSource::of_connection(incoming, &self.queue), sink))
    }

    #[getter]
    fn subpath(&self) -> Option<&str> {
        self.request().subpath.as_deref()
    }
}

fn announces_body(headers: &HeaderMap) -> bool {
    let length = headers.get(http::header::CONTENT_LENGTH);
    length.is_some_and(|length| length != "0") || headers.contains_key(http::header::TRANSFER_ENCODING)
}

/// An address as Python's sockets give it: two members for IPv4, four for IPv6.
fn address(py: Python<'_>, address: std::net::SocketAddr) -> PyResult<Bound<'_, PyTuple>> {
    let ip = address.ip().to_string();
    match address {
        std::net::SocketAddr::V4(address) => (ip, address.port()).into_pyobject(py),
        std::net::SocketAddr::V6(address) => {
            (ip, address.port(), address.flowinfo(), address.scope_id()).into_pyobject(py)
        }
    }
}

/// A header's value as aiohttp gives it: UTF-8, other bytes as lone surrogates.
pub(super) fn header_text<'py>(py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match std::str::from_utf8(value) {
        Ok(text) => Ok(PyString::new(py, text).into_any()),
        Err(_) => PyBytes::new(py, value).call_method1("decode", ("utf-8", "surrogateescape")),
    }
}

/// A header's name as people write it. HTTP/2 sends names in lower case and HTTP/1.1 leaves it open
/// (RFC 9110, 5.1); plugins look for `X-Forwarded-For`.
pub(super) fn usual_spelling(lower: &str) -> String {
    match lower {
        "etag" => return "ETag".to_owned(),
        "www-authenticate" => return "WWW-Authenticate".to_owned(),
        "te" => return "TE".to_owned(),
        "dnt" => return "DNT".to_owned(),
        _ => {}
    }
    let mut name = String::with_capacity(lower.len());
    let mut starts_word = true;
    for c in lower.chars() {
        name.push(if starts_word { c.to_ascii_uppercase() } else { c });
        starts_word = c == '-';
    }
    name.replace("Websocket", "WebSocket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt_as_people_write_them() {
        for name in ["X-Forwarded-For", "ETag", "Content-Type", "Sec-WebSocket-Key", "WWW-Authenticate"] {
            assert_eq!(usual_spelling(&name.to_lowercase()), name);
        }
    }
}
