//! The Python files built into the binary, and the importer that finds them ahead of any installed ones.

use std::path::{Path, PathBuf};

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// A Python file in the binary.
struct Module {
    name: &'static str,
    file: &'static str,
    source: &'static str,
    /// What `marshal` makes of its code in the Python whose magic number is [`MAGIC`].
    code: &'static [u8],
}

macro_rules! modules {
    ($($name:literal: $file:literal),* $(,)?) => {
        &[$(Module {
            name: $name,
            file: $file,
            source: include_str!($file),
            code: include_bytes!(concat!(env!("PSERVE_EMBEDDED"), "/", $file)),
        }),*]
    };
}

/// `importlib.util.MAGIC_NUMBER` of the Python that this program was built with; nothing where none could be run.
const MAGIC: &[u8] = include_bytes!(concat!(env!("PSERVE_EMBEDDED"), "/magic"));

const BOOTSTRAP: &[Module] = modules! {
    "pserve_bootstrap": "bootstrap.py",
};

const MODULES: &[Module] = modules! {
    "plugincore": "plugincore/__init__.py",
    "plugincore.baseplugin": "plugincore/baseplugin.py",
    "plugincore.configfile": "plugincore/configfile.py",
    "plugincore.logjam": "plugincore/logjam.py",
    "plugincore.pluginmanager": "plugincore/pluginmanager.py",
    "plugincore.sysinfo": "plugincore/sysinfo.py",
    "pserve_runtime": "pserve_runtime/__init__.py",
    "pserve_runtime.body": "pserve_runtime/body.py",
    "pserve_runtime.calls": "pserve_runtime/calls.py",
    "pserve_runtime.connection": "pserve_runtime/connection.py",
    "pserve_runtime.context": "pserve_runtime/context.py",
    "pserve_runtime.crashes": "pserve_runtime/crashes.py",
    "pserve_runtime.description": "pserve_runtime/description.py",
    "pserve_runtime.importer": "pserve_runtime/importer.py",
    "pserve_runtime.importers": "pserve_runtime/importers.py",
    "pserve_runtime.inspection": "pserve_runtime/inspection.py",
    "pserve_runtime.late_ssl": "pserve_runtime/late_ssl.py",
    "pserve_runtime.loader": "pserve_runtime/loader.py",
    "pserve_runtime.logs": "pserve_runtime/logs.py",
    "pserve_runtime.multimap": "pserve_runtime/multimap.py",
    "pserve_runtime.owner": "pserve_runtime/owner.py",
    "pserve_runtime.packages": "pserve_runtime/packages.py",
    "pserve_runtime.patches": "pserve_runtime/patches.py",
    "pserve_runtime.request": "pserve_runtime/request.py",
    "pserve_runtime.runtime": "pserve_runtime/runtime.py",
    "pserve_runtime.schemas": "pserve_runtime/schemas.py",
    "pserve_runtime.script": "pserve_runtime/script.py",
    "pserve_runtime.stacks": "pserve_runtime/stacks.py",
    "pserve_runtime.state": "pserve_runtime/state.py",
    "pserve_runtime.threads": "pserve_runtime/threads.py",
    "pserve_runtime.thread_loop": "pserve_runtime/thread_loop.py",
    "pserve_runtime.url": "pserve_runtime/url.py",
};

/// As [`MODULES`], for where the package of that name is not installed.
const STAND_INS: &[Module] = modules! {
    "aiohttp": "aiohttp/__init__.py",
    "aiohttp.hdrs": "aiohttp/hdrs.py",
    "aiohttp.multipart": "aiohttp/multipart.py",
    "aiohttp.web": "aiohttp/web.py",
    "aiohttp.web_exceptions": "aiohttp/web_exceptions.py",
    "aiohttp.web_fileresponse": "aiohttp/web_fileresponse.py",
    "aiohttp.web_request": "aiohttp/web_request.py",
    "aiohttp.web_response": "aiohttp/web_response.py",
    "aiohttp.web_ws": "aiohttp/web_ws.py",
};

/// Puts the importers first and last in `sys.meta_path`.
pub(super) fn install(py: Python<'_>) -> PyResult<()> {
    let names = PyDict::new(py);
    names.set_item(pyo3::intern!(py, "__name__"), "pserve_bootstrap")?;
    let builtins = py.import("builtins")?;
    names.set_item(pyo3::intern!(py, "__builtins__"), &builtins)?;
    let code = load_code(py, &BOOTSTRAP[0])?;
    builtins.call_method1("exec", (code, &names))?;
    let install = names.get_item("install")?.ok_or_else(|| PyKeyError::new_err("install"))?;
    let loads = wrap_pyfunction!(embedded_code, py)?;
    let reads = wrap_pyfunction!(embedded_source, py)?;
    install.call1((files(py, MODULES)?, files(py, STAND_INS)?, loads, reads))?;
    Ok(())
}

/// The code object of an embedded module.
#[pyfunction]
fn embedded_code<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    load_code(py, find(name)?)
}

/// The source of an embedded module, which tracebacks show.
#[pyfunction]
fn embedded_source(name: &str) -> PyResult<&'static str> {
    Ok(find(name)?.source)
}

fn find(name: &str) -> PyResult<&'static Module> {
    let mut all = BOOTSTRAP.iter().chain(MODULES).chain(STAND_INS);
    all.find(|module| module.name == name).ok_or_else(|| PyKeyError::new_err(name.to_owned()))
}

fn load_code<'py>(py: Python<'py>, module: &Module) -> PyResult<Bound<'py, PyAny>> {
    let magic = py.import("importlib.util")?.getattr("MAGIC_NUMBER")?;
    if !module.code.is_empty() && magic.extract::<&[u8]>()? == MAGIC {
        return py.import("marshal")?.call_method1("loads", (PyBytes::new(py, module.code),));
    }
    let options = PyDict::new(py);
    options.set_item("dont_inherit", true)?;
    let file = format!("<pserve>/{}", module.file);
    py.import("builtins")?.getattr("compile")?.call((module.source, file, "exec"), Some(&options))
}

/// A stub in which everything is there and of any type.
const UNTYPED: &str = "from typing import Any\ndef __getattr__(name: str) -> Any: ...\n";

/// Writes `plugincore` into a folder, for editors and type checkers to read. The answer is the files.
pub fn write_plugincore(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for Module { name, file, source, .. } in MODULES {
        let path = folder.join(file).with_extension("pyi");
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        if name.starts_with("plugincore") {
            std::fs::write(&path, source)?;
            written.push(path);
        } else {
            // What those import and nobody needs to see.
            std::fs::write(&path, format!("\"\"\"Part of the server: {name}.\"\"\"\n{UNTYPED}"))?;
        }
    }
    std::fs::write(folder.join("_pserve.pyi"), format!("\"\"\"Part of the server.\"\"\"\n{UNTYPED}"))?;
    Ok(written)
}

/// The file of each module.
fn files<'py>(py: Python<'py>, modules: &[Module]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for module in modules {
        dict.set_item(module.name, module.file)?;
    }
    Ok(dict)
}
