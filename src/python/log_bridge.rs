//! Python log records -> the server's log: a handler on the root logger, and the level that was asked for.

use pyo3::prelude::*;

use crate::logging::Severity;

/// Installs the handler. Records below the level are dropped in Python, before they cost anything here.
pub(super) fn install(py: Python<'_>, level: Severity) -> PyResult<()> {
    py.import("pserve_runtime.logs")?.call_method1("install", (level.python_number(),))?;
    Ok(())
}
