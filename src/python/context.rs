//! Contexts (PEP 567) for calls: each handler runs in a copy of its plugin's.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;

/// A copy of a context, at the price of a few machine words.
pub(super) fn copy<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: we are attached; the function checks the argument's type and gives a new reference, or null with an
    // exception set.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
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
