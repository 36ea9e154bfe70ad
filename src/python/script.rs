//! `pserve python`: the interpreter inside this program as an ordinary `python`, with `plugincore` to import.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;
use pyo3::ffi;
use pyo3::prelude::*;

use super::cpython::{Arguments, Initialised, check_venv, initialize, sys_executable};
use super::error::PythonError;
use super::{embedded, native};

/// Runs a script, `-m module`, `-c code` or a prompt, as the arguments say, and gives the exit status. Must run on the
/// process's main thread, with no interpreter started before; there is none afterwards.
pub fn run_script(arguments: &[OsString], venv: Option<&Path>, plugins_dir: Option<&Path>) -> anyhow::Result<i32> {
    if let Some(venv) = venv {
        check_venv(venv)?;
    }
    let typed: Vec<OsString> = std::iter::once("python".into()).chain(arguments.iter().cloned()).collect();
    if let Initialised::Answered { exit_status } = initialize(&sys_executable(venv), &typed, Arguments::Pythons)? {
        // Through C's own buffers.
        flush();
        return Ok(exit_status);
    }
    Python::attach(|py| {
        prepare(py, plugins_dir).map_err(|error| anyhow::anyhow!("{}", PythonError::from_exception(py, &error)))
    })
    .context("the embedded Python code does not start")?;
    // SAFETY: the interpreter is initialised and this thread, which initialised it, holds it; nothing uses it after.
    let exit_status = unsafe { ffi::Py_RunMain() };
    flush();
    Ok(exit_status)
}

/// The program ends without C's usual last steps.
fn flush() {
    // SAFETY: a null pointer asks for all output streams, which is always allowed.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

fn prepare(py: Python<'_>, plugins_dir: Option<&Path>) -> PyResult<()> {
    py.import("sys")?.getattr("modules")?.set_item("_pserve", native::module(py)?)?;
    embedded::install(py)?;
    let folder = plugins_dir.map(|folder| folder.as_os_str());
    py.import("pserve_runtime.script")?.call_method1("install", (folder,))?;
    Ok(())
}
