//! The waiting side of a call: awaits the answer within a limit, and gives the call up when it is over, or when the
//! client has left and the plugin does not want to go on without.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::interpreter::Shared;
use super::ticket::{Place, ThreadIdent, Ticket};
use crate::exchange::{CallError, CallResult};
use crate::logging::{Record, Severity};

/// How long the stack of a lost thread is waited for before it is taken without the interpreter's leave.
const STACK_PATIENCE: Duration = Duration::from_secs(2);

/// The answer to one call, to be awaited. Dropped before it has come, it means that the client has left.
pub struct PendingAnswer {
    shared: Arc<Shared>,
    ticket: Arc<Ticket>,
    receiver: oneshot::Receiver<CallResult>,
    limit: Option<(Instant, Duration)>,
    is_answered: bool,
}

impl fmt::Debug for PendingAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PendingAnswer").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl PendingAnswer {
    pub(super) fn new(
        shared: Arc<Shared>,
        ticket: Arc<Ticket>,
        receiver: oneshot::Receiver<CallResult>,
        limit: Option<Duration>,
    ) -> Self {
        let limit = limit.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
        Self { shared, ticket, receiver, limit, is_answered: false }
    }

    /// Waits for it. The limit counts until the answer has begun: a stream may take as long as it likes.
    pub async fn answer(mut self) -> CallResult {
        let result = match self.limit {
            None => (&mut self.receiver).await,
            Some((deadline, limit)) => match timeout_at(deadline, &mut self.receiver).await {
                Ok(result) => result,
                Err(_) => {
                    give_up_late(&self.shared, &self.ticket, limit);
                    (&mut self.receiver).await
                }
            },
        };
        self.is_answered = true;
        result.unwrap_or(Err(CallError::Lost))
    }
}

impl Drop for PendingAnswer {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let (shared, ticket) = (Arc::clone(&self.shared), Arc::clone(&self.ticket));
        if ticket.instance.cancel_on_disconnect() && give_up_left(&shared, &ticket) {
            return;
        }
        // Nobody waits any more; the limit holds all the same.
        if let (Some((deadline, limit)), Ok(runtime)) = (self.limit, Handle::try_current()) {
            runtime.spawn(async move {
                sleep_until(deadline).await;
                give_up_late(&shared, &ticket, limit);
            });
        }
    }
}

/// Ends a call whose time is over.
fn give_up_late(shared: &Arc<Shared>, ticket: &Arc<Ticket>, limit: Duration) {
    let error = CallError::TimedOut { plugin: ticket.instance.id().to_owned(), limit };
    if !ticket.outlet.give_up(error) {
        return;
    }
    abandon_body(ticket);
    let line = format!("{} gave no answer within {} s", ticket.request_line(), limit.as_secs_f64());
    let place = ticket.abandon();
    if let Place::OnThread(ident) = place {
        // A retiring plugin does not wait for it, nor does it take up room among the waiting calls.
        ticket.outlet.end(Err(CallError::Lost));
        let lost = shared.pool.lose_thread(shared, ticket);
        log_stack(shared, ticket, ident, format!("{line}; its thread is lost, {lost} are now"));
        return;
    }
    let end = if ticket.instance.is_async() { "it is cancelled" } else { "it does not run any more" };
    ticket.record(Severity::Warning, &format!("{line}; {end}")).emit();
    stop(shared, ticket);
}

/// Ends a call whose client has left. False when it runs on: a thread cannot be stopped.
fn give_up_left(shared: &Arc<Shared>, ticket: &Arc<Ticket>) -> bool {
    if matches!(ticket.place(), Place::OnThread(_)) {
        return false;
    }
    if ticket.outlet.give_up(CallError::Lost) {
        ticket.log_own(Severity::Info, &format!("{}: its client has left, it is cancelled", ticket.request_line()));
        abandon_body(ticket);
        ticket.abandon();
        stop(shared, ticket);
    }
    true
}

/// Cancels what runs on the event loop, and takes out of its lane what waits there.
fn stop(shared: &Arc<Shared>, ticket: &Arc<Ticket>) {
    ticket.instance.lane.remove(ticket.id);
    let (on_loop, id) = (Arc::clone(shared), ticket.id);
    shared.queue.push(move |py| on_loop.cancel_task(py, id));
}

/// What the handler has not read of the body, it shall not.
fn abandon_body(ticket: &Ticket) {
    if let Some(body) = &ticket.request.streamed_body {
        body.abandon();
    }
}

/// Puts a line into the log with where the thread stands, once that is known.
fn log_stack(shared: &Arc<Shared>, ticket: &Arc<Ticket>, ident: ThreadIdent, line: String) {
    let (for_thread, for_ticket, text) = (Arc::clone(shared), Arc::clone(ticket), line.clone());
    let started = std::thread::Builder::new().name("stack".to_owned()).spawn(move || {
        let stack = for_thread.watch.thread_stack(ident, STACK_PATIENCE);
        if for_ticket.place() == Place::Abandoned {
            let record = for_ticket.record(Severity::Warning, &text);
            Record { traceback: Some(&stack), ..record }.emit();
        } else {
            for_ticket.record(Severity::Warning, &format!("{text}\nit has ended meanwhile")).emit();
        }
    });
    if started.is_err() {
        ticket.record(Severity::Warning, &line).emit();
    }
}
