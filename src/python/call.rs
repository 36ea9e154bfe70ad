//! The server's side of one call: what the handler returned or raised goes back to whoever waits for it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyConnectionError, PyGeneratorExit, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::blocking_pool::PoolJob;
use super::error::PythonError;
use super::interpreter::Shared;
use super::ticket::Ticket;
use super::{context, native, reply};
use crate::exchange::{CallError, CallResult, PluginReply, Raised};
use crate::logging::{Record, Severity};
use crate::pipe::PipeReader;

/// What `pserve_runtime.calls` knows as `call`.
#[pyclass(frozen)]
pub(super) struct Call {
    shared: Arc<Shared>,
    ticket: Arc<Ticket>,
    is_answered: AtomicBool,
}

impl Call {
    pub(super) fn new(shared: Arc<Shared>, ticket: Arc<Ticket>) -> Self {
        ticket.outlet.turn_comes();
        Self { shared, ticket, is_answered: AtomicBool::new(false) }
    }

    pub(super) fn ticket(&self) -> &Arc<Ticket> {
        &self.ticket
    }

    fn answer(&self, result: CallResult) {
        self.is_answered.store(true, Ordering::Relaxed);
        self.shared.forget_task(self.ticket.id);
        self.ticket.end_flight();
        self.ticket.outlet.end(result);
        // What the handler has not read of the body, nobody will.
        if let Some(body) = &self.ticket.request.streamed_body {
            body.abandon();
        }
    }

    /// Answers with an exception, and puts its traceback into the log. The query stays out of it: it may hold a key.
    pub(super) fn raised(&self, py: Python<'_>, error: &PyErr) {
        let error = PythonError::from_exception(py, error);
        let line = format!("{} raised {}", self.ticket.request_line(), error.kind);
        py.detach(|| Record { traceback: Some(&error.traceback), ..self.ticket.record(Severity::Error, &line) }.emit());
        let raised = Raised { kind: error.kind, message: error.message, traceback: error.traceback };
        self.answer(Err(CallError::Raised(raised)));
    }

    /// Why the handler cannot go on for no mistake of its own: the client has left, or its body makes no sense.
    fn clients_fault(&self) -> Option<String> {
        let broken_body = self.ticket.request.streamed_body.as_ref().and_then(PipeReader::failure);
        let left = || self.ticket.outlet.is_disconnected().then(|| "the client has left".to_owned());
        broken_body.map(|broken| broken.to_string()).or_else(left)
    }

    fn convert(&self, value: &Bound<'_, PyAny>) -> PyResult<Option<PluginReply>> {
        // pyo3 panics when a dict changes while it is read, which code of the value's own may do.
        let convert = || reply::convert(value, self.ticket.instance.is_old_style());
        std::panic::catch_unwind(AssertUnwindSafe(convert))
            .unwrap_or_else(|_| Err(PyRuntimeError::new_err("the value changed while it was turned into a reply")))
    }
}

#[pymethods]
impl Call {
    /// Takes what the handler returned. False: it is an aiohttp response that has to send itself.
    pub(super) fn finish(&self, value: &Bound<'_, PyAny>) -> bool {
        native::leave_if_forked();
        if self.ticket.outlet.is_given_up() || self.ticket.outlet.has_ended() {
            self.answer(Err(CallError::Lost));
            return true;
        }
        if self.ticket.outlet.has_begun() {
            if reply::is_aiohttp_response(value).unwrap_or(false) {
                return false;
            }
            if !value.is_none() {
                let line = format!("{} returned a value after its response had begun", self.ticket.request.raw_path());
                value.py().detach(|| self.ticket.record(Severity::Warning, &line).emit());
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
        self.ticket.outlet.finish_body();
        self.answer(Err(CallError::Lost));
    }

    /// Takes what the handler raised. False: it is an aiohttp HTTP exception that has to send itself.
    pub(super) fn fail(&self, error: &Bound<'_, PyAny>) -> bool {
        native::leave_if_forked();
        // What was given up has been answered and logged; a coroutine that goes with its event loop is closed.
        let outlet = &self.ticket.outlet;
        if outlet.is_given_up() && is_cancellation(error)
            || outlet.has_ended() && error.is_instance_of::<PyGeneratorExit>()
        {
            self.answer(Err(CallError::Lost));
            return true;
        }
        if self.ticket.instance.has_ended() && is_cancellation(error) {
            let line = format!("{}: cut off, its plugin has ended", self.ticket.request_line());
            self.ticket.log_own(Severity::Info, &line);
            self.ticket.outlet.say_goodbye();
            self.answer(Err(CallError::Lost));
            return true;
        }
        if error.is_instance_of::<PyConnectionError>()
            && let Some(reason) = self.clients_fault()
        {
            self.ticket.log_own(Severity::Debug, &format!("{}: {reason}", self.ticket.request_line()));
            self.answer(Err(CallError::UnreadableBody(reason)));
            return true;
        }
        if !self.ticket.outlet.has_begun() && reply::is_aiohttp_response(error).unwrap_or(false) {
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

    /// A call on a thread has left a coroutine for the event loop, where it goes on in the context that it is in now.
    pub(super) fn carry_on(slf: &Bound<'_, Self>, coroutine: Py<PyAny>) -> PyResult<()> {
        native::leave_if_forked();
        let own_context = context::copy_current(slf.py())?.unbind();
        let call = slf.clone().unbind();
        let shared = Arc::clone(&slf.get().shared);
        let on_loop = Arc::clone(&shared);
        shared.queue.push(move |py| on_loop.carry_on(py, &call, &coroutine, own_context.bind(py)));
        Ok(())
    }

    /// The async `_check_auth` of a plain handler said yes: the handler runs on a thread, in its turn.
    fn back_to_thread(slf: &Bound<'_, Self>, data: Py<PyDict>) {
        let this = slf.get();
        let job = PoolJob::Checked { call: slf.clone().unbind(), data, ticket: Arc::clone(&this.ticket) };
        this.shared.pool.submit(&this.shared, job);
    }
}

pub(super) fn is_cancellation(error: &Bound<'_, PyAny>) -> bool {
    error.get_type().name().is_ok_and(|name| name == "CancelledError")
}

impl Drop for Call {
    fn drop(&mut self) {
        // The task was destroyed before it came to an answer, as when its event loop has gone.
        if !self.is_answered.load(Ordering::Relaxed) {
            self.answer(Err(CallError::Lost));
        }
    }
}
