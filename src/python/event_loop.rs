//! The interpreter's main thread with its asyncio loop: a queue into it, where plugins take turns, with one wake-up for a batch.
//!
//! Any thread pushes; only the loop's thread takes out. Waking the loop for every request would cost more than the
//! request itself, so a push writes to the eventfd only when nobody has since the loop last looked.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

use super::instance::PluginInstance;
use super::interpreter::Shared;
use super::ticket::{Ticket, lock};

/// How many jobs are started before the loop gets its turn again: plugins that never suspend stay fair.
const BATCH: usize = 64;

/// How many waiting jobs wake the loop at once.
const MANY: usize = 32;

type Work = Box<dyn FnOnce(Python<'_>) + Send>;

/// Something for the loop's thread to do.
enum Job {
    /// An async call that begins.
    Call(Arc<Shared>, Arc<Ticket>),
    Other(Work),
}

impl Job {
    fn run(self, py: Python<'_>) {
        match self {
            Self::Call(shared, ticket) => shared.start_call(py, ticket),
            Self::Other(work) => work(py),
        }
    }
}

/// The calls of one plugin that wait for their start, in the order in which they came.
#[derive(Default)]
pub(super) struct LoopLane(Mutex<VecDeque<(Arc<Shared>, Arc<Ticket>)>>);

/// What waits for the loop's thread. Plugins take turns: the burst of one does not keep another's call waiting until all of
/// it has begun.
#[derive(Default)]
struct Jobs {
    /// Those with waiting calls.
    plugins: VecDeque<Arc<PluginInstance>>,
    calls: usize,
    others: VecDeque<Work>,
    is_calls_turn: bool,
}

impl Jobs {
    fn push_call(&mut self, shared: &Arc<Shared>, ticket: Arc<Ticket>) {
        let instance = Arc::clone(&ticket.instance);
        let mut lane = lock(&instance.loop_lane.0);
        lane.push_back((Arc::clone(shared), ticket));
        let is_first = lane.len() == 1;
        drop(lane);
        self.calls += 1;
        if is_first {
            self.plugins.push_back(instance);
        }
    }

    fn take_call(&mut self) -> Option<Job> {
        let instance = self.plugins.pop_front()?;
        let mut lane = lock(&instance.loop_lane.0);
        let call = lane.pop_front();
        let has_more = !lane.is_empty();
        drop(lane);
        if has_more {
            self.plugins.push_back(instance);
        }
        let (shared, ticket) = call?;
        self.calls -= 1;
        Some(Job::Call(shared, ticket))
    }

    /// The next one: a call and something else by turns.
    fn take(&mut self) -> Option<Job> {
        self.is_calls_turn = !self.is_calls_turn;
        if self.is_calls_turn
            && let Some(call) = self.take_call()
        {
            return Some(call);
        }
        self.others.pop_front().map(Job::Other).or_else(|| self.take_call())
    }

    fn len(&self) -> usize {
        self.calls + self.others.len()
    }
}

/// Work for the loop's thread.
pub(super) struct LoopQueue {
    jobs: Mutex<Jobs>,
    is_signalled: AtomicBool,
    wake: OwnedFd,
}

impl fmt::Debug for LoopQueue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LoopQueue").finish_non_exhaustive()
    }
}

impl LoopQueue {
    pub(super) fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { jobs: Mutex::default(), is_signalled: AtomicBool::new(false), wake })
    }

    /// Hands a job to the loop's thread. Never waits for Python.
    pub(super) fn push(&self, job: impl FnOnce(Python<'_>) + Send + 'static) {
        self.lock().others.push_back(Box::new(job));
        self.signal_once();
    }

    /// Hands the start of a call to the loop's thread, from a tokio thread that is likely to push more right away: the loop
    /// is woken when many wait, or after the thread has looked at its other connections. A lone call waits no longer
    /// than that.
    pub(super) fn push_call(self: &Arc<Self>, shared: &Arc<Shared>, ticket: Arc<Ticket>) {
        let waiting = {
            let mut jobs = self.lock();
            jobs.push_call(shared, ticket);
            jobs.len()
        };
        if waiting >= MANY {
            self.signal_once();
        } else if waiting == 1 {
            let queue = Arc::clone(self);
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                queue.signal_once();
            });
        }
    }

    /// The calls that wait for their start.
    pub(super) fn waiting_calls(&self) -> Vec<Arc<Ticket>> {
        let jobs = self.lock();
        let tickets_of = |instance: &Arc<PluginInstance>| -> Vec<_> {
            lock(&instance.loop_lane.0).iter().map(|(_, ticket)| Arc::clone(ticket)).collect()
        };
        jobs.plugins.iter().flat_map(tickets_of).collect()
    }

    /// The descriptor that the loop watches.
    pub(super) fn wake_fd(&self) -> i32 {
        self.wake.as_raw_fd()
    }

    /// Wakes the loop, unless somebody has since it last looked.
    pub(super) fn signal_once(&self) {
        if !self.is_signalled.swap(true, Ordering::AcqRel) {
            self.signal();
        }
    }

    fn signal(&self) {
        // An eventfd whose counter is full is readable, which is all that is wanted.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The loop is awake: what is pushed from now on wakes it again.
    fn hear_signal(&self) {
        let mut counter = [0u8; 8];
        let _ = rustix::io::read(&self.wake, &mut counter);
        self.is_signalled.store(false, Ordering::Release);
    }

    /// The next job, one at a time: what waits behind a handler that hangs stays here, where it can be given up.
    fn take(&self) -> Option<Job> {
        self.lock().take()
    }

    fn is_empty(&self) -> bool {
        self.lock().len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        lock(&self.jobs)
    }
}

/// The callable that asyncio's `add_reader` runs when the queue has work.
#[pyclass(frozen)]
pub(super) struct Pump {
    queue: Arc<LoopQueue>,
}

impl Pump {
    pub(super) fn new(queue: Arc<LoopQueue>) -> Self {
        Self { queue }
    }
}

#[pymethods]
impl Pump {
    fn __call__(&self, py: Python<'_>) {
        super::native::leave_if_forked();
        self.queue.hear_signal();
        for _ in 0..BATCH {
            let Some(job) = self.queue.take() else {
                return;
            };
            // A panic in one job must not take the others of its batch along; the hook has already logged it.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| job.run(py)));
        }
        if !self.queue.is_empty() {
            self.queue.signal_once();
        }
    }
}

/// Passes the end of an asyncio task on to Rust.
#[pyclass(frozen)]
pub(super) struct Completion {
    #[expect(clippy::type_complexity, reason = "a callback that is used once")]
    then: Mutex<Option<Box<dyn FnOnce(Python<'_>, PyResult<Py<PyAny>>) + Send>>>,
}

impl Completion {
    pub(super) fn new(then: impl FnOnce(Python<'_>, PyResult<Py<PyAny>>) + Send + 'static) -> Self {
        Self { then: Mutex::new(Some(Box::new(then))) }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.then.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Passes on how it ended. Only the first time counts.
    pub(super) fn end(&self, py: Python<'_>, result: PyResult<Py<PyAny>>) {
        let then = self.then.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(then) = then {
            then(py, result);
        }
    }
}

#[pymethods]
impl Completion {
    fn __call__(&self, task: &Bound<'_, PyAny>) {
        if !self.has_ended() {
            self.end(task.py(), task.call_method0("result").map(Bound::unbind));
        }
    }
}
