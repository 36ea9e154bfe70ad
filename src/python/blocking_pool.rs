//! Threads for handlers that are plain functions: few, kept, attached to the interpreter, grown on demand.
//!
//! Each plugin has a lane: so many of its calls run at a time, the others wait in the lane and take no thread.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::prelude::*;

use super::call::PendingCall;
use super::interpreter::Shared;

/// As much as a thread that Python starts has.
const STACK_BYTES: usize = 8 << 20;

/// How many plain calls of one plugin run at a time, and which wait.
pub(super) struct Lane {
    width: usize,
    state: Mutex<LaneState>,
}

#[derive(Default)]
struct LaneState {
    running: usize,
    waiting: VecDeque<PendingCall>,
}

impl Lane {
    pub(super) fn new(width: usize) -> Self {
        Self { width, state: Mutex::default() }
    }

    /// The call again, when it may run now; else it waits in the lane.
    fn enter(&self, call: PendingCall) -> Option<PendingCall> {
        let mut state = lock(&self.state);
        if state.running < self.width {
            state.running += 1;
            return Some(call);
        }
        state.waiting.push_back(call);
        None
    }

    /// Ends one call: the next that waits takes its place.
    fn leave(&self) -> Option<PendingCall> {
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
    ready: VecDeque<PendingCall>,
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

    /// Takes a call on: at once, when its lane and a thread are free. Never waits for Python.
    pub(super) fn submit(&self, shared: &Arc<Shared>, call: PendingCall) {
        let instance = Arc::clone(&call.instance);
        if let Some(call) = instance.lane.enter(call) {
            self.make_ready(shared, call);
        }
    }

    fn make_ready(&self, shared: &Arc<Shared>, call: PendingCall) {
        let mut state = lock(&self.state);
        state.ready.push_back(call);
        let wants_thread = state.ready.len() > state.idle && state.threads < self.max_threads;
        if wants_thread {
            state.threads += 1;
            drop(state);
            self.start_thread(shared);
        } else {
            drop(state);
            self.work.notify_one();
        }
    }

    fn start_thread(&self, shared: &Arc<Shared>) {
        let weak = Arc::downgrade(shared);
        let builder = std::thread::Builder::new().name("handler".to_owned()).stack_size(STACK_BYTES);
        if let Err(problem) = builder.spawn(move || serve(&weak)) {
            lock(&self.state).threads -= 1;
            log::error!("cannot start another thread for plain handlers: {problem}");
            self.work.notify_one();
        }
    }

    fn next(&self) -> PendingCall {
        let mut state = lock(&self.state);
        loop {
            if let Some(call) = state.ready.pop_front() {
                return call;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

/// The life of one thread: attached all the time, detached while it waits.
fn serve(weak: &Weak<Shared>) {
    let Some(shared) = weak.upgrade() else {
        return;
    };
    Python::attach(|py| {
        if let Err(error) = shared.enter_handler_thread(py) {
            log::error!("a thread for plain handlers cannot see the event loop: {error}");
        }
        loop {
            let call = py.detach(|| shared.pool.next());
            let instance = Arc::clone(&call.instance);
            // A panic here must not cost the thread; the hook has already logged it.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| shared.run_plain(py, call)));
            if let Some(next) = instance.lane.leave() {
                shared.pool.make_ready(&shared, next);
            }
        }
    });
}

/// Locks even after a panic elsewhere: every state in between is valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
