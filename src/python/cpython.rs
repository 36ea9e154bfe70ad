//! CPython itself: which interpreter to be, with which packages, and its initialisation.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use pyo3::ffi;

/// Whose arguments `sys.argv` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arguments {
    /// The server's, as they were typed. Python does not look at them, and leaves signals to the server.
    Ours,
    /// Python's own, which it obeys.
    Pythons,
}

/// How an initialisation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Initialised {
    Ready,
    /// Python's arguments asked for an answer such as its version, which has been given.
    Answered {
        exit_status: i32,
    },
}

/// The version of Python in this program, as `3.11.2`.
pub fn version() -> String {
    // SAFETY: Py_GetVersion may be called before initialisation and returns a static string.
    let text = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) };
    let text = text.to_string_lossy();
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Checks that a virtual environment was made for the Python in this program: its packages fit no other.
pub fn check_venv(venv: &Path) -> anyhow::Result<()> {
    let file = venv.join("pyvenv.cfg");
    let text = std::fs::read_to_string(&file).with_context(|| {
        let shown = venv.display();
        format!("{shown} is not a virtual environment ({} cannot be read)", file.display())
    })?;
    let field = |line: &str| {
        let (key, value) = line.split_once('=')?;
        matches!(key.trim(), "version" | "version_info").then(|| value.trim().to_owned())
    };
    let made_for = text.lines().find_map(field).unwrap_or_default();
    let ours = version();
    let minor = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
    if minor(&made_for) != minor(&ours) {
        bail!(
            "the virtual environment {} was made for Python {made_for}, and this program carries Python {ours}; \
             make it again with `python{} -m venv --clear {}` or build pserve with PYO3_PYTHON set to the other Python",
            venv.display(),
            minor(&ours),
            venv.display()
        );
    }
    Ok(())
}

/// The interpreter that `sys.executable` names: the environment's, else the one this program was linked with, else
/// one of the same version on the PATH.
pub(super) fn sys_executable(venv: Option<&Path>) -> PathBuf {
    if let Some(venv) = venv {
        return std::path::absolute(venv).unwrap_or_else(|_| venv.to_owned()).join("bin/python");
    }
    let built_with = Path::new(env!("PSERVE_BUILD_PYTHON"));
    if built_with.is_file() {
        return built_with.to_owned();
    }
    let minor: Vec<String> = version().split('.').take(2).map(str::to_owned).collect();
    let name = format!("python{}", minor.join("."));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(&name));
    candidates.find(|candidate| candidate.is_file()).unwrap_or_else(|| built_with.to_owned())
}

/// Initialises CPython with paths as `executable` would have them. Must be called once, on the thread that then holds
/// the interpreter.
pub(super) fn initialize(executable: &Path, typed: &[OsString], arguments: Arguments) -> anyhow::Result<Initialised> {
    let executable = CString::new(executable.as_os_str().as_bytes()).context("the interpreter's path")?;
    let typed: Vec<CString> = typed
        .iter()
        .map(|argument| CString::new(argument.as_bytes()))
        .collect::<Result<_, _>>()
        .context("a command line argument")?;
    let mut pointers: Vec<*const c_char> = typed.iter().map(|argument| argument.as_ptr()).collect();
    // SAFETY: the configuration is initialised before any field is set and cleared on every way out; the strings
    // outlive the calls, which copy them; no other thread knows of the interpreter yet. A status and its message stay
    // valid, as the message is a static string.
    let (is_exit, failure, exit_status) = unsafe {
        let mut config = std::mem::zeroed::<ffi::PyConfig>();
        ffi::PyConfig_InitPythonConfig(&mut config);
        let is_ours = arguments == Arguments::Ours;
        config.install_signal_handlers = i32::from(!is_ours);
        config.parse_argv = i32::from(!is_ours);
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
        let failure = (ffi::PyStatus_IsError(status) != 0).then(|| {
            let text = if status.err_msg.is_null() {
                "no reason given".into()
            } else {
                CStr::from_ptr(status.err_msg).to_string_lossy()
            };
            text.into_owned()
        });
        (ffi::PyStatus_IsExit(status) != 0, failure, status.exitcode)
    };
    if let Some(reason) = failure {
        bail!("Python {} does not start: {reason}", version());
    }
    Ok(if is_exit { Initialised::Answered { exit_status } } else { Initialised::Ready })
}

/// Lets `Python::attach` take the interpreter on any thread. Call it once, right after [`initialize`] on its thread.
pub(super) fn give_up_interpreter() {
    // SAFETY: initialisation has just succeeded on this thread, which therefore holds the interpreter.
    unsafe { ffi::PyEval_SaveThread() };
}
