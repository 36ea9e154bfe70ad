//! One live plugin as the rest of the server holds it, and the way from a plugin file to it.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use super::blocking_pool::Lane;
use super::error::PythonError;
use super::event_loop::LoopLane;
use crate::config::settings::{BodyMode, PluginOptions};
use crate::config::{KeyRule, Secret};

/// One plugin file with what its constructors get besides the usual.
#[derive(Debug, Clone)]
pub struct FileToLoad {
    pub path: PathBuf,
    /// Inline parameters, in order.
    pub params: Vec<(String, String)>,
    /// A JSON object whose members win over the inline ones.
    pub json_file: Option<PathBuf>,
}

/// What reading a plugin file tells, without running it.
#[derive(Debug, Clone, Default)]
pub struct FileInspection {
    /// Class name -> line.
    pub classes: HashMap<String, u32>,
    pub missing: Vec<MissingModule>,
    /// Why it cannot be read as Python.
    pub error: Option<PythonError>,
}

/// A module that a file imports and that is not there.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct MissingModule {
    pub module: String,
    /// What to install.
    pub package: String,
    pub line: u32,
    /// Whether the file has a way to do without.
    pub is_optional: bool,
}

/// Takes over what `pserve_runtime.inspection` found.
pub(super) fn inspection_from_python(found: &Bound<'_, PyAny>) -> PyResult<FileInspection> {
    let missing: Vec<(String, String, u32, bool)> = found.get_item("missing")?.extract()?;
    let missing = missing
        .into_iter()
        .map(|(module, package, line, is_optional)| MissingModule { module, package, line, is_optional })
        .collect();
    let error: Option<(String, String, Option<u32>)> = found.get_item("error")?.extract()?;
    let error = error.map(|(kind, message, line)| PythonError { line, ..PythonError::new(&kind, message) });
    Ok(FileInspection { classes: found.get_item("classes")?.extract()?, missing, error })
}

/// What became of one file.
#[derive(Debug)]
pub struct FileOutcome {
    pub path: PathBuf,
    pub result: Result<Vec<Arc<PluginInstance>>, PythonError>,
}

/// What a plugin tells those who call it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PluginDescription {
    /// The docstring, without its indentation; may be empty.
    pub description: String,
    /// The fields that it knows; it may take others.
    pub parameters: Vec<Parameter>,
    /// Whether its code looks at what follows its name in the path.
    pub takes_subpath: bool,
}

/// One field of a plugin.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Parameter {
    pub name: String,
    #[serde(rename = "in")]
    pub place: ParameterPlace,
    pub required: bool,
    pub description: String,
    /// JSON Schema (2020-12).
    pub schema: serde_json::Value,
}

/// Where a field may stand in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParameterPlace {
    Query,
    Body,
    Either,
}

/// A live plugin. Cheap to share; every attribute that a request needs is plain data here.
pub struct PluginInstance {
    id: Arc<str>,
    path: PathBuf,
    class_name: String,
    methods: Vec<String>,
    description: PluginDescription,
    is_async: bool,
    body_mode: BodyMode,
    is_old_style: bool,
    self_name: Py<PyString>,
    key_rule: Arc<ArcSwap<KeyRule>>,
    pub(super) slot: Py<PyAny>,
    /// The plugin itself, and the name of its handler.
    pub(super) object: Py<PyAny>,
    pub(super) handler_name: Py<PyString>,
    /// What its calls run in copies of.
    pub(super) context: Py<PyAny>,
    /// Whether it has a `_check_auth` of its own.
    pub(super) has_own_check: bool,
    log: Py<PyAny>,
    pub(super) lane: Lane,
    pub(super) loop_lane: LoopLane,
    timeout: Option<Duration>,
    cancel_on_disconnect: bool,
    has_ended: AtomicBool,
}

impl fmt::Debug for PluginInstance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PluginInstance").field("id", &self.id).field("path", &self.path).finish_non_exhaustive()
    }
}

impl PluginInstance {
    /// The endpoint's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The file it came from.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The class that it is one of.
    pub fn class_name(&self) -> &str {
        &self.class_name
    }

    /// Methods that its class opens beside GET and POST, in upper case.
    pub fn methods(&self) -> &[String] {
        &self.methods
    }

    /// What it tells its callers, from its docstring, its `parameters` and its hints.
    pub fn description(&self) -> &PluginDescription {
        &self.description
    }

    /// Whether its handler runs on the event loop and not on the blocking pool.
    pub fn is_async(&self) -> bool {
        self.is_async
    }

    /// How request bodies reach it.
    pub fn body_mode(&self) -> BodyMode {
        self.body_mode
    }

    /// How long a call may take, when it has a limit of its own; zero is none.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Whether its calls are given up when the client leaves before the answer.
    pub(super) fn cancel_on_disconnect(&self) -> bool {
        self.cancel_on_disconnect
    }

    /// Who may call it, as it is now.
    pub fn key_rule(&self) -> Arc<KeyRule> {
        self.key_rule.load_full()
    }

    /// Whether it has been told to end: calls that are cancelled from then on are no mistakes.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    pub(super) fn mark_ended(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_old_style(&self) -> bool {
        self.is_old_style
    }

    pub(super) fn self_name<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        self.self_name.bind(py)
    }

    pub(super) fn log(&self, py: Python<'_>) -> Py<PyAny> {
        self.log.clone_ref(py)
    }

    /// Takes over a `Slot` of `pserve_runtime.loader`.
    fn from_slot(slot: &Bound<'_, PyAny>, path: PathBuf, options: &PluginOptions) -> PyResult<Self> {
        let id: String = slot.getattr("plugin_id")?.extract()?;
        let key_rule = Arc::new(ArcSwap::from_pointee(read_key_rule(slot)?));
        let watcher = KeyWatcher { slot: slot.clone().unbind(), rule: Arc::clone(&key_rule) };
        let base = slot.py().import("plugincore.baseplugin")?;
        base.call_method1("watch_key", (slot.getattr("instance")?, Py::new(slot.py(), watcher)?))?;
        Ok(Self {
            id: id.into(),
            path,
            class_name: slot.getattr("class_name")?.extract()?,
            methods: slot.getattr("methods")?.extract()?,
            description: serde_json::from_str(&slot.getattr("description")?.extract::<String>()?).unwrap_or_default(),
            is_async: slot.getattr("is_async")?.extract()?,
            body_mode: match options.body {
                Some(mode) => mode,
                None if slot.getattr("reads_streams")?.extract()? => BodyMode::StreamLarge,
                None => BodyMode::Read,
            },
            is_old_style: slot.getattr("overrides_handle_request")?.extract()?,
            self_name: slot.getattr("self_name")?.cast_into::<PyString>()?.unbind(),
            key_rule,
            slot: slot.clone().unbind(),
            object: slot.getattr("instance")?.unbind(),
            handler_name: slot.getattr("handler_name")?.cast_into::<PyString>()?.unbind(),
            context: slot.getattr("owner")?.getattr("context")?.unbind(),
            has_own_check: !slot.getattr("check")?.is_none(),
            log: slot.getattr("log")?.unbind(),
            lane: Lane::new(options.threads),
            loop_lane: LoopLane::default(),
            timeout: options.timeout,
            cancel_on_disconnect: options.cancel_on_disconnect,
            has_ended: AtomicBool::new(false),
        })
    }
}

fn read_key_rule(slot: &Bound<'_, PyAny>) -> PyResult<KeyRule> {
    if !slot.getattr("check")?.is_none() {
        return Ok(KeyRule::Custom);
    }
    let auth_type: Option<String> = slot.getattr("auth_type")?.extract()?;
    Ok(match auth_type.as_deref() {
        None | Some("") => KeyRule::Open,
        Some("global") => KeyRule::Global,
        Some("plugin") => {
            let key: Option<String> = slot.getattr("apikey")?.extract()?;
            key.and_then(Secret::new).map_or(KeyRule::Never, KeyRule::Own)
        }
        Some(_) => KeyRule::Never,
    })
}

/// Called when a plugin sets its `_apikey` or `_auth_type`.
#[pyclass(frozen)]
struct KeyWatcher {
    slot: Py<PyAny>,
    rule: Arc<ArcSwap<KeyRule>>,
}

#[pymethods]
impl KeyWatcher {
    fn __call__(&self, py: Python<'_>) {
        let rule = read_key_rule(self.slot.bind(py)).unwrap_or(KeyRule::Never);
        if let KeyRule::Own(secret) = &rule {
            crate::logging::hide(secret.reveal());
        }
        self.rule.store(Arc::new(rule));
    }
}

/// The argument of `Loader.load`: paths with constructor arguments.
pub(super) fn files_to_python<'py>(py: Python<'py>, files: &[FileToLoad]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for file in files {
        let params = PyDict::new(py);
        for (name, value) in &file.params {
            params.set_item(name, value)?;
        }
        list.append((file.path.as_os_str(), params, file.json_file.as_ref().map(|path| path.as_os_str())))?;
    }
    Ok(list)
}

/// The outcomes of `Loader.load`. `options_of` gives a plugin's `[plugin_options]`.
pub(super) fn outcomes_from_python(
    outcomes: &Bound<'_, PyAny>,
    options_of: impl Fn(&str) -> PluginOptions,
) -> PyResult<Vec<FileOutcome>> {
    let mut converted = Vec::new();
    for outcome in outcomes.try_iter()? {
        let outcome = outcome?;
        let path = PathBuf::from(outcome.getattr("path")?.extract::<std::ffi::OsString>()?);
        let error = outcome.getattr("error")?;
        let result = if error.is_none() {
            // One that cannot be taken over fails its own file and no other.
            take_over(&outcome, &path, &options_of).map_err(|error| PythonError::from_exception(outcome.py(), &error))
        } else {
            Err(PythonError::from_description(error.cast::<PyDict>()?)?)
        };
        converted.push(FileOutcome { path, result });
    }
    Ok(converted)
}

fn take_over(
    outcome: &Bound<'_, PyAny>,
    path: &std::path::Path,
    options_of: impl Fn(&str) -> PluginOptions,
) -> PyResult<Vec<Arc<PluginInstance>>> {
    let mut instances = Vec::new();
    for slot in outcome.getattr("slots")?.try_iter()? {
        let slot = slot?;
        let options = options_of(&slot.getattr("plugin_id")?.extract::<String>()?);
        instances.push(Arc::new(PluginInstance::from_slot(&slot, path.to_owned(), &options)?));
    }
    Ok(instances)
}
