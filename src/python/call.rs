//! The server's side of one call: what the handler returned or raised goes back to whoever waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use tokio::sync::oneshot;

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
        reply::convert(value, self.instance.is_old_style())
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

    /// The plugin's own `_check_auth` said no.
    fn refuse(&self) {
        native::leave_if_forked();
        self.answer(Err(CallError::Refused));
    }

    /// A plain handler returned something to await: the event loop takes it on.
    fn carry_on(slf: &Bound<'_, Self>, awaitable: Py<PyAny>) {
        native::leave_if_forked();
        let call = slf.clone().unbind();
        let shared = Arc::clone(&slf.get().shared);
        let on_loop = Arc::clone(&shared);
        shared.queue.push(move |py| on_loop.carry_on(py, &call, &awaitable));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // The task was destroyed before it came to an answer, as when its event loop has gone.
        self.answer(Err(CallError::Lost));
    }
}
