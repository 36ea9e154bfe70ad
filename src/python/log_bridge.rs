//! Python log records -> the server's log: a handler on the root logger, and the levels that were asked for.

use std::collections::HashMap;

use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::logging::{self, Record, Severity};

/// Installs the handler. Records below the level are dropped in Python, before they cost anything here.
pub(super) fn install(py: Python<'_>) -> PyResult<()> {
    py.import("pserve_runtime.logs")?.call_method0("install")?;
    Ok(())
}

/// Adds what `pserve_runtime.logs` is built on.
pub(super) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(write_log, module)?)?;
    module.add_function(wrap_pyfunction!(log_levels, module)?)?;
    module.add_function(wrap_pyfunction!(level_of_logger, module)?)?;
    module.add_function(wrap_pyfunction!(logger_belongs_to, module)?)
}

/// Writes one record to the server's log. `plugin` is the one whose code has made it.
#[pyfunction(name = "log")]
#[pyo3(signature = (number, name, message, traceback=None, plugin=None))]
fn write_log(
    py: Python<'_>,
    number: i32,
    name: &Bound<'_, PyString>,
    message: &Bound<'_, PyString>,
    traceback: Option<&Bound<'_, PyString>>,
    plugin: Option<&Bound<'_, PyString>>,
) -> PyResult<()> {
    let severity = Severity::from_python_number(number);
    let (name, message) = (text(name)?, text(message)?);
    let (traceback, plugin) = (traceback.map(text).transpose()?, plugin.map(text).transpose()?);
    let request_id = super::context::current_request(py).unwrap_or_default();
    py.detach(|| {
        let fields = Record {
            request_id: request_id.as_ref(),
            traceback: traceback.as_deref(),
            plugin: plugin.as_deref(),
            ..Record::new(severity, &name, &message)
        };
        fields.emit();
    });
    Ok(())
}

/// The general level, and those that single loggers or plugins have, by name in lower case.
#[pyfunction]
fn log_levels() -> (i32, HashMap<String, i32>) {
    let levels = logging::levels();
    let own = levels.by_name.into_iter().map(|(name, level)| (name, level.python_number()));
    (levels.general.python_number(), own.collect())
}

/// The level that a logger has for itself; 0, as in Python, when it has none.
#[pyfunction]
fn level_of_logger(name: &Bound<'_, PyString>) -> PyResult<i32> {
    Ok(logging::level_of_logger(&text(name)?).map_or(0, Severity::python_number))
}

/// From now on a logger has the level of a plugin.
#[pyfunction]
fn logger_belongs_to(logger: &Bound<'_, PyString>, plugin: &Bound<'_, PyString>) -> PyResult<()> {
    logging::belongs_to(&text(logger)?, &text(plugin)?);
    Ok(())
}

/// A text as it is; a lone surrogate, which UTF-8 does not have, becomes its escape.
fn text(python: &Bound<'_, PyString>) -> PyResult<String> {
    match python.to_cow() {
        Ok(text) => Ok(text.into_owned()),
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(python.py()) => {
            let bytes = python.call_method1("encode", ("utf-8", "backslashreplace"))?;
            Ok(String::from_utf8_lossy(bytes.cast::<PyBytes>()?.as_bytes()).into_owned())
        }
        Err(error) => Err(error),
    }
}
