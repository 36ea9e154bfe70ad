//! One step of a Python coroutine, and what can be told of awaitable objects without asking them.
#![allow(unsafe_code)]

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use pyo3::{ffi, intern};

/// How a step of a coroutine ended, when it did not raise.
pub(super) enum Step<'py> {
    /// It waits for this: a future, or `None` for a turn of the event loop.
    Waits(Bound<'py, PyAny>),
    Returned(Bound<'py, PyAny>),
}

/// Goes on with a coroutine, or with any object that has the methods of one.
pub(super) fn go_on<'py>(coroutine: &Bound<'py, PyAny>) -> PyResult<Step<'py>> {
    send_none(coroutine)
}

#[cfg(Py_3_10)]
fn send_none<'py>(coroutine: &Bound<'py, PyAny>) -> PyResult<Step<'py>> {
    let py = coroutine.py();
    let mut result = std::ptr::null_mut();
    // SAFETY: we are attached and the coroutine is a live object; the function fills in `result`.
    let outcome = unsafe { ffi::PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &raw mut result) };
    match outcome {
        // SAFETY: the result is a new reference, or null with an exception set, in each of these cases.
        ffi::PySendResult::PYGEN_NEXT => unsafe { Bound::from_owned_ptr_or_err(py, result) }.map(Step::Waits),
        // SAFETY: as above.
        ffi::PySendResult::PYGEN_RETURN => unsafe { Bound::from_owned_ptr_or_err(py, result) }.map(Step::Returned),
        ffi::PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
    }
}

#[cfg(not(Py_3_10))]
fn send_none<'py>(coroutine: &Bound<'py, PyAny>) -> PyResult<Step<'py>> {
    let py = coroutine.py();
    stepped(py, coroutine.call_method1(intern!(py, "send"), (py.None(),)))
}

/// Raises an exception where the coroutine waits.
pub(super) fn throw<'py>(coroutine: &Bound<'py, PyAny>, error: PyErr) -> PyResult<Step<'py>> {
    let py = coroutine.py();
    stepped(py, coroutine.call_method1(intern!(py, "throw"), (error.into_value(py),)))
}

/// A coroutine's methods say by an exception that it has returned.
fn stepped<'py>(py: Python<'py>, result: PyResult<Bound<'py, PyAny>>) -> PyResult<Step<'py>> {
    match result {
        Ok(future) => Ok(Step::Waits(future)),
        Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
            Ok(Step::Returned(error.value(py).getattr(intern!(py, "value"))?))
        }
        Err(error) => Err(error),
    }
}

/// Whether it is what a call of an `async def` gives.
pub(super) fn is_coroutine(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the value is a live object; only its type is looked at.
    unsafe { ffi::PyCoro_CheckExact(value.as_ptr()) != 0 }
}

/// Whether it is one of the types that handlers usually return: there is nothing to await.
pub(super) fn is_plain_answer(value: &Bound<'_, PyAny>) -> bool {
    value.is_exact_instance_of::<PyTuple>()
        || value.is_exact_instance_of::<PyDict>()
        || value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_none()
}
