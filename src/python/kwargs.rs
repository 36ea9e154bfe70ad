//! [`PluginRequest`] -> the keyword arguments of a handler: body fields, then the query's, then what no client can
//! replace.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex};

use http::{HeaderName, header};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use super::event_loop::LoopQueue;
use super::request::{NativeRequest, header_text, usual_spelling};
use super::ticket::{Ticket, lock};
use crate::exchange::{BodyFields, PluginRequest};

/// Builds the keyword arguments of one call. `None`: the body does not hold the key that it must.
pub(super) fn build<'py>(
    py: Python<'py>,
    ticket: &Arc<Ticket>,
    queue: &Arc<LoopQueue>,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let (instance, request) = (&ticket.instance, &ticket.request);
    let json = json_fields(py, request)?;
    if !holds_key(json.as_ref(), request)? {
        return Ok(None);
    }
    let data = match json {
        Some(fields) => fields,
        None => form_fields(py, &request.form)?,
    };
    add_first_of_each(&data, request.query())?;
    let own_name = instance.self_name(py);
    if data.contains(own_name)? {
        data.del_item(own_name)?;
    }
    let native = NativeRequest::new(Arc::clone(ticket), Arc::clone(queue));
    data.set_item(intern!(py, "request"), request_object(py, native)?)?;
    data.set_item(intern!(py, "request_headers"), request_headers(py, request)?)?;
    data.set_item(intern!(py, "log"), instance.log(py))?;
    data.set_item(intern!(py, "client_ip"), &*request.client_ip)?;
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

/// What plugins know as `request`. Its class has no constructor of its own: that would be a call of Python code.
fn request_object<'py>(py: Python<'py>, native: NativeRequest) -> PyResult<Bound<'py, PyAny>> {
    static NEW: PyOnceLock<(Py<PyAny>, Py<PyTuple>)> = PyOnceLock::new();
    let (new, class) = NEW.get_or_try_init(py, || {
        let class = py.import("pserve_runtime.request")?.getattr("Request")?;
        let new = class.getattr("__new__")?;
        PyResult::Ok((new.unbind(), PyTuple::new(py, [class])?.unbind()))
    })?;
    let request = new.bind(py).call1(class.bind(py))?;
    request.setattr(intern!(py, "_native"), native)?;
    Ok(request)
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

/// Names of fields that are kept as Python text.
const MOST_KNOWN_NAMES: usize = 256;

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
        BodyFields::UrlEncoded(fields) => add_first_of_each(&data, fields.iter().map(|(name, value)| (name, value)))?,
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
fn add_first_of_each(
    data: &Bound<'_, PyDict>,
    mut fields: impl Iterator<Item = (impl AsRef<str>, impl AsRef<str>)>,
) -> PyResult<()> {
    let Some(first) = fields.next() else {
        return Ok(());
    };
    data.set_item(first.0.as_ref(), first.1.as_ref())?;
    let mut rest = fields.peekable();
    if rest.peek().is_none() {
        return Ok(());
    }
    let mut seen = HashSet::from([first.0.as_ref().to_owned()]);
    for (name, value) in rest {
        if !seen.contains(name.as_ref()) {
            data.set_item(name.as_ref(), value.as_ref())?;
            seen.insert(name.as_ref().to_owned());
        }
    }
    Ok(())
}

/// A field's name as Python text; of those that come again and again there is one.
fn header_name<'py>(py: Python<'py>, name: &HeaderName) -> Bound<'py, PyString> {
    static KNOWN: LazyLock<Mutex<HashMap<HeaderName, Py<PyString>>>> = LazyLock::new(Mutex::default);
    let text = || PyString::new(py, &usual_spelling(name.as_str()));
    let mut known = lock(&KNOWN);
    match known.get(name) {
        Some(text) => text.bind(py).clone(),
        None if known.len() == MOST_KNOWN_NAMES => text(),
        None => {
            let text = text();
            known.insert(name.clone(), text.clone().unbind());
            text
        }
    }
}

fn request_headers<'py>(py: Python<'py>, request: &PluginRequest) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class =
        CLASS.get_or_try_init(py, || py.import("pserve_runtime.multimap")?.getattr("Headers").map(Bound::unbind))?;
    let headers = class.bind(py).call0()?;
    let as_dict = headers.cast::<PyDict>()?;
    for name in request.headers.keys() {
        let value = request.headers.get(name).expect("a name of the map has a value");
        as_dict.set_item(header_name(py, name), header_text(py, value.as_bytes())?)?;
    }
    Ok(headers)
}
