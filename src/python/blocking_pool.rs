//! Threads for handlers that are plain functions: few, kept, attached to the interpreter, grown on demand.
//!
//! Each plugin has a lane: so many of its calls run at a time, the others wait in the lane and take no thread.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::Notify;

use super::call::Call;
use super::interpreter::Shared;
use super::ticket::{ThreadIdent, Ticket, lock};
use crate::exchange::CallError;
use crate::logging::Severity;

/// Threads that there may be at the very most, one for each plugin with a plain call running.
const MOST_THREADS: usize = 2000;

/// Work for a thread of the pool.
pub(super) enum PoolJob {
    /// A call that begins here.
    New(Arc<Ticket>),
    /// A call whose async `_check_auth` has said yes, with the keyword arguments that it was made from.
    Checked { call: Py<Call>, data: Py<PyDict>, ticket: Arc<Ticket> },
}

impl PoolJob {
    pub(super) fn ticket(&self) -> &Arc<Ticket> {
        match self {
            Self::New(ticket) | Self::Checked { ticket, .. } => ticket,
        }
    }
}

/// How many plain calls of one plugin run at a time, and which wait.
pub(super) struct Lane {
    width: usize,
    state: Mutex<LaneState>,
}

#[derive(Default)]
struct LaneState {
    running: usize,
    waiting: VecDeque<PoolJob>,
}

impl Lane {
    pub(super) fn new(width: usize) -> Self {
        Self { width, state: Mutex::default() }
    }

    /// The job again, when it may run now, and whether it is the plugin's only one; else it waits in the lane.
    fn enter(&self, job: PoolJob) -> Option<(PoolJob, bool)> {
        let mut state = lock(&self.state);
        if state.running < self.width {
            state.running += 1;
            return Some((job, state.running == 1));
        }
        state.waiting.push_back(job);
        None
    }

    /// Takes a call out that waits.
    pub(super) fn remove(&self, id: u64) {
        let mut state = lock(&self.state);
        let found = state.waiting.iter().position(|job| job.ticket().id == id);
        let job = found.and_then(|index| state.waiting.remove(index));
        drop(state);
        drop(job);
    }

    /// Ends one call: the next that waits takes its place.
    fn leave(&self) -> Option<PoolJob> {
        let mut state = lock(&self.state);
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.running -= 1;
        }
        next
    }
}

/// The pool. Calls that may run wait here for a thread.
pub(super) struct BlockingPool {
    state: Mutex<PoolState>,
    work: Condvar,
    max_threads: usize,
    max_lost: usize,
    many_lost: Arc<Notify>,
}

#[derive(Default)]
struct PoolState {
    ready: VecDeque<PoolJob>,
    /// All of them, the lost ones included.
    threads: usize,
    idle: usize,
    /// Threads whose handler was given up and has not returned.
    lost: usize,
}

impl PoolState {
    /// Threads that count against the pool's size. Lost ones are replaced, up to a bound.
    fn counted(&self, max_lost: usize) -> usize {
        self.threads - self.lost.min(max_lost)
    }
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BlockingPool").field("max_threads", &self.max_threads).finish_non_exhaustive()
    }
}

impl BlockingPool {
    pub(super) fn new(max_threads: usize, max_lost: usize) -> Self {
        let (state, work, many_lost) = (Mutex::default(), Condvar::new(), Arc::default());
        Self { state, work, max_threads, max_lost, many_lost }
    }

    /// Threads whose handler was given up and has not returned.
    pub(super) fn lost_threads(&self) -> usize {
        lock(&self.state).lost
    }

    /// Woken when as many threads are lost as may be.
    pub(super) fn many_lost(&self) -> Arc<Notify> {
        Arc::clone(&self.many_lost)
    }

    /// How many threads there are, idle ones included.
    pub(super) fn threads(&self) -> usize {
        lock(&self.state).threads
    }

    /// Takes a job on: at once, when its lane and a thread are free. Never waits for Python.
    pub(super) fn submit(&self, shared: &Arc<Shared>, job: PoolJob) {
        let ticket = Arc::clone(job.ticket());
        if let Some((job, is_only_one)) = ticket.instance.lane.enter(job) {
            self.make_ready(shared, job, is_only_one);
        }
    }

    /// Lets a job run as soon as a thread is free. A plugin's only call goes first, and beyond the usual number of
    /// threads if need be: the calls of other plugins, however many and slow, must not delay it.
    fn make_ready(&self, shared: &Arc<Shared>, job: PoolJob, is_only_one: bool) {
        let mut state = lock(&self.state);
        if is_only_one {
            state.ready.push_front(job);
        } else {
            state.ready.push_back(job);
        }
        let has_room =
            if is_only_one { state.threads < MOST_THREADS } else { state.counted(self.max_lost) < self.max_threads };
        if state.ready.len() > state.idle && has_room {
            state.threads += 1;
            drop(state);
            self.start_thread(shared);
        } else {
            drop(state);
            self.work.notify_one();
        }
    }

    /// Starts one more thread. It has to be a thread of Python's own making: `threading` and forked children go wrong
    /// on others. Making it needs the interpreter, for which a helper waits so that nobody here has to.
    fn start_thread(&self, shared: &Arc<Shared>) {
        let weak = Arc::downgrade(shared);
        let helper = std::thread::Builder::new().name("handler-start".to_owned());
        let started = helper.spawn(move || {
            let thread = HandlerThread { shared: weak.clone() };
            let started = Python::attach(|py| {
                let threads = py.import("pserve_runtime.threads")?;
                threads.call_method1("start", (Py::new(py, thread)?,)).map(drop)
            });
            if let (Err(error), Some(shared)) = (started, weak.upgrade()) {
                shared.pool.give_up_thread(&error.to_string());
            }
        });
        if let Err(problem) = started {
            self.give_up_thread(&problem.to_string());
        }
    }

    /// A thread could not be started. The calls that would have had to wait for it are refused.
    fn give_up_thread(&self, problem: &str) {
        log::error!("cannot start another thread for plain handlers: {problem}");
        let mut refused = {
            let mut state = lock(&self.state);
            state.threads -= 1;
            if state.idle > 0 { None } else { state.ready.pop_front() }
        };
        self.work.notify_one();
        while let Some(job) = refused {
            job.ticket().outlet.end(Err(CallError::NoThread));
            // Those behind it would find no thread either.
            refused = job.ticket().instance.lane.leave();
        }
    }

    /// Goes on without the thread of a call that was given up: the next call of its plugin takes its place, another
    /// thread its own. The answer is how many are lost now.
    pub(super) fn lose_thread(&self, shared: &Arc<Shared>, ticket: &Ticket) -> usize {
        let lost = {
            let mut state = lock(&self.state);
            state.lost += 1;
            state.lost
        };
        if lost >= self.max_lost {
            self.many_lost.notify_one();
        }
        if let Some(next) = ticket.instance.lane.leave() {
            self.make_ready(shared, next, false);
        } else {
            self.replace_thread(shared);
        }
        lost
    }

    /// Starts a thread for calls that wait for one.
    fn replace_thread(&self, shared: &Arc<Shared>) {
        let mut state = lock(&self.state);
        if state.ready.len() > state.idle && state.counted(self.max_lost) < self.max_threads {
            state.threads += 1;
            drop(state);
            self.start_thread(shared);
        }
    }

    /// A lost thread has come back. False when another has its place and it should end.
    fn find_thread(&self) -> bool {
        let mut state = lock(&self.state);
        state.lost -= 1;
        let is_needed = state.counted(self.max_lost) <= self.max_threads;
        if !is_needed {
            state.threads -= 1;
        }
        is_needed
    }

    /// What a thread does next that has ended a call: the plugin's next call, or the one that has waited longest if there is
    /// any. As many are left as were before, so that no other thread has to be woken.
    fn exchange(&self, next: PoolJob) -> PoolJob {
        let mut state = lock(&self.state);
        match state.ready.pop_front() {
            Some(first) => {
                state.ready.push_back(next);
                first
            }
            None => next,
        }
    }

    fn next(&self) -> PoolJob {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.ready.pop_front() {
                return job;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

/// What one thread of the pool runs.
#[pyclass(frozen)]
struct HandlerThread {
    shared: Weak<Shared>,
}

#[pymethods]
impl HandlerThread {
    /// The life of one thread: attached all the time, detached while it waits.
    fn __call__(&self, py: Python<'_>) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if let Err(error) = shared.enter_handler_thread(py) {
            log::error!("a thread for plain handlers cannot see the event loop: {error}");
        }
        let Ok(ident) = thread_ident(py) else {
            return shared.pool.give_up_thread("it has no number");
        };
        let mut own_next = None;
        loop {
            // Detached in any case: other threads want the interpreter too.
            let job = py.detach(|| own_next.take().map_or_else(|| shared.pool.next(), |job| shared.pool.exchange(job)));
            let ticket = Arc::clone(job.ticket());
            let mut keeps_place = true;
            if ticket.enter_thread(ident) {
                let entry = ticket.flight_entry(shared.flight.as_ref());
                // A panic here must not cost the thread; the hook has already logged it.
                let _ = std::panic::catch_unwind(AssertUnwindSafe(|| shared.run_plain(py, job)));
                drop(entry);
                keeps_place = ticket.leave_thread();
            }
            if !keeps_place {
                ticket.log_own(Severity::Info, &format!("{} has ended after all", ticket.request_line()));
                if !shared.pool.find_thread() {
                    return;
                }
            } else {
                own_next = ticket.instance.lane.leave();
            }
        }
    }
}

fn thread_ident(py: Python<'_>) -> PyResult<ThreadIdent> {
    py.import("threading")?.call_method0("get_ident")?.extract()
}
