//! The server's side of one call: what the handler returned or raised goes back to whoever waits for it.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::oneshot;

use super::blocking_pool::PoolJob;
use super::error::PythonError;
use super::instance::PluginInstance;
use super::interpreter::Shared;
use super::{native, reply};
use crate::exchange::{CallError, CallResult, PluginReply, PluginRequest, Raised, ReplyBody};
use crate::logging::{self, Severity};
use crate::pipe::{PipeReader, PipeWriter};

/// Told how a call goes on the Python side, and dropped when it has ended there, whether or not anybody still waits for
/// the answer.
pub trait CallWatch: Send {
    /// Its turn has come.
    fn begins(&self);
    /// The handler has raised.
    fn raised(&self);
}

pub type CallGuard = Box<dyn CallWatch>;

/// A call on its way into Python.
pub(super) struct PendingCall {
    pub instance: Arc<PluginInstance>,
    pub request: Arc<PluginRequest>,
    pub sender: oneshot::Sender<CallResult>,
    pub guard: CallGuard,
}

/// Where the answer to one request goes: at once, or piece by piece once it has begun.
pub(super) struct Outlet {
    state: Mutex<OutletState>,
}

enum OutletState {
    Waiting(oneshot::Sender<CallResult>, CallGuard),
    /// The head is out; the handler writes the rest.
    Begun {
        writer: Arc<PipeWriter>,
        guard: CallGuard,
        is_upgraded: bool,
    },
    Ended,
}

impl Outlet {
    fn new(sender: oneshot::Sender<CallResult>, guard: CallGuard) -> Self {
        guard.begins();
        Self { state: Mutex::new(OutletState::Waiting(sender, guard)) }
    }

    fn lock(&self) -> MutexGuard<'_, OutletState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the head of a reply whose body comes through `writer`. False when an answer has been given already.
    pub(super) fn begin(&self, reply: PluginReply, writer: Arc<PipeWriter>) -> bool {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, OutletState::Ended) {
            OutletState::Waiting(sender, guard) => {
                let is_upgraded = matches!(reply.body, ReplyBody::Upgraded { .. });
                *state = OutletState::Begun { writer, guard, is_upgraded };
                // Nobody waits any more when the client has gone: the pipe then has no reader, and writing says so.
                let _ = sender.send(Ok(reply));
                true
            }
            other => {
                *state = other;
                false
            }
        }
    }

    /// The last word on a WebSocket whose handler is cut off: going away (RFC 6455, 7.4.1).
    fn say_goodbye(&self) {
        if let OutletState::Begun { writer, is_upgraded: true, .. } = &*self.lock() {
            writer.push(Bytes::from_static(&[0x88, 0x02, 0x03, 0xe9]));
            writer.finish();
        }
    }

    /// The regular end of a body that has begun.
    fn finish_body(&self) {
        if let OutletState::Begun { writer, .. } = &*self.lock() {
            writer.finish();
        }
    }

    fn end(&self, result: CallResult) {
        let state = std::mem::replace(&mut *self.lock(), OutletState::Ended);
        if let (OutletState::Waiting(_, guard) | OutletState::Begun { guard, .. }, Err(CallError::Raised(_))) =
            (&state, &result)
        {
            guard.raised();
        }
        match (state, result) {
            (OutletState::Waiting(sender, guard), result) => {
                // Nobody waits any more when the client has gone; the work is done all the same.
                let _ = sender.send(result);
                drop(guard);
            }
            (OutletState::Begun { writer, guard, .. }, result) => {
                if let Err(error) = result {
                    writer.fail(error.to_string());
                }
                drop(guard);
            }
            (OutletState::Ended, _) => {}
        }
    }

    /// Whether the reply has begun and not ended.
    pub(super) fn has_begun(&self) -> bool {
        matches!(*self.lock(), OutletState::Begun { .. })
    }

    /// Whether the client has left before its answer was complete.
    pub(super) fn is_disconnected(&self) -> bool {
        match &*self.lock() {
            OutletState::Waiting(sender, _) => sender.is_closed(),
            OutletState::Begun { writer, .. } => writer.is_abandoned(),
            OutletState::Ended => false,
        }
    }
}

/// What `pserve_runtime.calls` knows as `call`.
#[pyclass(frozen)]
pub(super) struct Call {
    id: u64,
    shared: Arc<Shared>,
    instance: Arc<PluginInstance>,
    request: Arc<PluginRequest>,
    outlet: Arc<Outlet>,
}

impl Call {
    pub(super) fn new(shared: Arc<Shared>, pending: PendingCall) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let PendingCall { instance, request, sender, guard } = pending;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { id, shared, instance, request, outlet: Arc::new(Outlet::new(sender, guard)) }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn instance(&self) -> Arc<PluginInstance> {
        Arc::clone(&self.instance)
    }

    pub(super) fn outlet(&self) -> Arc<Outlet> {
        Arc::clone(&self.outlet)
    }

    pub(super) fn slot(&self, py: Python<'_>) -> Py<PyAny> {
        self.instance.slot.clone_ref(py)
    }

    fn answer(&self, result: CallResult) {
        self.shared.forget_task(self.id);
        self.outlet.end(result);
        // What the handler has not read of the body, nobody will.
        if let Some(body) = &self.request.streamed_body {
            body.abandon();
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

    /// Why the handler cannot go on for no mistake of its own: the client has left, or its body makes no sense.
    fn clients_fault(&self) -> Option<String> {
        let broken_body = self.request.streamed_body.as_ref().and_then(PipeReader::failure);
        let left = || self.outlet.is_disconnected().then(|| "the client has left".to_owned());
        broken_body.map(|broken| broken.to_string()).or_else(left)
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
    /// Takes what the handler returned. False: it is an aiohttp response that has to send itself.
    fn finish(&self, value: &Bound<'_, PyAny>) -> bool {
        native::leave_if_forked();
        if self.outlet.has_begun() {
            if reply::is_aiohttp_response(value).unwrap_or(false) {
                return false;
            }
            if !value.is_none() {
                let line = format!("{} returned a value after its response had begun", self.request.raw_path);
                value.py().detach(|| logging::emit(Severity::Warning, self.instance.id(), &line));
            }
            self.sent();
            return true;
        }
        match self.convert(value) {
            Ok(Some(reply)) => self.answer(Ok(reply)),
            Ok(None) => return false,
            Err(error) => self.raised(value.py(), &error),
        }
        true
    }

    /// An aiohttp response has sent itself to its end.
    fn sent(&self) {
        native::leave_if_forked();
        self.outlet.finish_body();
        self.answer(Err(CallError::Lost));
    }

    /// Takes what the handler raised. False: it is an aiohttp HTTP exception that has to send itself.
    fn fail(&self, error: &Bound<'_, PyAny>) -> bool {
        native::leave_if_forked();
        if self.instance.has_ended() && is_cancellation(error) {
            log::info!("{} {}: cut off, its plugin has ended", self.request.method, self.request.raw_path);
            self.outlet.say_goodbye();
            self.answer(Err(CallError::Lost));
            return true;
        }
        if error.is_instance_of::<PyConnectionError>()
            && let Some(reason) = self.clients_fault()
        {
            log::debug!("{} {}: {reason}", self.request.method, self.request.raw_path);
            self.answer(Err(CallError::UnreadableBody(reason)));
            return true;
        }
        if !self.outlet.has_begun() && reply::is_aiohttp_response(error).unwrap_or(false) {
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

fn is_cancellation(error: &Bound<'_, PyAny>) -> bool {
    error.get_type().name().is_ok_and(|name| name == "CancelledError")
}

impl Drop for Call {
    fn drop(&mut self) {
        // The task was destroyed before it came to an answer, as when its event loop has gone.
        self.answer(Err(CallError::Lost));
    }
}
