//! The Python files built into the binary, and the importer that finds them ahead of any installed ones.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::PyDict;

macro_rules! sources {
    ($($name:literal: $file:literal),* $(,)?) => {
        &[$(($name, $file, include_str!($file))),*]
    };
}

/// Module name, file, source.
const SOURCES: &[(&str, &str, &str)] = sources! {
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

/// As [`SOURCES`], for where the package of that name is not installed.
const STAND_INS: &[(&str, &str, &str)] = sources! {
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
    let bootstrap = PyModule::from_code(
        py,
        c_str(include_str!("bootstrap.py")).as_c_str(),
        c"<pserve>/bootstrap.py",
        c"pserve_bootstrap",
    )?;
    bootstrap.call_method1("install", (to_dict(py, SOURCES)?, to_dict(py, STAND_INS)?))?;
    Ok(())
}

/// A stub in which everything is there and of any type.
const UNTYPED: &str = "from typing import Any\ndef __getattr__(name: str) -> Any: ...\n";

/// Writes `plugincore` into a folder, for editors and type checkers to read. The answer is the files.
pub fn write_plugincore(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (name, file, text) in SOURCES {
        let path = folder.join(file).with_extension("pyi");
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        if name.starts_with("plugincore") {
            std::fs::write(&path, text)?;
            written.push(path);
        } else {
            // What those import and nobody needs to see.
            std::fs::write(&path, format!("\"\"\"Part of the server: {name}.\"\"\"\n{UNTYPED}"))?;
        }
    }
    std::fs::write(folder.join("_pserve.pyi"), format!("\"\"\"Part of the server.\"\"\"\n{UNTYPED}"))?;
    Ok(written)
}

fn to_dict<'py>(py: Python<'py>, sources: &[(&str, &str, &str)]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, file, text) in sources {
        dict.set_item(name, (file, text))?;
    }
    Ok(dict)
}

fn c_str(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).expect("embedded sources have no NUL")
}
