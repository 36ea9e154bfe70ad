//! Contexts (PEP 567) for calls: each handler runs in a copy of its plugin's.
#![allow(unsafe_code)]

use http::HeaderValue;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use crate::request_id::RequestId;

/// A copy of a context, at the price of a few machine words.
pub(super) fn copy<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: we are attached; the function checks the argument's type and gives a new reference, or null with an
    // exception set.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
}

/// A copy of the context that this thread is in.
pub(super) fn copy_current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: we are attached; the function gives a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// Runs Rust code, and the Python code that it calls, inside a context.
pub(super) fn run_in<T>(context: &Bound<'_, PyAny>, work: impl FnOnce() -> T) -> PyResult<T> {
    // SAFETY: we are attached; the function checks the argument's type and sets an exception when it fails.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(context.py()));
    }
    let inside = Inside(context);
    let result = work();
    drop(inside);
    Ok(result)
}

/// As [`run_in`], for the first time in the context of a call: it tells from then on which request is worked on, also in
/// what the handler starts (tasks, `asyncio.to_thread`).
pub(super) fn begin_in<T>(context: &Bound<'_, PyAny>, request_id: &RequestId, work: impl FnOnce() -> T) -> PyResult<T> {
    run_in(context, || {
        let py = context.py();
        if let Err(error) = set_request(py, request_id) {
            error.write_unraisable(py, Some(context));
        }
        work()
    })
}

/// The request that is worked on where this is called.
pub(super) fn current_request(py: Python<'_>) -> PyResult<Option<RequestId>> {
    let variable = variable(py)?;
    let mut value = std::ptr::null_mut();
    // SAFETY: we are attached and the variable is one; the function fills in `value` with a new reference, or with null
    // when nothing is set.
    if unsafe { ffi::PyContextVar_Get(variable.as_ptr(), std::ptr::null_mut(), &raw mut value) } != 0 {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: a new reference, or null.
    let Some(value) = (unsafe { Bound::from_owned_ptr_or_opt(py, value) }) else {
        return Ok(None);
    };
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(HeaderValue::from_str(&text.to_string_lossy()).ok().map(RequestId::Given));
    }
    value.extract().map(|number| Some(RequestId::Made(number)))
}

/// One that was made here is kept as its number, which is text only where somebody wants to read it.
fn set_request(py: Python<'_>, request_id: &RequestId) -> PyResult<()> {
    let value = match request_id {
        RequestId::Made(number) => number.into_pyobject(py)?.into_any(),
        RequestId::Given(_) => PyString::new(py, &request_id.to_string()).into_any(),
    };
    // SAFETY: we are attached and the variable is one; the function gives a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContextVar_Set(variable(py)?.as_ptr(), value.as_ptr())) }.map(drop)
}

fn variable(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let variable = VARIABLE.get_or_try_init(py, || {
        // SAFETY: we are attached and the name ends with a NUL; the function gives a new reference, or null with an
        // exception set.
        unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PyContextVar_New(c"pserve_request_id".as_ptr(), std::ptr::null_mut()))
        }
        .map(Bound::unbind)
    })?;
    Ok(variable.bind(py))
}

/// Leaves the context even when the work panics.
struct Inside<'a, 'py>(&'a Bound<'py, PyAny>);

impl Drop for Inside<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: this thread is attached and has entered the context.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } != 0 {
            PyErr::fetch(self.0.py()).write_unraisable(self.0.py(), Some(self.0));
        }
    }
}
