//! One call as the server's side knows it, from the moment it is handed over: where its answer goes, where it is now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::instance::PluginInstance;
use crate::exchange::{CallError, CallResult, PluginReply, PluginRequest, ReplyBody};
use crate::flight::{Entry, FlightRecorder};
use crate::logging::{Record, Severity};
use crate::pipe::PipeWriter;

/// Told how a call goes on the Python side, and dropped when it has ended there, whether or not anybody still waits for
/// the answer.
pub trait CallWatch: Send {
    /// Its turn has come.
    fn begins(&self);
    /// The handler has raised.
    fn raised(&self);
}

pub type CallGuard = Box<dyn CallWatch>;

/// One call. Shared by whoever waits for it, the lane that it waits in, and Python.
pub(super) struct Ticket {
    pub(super) id: u64,
    pub(super) instance: Arc<PluginInstance>,
    pub(super) request: Box<PluginRequest>,
    pub(super) outlet: Outlet,
    place: Mutex<Place>,
    /// While it is on the event loop.
    flight: Mutex<Option<Entry>>,
}

/// A thread as Python's `threading.get_ident()` names it.
pub(super) type ThreadIdent = u64;

/// Where a call is, as far as threads go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a queue, or on the event loop.
    Elsewhere,
    OnThread(ThreadIdent),
    /// Given up before it came to a thread.
    Skipped,
    /// Given up on a thread, which is lost until the handler returns.
    Abandoned,
}

impl Ticket {
    pub(super) fn new(
        instance: Arc<PluginInstance>,
        request: Box<PluginRequest>,
        sender: oneshot::Sender<CallResult>,
        guard: CallGuard,
    ) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            instance,
            request,
            outlet: Outlet::new(sender, guard),
            place: Mutex::new(Place::Elsewhere),
            flight: Mutex::default(),
        }
    }

    /// Method and path; the query may hold a key.
    pub(super) fn request_line(&self) -> String {
        format!("{} {}", self.request.method, self.request.raw_path())
    }

    /// A record about it, in the name of its plugin.
    pub(super) fn record<'a>(&'a self, severity: Severity, message: &'a str) -> Record<'a> {
        Record { request_id: Some(&self.request.request_id), ..Record::about(self.instance.id(), severity, message) }
    }

    /// Writes a record about it in the server's own name: the plugin has nothing to do with it.
    pub(super) fn log_own(&self, severity: Severity, message: &str) {
        let request_id = Some(&self.request.request_id);
        Record { request_id, ..Record::new(severity, "pserve", message) }.emit_own();
    }

    /// A thread begins with it. False when it has been given up meanwhile.
    pub(super) fn enter_thread(&self, ident: ThreadIdent) -> bool {
        let mut place = lock(&self.place);
        if *place == Place::Elsewhere {
            *place = Place::OnThread(ident);
        }
        *place == Place::OnThread(ident)
    }

    /// The thread is done with it. False when it has been abandoned meanwhile.
    pub(super) fn leave_thread(&self) -> bool {
        let mut place = lock(&self.place);
        if matches!(*place, Place::OnThread(_)) {
            *place = Place::Elsewhere;
        }
        *place != Place::Abandoned
    }

    /// Marks a call that nobody waits for any more. The answer is where it was.
    pub(super) fn abandon(&self) -> Place {
        let mut place = lock(&self.place);
        let before = *place;
        *place = match before {
            Place::Elsewhere | Place::Skipped => Place::Skipped,
            Place::OnThread(_) | Place::Abandoned => Place::Abandoned,
        };
        before
    }

    pub(super) fn place(&self) -> Place {
        *lock(&self.place)
    }

    pub(super) fn begin_flight(&self, recorder: Option<&Arc<FlightRecorder>>) {
        *lock(&self.flight) = self.flight_entry(recorder);
    }

    pub(super) fn end_flight(&self) {
        let entry = lock(&self.flight).take();
        drop(entry);
    }

    /// Puts it into the flight recorder for as long as the entry lives.
    pub(super) fn flight_entry(&self, recorder: Option<&Arc<FlightRecorder>>) -> Option<Entry> {
        Some(recorder?.begin_call(self.instance.id(), self.request.method.as_str(), self.request.raw_path()))
    }
}

/// Locks even after a panic elsewhere: every state in between is valid.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Whoever waited has been told that there is no answer; the handler has not ended yet.
    GivenUp(CallGuard),
    Ended,
}

impl Outlet {
    fn new(sender: oneshot::Sender<CallResult>, guard: CallGuard) -> Self {
        Self { state: Mutex::new(OutletState::Waiting(sender, guard)) }
    }

    fn lock(&self) -> MutexGuard<'_, OutletState> {
        lock(&self.state)
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
    pub(super) fn say_goodbye(&self) {
        if let OutletState::Begun { writer, is_upgraded: true, .. } = &*self.lock() {
            writer.push(Bytes::from_static(&[0x88, 0x02, 0x03, 0xe9]));
            writer.finish();
        }
    }

    /// The regular end of a body that has begun.
    pub(super) fn finish_body(&self) {
        if let OutletState::Begun { writer, .. } = &*self.lock() {
            writer.finish();
        }
    }

    /// Answers without waiting for the handler. False when an answer has been given or has begun.
    pub(super) fn give_up(&self, error: CallError) -> bool {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, OutletState::Ended) {
            OutletState::Waiting(sender, guard) => {
                *state = OutletState::GivenUp(guard);
                let _ = sender.send(Err(error));
                true
            }
            other => {
                *state = other;
                false
            }
        }
    }

    pub(super) fn is_given_up(&self) -> bool {
        matches!(*self.lock(), OutletState::GivenUp(_))
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(*self.lock(), OutletState::Ended)
    }

    /// Its turn has come on the Python side.
    pub(super) fn turn_comes(&self) {
        if let OutletState::Waiting(_, guard) = &*self.lock() {
            guard.begins();
        }
    }

    pub(super) fn end(&self, result: CallResult) {
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
            (OutletState::GivenUp(guard), _) => drop(guard),
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
            OutletState::GivenUp(_) => true,
            OutletState::Ended => false,
        }
    }
}
