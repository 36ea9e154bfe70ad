//! A Python exception -> [`PythonError`], plain data.

use pyo3::prelude::*;
use pyo3::types::PyDict;

pub use crate::exchange::PythonError;

impl PythonError {
    /// The description that `pserve_runtime.loader.describe` makes.
    pub(super) fn from_description(description: &Bound<'_, PyDict>) -> PyResult<Self> {
        fn field<'py, T: FromPyObjectOwned<'py>>(from: &Bound<'py, PyDict>, name: &str) -> Option<T> {
            from.get_item(name).ok().flatten()?.extract().ok()
        }
        Ok(Self {
            kind: field(description, "type").unwrap_or_default(),
            message: field(description, "message").unwrap_or_default(),
            file: field(description, "file"),
            line: field(description, "line"),
            traceback: field(description, "traceback").unwrap_or_default(),
        })
    }

    /// An exception, with its traceback as Python prints it.
    pub(super) fn from_exception(py: Python<'_>, error: &PyErr) -> Self {
        let value = error.value(py);
        let kind = value.get_type().name().map(|name| name.to_string()).unwrap_or_default();
        let message = match value.str() {
            Ok(text) => text.to_string_lossy().into_owned(),
            Err(_) => "(its text cannot be made)".to_owned(),
        };
        let traceback = format_traceback(py, error).unwrap_or_else(|_| format!("{kind}: {message}"));
        Self { kind, message, traceback, ..Self::default() }
    }
}

fn format_traceback(py: Python<'_>, error: &PyErr) -> PyResult<String> {
    py.import("pserve_runtime.loader")?.call_method1("format_error", (error.value(py),))?.extract()
}
