//! What a connection is doing, and by when it must have gone on: one clock behind every limit in time.
//!
//! The stream tells what comes in and whether writes stand still, the service tells when requests begin and answers
//! end. Nothing of that sets a timer: the connection's task looks at the deadline when it has been woken anyway, and
//! its timer is only set when the deadline comes sooner than it would fire, or when it has fired early.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};

use futures_util::task::AtomicWaker;
use http::Version;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

use super::deadlines::{Due, Leaving, Phase, State, Times, due};
use super::refusal::OwnPieces;
use crate::config::settings::Limits;

/// How an HTTP/2 connection begins (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI ";

/// What the connections of a server have in common.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections that were asked to make room and are still there.
    pub evicted: AtomicUsize,
    /// Connections that are a handler's own.
    pub taken_over: AtomicUsize,
    /// Told when a connection has gone, or is a handler's own.
    pub left: Notify,
}

/// One connection's clock.
#[derive(Debug)]
pub struct Activity {
    times: Times,
    tally: Arc<Tally>,
    state: Mutex<State>,
    is_blocked: AtomicBool,
    is_head_refused: AtomicBool,
    must_linger: AtomicBool,
    own_pieces: OwnPieces,
    task: AtomicWaker,
}

impl Activity {
    pub fn new(limits: &Limits, tally: Arc<Tally>) -> Self {
        Self {
            times: Times::of(limits),
            tally,
            state: Mutex::new(State::new(Instant::now())),
            is_blocked: AtomicBool::new(false),
            is_head_refused: AtomicBool::new(false),
            must_linger: AtomicBool::new(false),
            own_pieces: OwnPieces::default(),
            task: AtomicWaker::new(),
        }
    }

    /// Locks even after a panic elsewhere: every state in between is valid.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A TLS handshake is expected: the time for it runs from now on.
    pub fn expects_handshake(&self) {
        self.lock().handshake_since = Some(Instant::now());
    }

    /// Its first byte is there.
    pub fn handshake_begins(&self) {
        self.enter(&mut self.lock(), Phase::Handshake);
    }

    /// It is done: the wait for the first byte begins afresh.
    pub fn handshake_ends(&self) {
        let mut state = self.lock();
        state.handshake_since = None;
        self.enter(&mut state, Phase::Fresh);
    }

    fn enter(&self, state: &mut State, phase: Phase) {
        if state.phase == Phase::TakenOver {
            self.tally.taken_over.fetch_sub(1, Ordering::SeqCst);
        }
        if phase == Phase::TakenOver {
            self.tally.taken_over.fetch_add(1, Ordering::SeqCst);
        }
        state.phase = phase;
        state.since = Instant::now();
        // One that is in use again makes no room; one that is being closed does until it has gone.
        if phase != Phase::Closing && std::mem::take(&mut state.is_evicted) {
            self.tally.evicted.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Bytes have come from the client.
    pub fn received(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if state.is_http2 {
            state.heard = Instant::now();
            return;
        }
        let is_between = matches!(state.phase, Phase::Fresh | Phase::Idle);
        // Empty lines before a request are nothing (RFC 9112, 2.2).
        if !is_between || bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            return;
        }
        if state.phase == Phase::Fresh && bytes.starts_with(HTTP2_PREFACE) {
            state.is_http2 = true;
            self.enter(&mut state, Phase::Idle);
            state.heard = state.since;
        } else {
            self.enter(&mut state, Phase::Head);
        }
    }

    /// A request has begun; it ends when what is returned is dropped.
    pub fn begin(self: &Arc<Self>, version: Version) -> InFlight {
        let is_http2 = version == Version::HTTP_2;
        let mut state = self.lock();
        state.is_http2 = is_http2;
        state.open += 1;
        self.enter(&mut state, Phase::Busy);
        state.moved = state.since;
        drop(state);
        InFlight { activity: Arc::clone(self), is_http2, is_answered: false, is_stalled: false }
    }

    /// A handler takes the connection over: only writes that stand still are timed from now on.
    pub fn take_over(&self) {
        self.enter(&mut self.lock(), Phase::TakenOver);
        self.tally.left.notify_waiters();
    }

    /// A write does not go on for want of room at the client's.
    pub fn write_waits(&self) {
        if !self.is_blocked.swap(true, Ordering::Relaxed) {
            self.lock().blocked = Some(Instant::now());
        }
    }

    /// The client has taken bytes.
    pub fn write_went_on(&self) {
        if self.is_blocked.load(Ordering::Relaxed) {
            self.is_blocked.store(false, Ordering::Relaxed);
            self.lock().blocked = None;
        }
    }

    /// Since when nothing is asked of it, if it may be closed for another's sake.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        let is_idle = matches!(state.phase, Phase::Fresh | Phase::Idle) && !state.is_evicted;
        is_idle.then_some(state.since)
    }

    /// Asks an idle connection to make room. False when it is not idle any more.
    pub fn evict(&self) -> bool {
        let mut state = self.lock();
        let is_idle = matches!(state.phase, Phase::Fresh | Phase::Idle) && !state.is_evicted;
        if is_idle {
            state.is_evicted = true;
            self.tally.evicted.fetch_add(1, Ordering::Relaxed);
            drop(state);
            self.task.wake();
        }
        is_idle
    }

    /// The server leaves.
    pub fn retire(&self, leaving: Leaving) {
        self.lock().retired = Some((leaving, Instant::now()));
        self.task.wake();
    }

    /// The stream shall tell the client that its head was too slow.
    pub fn refuse_head(&self) {
        self.enter(&mut self.lock(), Phase::Closing);
        self.is_head_refused.store(true, Ordering::Relaxed);
    }

    pub fn is_head_refused(&self) -> bool {
        self.is_head_refused.load(Ordering::Relaxed)
    }

    /// What the client has sent will not be read to its end: after the answer the rest is taken in for a moment, since
    /// a socket that is closed with something unread loses the answer, too (RFC 9112, 9.6).
    pub fn linger_at_end(&self) {
        self.must_linger.store(true, Ordering::Relaxed);
    }

    /// Whether a plugin decides where writes begin.
    pub fn own_pieces(&self) -> &OwnPieces {
        &self.own_pieces
    }

    pub fn must_linger(&self) -> bool {
        self.must_linger.load(Ordering::Relaxed)
    }

    /// We have said our last.
    pub fn closes(&self) {
        self.enter(&mut self.lock(), Phase::Closing);
    }

    /// Whether the connection is still to be closed for standing idle; it is then about to be.
    pub fn confirm_close(&self) -> Close {
        let mut state = self.lock();
        let is_due = due(&state, &self.times).is_some_and(|(at, due)| due == Due::Close && at <= Instant::now());
        if !is_due {
            return Close::NotNow;
        }
        let is_fresh = state.phase == Phase::Fresh;
        self.enter(&mut state, Phase::Closing);
        if is_fresh { Close::Silently } else { Close::Orderly }
    }

    /// The client has been told to send no more requests here.
    pub fn said_goodbye(&self) {
        self.lock().has_said_goodbye = true;
    }

    /// Waits until the time is up for something. Nothing is due any more when it has been dealt with.
    pub async fn run_out(&self) -> Due {
        let mut timer = pin!(None::<Sleep>);
        std::future::poll_fn(|context| {
            self.task.register(context.waker());
            loop {
                let Some((at, due)) = due(&self.lock(), &self.times) else {
                    // A timer that is set may fire for nothing.
                    return Poll::Pending;
                };
                if timer.is_none() {
                    timer.set(Some(sleep_until(at)));
                }
                let Some(mut sleep) = timer.as_mut().as_pin_mut() else {
                    return Poll::Pending;
                };
                if at < sleep.deadline() || sleep.is_elapsed() {
                    sleep.as_mut().reset(at);
                }
                ready!(sleep.poll(context));
                if at <= Instant::now() {
                    return Poll::Ready(due);
                }
            }
        })
        .await
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if self.lock().is_evicted {
            self.tally.evicted.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How a connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Not at all: it is in use again.
    NotNow,
    /// Nobody has said a word yet.
    Silently,
    /// As the protocol has it.
    Orderly,
}

/// One request, from its head until its answer has gone to the connection whole.
#[derive(Debug)]
pub struct InFlight {
    activity: Arc<Activity>,
    is_http2: bool,
    is_answered: bool,
    is_stalled: bool,
}

impl InFlight {
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// The head of the answer is there.
    pub fn answered(&mut self) {
        self.is_answered = true;
        if self.is_http2 {
            self.activity.lock().answered += 1;
        }
    }

    /// A piece of the answer has been handed over; whether the client has room for more is not known.
    pub fn handed(&mut self) {
        self.set_stalled(true);
    }

    /// The next piece is asked for: the client has room.
    pub fn asked(&mut self) {
        self.set_stalled(false);
    }

    fn set_stalled(&mut self, is_stalled: bool) {
        // With HTTP/1 there is one answer at a time, and the write that waits is seen at the socket.
        if !self.is_http2 || self.is_stalled == is_stalled {
            return;
        }
        self.is_stalled = is_stalled;
        let mut state = self.activity.lock();
        if is_stalled {
            state.stalled += 1;
        } else {
            state.stalled -= 1;
        }
        state.moved = Instant::now();
        drop(state);
        self.activity.task.wake();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.open -= 1;
        if self.is_stalled {
            state.stalled -= 1;
        }
        if !self.is_answered {
            state.taken_back += usize::from(self.is_http2);
        }
        if state.open == 0 && state.phase == Phase::Busy {
            self.activity.enter(&mut state, Phase::Idle);
        }
        drop(state);
        if self.is_http2 {
            self.activity.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::connections::tests::limits;
    use super::super::deadlines::{MOST_TAKEN_BACK, QUIET};
    use super::*;

    fn activity() -> Arc<Activity> {
        let limits = Limits { first_byte_timeout: Duration::from_secs(30), ..limits() };
        Arc::new(Activity::new(&limits, Arc::default()))
    }

    fn next(activity: &Activity) -> Option<(u64, Due)> {
        let state = activity.lock();
        due(&state, &activity.times).map(|(at, due)| (at.saturating_duration_since(state.since).as_secs(), due))
    }

    #[test]
    fn every_phase_has_its_limit() {
        let activity = activity();
        assert_eq!(next(&activity), Some((30, Due::Close)));
        activity.received(b"\r\n");
        assert_eq!(next(&activity), Some((30, Due::Close)));
        activity.received(b"GET");
        assert_eq!(next(&activity), Some((10, Due::SlowHead)));
        activity.received(b" / HTTP/1.1\r\n\r\n");
        let in_flight = activity.begin(Version::HTTP_11);
        assert_eq!(next(&activity), None);
        activity.write_waits();
        assert!(matches!(next(&activity), Some((_, Due::Cut(_)))));
        activity.write_went_on();
        drop(in_flight);
        assert_eq!(next(&activity), Some((75, Due::Close)));
        activity.take_over();
        assert_eq!(next(&activity), None);
    }

    #[test]
    fn a_retired_connection_has_a_second_of_quiet_and_a_fresh_one_its_first_request() {
        let activity = activity();
        activity.retire(Leaving::SharedListeners);
        assert_eq!(next(&activity), Some((30, Due::Close)));
        drop(activity.begin(Version::HTTP_11));
        assert_eq!(next(&activity), Some((QUIET.as_secs(), Due::Close)));
        let activity = super::tests::activity();
        activity.retire(Leaving::LastOne);
        assert_eq!(next(&activity), Some((QUIET.as_secs(), Due::Close)));
    }

    #[test]
    fn only_an_idle_connection_makes_room_and_not_when_it_is_used_again() {
        let activity = activity();
        assert!(activity.evict() && !activity.evict());
        assert_eq!(activity.tally.evicted.load(Ordering::Relaxed), 1);
        activity.received(b"GET");
        assert_eq!(activity.tally.evicted.load(Ordering::Relaxed), 0);
        assert!(!activity.evict());
        assert_eq!(activity.confirm_close(), Close::NotNow);
    }

    #[test]
    fn taking_requests_back_is_bounded() {
        let activity = activity();
        activity.received(b"PRI * HTTP/2.0");
        for _ in 0..=MOST_TAKEN_BACK {
            assert!(!matches!(next(&activity), Some((0, Due::Cut(_)))));
            drop(activity.begin(Version::HTTP_2));
        }
        assert!(matches!(next(&activity), Some((0, Due::Cut(_)))));
    }
}
