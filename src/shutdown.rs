//! Signals become wishes. The supervisor listens to all of them; a worker only to the one that is meant for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGABRT, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What a signal asks for, with the signal's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// SIGHUP, SIGUSR1: start afresh without losing a request.
    Reload(&'static str),
    /// SIGTERM, SIGINT, SIGABRT: finish and end; once more: end at once.
    Stop(&'static str),
    /// SIGUSR2: status and stacks into the log.
    Dump(&'static str),
}

impl Wish {
    /// Whether a command that serves nothing ends for it. Of the reloads only a terminal that was closed says so.
    pub fn asks_a_command_to_end(self) -> bool {
        matches!(self, Self::Stop(_) | Self::Reload("SIGHUP"))
    }
}

/// The signals that are the server's: a plugin that asks for one is told so and changes nothing.
pub const OWN_SIGNALS: [i32; 5] = [SIGHUP, SIGINT, SIGTERM, SIGABRT, SIGUSR1];

/// What the supervisor listens to.
const OF_SUPERVISOR: [i32; 6] = [SIGHUP, SIGINT, SIGTERM, SIGABRT, SIGUSR1, SIGUSR2];

/// What a worker listens to, before Python starts, so that no plugin sees a KeyboardInterrupt. Of these only SIGTERM
/// means it: the others come to it by a key on the terminal or from `pkill`, and the supervisor has got them too.
/// SIGABRT stays with `faulthandler`: C code that gives up sends it.
const OF_WORKER: [i32; 5] = [SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2];

/// Starts to listen as the supervisor, on a thread of its own.
pub fn listen() -> io::Result<UnboundedReceiver<Wish>> {
    listen_to(&OF_SUPERVISOR, wish_of)
}

/// Starts to listen as a worker, on a thread of its own.
pub fn listen_as_worker() -> io::Result<UnboundedReceiver<Wish>> {
    listen_to(&OF_WORKER, |signal| wish_of(signal).filter(|_| signal == SIGTERM))
}

/// Starts to listen as the process of a command that plugins run in, on a thread of its own.
pub fn listen_beside_parent() -> io::Result<UnboundedReceiver<Wish>> {
    listen_to(&OF_WORKER, wish_of)
}

/// A flag that such a signal sets at once, while a wish has to wait for its thread.
pub fn note_end_asked() -> io::Result<Arc<AtomicBool>> {
    let is_asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&is_asked))?;
    }
    Ok(is_asked)
}

fn wish_of(signal: i32) -> Option<Wish> {
    Some(match signal {
        SIGHUP => Wish::Reload("SIGHUP"),
        SIGUSR1 => Wish::Reload("SIGUSR1"),
        SIGUSR2 => Wish::Dump("SIGUSR2"),
        SIGINT => Wish::Stop("SIGINT"),
        SIGABRT => Wish::Stop("SIGABRT"),
        SIGTERM => Wish::Stop("SIGTERM"),
        _ => return None,
    })
}

fn listen_to(signals: &[i32], wish_of: fn(i32) -> Option<Wish>) -> io::Result<UnboundedReceiver<Wish>> {
    let mut signals = Signals::new(signals)?;
    let (sender, receiver) = unbounded_channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for wish in signals.forever().filter_map(wish_of) {
            let _ = sender.send(wish);
        }
    })?;
    Ok(receiver)
}
