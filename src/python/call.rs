//! The server's side of one call: what the handler returned or raised goes back to whoever waits for it.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::oneshot;

use super::blocking_pool::PoolJob;
use super::error::PythonError;
use super::instance::PluginInstance;
use super::interpreter::Shared;
use super::{native, reply};
use crate::exchange::{CallError, CallResult, PluginReply, PluginRequest, Raised};
use crate::logging::{self, Severity};

/// Dropped when the call has ended on the Python side, whether or not anybody still waits for the answer.
pub type CallGuard = Box<dyn Send>;

/// A call on its way into Python.
pub(super) struct PendingCall {
    pub instance: Arc<PluginInstance>,
    pub request: Arc<PluginRequest>,
    pub sender: oneshot::Sender<CallResult>,
    pub guard: CallGuard,
}

/// What `pserve_runtime.calls` knows as `call`.
#[pyclass(frozen)]
pub(super) struct Call {
    id: u64,
    shared: Arc<Shared>,
    instance: Arc<PluginInstance>,
    request: Arc<PluginRequest>,
    /// Empty once the answer has been given.
    waiting: Mutex<Option<(oneshot::Sender<CallResult>, CallGuard)>>,
}

impl Call {
    pub(super) fn new(shared: Arc<Shared>, pending: PendingCall) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let PendingCall { instance, request, sender, guard } = pending;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { id, shared, instance, request, waiting: Mutex::new(Some((sender, guard))) }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn slot(&self, py: Python<'_>) -> Py<PyAny> {
        self.instance.slot.clone_ref(py)
    }

    fn answer(&self, result: CallResult) {
        self.shared.forget_task(self.id);
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((sender, guard)) = waiting {
            // Nobody waits any more when the client has gone; the work is done all the same.
            let _ = sender.send(result);
            drop(guard);
        }
    }

    /// Answers with an exception, and puts its traceback into the log. The query stays out of it: it may hold a key.
    pub(super) fn raised(&self, py: Python<'_>, error: &PyErr) {
        let error = PythonError::from_exception(py, error);
        let line = format!(
            "{} {} raised {}\n{}",
            self.request.method,
            self.request.raw_path,
            error.kind,
            error.traceback.trim_end()
        );
        py.detach(|| logging::emit(Severity::Error, self.instance.id(), &line));
        let raised = Raised { kind: error.kind, message: error.message, traceback: error.traceback };
        self.answer(Err(CallError::Raised(raised)));
    }

    fn convert(&self, value: &Bound<'_, PyAny>) -> PyResult<Option<PluginReply>> {
        // pyo3 panics when a dict changes while it is read, which code of the value's own may do.
        let convert = || reply::convert(value, self.instance.is_old_style());
        std::panic::catch_unwind(AssertUnwindSafe(convert))
            .unwrap_or_else(|_| Err(PyRuntimeError::new_err("the value changed while it was turned into a reply")))
    }
}

#[pymethods]
impl Call {
    /// Takes what the handler returned. False: it is an aiohttp response whose payload must be read first.
    fn finish(&self, value: &Bound<'_, PyAny>) -> bool {
        native::leave_if_forked();
        match self.convert(value) {
            Ok(Some(reply)) => self.answer(Ok(reply)),
            Ok(None) => return false,
            Err(error) => self.raised(value.py(), &error),
        }
        true
    }

    /// Takes what the handler raised. False: it is an aiohttp HTTP exception whose payload must be read first.
    fn fail(&self, error: &Bound<'_, PyAny>) -> bool {
        native::leave_if_forked();
        if reply::is_aiohttp_response(error).unwrap_or(false) {
            return self.finish(error);
        }
        self.raised(error.py(), &PyErr::from_value(error.clone()));
        true
    }

    /// The plugin's own `_check_auth` said no, or the body does not hold the key.
    pub(super) fn refuse(&self) {
        native::leave_if_forked();
        self.answer(Err(CallError::Refused));
    }

    /// A call on a thread has left a coroutine for the event loop.
    fn carry_on(slf: &Bound<'_, Self>, coroutine: Py<PyAny>) {
        native::leave_if_forked();
        let call = slf.clone().unbind();
        let shared = Arc::clone(&slf.get().shared);
        let on_loop = Arc::clone(&shared);
        shared.queue.push(move |py| on_loop.carry_on(py, &call, &coroutine));
    }

    /// The async `_check_auth` of a plain handler said yes: the handler runs on a thread, in its turn.
    fn back_to_thread(slf: &Bound<'_, Self>, data: Py<PyDict>) {
        let this = slf.get();
        let instance = Arc::clone(&this.instance);
        let job = PoolJob::Checked { call: slf.clone().unbind(), data, instance };
        this.shared.pool.submit(&this.shared, job);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // The task was destroyed before it came to an answer, as when its event loop has gone.
        self.answer(Err(CallError::Lost));
    }
}
