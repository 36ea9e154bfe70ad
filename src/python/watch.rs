//! Watches the event loop and the interpreter from a thread of its own: whether the loop turns, how long the
//! interpreter is waited for, and where every Python thread stands, when somebody asks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::error::PythonError;
use super::interpreter::Shared;
use super::scheduling;
use super::stacks::StackDump;
use super::ticket::ThreadIdent;

/// How often it looks whether the loop turns.
const PERIOD: Duration = Duration::from_secs(1);

/// How often it looks whether a handler computes for long.
const GLANCE: Duration = Duration::from_millis(200);

/// A handler that takes longer may be computing all the time.
const LONG_CALL: Duration = Duration::from_millis(5);

/// How well the interpreter does. Read without waiting for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoopHealth {
    /// How long the last job waited until the event loop came to it.
    pub lag: Duration,
    /// How long the event loop has not turned; zero while it does.
    pub stalled_for: Duration,
    /// How long the interpreter was waited for the last time, or is being waited for now.
    pub gil_wait: Duration,
}

/// The watch: figures that it writes, and the way to ask it.
pub(super) struct Watch {
    epoch: Instant,
    loop_clock: Clock,
    gil_clock: Clock,
    asks: Mutex<Option<Sender<Ask>>>,
    dump: StackDump,
}

/// A wait that begins and ends, in microseconds since the epoch. Zero: it does not go on.
#[derive(Default)]
struct Clock {
    since: AtomicU64,
    last: AtomicU64,
}

impl Clock {
    fn begin(&self, now: u64) {
        self.since.store(now.max(1), Ordering::Release);
    }

    fn end(&self, now: u64) {
        let since = self.since.swap(0, Ordering::AcqRel);
        self.last.store(now.saturating_sub(since), Ordering::Release);
    }

    fn going_on(&self, now: u64) -> Option<u64> {
        let since = self.since.load(Ordering::Acquire);
        (since != 0).then(|| now.saturating_sub(since))
    }

    fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }
}

/// What somebody wants to know from Python.
struct Ask {
    thread: Option<ThreadIdent>,
    answer: SyncSender<String>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watch").field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn new(dump: StackDump) -> Self {
        let (epoch, asks) = (Instant::now(), Mutex::default());
        Self { epoch, loop_clock: Clock::default(), gil_clock: Clock::default(), asks, dump }
    }

    /// Begins to look. Call it when the event loop is about to run.
    pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
        let (sender, asks) = channel();
        let weak = Arc::downgrade(shared);
        std::thread::Builder::new().name("python-watch".to_owned()).spawn(move || run(&weak, &asks))?;
        *shared.watch.asks.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Ok(())
    }

    pub(super) fn health(&self) -> LoopHealth {
        let now = self.now();
        let stalled_for = self.loop_clock.going_on(now).unwrap_or_default();
        let gil_wait = self.gil_clock.going_on(now).unwrap_or_default().max(self.gil_clock.last());
        LoopHealth {
            lag: Duration::from_micros(self.loop_clock.last()),
            stalled_for: Duration::from_micros(stalled_for),
            gil_wait: Duration::from_micros(gil_wait),
        }
    }

    /// Every thread's stack and the event loop's tasks; when the interpreter is not to be had within the limit, the
    /// stacks alone.
    pub(super) fn all_stacks(&self, limit: Duration) -> String {
        self.ask(None, limit).unwrap_or_else(|| {
            let taken = self.dump.take();
            let stacks = taken.unwrap_or_else(|problem| format!("the stacks are not to be had: {problem}"));
            format!("the interpreter was not to be had within {} s\n{stacks}", limit.as_secs_f64())
        })
    }

    /// One thread's stack, in the same way.
    pub(super) fn thread_stack(&self, ident: ThreadIdent, limit: Duration) -> String {
        self.ask(Some(ident), limit).unwrap_or_else(|| {
            let taken = self.dump.take_thread(ident);
            taken.unwrap_or_else(|problem| format!("its stack is not to be had: {problem}"))
        })
    }

    fn ask(&self, thread: Option<ThreadIdent>, limit: Duration) -> Option<String> {
        let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (answer, answered) = sync_channel(1);
        asks.send(Ask { thread, answer }).ok()?;
        answered.recv_timeout(limit).ok()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Sends a job through the loop's queue, unless the last one is still on its way.
    fn ping(&self, shared: &Arc<Shared>) {
        if self.loop_clock.going_on(self.now()).is_none() {
            self.loop_clock.begin(self.now());
            let on_loop = Arc::downgrade(shared);
            shared.queue.push(move |_| {
                if let Some(shared) = on_loop.upgrade() {
                    shared.watch.loop_clock.end(shared.watch.now());
                }
            });
        }
    }
}

/// The life of the watch's thread. Where it waits for the interpreter, so does everything behind it: it never piles up.
fn run(shared: &Weak<Shared>, asks: &Receiver<Ask>) {
    let mut next_look = Instant::now();
    loop {
        let ask = match asks.recv_timeout(next_look.saturating_duration_since(Instant::now()).min(GLANCE)) {
            Ok(ask) => Some(ask),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let longest = shared.flight.as_ref().map_or(Duration::ZERO, |recorder| recorder.longest_call());
        scheduling::let_io_threads_in(longest > LONG_CALL);
        if ask.is_none() && Instant::now() < next_look {
            continue;
        }
        let watch = &shared.watch;
        if ask.is_none() {
            watch.ping(&shared);
            next_look = Instant::now() + PERIOD;
        }
        watch.gil_clock.begin(watch.now());
        Python::attach(|py| {
            watch.gil_clock.end(watch.now());
            if let Some(ask) = ask {
                let text = shared
                    .describe_stacks(py, ask.thread)
                    .unwrap_or_else(|error| PythonError::from_exception(py, &error).to_string());
                let _ = ask.answer.send(text);
            }
        });
    }
}
