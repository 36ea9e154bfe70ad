//! Calls a plugin's handler, and knows the functions of `pserve_runtime.calls` that go on from there.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use super::call::Call;
use super::context;
use super::coroutine::{is_coroutine, is_plain_answer};
use super::instance::PluginInstance;

/// What the call of a handler gave.
pub(super) enum Outcome<'py> {
    Answer(Bound<'py, PyAny>),
    /// Still to be run, on the event loop.
    Coroutine(Bound<'py, PyAny>),
}

/// Calls the handler that the plugin has now: it may put another in its place.
pub(super) fn call<'py>(
    py: Python<'py>,
    instance: &PluginInstance,
    data: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyAny>> {
    instance.object.bind(py).getattr(instance.handler_name.bind(py))?.call((), Some(data))
}

/// Tells an answer from what has to be awaited first: a coroutine, or anything else with `__await__`.
pub(super) fn awaitable(result: Bound<'_, PyAny>) -> PyResult<Outcome<'_>> {
    if is_coroutine(&result) {
        return Ok(Outcome::Coroutine(result));
    }
    if is_plain_answer(&result) {
        return Ok(Outcome::Answer(result));
    }
    let functions = functions(result.py())?;
    if functions.is_awaitable.bind(result.py()).call1((&result,))?.is_truthy()? {
        return functions.pass_on.bind(result.py()).call1((result,)).map(Outcome::Coroutine);
    }
    Ok(Outcome::Answer(result))
}

/// Runs a plain handler to its end, with a context of its own. What has to be awaited goes to the event loop.
pub(super) fn run_plain<'py>(
    py: Python<'py>,
    call: &Bound<'py, Call>,
    data: &Bound<'py, PyDict>,
    is_checked: bool,
) -> PyResult<()> {
    let instance = &call.get().ticket().instance;
    let own_context = context::copy(instance.context.bind(py))?;
    let request_id = &call.get().ticket().request.request_id;
    let functions = functions(py)?;
    if instance.has_own_check && !is_checked {
        let arguments = (instance.slot.bind(py), data, call);
        return context::begin_in(&own_context, request_id, || functions.run_checked_plain.bind(py).call1(arguments))?
            .map(drop);
    }
    let later =
        context::begin_in(&own_context, request_id, || match self::call(py, instance, data).and_then(awaitable) {
            Ok(Outcome::Answer(value)) if call.get().finish(&value) => Ok(None),
            Ok(Outcome::Answer(value)) => functions.send_later(&value, data, call).map(Some),
            Ok(Outcome::Coroutine(coroutine)) => {
                functions.finish_later.bind(py).call1((coroutine, data, call)).map(Some)
            }
            Err(error) => {
                let error = error.into_value(py).into_bound(py).into_any();
                if call.get().fail(&error) { Ok(None) } else { functions.send_later(&error, data, call).map(Some) }
            }
        })?;
    if let Some(later) = later? {
        context::run_in(&own_context, || Call::carry_on(call, later.unbind()))??;
    }
    Ok(())
}

/// Python functions that are looked up once.
pub(super) struct Functions {
    run_checked: Py<PyAny>,
    run_checked_plain: Py<PyAny>,
    finish_later: Py<PyAny>,
    send_later: Py<PyAny>,
    pass_on: Py<PyAny>,
    is_awaitable: Py<PyAny>,
}

impl Functions {
    /// The handler behind a key check of the plugin's own, as a coroutine.
    pub(super) fn run_checked<'py>(
        &self,
        slot: &Bound<'py, PyAny>,
        data: &Bound<'py, PyDict>,
        call: &Bound<'py, Call>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.run_checked.bind(call.py()).call1((slot, data, call))
    }

    /// A response that sends itself, as a coroutine.
    pub(super) fn send_later<'py>(
        &self,
        response: &Bound<'py, PyAny>,
        data: &Bound<'py, PyDict>,
        call: &Bound<'py, Call>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.send_later.bind(call.py()).call1((response, data, call))
    }
}

/// The functions of `pserve_runtime.calls`.
pub(super) fn functions(py: Python<'_>) -> PyResult<&Functions> {
    static FUNCTIONS: PyOnceLock<Functions> = PyOnceLock::new();
    FUNCTIONS.get_or_try_init(py, || {
        let calls = py.import("pserve_runtime.calls")?;
        let function = |name: &str| calls.getattr(name).map(Bound::unbind);
        Ok(Functions {
            run_checked: function("run_checked")?,
            run_checked_plain: function("run_checked_plain")?,
            finish_later: function("finish_later")?,
            send_later: function("send_later")?,
            pass_on: function("pass_on")?,
            is_awaitable: py.import(intern!(py, "inspect"))?.getattr("isawaitable")?.unbind(),
        })
    })
}
