//! Threads for handlers that are plain functions: few, kept, attached to the interpreter, grown on demand.
//!
//! Each plugin has a lane: so many of its calls run at a time, the others wait in the lane and take no thread.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::call::{Call, PendingCall};
use super::instance::PluginInstance;
use super::interpreter::Shared;

/// Threads that there may be at the very most, one for each plugin with a plain call running.
const MOST_THREADS: usize = 2000;

/// Work for a thread of the pool.
pub(super) enum PoolJob {
    /// A call that begins here.
    New(PendingCall),
    /// A call whose async `_check_auth` has said yes, with the keyword arguments that it was made from.
    Checked { call: Py<Call>, data: Py<PyDict>, instance: Arc<PluginInstance> },
}

impl PoolJob {
    fn instance(&self) -> &Arc<PluginInstance> {
        match self {
            Self::New(call) => &call.instance,
            Self::Checked { instance, .. } => instance,
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
}

#[derive(Default)]
struct PoolState {
    ready: VecDeque<PoolJob>,
    threads: usize,
    idle: usize,
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BlockingPool").field("max_threads", &self.max_threads).finish_non_exhaustive()
    }
}

impl BlockingPool {
    pub(super) fn new(max_threads: usize) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), max_threads }
    }

    /// How many threads there are, idle ones included.
    pub(super) fn threads(&self) -> usize {
        lock(&self.state).threads
    }

    /// Takes a job on: at once, when its lane and a thread are free. Never waits for Python.
    pub(super) fn submit(&self, shared: &Arc<Shared>, job: PoolJob) {
        let instance = Arc::clone(job.instance());
        if let Some((job, is_only_one)) = instance.lane.enter(job) {
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
        let limit = if is_only_one { MOST_THREADS } else { self.max_threads };
        let wants_thread = state.ready.len() > state.idle && state.threads < limit;
        if wants_thread {
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

    fn give_up_thread(&self, problem: &str) {
        lock(&self.state).threads -= 1;
        log::error!("cannot start another thread for plain handlers: {problem}");
        self.work.notify_one();
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
        loop {
            let job = py.detach(|| shared.pool.next());
            let instance = Arc::clone(job.instance());
            // A panic here must not cost the thread; the hook has already logged it.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| shared.run_plain(py, job)));
            if let Some(next) = instance.lane.leave() {
                shared.pool.make_ready(&shared, next, false);
            }
        }
    }
}

/// Locks even after a panic elsewhere: every state in between is valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
