//! [`PluginRequest`] -> the keyword arguments of a handler: body fields, then the query's, then what no client can
//! replace.

use std::collections::HashSet;
use std::sync::Arc;

use http::header;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::event_loop::LoopQueue;
use super::request::{NativeRequest, header_text, usual_spelling};
use super::ticket::Ticket;
use crate::exchange::{BodyFields, PluginRequest};

/// Builds the keyword arguments of one call. `None`: the body does not hold the key that it must.
pub(super) fn build<'py>(
    py: Python<'py>,
    ticket: &Ticket,
    queue: &Arc<LoopQueue>,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Ticket { instance, request, outlet, .. } = ticket;
    let json = json_fields(py, request)?;
    if !holds_key(json.as_ref(), request)? {
        return Ok(None);
    }
    let data = match json {
        Some(fields) => fields,
        None => form_fields(py, &request.form)?,
    };
    add_first_of_each(&data, &request.query)?;
    let own_name = instance.self_name();
    if data.contains(own_name)? {
        data.del_item(own_name)?;
    }
    let native = NativeRequest::new(Arc::clone(request), instance.id_arc(), Arc::clone(outlet), Arc::clone(queue));
    data.set_item(intern!(py, "request"), request_class(py)?.call1((native,))?)?;
    data.set_item(intern!(py, "request_headers"), request_headers(py, request)?)?;
    data.set_item(intern!(py, "log"), instance.log(py))?;
    data.set_item(intern!(py, "client_ip"), &request.client_ip)?;
    data.set_item(intern!(py, "subpath"), request.subpath.as_deref())?;
    Ok(Some(data))
}

fn holds_key(json: Option<&Bound<'_, PyDict>>, request: &PluginRequest) -> PyResult<bool> {
    let Some(wanted) = &request.body_key else {
        return Ok(true);
    };
    let given = json.map(|fields| fields.get_item("apikey")).transpose()?.flatten();
    Ok(given.is_some_and(|given| given.extract::<String>().is_ok_and(|given| wanted.matches(given.as_bytes()))))
}

fn request_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class =
        CLASS.get_or_try_init(py, || py.import("pserve_runtime.request")?.getattr("Request").map(Bound::unbind))?;
    Ok(class.bind(py))
}

/// The members of a JSON object in the body, whatever the content type says; `None` when it is anything else.
fn json_fields<'py>(py: Python<'py>, request: &PluginRequest) -> PyResult<Option<Bound<'py, PyDict>>> {
    if matches!(request.form, BodyFields::Multipart(_)) || !may_be_json_object(&request.body) {
        return Ok(None);
    }
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let loads = LOADS.get_or_try_init(py, || py.import("json")?.getattr("loads").map(Bound::unbind))?;
    let body = PyBytes::new(py, &request.body);
    let text = match charset(request) {
        Some(charset) => body.call_method1(intern!(py, "decode"), (charset,)),
        None => Ok(body.into_any()),
    };
    // Not JSON after all (or nested beyond Python's patience): the body is not merged, `request` still reads it.
    let parsed = text.and_then(|text| loads.bind(py).call1((text,)));
    Ok(parsed.ok().and_then(|parsed| parsed.cast_into_exact::<PyDict>().ok()))
}

/// Whether it is worth trying: an object begins with a brace, or with the mark of another Unicode encoding.
fn may_be_json_object(body: &[u8]) -> bool {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    first.is_some_and(|byte| matches!(byte, b'{' | 0 | 0xef | 0xfe | 0xff))
}

/// Python's codecs for names of hosts, not for text: a megabyte would keep one of them busy for a minute.
const NO_CHARSETS: [&str; 2] = ["punycode", "idna"];

/// The body's charset when it is not UTF-8, which `json.loads` detects itself.
fn charset(request: &PluginRequest) -> Option<&str> {
    let content_type = request.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, charset) = parameters.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    let charset = charset.trim().trim_matches('"');
    // Python looks a codec up by its letters and digits.
    let name = charset.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let is_other = !charset.is_empty() && !charset.eq_ignore_ascii_case("utf-8");
    (is_other && !NO_CHARSETS.iter().any(|codec| name.eq_ignore_ascii_case(codec))).then_some(charset)
}

fn form_fields<'py>(py: Python<'py>, form: &BodyFields) -> PyResult<Bound<'py, PyDict>> {
    let data = PyDict::new(py);
    match form {
        BodyFields::None => {}
        BodyFields::UrlEncoded(fields) => add_first_of_each(&data, fields)?,
        BodyFields::Multipart(parts) => {
            for part in parts {
                if data.contains(&part.name)? {
                    continue;
                }
                match &part.file_name {
                    None => data.set_item(&part.name, part.text())?,
                    Some(file_name) => {
                        let make = py.import("pserve_runtime.request")?.getattr("file_field")?;
                        let bytes = PyBytes::new(py, &part.data);
                        data.set_item(&part.name, make.call1((&part.name, file_name, bytes, &part.content_type))?)?;
                    }
                }
            }
        }
    }
    Ok(data)
}

/// Sets fields, over those that are there; of a repeated name the first one counts.
fn add_first_of_each(data: &Bound<'_, PyDict>, fields: &[(String, String)]) -> PyResult<()> {
    if let [(name, value)] = fields {
        return data.set_item(name, value);
    }
    let mut seen = HashSet::new();
    for (name, value) in fields {
        if seen.insert(name) {
            data.set_item(name, value)?;
        }
    }
    Ok(())
}

fn request_headers<'py>(py: Python<'py>, request: &PluginRequest) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class =
        CLASS.get_or_try_init(py, || py.import("pserve_runtime.multimap")?.getattr("Headers").map(Bound::unbind))?;
    let headers = class.bind(py).call0()?;
    let as_dict = headers.cast::<PyDict>()?;
    for name in request.headers.keys() {
        let value = request.headers.get(name).expect("a name of the map has a value");
        let name = PyString::new(py, &usual_spelling(name.as_str()));
        as_dict.set_item(name, header_text(py, value.as_bytes())?)?;
    }
    Ok(headers)
}
