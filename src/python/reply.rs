//! What a handler returned -> [`PluginReply`]: plain Python values, `(code, body)`, and aiohttp's responses.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyInt, PyList, PyString, PyTuple};

use super::coroutine::is_plain_answer;
use super::json;
use super::native::loaded_module;
use crate::exchange::{JSON, PluginReply, ReplyBody};

const HTML: &str = "text/html; charset=utf-8";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";

/// Converts a return value. `None` when it is an aiohttp response that has to send itself, on the loop.
/// `is_old_style` tells that it comes from an overridden `handle_request`, whose strings are plain text.
pub(super) fn convert(value: &Bound<'_, PyAny>, is_old_style: bool) -> PyResult<Option<PluginReply>> {
    let (status, body) = split_code(value)?;
    // A response says its own status, also inside a tuple.
    if is_aiohttp_response(&body)? {
        return aiohttp_response(&body);
    }
    body_reply(status, &body, is_old_style).map(Some)
}

/// Whether the value is a response of aiohttp: any kind, an HTTP exception included.
pub(super) fn is_aiohttp_response(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    if is_plain_answer(value) {
        return Ok(false);
    }
    let py = value.py();
    // Asked each time: a plugin may import the package later, and take it from `sys.modules` again.
    let Some(module) = loaded_module(intern!(py, "aiohttp.web_response"))? else {
        return Ok(false);
    };
    match module.getattr(intern!(py, "StreamResponse")) {
        Ok(class) => value.is_instance(&class),
        Err(_) => Ok(false),
    }
}

/// `(code, body)`. A named tuple of two is one as well when its first member can be a code; it may be data by chance.
fn split_code<'py>(value: &Bound<'py, PyAny>) -> PyResult<(u16, Bound<'py, PyAny>)> {
    let whole = || Ok((200, value.clone()));
    let Ok(pair) = value.cast::<PyTuple>() else {
        return whole();
    };
    if pair.len() != 2 {
        return whole();
    }
    let code = pair.get_item(0)?;
    if !code.is_instance_of::<PyInt>() || code.is_instance_of::<PyBool>() {
        return whole();
    }
    match code.extract::<u16>() {
        Ok(code) if (200..=599).contains(&code) => Ok((code, pair.get_item(1)?)),
        _ if !value.is_exact_instance_of::<PyTuple>() => whole(),
        _ => {
            let code = describe(&code);
            Err(PyValueError::new_err(format!("{code} is no HTTP status code; return one from 200 to 599")))
        }
    }
}

fn describe(value: &Bound<'_, PyAny>) -> String {
    value.str().map_or_else(|_| "it".to_owned(), |text| text.to_string_lossy().into_owned())
}

fn body_reply(status: u16, body: &Bound<'_, PyAny>, is_old_style: bool) -> PyResult<PluginReply> {
    if let Ok(text) = body.cast::<PyString>() {
        let content_type = if is_old_style { PLAIN_TEXT } else { HTML };
        return Ok(PluginReply::new(status, content_type, text.to_string_lossy().into_owned()));
    }
    if let Ok(bytes) = body.cast::<PyBytes>() {
        return Ok(PluginReply::new(status, BYTES, bytes.as_bytes().to_vec()));
    }
    if let Ok(bytes) = body.cast::<PyByteArray>() {
        return Ok(PluginReply::new(status, BYTES, bytes.to_vec()));
    }
    if body.is_none() || body.is_instance_of::<PyDict>() || body.is_instance_of::<PyList>() {
        return Ok(PluginReply::new(status, JSON, json::to_json(body)?));
    }
    let result = PyDict::new(body.py());
    result.set_item("result", body.str()?)?;
    Ok(PluginReply::new(status, JSON, json::to_json(&result)?))
}

/// `None` for a response that has to send itself: one that streams, compresses, or has begun already.
fn aiohttp_response(response: &Bound<'_, PyAny>) -> PyResult<Option<PluginReply>> {
    let py = response.py();
    let body = match response.getattr_opt(intern!(py, "body"))? {
        None => return Ok(None),
        Some(body) if body.is_none() => Bytes::new(),
        Some(body) => match body.extract::<Vec<u8>>() {
            Ok(bytes) if is_bytes_like(&body) => Bytes::from(bytes),
            _ => return Ok(None),
        },
    };
    for sends_itself in [intern!(py, "prepared"), intern!(py, "compression")] {
        if response.getattr(sends_itself)?.is_truthy()? {
            return Ok(None);
        }
    }
    let status = final_status(response.getattr(intern!(py, "status"))?.extract()?)?;
    let mut headers = Vec::new();
    for pair in response.getattr(intern!(py, "headers"))?.call_method0(intern!(py, "items"))?.try_iter()? {
        let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair?.extract()?;
        headers.push(header(&name.str()?.to_string_lossy(), &value.str()?.to_string_lossy())?);
    }
    if !body.is_empty() && !headers.iter().any(|(name, _)| name == header::CONTENT_TYPE) {
        headers.push((header::CONTENT_TYPE, HeaderValue::from_static(BYTES)));
    }
    let cookies = response.getattr(intern!(py, "cookies"))?;
    for cookie in cookies.call_method0(intern!(py, "values"))?.try_iter()? {
        let text = cookie?.call_method0(intern!(py, "OutputString"))?;
        headers.push(header("set-cookie", &text.str()?.to_string_lossy())?);
    }
    if response.getattr(intern!(py, "keep_alive"))?.extract::<Option<bool>>()? == Some(false) {
        headers.push((header::CONNECTION, HeaderValue::from_static("close")));
    }
    let reason = own_reason(status, response.getattr(intern!(py, "reason"))?.extract()?)?;
    Ok(Some(PluginReply {
        status,
        reason,
        content_type: None,
        headers,
        body: ReplyBody::Whole(body),
        is_response: true,
    }))
}

/// The head of a reply that writes its own body.
pub(super) fn streamed_reply(
    status: u16,
    reason: String,
    headers: &[(String, String)],
    body: ReplyBody,
) -> PyResult<PluginReply> {
    let is_upgrade = matches!(body, ReplyBody::Upgraded { .. });
    let status = if is_upgrade { status } else { final_status(status)? };
    let headers = headers.iter().map(|(name, value)| header(name, value)).collect::<PyResult<_>>()?;
    Ok(PluginReply {
        status,
        reason: own_reason(status, Some(reason))?,
        content_type: None,
        headers,
        body,
        is_response: true,
    })
}

fn final_status(status: u16) -> PyResult<u16> {
    if StatusCode::from_u16(status).is_err() || status < 200 {
        return Err(PyValueError::new_err(format!("{status} is no status code for a response")));
    }
    Ok(status)
}

/// A reason phrase that is not the usual one of its status (RFC 9112, 4).
fn own_reason(status: u16, reason: Option<String>) -> PyResult<Option<String>> {
    let usual = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let Some(reason) = reason.filter(|reason| !reason.is_empty() && reason != usual) else {
        return Ok(None);
    };
    if reason.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(PyValueError::new_err(format!("the reason {reason:?} cannot be sent")));
    }
    Ok(Some(reason))
}

fn is_bytes_like(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyBytes>() || value.is_instance_of::<PyByteArray>()
}

fn header(name: &str, value: &str) -> PyResult<(HeaderName, HeaderValue)> {
    let bad = |what: &str| PyTypeError::new_err(format!("the response header {name:?} has {what}"));
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("a name that cannot be sent"))?;
    let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad("a value that cannot be sent"))?;
    Ok((parsed, value))
}
