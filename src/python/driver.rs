//! Runs an async handler. Its first step is taken at once, without an asyncio task: most handlers never wait, and a task
//! costs as much as they do. A handler that waits gets a task of its own for the rest of its way, and one that asks for its
//! task (`asyncio.current_task()`, as `asyncio.timeout` and `TaskGroup` do) gets it in the moment that it asks. No two
//! calls ever share a task.
//!
//! Everything here happens on the event loop's thread.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use pyo3::exceptions::{PyAttributeError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::call::{Call, is_cancellation};
use super::coroutine::{self, Step};
use super::interpreter::Shared;
use super::ticket::lock;
use super::{context, handler};

thread_local! {
    /// The call whose first step this thread takes.
    static STARTING: RefCell<Option<Starting>> = const { RefCell::new(None) };
}

/// A call in its first step.
struct Starting {
    shared: Arc<Shared>,
    call: Py<Call>,
    data: Py<PyDict>,
    context: Py<PyAny>,
    /// Once the handler has asked for it.
    task: Option<OwnTask>,
}

/// The asyncio task of a call in its first step.
struct OwnTask {
    driver: Py<Driver>,
    task: Py<PyAny>,
    /// Whether asyncio takes it for the one that runs. It does not where the handler has another task in the middle of a
    /// step, as an eager one.
    has_entered: bool,
}

/// A coroutine on its way.
struct Running {
    coroutine: Py<PyAny>,
    is_handler: bool,
}

impl Running {
    /// The handler: what it returns or raises is the answer.
    fn handler(coroutine: Bound<'_, PyAny>) -> Self {
        Self { coroutine: coroutine.unbind(), is_handler: true }
    }

    /// One of `pserve_runtime.calls`, which passes the answer on itself.
    fn ours(coroutine: Bound<'_, PyAny>) -> Self {
        Self { coroutine: coroutine.unbind(), is_handler: false }
    }
}

/// How far a call has come.
enum Turn {
    /// It waits for this future, or for `None`: the next turn of the loop.
    Waits(Running, Py<PyAny>),
    Ended,
}

/// Starts a call: runs it until it has to wait, or to its end.
pub(super) fn start(
    py: Python<'_>,
    shared: &Arc<Shared>,
    call: &Bound<'_, Call>,
    data: &Bound<'_, PyDict>,
) -> PyResult<()> {
    let own_context = context::copy(call.get().ticket().instance.context.bind(py))?;
    let starting = Starting {
        shared: Arc::clone(shared),
        call: call.clone().unbind(),
        data: data.clone().unbind(),
        context: own_context.clone().unbind(),
        task: None,
    };
    // One may be there already: a plugin can run the loop inside of a handler.
    let before = STARTING.replace(Some(starting));
    let request_id = &call.get().ticket().request.request_id;
    let turn = std::panic::catch_unwind(AssertUnwindSafe(|| {
        context::begin_in(&own_context, request_id, || first_turn(call, data))
    }));
    let task = STARTING.replace(before).and_then(|starting| starting.task);
    if let Some(task) = &task
        && task.has_entered
        && let Err(error) = shared.leave_task(py, &task.task)
    {
        error.write_unraisable(py, Some(call));
    }
    let (running, future) = match turn {
        Ok(Ok(Turn::Waits(running, future))) => (running, future),
        ended => {
            if let Some(OwnTask { driver, .. }) = &task {
                driver.get().put(State::Ended);
            }
            return ended.map_or_else(|panic| std::panic::resume_unwind(panic), |turn| turn.map(drop));
        }
    };
    let (driver, task) = match task {
        Some(OwnTask { driver, task, .. }) => (driver, task),
        None => make_task(py, shared, call, data, &own_context)?,
    };
    driver.get().put(State::Held(running, Held::new(future.into_bound(py))));
    shared.remember_task(call.get().ticket(), task);
    Ok(())
}

/// The asyncio task of the call that this thread starts, which gets one now if it has none. `None` when there is no such call.
pub(super) fn own_task(py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    let known = STARTING.with_borrow(|starting| {
        starting.as_ref().map(|one| {
            let task = one.task.as_ref().map(|own| own.task.clone_ref(py));
            let (call, data) = (one.call.clone_ref(py), one.data.clone_ref(py));
            (Arc::clone(&one.shared), call, data, one.context.clone_ref(py), task)
        })
    });
    let Some((shared, call, data, context, task)) = known else {
        return Ok(None);
    };
    if task.is_some() {
        return Ok(task);
    }
    let (driver, task) = make_task(py, &shared, call.bind(py), data.bind(py), context.bind(py))?;
    let has_entered = shared.enter_task(py, &task).is_ok();
    STARTING.with_borrow_mut(|starting| {
        if let Some(starting) = starting {
            starting.task = Some(OwnTask { driver, task: task.clone_ref(py), has_entered });
        }
    });
    Ok(Some(task))
}

fn make_task(
    py: Python<'_>,
    shared: &Shared,
    call: &Bound<'_, Call>,
    data: &Bound<'_, PyDict>,
    own_context: &Bound<'_, PyAny>,
) -> PyResult<(Py<Driver>, Py<PyAny>)> {
    let driver = Driver {
        call: call.clone().unbind(),
        data: data.clone().unbind(),
        context: (!cfg!(Py_3_11)).then(|| own_context.clone().unbind()),
        state: Mutex::new(State::Starting),
    };
    let driver = Py::new(py, driver)?;
    let task = shared.make_task(py, driver.bind(py), own_context)?;
    Ok((driver, task))
}

fn first_turn(call: &Bound<'_, Call>, data: &Bound<'_, PyDict>) -> Turn {
    let py = call.py();
    let instance = &call.get().ticket().instance;
    if instance.has_own_check {
        let run =
            handler::functions(py).and_then(|functions| functions.run_checked(instance.slot.bind(py), data, call));
        return match run {
            Ok(coroutine) => go_on(call, data, Running::ours(coroutine), None),
            Err(error) => fail(call, data, error),
        };
    }
    match handler::call(py, instance, data).and_then(handler::awaitable) {
        Ok(handler::Outcome::Coroutine(coroutine)) => go_on(call, data, Running::handler(coroutine), None),
        Ok(handler::Outcome::Answer(value)) => finish(call, data, &value),
        Err(error) => fail(call, data, error),
    }
}

/// Takes a coroutine, and what comes after it, as far as it goes.
fn go_on(call: &Bound<'_, Call>, data: &Bound<'_, PyDict>, running: Running, thrown: Option<PyErr>) -> Turn {
    let step = {
        let coroutine = running.coroutine.bind(call.py());
        match thrown {
            None => coroutine::go_on(coroutine),
            Some(error) => coroutine::throw(coroutine, error),
        }
    };
    match step {
        Ok(Step::Waits(future)) => Turn::Waits(running, future.unbind()),
        Ok(Step::Returned(value)) if running.is_handler => finish(call, data, &value),
        Ok(Step::Returned(_)) => Turn::Ended,
        Err(error) if running.is_handler => fail(call, data, error),
        Err(error) => {
            call.get().fail(error.value(call.py()));
            Turn::Ended
        }
    }
}

fn finish(call: &Bound<'_, Call>, data: &Bound<'_, PyDict>, value: &Bound<'_, PyAny>) -> Turn {
    if call.get().finish(value) { Turn::Ended } else { send(call, data, value) }
}

fn fail(call: &Bound<'_, Call>, data: &Bound<'_, PyDict>, error: PyErr) -> Turn {
    let error = error.into_value(call.py()).into_bound(call.py()).into_any();
    if call.get().fail(&error) { Turn::Ended } else { send(call, data, &error) }
}

/// Lets an aiohttp response send itself.
fn send(call: &Bound<'_, Call>, data: &Bound<'_, PyDict>, response: &Bound<'_, PyAny>) -> Turn {
    match handler::functions(call.py()).and_then(|functions| functions.send_later(response, data, call)) {
        Ok(coroutine) => go_on(call, data, Running::ours(coroutine), None),
        Err(error) => {
            call.get().raised(call.py(), &error);
            Turn::Ended
        }
    }
}

/// A call as the coroutine of its asyncio task.
#[pyclass(frozen)]
pub(super) struct Driver {
    call: Py<Call>,
    data: Py<PyDict>,
    /// To be entered for each step, where a task cannot be given one (before Python 3.11).
    context: Option<Py<PyAny>>,
    state: Mutex<State>,
}

/// What a first step waits for, until its task takes it.
struct Held {
    future: Py<PyAny>,
    /// Whether it came by `await`, which puts a mark on a future. A task takes it off at once: the next `await`, of another
    /// call that waits for the same future, raises where it finds it.
    is_marked: bool,
}

impl Held {
    fn new(future: Bound<'_, PyAny>) -> Self {
        // An object that fails here is for the task to find.
        let found = future.getattr_opt(mark(future.py())).ok().flatten();
        let is_marked = found.is_some_and(|found| found.is_truthy().unwrap_or(false))
            && future.setattr(mark(future.py()), false).is_ok();
        Self { future: future.unbind(), is_marked }
    }

    fn hand_over(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.is_marked {
            self.future.setattr(py, mark(py), true)?;
        }
        Ok(self.future)
    }
}

fn mark(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "_asyncio_future_blocking")
}

enum State {
    /// The first step is under way.
    Starting,
    /// What the first step waits for has not reached the task yet.
    Held(Running, Held),
    Waiting(Running),
    /// In the middle of a step.
    Stepping(Py<PyAny>),
    Ended,
}

impl Driver {
    fn put(&self, state: State) {
        let before = std::mem::replace(&mut *lock(&self.state), state);
        // Outside the lock: the last references may run Python code.
        drop(before);
    }

    /// Takes the state out; what runs now stays to be seen.
    fn take_for_step(&self, py: Python<'_>) -> State {
        let mut state = lock(&self.state);
        let stepping = match &*state {
            State::Held(running, _) | State::Waiting(running) => State::Stepping(running.coroutine.clone_ref(py)),
            State::Starting => State::Starting,
            State::Stepping(coroutine) => State::Stepping(coroutine.clone_ref(py)),
            State::Ended => State::Ended,
        };
        std::mem::replace(&mut *state, stepping)
    }

    /// One step of the task: what it waits for, or `None` at the end.
    fn step(&self, py: Python<'_>, thrown: Option<PyErr>) -> PyResult<Option<Py<PyAny>>> {
        let state = self.take_for_step(py);
        let running = match (state, &thrown) {
            // A plugin runs the loop inside of its handler: the task waits until that has come out again.
            (State::Starting, _) => {
                return Ok(Some(py.None()));
            }
            (State::Held(running, held), None) if !held.future.is_none(py) => {
                self.put(State::Waiting(running));
                return held.hand_over(py).map(Some);
            }
            // A task that is cancelled while it waits cancels what it waits for, and goes on waiting for that.
            (State::Held(running, held), Some(error)) if is_cancellation(error.value(py)) => {
                let cancel = held.future.bind(py).getattr_opt(intern!(py, "cancel"));
                if let Ok(Some(cancel)) = cancel
                    && cancel.call0().is_ok_and(|is_cancelled| is_cancelled.is_truthy().unwrap_or(false))
                {
                    self.put(State::Waiting(running));
                    return held.hand_over(py).map(Some);
                }
                running
            }
            (State::Held(running, _) | State::Waiting(running), _) => running,
            (State::Stepping(_), _) => return Err(PyRuntimeError::new_err("the call is in the middle of a step")),
            (State::Ended, _) => return thrown.map_or(Ok(None), Err),
        };
        let (call, data) = (self.call.bind(py), self.data.bind(py));
        let turn = match &self.context {
            None => go_on(call, data, running, thrown),
            Some(own_context) => context::run_in(own_context.bind(py), || go_on(call, data, running, thrown))?,
        };
        Ok(match turn {
            Turn::Waits(running, future) => {
                self.put(State::Waiting(running));
                Some(future)
            }
            Turn::Ended => {
                self.put(State::Ended);
                None
            }
        })
    }

    fn coroutine(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &*lock(&self.state) {
            State::Held(running, _) | State::Waiting(running) => Some(running.coroutine.clone_ref(py)),
            State::Stepping(coroutine) => Some(coroutine.clone_ref(py)),
            State::Starting | State::Ended => None,
        }
    }
}

/// The methods of a coroutine (PEP 492).
#[pymethods]
impl Driver {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.step(py, None)
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.step(py, None)?.ok_or_else(|| pyo3::exceptions::PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        let error = PyErr::from_value(value.unwrap_or(kind).clone());
        self.step(py, Some(error))?.ok_or_else(|| pyo3::exceptions::PyStopIteration::new_err(()))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let coroutine = self.coroutine(py);
        self.put(State::Ended);
        coroutine.map_or(Ok(()), |coroutine| coroutine.call_method0(py, intern!(py, "close")).map(drop))
    }

    /// The frame, the name and the rest are the handler's: debuggers and stacks show where it waits.
    fn __getattr__(&self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        match self.coroutine(py) {
            Some(coroutine) => coroutine.getattr(py, name),
            None if name == "__name__" || name == "__qualname__" => {
                Ok(self.call.get().ticket().instance.handler_name.clone_ref(py).into_any())
            }
            None => Err(PyAttributeError::new_err(name.clone().unbind())),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.data)?;
        if let Some(own_context) = &self.context {
            visit.call(own_context)?;
        }
        if let Ok(state) = self.state.try_lock() {
            match &*state {
                State::Held(running, held) => {
                    visit.call(&running.coroutine)?;
                    visit.call(&held.future)?;
                }
                State::Waiting(running) => visit.call(&running.coroutine)?,
                State::Stepping(coroutine) => visit.call(coroutine)?,
                State::Starting | State::Ended => {}
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.put(State::Ended);
    }
}
