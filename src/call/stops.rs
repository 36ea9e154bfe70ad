//! Who asks for the end of a call: the parent, once for each signal that it gets, and signals to this process, which may
//! be the same ones: keys of a terminal reach both.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::apart;
use crate::shutdown::Wish;

/// Both ways by which the end is asked for.
#[derive(Debug)]
pub struct Stops {
    signals: UnboundedReceiver<Wish>,
    from_parent: UnboundedReceiver<()>,
    heard_from_parent: usize,
}

/// How urgent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    First,
    /// It was asked for before.
    Again,
}

impl Stops {
    pub fn listen(signals: UnboundedReceiver<Wish>, parent: &Arc<UnixStream>) -> anyhow::Result<Self> {
        let (sender, from_parent) = unbounded_channel();
        let parent = Arc::clone(parent);
        let read = move || while apart::next_stop(&parent).is_some() && sender.send(()).is_ok() {};
        std::thread::Builder::new().name("parent".to_owned()).spawn(read).context("cannot listen to the parent")?;
        Ok(Self { signals, from_parent, heard_from_parent: 0 })
    }

    /// The next time that the end is asked for. Only the parent can ask again: what it passes on may have come here
    /// as a signal already.
    pub async fn next(&mut self) -> Stop {
        loop {
            tokio::select! {
                Some(wish) = self.signals.recv() => if wish.asks_a_command_to_end() { return Stop::First },
                Some(()) = self.from_parent.recv() => {
                    self.heard_from_parent += 1;
                    return if self.heard_from_parent > 1 { Stop::Again } else { Stop::First };
                }
                else => std::future::pending().await,
            }
        }
    }
}
