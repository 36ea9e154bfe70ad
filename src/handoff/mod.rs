//! What the supervisor and a worker say to each other, and what a worker is given at its start.
//!
//! A worker is the same program, started by exec with one end of a socket pair as its standard input. The first message
//! through it carries the worker's task and, as open descriptors, its listeners; after that both sides talk in JSON.

mod channel;
mod link;
pub mod parcel;
mod pem;
mod seat;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use channel::{MessageReader, MessageWriter, split};
pub use link::Link;
pub use pem::TlsPem;
pub use seat::{Seat, hand_over};

use crate::config::Source;
use crate::config::settings::ListenAddress;
use crate::exchange::{Change, Changed, ControlError, PluginFiles, Quarantined};
use crate::metrics::Snapshot;
use crate::recent::{News, Since};

/// Names the supervisor to a worker, and `pserve call` to its child: the process number. Plugins do not see it.
const WORKER_VARIABLE: &str = "PSERVE_WORKER";

/// What a worker starts with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    /// From 1 on; the one that takes a worker's place has its number.
    pub number: usize,
    /// Where the listeners that come along were bound, in their order.
    pub addresses: Vec<ListenAddress>,
    /// Where the configuration comes from.
    pub source: Source,
    /// The INI file as it was when it was last put in force: every worker works with the same.
    pub ini_text: String,
    /// The certificate and the key of `[SSL]` as they were read for this set.
    pub tls: Option<TlsPem>,
    /// The files to load; `None` is all of the folder.
    pub files: Option<PluginFiles>,
    /// Files that can be loaded only when the worker before this one has ended: what they own is exclusive.
    pub later: PluginFiles,
    /// Plugins of those files that have been unloaded.
    pub unloaded: Vec<String>,
    pub quarantined: Vec<Quarantined>,
}

/// A listening socket that the supervisor has bound.
#[derive(Debug)]
pub struct Inherited {
    /// As configured: the port may be 0.
    pub configured: ListenAddress,
    pub socket: OwnedFd,
}

/// What is asked of the supervisor on behalf of a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ask {
    Change(Change),
    /// How all workers are.
    Overview,
    /// The same for who watches the server: without the plugin files, and with what each process, by its number, has
    /// seen since it was last asked.
    News(BTreeMap<u32, Since>),
    /// What was told with [`Report::Pulse`] of the last minutes.
    Pulses,
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    Changed(Result<Changed, ControlError>),
    Overview(Box<Overview>),
    Pulses(String),
}

/// All workers, as far as they say how they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Overview {
    pub workers: Vec<WorkerView>,
    /// What workers that have ended counted.
    pub ended: Snapshot,
    /// When the server started, as Unix time.
    pub started: f64,
    /// Why the last restart by signal failed, when it did.
    pub last_failure: Option<String>,
    pub quarantined: Vec<Quarantined>,
    /// What the supervisor itself has to tell, when it was asked for news.
    pub news: Option<News>,
}

/// One worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerView {
    pub number: usize,
    pub pid: u32,
    /// `starting`, `serving` or `retiring`.
    pub state: String,
    /// How often this number's worker has been replaced, by reason.
    pub restarts: Vec<(String, u64)>,
    pub age_seconds: u64,
    /// What it says of its plugins; missing when it did not answer in time, or was asked for news.
    pub plugins: Option<Value>,
    pub news: Option<News>,
    /// What it was last heard to have counted.
    pub counted: Snapshot,
}

/// What a worker says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    /// Its plugin files, as `/plugins?verbose=1` shows them, unless it was asked for news.
    pub plugins: Option<Value>,
    pub news: Option<News>,
    pub counted: Snapshot,
}

/// From the supervisor to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Accept connections.
    Serve,
    /// Leave the listeners to others, finish, end.
    Retire,
    /// The event loop has stood still for too long: answer whoever waits for it, then as [`Order::Retire`].
    Abandon,
    /// Finish, end: nobody comes after you.
    Stop,
    /// Do this, with the INI file as it is now.
    Change {
        ticket: u64,
        change: Change,
        ini_text: Option<String>,
    },
    /// Load these files now, which had to wait for the worker before.
    LoadLater,
    /// Say how you are.
    Describe {
        ticket: u64,
        /// Set for who wants news: what is known there already.
        since: Option<Since>,
    },
    Answer {
        ticket: u64,
        answer: Answer,
    },
    Quarantine(Quarantined),
    /// Write status and stacks to the log.
    Dump,
}

/// From a worker to the supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Report {
    /// The plugins are up; it waits for the word to serve.
    Loaded(PluginFiles),
    /// It will end: the reason for people, and whether what the user typed is wrong.
    CannotStart {
        message: String,
        is_usage: bool,
    },
    Serving,
    /// It accepts no more.
    Closed,
    /// A change is done, and what the plugins are now.
    Done {
        ticket: u64,
        result: Result<Changed, ControlError>,
        files: PluginFiles,
    },
    Described {
        ticket: u64,
        report: Box<Description>,
    },
    Ask {
        ticket: u64,
        ask: Ask,
    },
    /// Every second: how long the event loop has stood still.
    Beat {
        stalled: Duration,
    },
    /// It wants a fresh worker in its place.
    Tired {
        reason: TiredBecause,
        words: String,
    },
    /// What it tells those who watch, once a second as long as somebody does.
    Pulse(String),
    /// What it has counted, now and then and at its end.
    Counted(Box<Snapshot>),
}

/// Why a worker wants to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TiredBecause {
    Requests,
    Memory,
    Age,
    LostThreads,
    NoDescriptors,
    Signal,
}
