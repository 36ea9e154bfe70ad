//! Signals become events. Registered before Python starts, so that no plugin sees a KeyboardInterrupt.

use std::io;

use signal_hook::consts::{SIGABRT, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalEvent {
    /// Finish what is in flight and end. Carries the signal's name.
    Stop(&'static str),
    /// Read the INI file and reload everything. Carries the signal's name.
    Reload(&'static str),
}

/// The signals that are the server's: a plugin that asks for one is told so and changes nothing.
pub const OWN_SIGNALS: [i32; 5] = [SIGHUP, SIGINT, SIGTERM, SIGABRT, SIGUSR1];

/// Starts to listen, on a thread of its own. Call it before Python starts.
pub fn listen() -> io::Result<mpsc::UnboundedReceiver<SignalEvent>> {
    let mut signals = Signals::new(OWN_SIGNALS)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if sender.send(event(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn event(signal: i32) -> SignalEvent {
    match signal {
        SIGHUP => SignalEvent::Reload("SIGHUP"),
        SIGUSR1 => SignalEvent::Reload("SIGUSR1"),
        SIGINT => SignalEvent::Stop("SIGINT"),
        SIGABRT => SignalEvent::Stop("SIGABRT"),
        _ => SignalEvent::Stop("SIGTERM"),
    }
}
