//! Signals become events. Registered before Python starts, so that no plugin sees a KeyboardInterrupt.

use std::io;

use signal_hook::consts::{SIGABRT, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tokio::sync::{mpsc, watch};

/// What signals have asked for so far.
#[derive(Debug)]
pub struct SignalEvents {
    /// Names of signals that ask for a reload, in their order.
    pub reloads: mpsc::UnboundedReceiver<&'static str>,
    pub stops: StopRequests,
}

/// How often the end has been asked for. Clones see the same.
#[derive(Debug, Clone)]
pub struct StopRequests(watch::Receiver<Stops>);

#[derive(Debug, Clone, Copy, Default)]
struct Stops {
    count: usize,
    last: &'static str,
}

impl StopRequests {
    /// Waits until the end has been asked for that many times. The answer is the last signal's name.
    pub async fn asked(&self, times: usize) -> &'static str {
        let mut stops = self.0.clone();
        let name = stops.wait_for(|stops| stops.count >= times).await.map(|stops| stops.last);
        match name {
            Ok(name) => name,
            // The listening thread lives as long as the process.
            Err(_) => std::future::pending().await,
        }
    }
}

/// The signals that are the server's: a plugin that asks for one is told so and changes nothing.
pub const OWN_SIGNALS: [i32; 5] = [SIGHUP, SIGINT, SIGTERM, SIGABRT, SIGUSR1];

/// Starts to listen, on a thread of its own. Call it before Python starts.
pub fn listen() -> io::Result<SignalEvents> {
    let mut signals = Signals::new(OWN_SIGNALS)?;
    let (ask_reload, reloads) = mpsc::unbounded_channel();
    let (ask_stop, stops) = watch::channel(Stops::default());
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => drop(ask_reload.send("SIGHUP")),
                SIGUSR1 => drop(ask_reload.send("SIGUSR1")),
                _ => ask_stop.send_modify(|stops| {
                    stops.count += 1;
                    stops.last = match signal {
                        SIGINT => "SIGINT",
                        SIGABRT => "SIGABRT",
                        _ => "SIGTERM",
                    };
                }),
            }
        }
    })?;
    Ok(SignalEvents { reloads, stops: StopRequests(stops) })
}
