//! `pserve python`: the interpreter inside this program as an ordinary `python`, with `plugincore` to import.
#![allow(unsafe_code)]

use std::ffi::{CString, OsString, c_char};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::{Context, bail};
use pyo3::ffi;
use pyo3::prelude::*;

use super::error::PythonError;
use super::interpreter::{check_venv, sys_executable};
use super::{embedded, native};

/// Runs a script, `-m module`, `-c code` or a prompt, as the arguments say, and gives the exit status. Must run on the
/// process's main thread, with no interpreter started before; there is none afterwards.
pub fn run_script(arguments: &[OsString], venv: Option<&Path>, plugins_dir: Option<&Path>) -> anyhow::Result<i32> {
    if let Some(venv) = venv {
        check_venv(venv)?;
    }
    let executable =
        CString::new(sys_executable(venv).into_os_string().into_vec()).context("the interpreter's path")?;
    let typed = std::iter::once(OsString::from("python")).chain(arguments.iter().cloned());
    let typed: Vec<CString> =
        typed.map(|text| CString::new(text.into_vec())).collect::<Result<_, _>>().context("an argument")?;
    let mut pointers: Vec<*const c_char> = typed.iter().map(|text| text.as_ptr()).collect();
    // SAFETY: the configuration is initialised before any field is set and cleared on every way out; the strings
    // outlive the calls, which copy them; this is the only thread that knows of the interpreter.
    let status = unsafe {
        let mut config = std::mem::zeroed::<ffi::PyConfig>();
        ffi::PyConfig_InitPythonConfig(&mut config);
        config.parse_argv = 1;
        let config_pointer: *mut ffi::PyConfig = &mut config;
        let mut status =
            ffi::PyConfig_SetBytesString(config_pointer, &raw mut (*config_pointer).executable, executable.as_ptr());
        if ffi::PyStatus_Exception(status) == 0 {
            let count = pointers.len() as ffi::Py_ssize_t;
            status = ffi::PyConfig_SetBytesArgv(config_pointer, count, pointers.as_mut_ptr());
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::Py_InitializeFromConfig(config_pointer);
        }
        ffi::PyConfig_Clear(config_pointer);
        status
    };
    // SAFETY: reads two fields of a status that a call above has returned.
    let (is_exit, has_failed) = unsafe { (ffi::PyStatus_IsExit(status) != 0, ffi::PyStatus_Exception(status) != 0) };
    if is_exit {
        // `--version` and the like have been answered, through C's own buffers.
        flush();
        return Ok(status.exitcode);
    }
    if has_failed {
        bail!("Python does not start");
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
