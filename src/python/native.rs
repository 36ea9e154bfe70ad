//! The module `_pserve`: what the embedded Python code asks of the server.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString};

use crate::config::{self, Table, Value};
use crate::exit_status;
use crate::flight::{Entry, FlightRecorder};

/// Set in a child that a plugin forked from this process.
static IS_FORKED: AtomicBool = AtomicBool::new(false);

/// The flight recorder of this process, if it has one.
static FLIGHT: OnceLock<Arc<FlightRecorder>> = OnceLock::new();

/// Lets embedded code write into the flight recorder.
pub(super) fn record_flight(recorder: &Arc<FlightRecorder>) {
    let _ = FLIGHT.set(Arc::clone(recorder));
}

/// Ends a forked child that came back from plugin code into the server's: it shares the server's sockets.
pub(super) fn leave_if_forked() {
    if IS_FORKED.load(Ordering::Relaxed) {
        exit_status::leave(exit_status::CLEAN);
    }
}

/// A module that has been imported.
pub(super) fn loaded_module<'py>(name: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let py = name.py();
    let modules = MODULES.get_or_try_init(py, || {
        let modules = py.import("sys")?.getattr("modules")?;
        PyResult::Ok(modules.cast_into::<PyDict>()?.unbind())
    })?;
    modules.bind(py).get_item(name)
}

/// Makes the module. It goes into `sys.modules` before any embedded code is imported.
pub(super) fn module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    let module = PyModule::new(py, "_pserve")?;
    super::log_bridge::add_to(&module)?;
    module.add_function(wrap_pyfunction!(mark_forked, &module)?)?;
    module.add_function(wrap_pyfunction!(note, &module)?)?;
    module.add_function(wrap_pyfunction!(loading, &module)?)?;
    module.add_function(wrap_pyfunction!(terminating, &module)?)?;
    module.add_function(wrap_pyfunction!(parse_ini, &module)?)?;
    module.add_function(wrap_pyfunction!(keys_match, &module)?)?;
    module.add_function(wrap_pyfunction!(dumps, &module)?)?;
    module.add_function(wrap_pyfunction!(task_of_call, &module)?)?;
    module.add("OWN_SIGNALS", crate::shutdown::OWN_SIGNALS.to_vec())?;
    module.add_class::<super::websocket::WebSocketCodec>()?;
    super::sysinfo::add_to(&module)?;
    Ok(module)
}

/// Called in a child right after `os.fork()`.
#[pyfunction]
fn mark_forked() {
    IS_FORKED.store(true, Ordering::Relaxed);
    super::forked::close_in_child();
    if let Some(recorder) = FLIGHT.get() {
        recorder.disown();
    }
}

/// Leaves word in the flight recorder of what a plugin is about to do to the process.
#[pyfunction]
fn note(plugin: &str, words: &str) {
    if let Some(recorder) = FLIGHT.get() {
        recorder.note(plugin, words);
    }
}

/// Records that a plugin file loads, until the `with` statement ends.
#[pyfunction]
fn loading(path: &Bound<'_, PyString>) -> FlightEntry {
    FlightEntry::new(FLIGHT.get().map(|recorder| recorder.begin_load(&path.to_string_lossy())))
}

/// Records that a plugin terminates, until the `with` statement ends.
#[pyfunction]
fn terminating(plugin: &str) -> FlightEntry {
    FlightEntry::new(FLIGHT.get().map(|recorder| recorder.begin_terminate(plugin)))
}

/// An entry of the flight recorder as a context manager.
#[pyclass(frozen)]
struct FlightEntry {
    entry: Mutex<Option<Entry>>,
}

impl FlightEntry {
    fn new(entry: Option<Entry>) -> Self {
        Self { entry: Mutex::new(entry) }
    }
}

#[pymethods]
impl FlightEntry {
    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(&self, _kind: &Bound<'_, PyAny>, _error: &Bound<'_, PyAny>, _traceback: &Bound<'_, PyAny>) {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Reads an INI file into `{section: {key: typed value}}`. ValueError says file, place, and what is wrong.
#[pyfunction]
fn parse_ini<'py>(py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyDict>> {
    let table = py
        .detach(|| {
            let path = Path::new(path);
            Table::parse(&config::read_text(path)?, path)
        })
        .map_err(|problem| PyValueError::new_err(problem.to_string()))?;
    table_to_dict(py, &table)
}

/// JSON text of a value, by the rules of this server's replies.
#[pyfunction]
fn dumps(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let bytes = super::json::to_json(value)?;
    Ok(String::from_utf8(bytes).expect("JSON is UTF-8"))
}

/// The asyncio task of the call whose first step the calling thread takes; `None` when it takes none.
#[pyfunction]
fn task_of_call(py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    super::driver::own_task(py)
}

/// Compares two keys in constant time.
#[pyfunction]
fn keys_match(known: String, candidate: &str) -> bool {
    config::Secret::new(known).is_some_and(|known| known.matches(candidate.as_bytes()))
}

/// The table as plugins get it, before `Config` wraps it.
pub(super) fn table_to_dict<'py>(py: Python<'py>, table: &Table) -> PyResult<Bound<'py, PyDict>> {
    let sections = PyDict::new(py);
    for section in &table.sections {
        let keys = PyDict::new(py);
        for entry in &section.entries {
            keys.set_item(&entry.key, value_to_python(py, &entry.resolved.value)?)?;
        }
        sections.set_item(&section.name, keys)?;
    }
    Ok(sections)
}

fn value_to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Text(text) => PyString::new(py, text).into_any(),
        Value::Int(number) => number.into_pyobject(py)?.into_any(),
        Value::Float(number) => number.into_pyobject(py)?.into_any(),
        Value::Bool(truth) => truth.into_pyobject(py)?.to_owned().into_any(),
        Value::List(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(value_to_python(py, item)?)?;
            }
            list.into_any()
        }
    })
}
