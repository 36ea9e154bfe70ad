//! What a connection may be doing, and what is due next in each case, and when: rules without a clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::settings::Limits;

/// A connection that a retiring server still has is closed when it has been quiet for so long: a client that was
/// active just now may be sending its next request, and must not meet a closing socket.
pub const QUIET: Duration = Duration::from_secs(1);

/// How long a client that has been told the end may take to notice.
pub const LINGER: Duration = Duration::from_secs(2);

/// Requests of one HTTP/2 connection that the client may take back beyond those it let us answer: more than that is
/// no use of the protocol (CVE-2023-44487).
pub const MOST_TAKEN_BACK: usize = 200;

/// How a server leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// Other processes accept from the same listeners: what waits there is theirs.
    SharedListeners,
    /// Nobody comes after: what waits to be accepted is served first.
    LastOne,
}

/// What a connection's time is up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The head of a request has taken too long: the client is told.
    SlowHead,
    /// It stands idle: it is closed without a word.
    Close,
    /// HTTP/2 is told to send no more requests here.
    GoAway,
    /// There is nobody to talk to: it is cut off.
    Cut(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has come yet; with TLS also: nothing since the handshake.
    Fresh,
    /// A TLS handshake goes on.
    Handshake,
    /// The head of a request has begun.
    Head,
    /// A request is being answered.
    Busy,
    /// Between two requests.
    Idle,
    /// The connection is a handler's own.
    TakenOver,
    /// We have said our last.
    Closing,
}

/// The limits in time; `None` where there is none.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    first_byte: Option<Duration>,
    handshake: Option<Duration>,
    head: Option<Duration>,
    send: Option<Duration>,
    idle: Option<Duration>,
}

impl Times {
    pub fn of(limits: &Limits) -> Self {
        let unless_zero = |limit: Duration| (!limit.is_zero()).then_some(limit);
        Self {
            first_byte: unless_zero(limits.first_byte_timeout),
            handshake: unless_zero(limits.handshake_timeout),
            head: unless_zero(limits.header_timeout),
            send: unless_zero(limits.send_timeout),
            idle: unless_zero(limits.idle_timeout),
        }
    }
}

#[derive(Debug)]
pub struct State {
    pub phase: Phase,
    /// When the phase began.
    pub since: Instant,
    /// Since when a TLS handshake is waited for.
    pub handshake_since: Option<Instant>,
    pub is_http2: bool,
    /// When bytes came last; kept for HTTP/2 only.
    pub heard: Instant,
    /// Requests whose answers have not gone to the connection whole.
    pub open: usize,
    /// Those of them for whose next piece the client has no room; HTTP/2 only.
    pub stalled: usize,
    /// When one of them last took a piece.
    pub moved: Instant,
    /// Requests that were answered, and that the client took back before they were.
    pub answered: usize,
    pub taken_back: usize,
    /// Since when the client takes nothing of what is being written.
    pub blocked: Option<Instant>,
    /// Another connection needs the place.
    pub is_evicted: bool,
    pub retired: Option<(Leaving, Instant)>,
    pub has_said_goodbye: bool,
}

impl State {
    /// That of a new connection.
    pub fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Fresh,
            since: now,
            handshake_since: None,
            is_http2: false,
            heard: now,
            open: 0,
            stalled: 0,
            moved: now,
            answered: 0,
            taken_back: 0,
            blocked: None,
            is_evicted: false,
            retired: None,
            has_said_goodbye: false,
        }
    }
}

/// What comes up next for a connection, and when.
pub fn due(state: &State, times: &Times) -> Option<(Instant, Due)> {
    let after = |start: Instant, limit: Option<Duration>, due: Due| Some((start.checked_add(limit?)?, due));
    let since = state.since;
    let at_once = |is_so: bool, due: Due| is_so.then_some((since, due));
    let sending = state.blocked.and_then(|blocked| after(blocked, times.send, Due::Cut("the client takes no bytes")));
    let is_retired = state.retired.is_some();
    let goodbye = at_once(state.is_http2 && is_retired && !state.has_said_goodbye, Due::GoAway);
    let abuse = at_once(
        state.taken_back > state.answered + MOST_TAKEN_BACK,
        Due::Cut("the client takes nearly every request back"),
    );
    let evicted = at_once(state.is_evicted, Due::Close);
    let of_phase = match state.phase {
        Phase::Fresh => {
            let retiring = state.retired.filter(|(leaving, _)| *leaving == Leaving::LastOne);
            let retiring = retiring.and_then(|(_, at)| after(at.max(since), Some(QUIET), Due::Close));
            let handshake = state.handshake_since.and_then(|since| after(since, times.handshake, Due::Close));
            soonest([after(since, times.first_byte, Due::Close), handshake, evicted, retiring])
        }
        Phase::Handshake => {
            after(state.handshake_since.unwrap_or(since), times.handshake, Due::Cut("no TLS handshake in time"))
        }
        Phase::Head => after(since, times.head, Due::SlowHead),
        Phase::Idle => {
            let last = if state.is_http2 { state.heard.max(since) } else { since };
            // A client that will find the server there again gets the time from now on: its next request is answered, and
            // it learns that the connection ends.
            let quiet_since = |(leaving, at): (Leaving, Instant)| match leaving {
                Leaving::SharedListeners => at.max(since),
                Leaving::LastOne => since,
            };
            let retiring = state.retired.map(quiet_since).and_then(|start| after(start, Some(QUIET), Due::Close));
            soonest([after(last, times.idle, Due::Close), evicted, retiring])
        }
        Phase::Busy if state.stalled > 0 && state.stalled == state.open => {
            after(state.moved, times.send, Due::Cut("the client takes nothing of its answers"))
        }
        Phase::Busy | Phase::TakenOver => None,
        Phase::Closing => after(since, Some(LINGER), Due::Cut("the client does not leave")),
    };
    soonest([sending, goodbye, abuse, of_phase])
}

fn soonest<const N: usize>(all: [Option<(Instant, Due)>; N]) -> Option<(Instant, Due)> {
    all.into_iter().flatten().min_by_key(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stood_idle_before_a_reload_has_its_second_from_then_on() {
        let start = Instant::now();
        let mut state = State { phase: Phase::Idle, ..State::new(start) };
        let retired = start + Duration::from_secs(20);
        let times = Times { first_byte: None, handshake: None, head: None, send: None, idle: None };
        state.retired = Some((Leaving::SharedListeners, retired));
        assert_eq!(due(&state, &times), Some((retired + QUIET, Due::Close)));
        state.retired = Some((Leaving::LastOne, retired));
        assert_eq!(due(&state, &times), Some((start + QUIET, Due::Close)));
    }
}
