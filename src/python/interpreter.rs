//! Starts CPython on the calling thread, with the right environment, and runs the event loop there until the end.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::{Notify, oneshot};

use super::blocking_pool::{BlockingPool, PoolJob};
use super::call::{Call, CallGuard, PendingCall};
use super::cpython::{Arguments, check_venv, give_up_interpreter, initialize, sys_executable};
use super::error::PythonError;
use super::event_loop::{Completion, LoopQueue, Pump};
use super::instance::{self, FileInspection, FileOutcome, FileToLoad, PluginInstance};
use super::{embedded, kwargs, log_bridge, native};
use crate::config::Table;
use crate::config::settings::PluginOptions;
use crate::exchange::{CallResult, PluginRequest};
use crate::logging::Severity;

/// What the interpreter needs to know at its start.
#[derive(Debug, Clone)]
pub struct InterpreterOptions {
    pub venv: Option<PathBuf>,
    pub plugins_dir: PathBuf,
    pub handler_threads: usize,
    pub log_level: Severity,
    /// The command line's values as plugins see them in `prog_args`.
    pub ini_file: String,
    pub log_file: Option<String>,
    pub level_as_typed: String,
}

/// The running interpreter. Clones share it; every method may be called from any thread but `run`.
#[derive(Debug, Clone)]
pub struct Interpreter {
    shared: Arc<Shared>,
}

/// What the threads of this room share.
pub(super) struct Shared {
    pub(super) queue: Arc<LoopQueue>,
    pub(super) pool: BlockingPool,
    runtime: Runtime,
    /// The tasks of async calls, by call: asyncio itself holds tasks weakly.
    tasks: Mutex<HashMap<u64, RunningTask>>,
    loop_replaced: Arc<Notify>,
}

/// An async call on the event loop.
struct RunningTask {
    task: Py<PyAny>,
    instance: Arc<PluginInstance>,
}

/// Python objects that are looked up once.
struct Runtime {
    /// `pserve_runtime.runtime.Runtime`.
    object: Py<PyAny>,
    start: Py<PyAny>,
    run_plain: Py<PyAny>,
    carry_on: Py<PyAny>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("queue", &self.queue).field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Interpreter {
    /// Starts Python on this thread, which must be the process's main thread. Call it once.
    pub fn start(options: &InterpreterOptions) -> anyhow::Result<Self> {
        if let Some(venv) = &options.venv {
            check_venv(venv)?;
        }
        let typed: Vec<OsString> = std::env::args_os().collect();
        initialize(&sys_executable(options.venv.as_deref()), &typed, Arguments::Ours)?;
        give_up_interpreter();
        let queue = Arc::new(LoopQueue::new().context("cannot make an eventfd")?);
        let loop_replaced = Arc::new(Notify::new());
        let runtime = Python::attach(|py| {
            prepare(py, options, &queue, &loop_replaced)
                .map_err(|error| anyhow::anyhow!("{}", PythonError::from_exception(py, &error).traceback))
        })
        .context("the embedded Python code does not start")?;
        let pool = BlockingPool::new(options.handler_threads);
        let shared = Shared { queue, pool, runtime, tasks: Mutex::default(), loop_replaced };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs the event loop on this thread, the one that started Python, until [`Interpreter::stop`].
    pub fn run(&self) -> anyhow::Result<()> {
        Python::attach(|py| self.shared.runtime.object.call_method0(py, "run").map(drop))
            .map_err(|error| anyhow::anyhow!("the event loop ended: {error}"))
    }

    /// Ends the event loop: what is left of the plugins' tasks is cancelled, `atexit` functions run, output is
    /// flushed, and [`Interpreter::run`] returns.
    pub fn stop(&self) {
        let shared = Arc::clone(&self.shared);
        self.shared.queue.push(move |py| {
            if let Err(error) = shared.runtime.object.call_method0(py, "stop") {
                log::error!("the event loop does not stop: {error}");
            }
        });
    }

    /// Wakes whoever waits when a plugin has closed the event loop and a new one has taken its place.
    pub fn loop_replaced(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.loop_replaced)
    }

    /// Threads for plain handlers that there are now.
    pub fn handler_threads(&self) -> usize {
        self.shared.pool.threads()
    }

    /// Sends a request to a plugin. Never waits for Python; the answer comes through the receiver.
    pub fn call(
        &self,
        instance: &Arc<PluginInstance>,
        request: PluginRequest,
        guard: CallGuard,
    ) -> oneshot::Receiver<CallResult> {
        let (sender, receiver) = oneshot::channel();
        let (instance, request) = (Arc::clone(instance), Arc::new(request));
        let pending = PendingCall { instance, request, sender, guard };
        if pending.instance.is_async() {
            let shared = Arc::clone(&self.shared);
            self.shared.queue.push_with_others(move |py| shared.start_call(py, pending));
        } else {
            self.shared.pool.submit(&self.shared, PoolJob::New(pending));
        }
        receiver
    }

    /// Loads plugin files on the event loop: import, construct, initialise. Each file succeeds or fails on its own.
    pub async fn load(
        &self,
        folder: PathBuf,
        files: Vec<FileToLoad>,
        table: Arc<Table>,
        has_global_key: bool,
        limit: Duration,
        options_of: impl Fn(&str) -> PluginOptions + Send + 'static,
    ) -> Result<Vec<FileOutcome>, PythonError> {
        let make = move |py: Python<'_>, runtime: &Bound<'_, PyAny>| {
            let files = instance::files_to_python(py, &files)?;
            let sections = native::table_to_dict(py, &table)?;
            Ok(runtime
                .call_method1("load", (folder.as_os_str(), files, sections, has_global_key, limit.as_secs_f64()))?
                .unbind())
        };
        self.run_coroutine(make, move |outcomes| instance::outcomes_from_python(&outcomes, &options_of)).await
    }

    /// Reads a plugin file without running it.
    pub async fn inspect(&self, path: PathBuf) -> Result<FileInspection, PythonError> {
        let make = move |_: Python<'_>, runtime: &Bound<'_, PyAny>| {
            Ok(runtime.call_method1("inspect", (path.as_os_str(),))?.unbind())
        };
        self.run_coroutine(make, |found| instance::inspection_from_python(&found)).await
    }

    /// Ends plugins: calls that still run are cancelled, then `terminate_plugin`, then their tasks. Bounded on the
    /// Python side for each plugin.
    pub async fn terminate(&self, instances: Vec<Arc<PluginInstance>>) -> Result<(), PythonError> {
        let shared = Arc::clone(&self.shared);
        let make = move |py: Python<'_>, runtime: &Bound<'_, PyAny>| {
            shared.cancel_calls_of(py, &instances);
            let slots: Vec<_> = instances.iter().map(|instance| instance.slot.clone_ref(py)).collect();
            Ok(runtime.call_method1("terminate", (slots,))?.unbind())
        };
        self.run_coroutine(make, |_| Ok(())).await
    }

    /// Ends every plugin that Python knows of: the last step of a stop.
    pub async fn terminate_all(&self) -> Result<(), PythonError> {
        let shared = Arc::clone(&self.shared);
        let make = move |py: Python<'_>, runtime: &Bound<'_, PyAny>| {
            let all: Vec<_> = shared.running().values().map(|one| Arc::clone(&one.instance)).collect();
            shared.cancel_calls_of(py, &all);
            Ok(runtime.call_method0("terminate_all")?.unbind())
        };
        self.run_coroutine(make, |_| Ok(())).await
    }

    /// Runs a coroutine on the event loop and converts its result there.
    async fn run_coroutine<T: Send + 'static>(
        &self,
        make: impl FnOnce(Python<'_>, &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> + Send + 'static,
        convert: impl FnOnce(Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
    ) -> Result<T, PythonError> {
        let (sender, receiver) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.shared.queue.push(move |py| {
            let runtime = shared.runtime.object.bind(py);
            let then = move |py: Python<'_>, result: PyResult<Py<PyAny>>| {
                let converted = result.and_then(|value| convert(value.into_bound(py)));
                let _ = sender.send(converted.map_err(|error| PythonError::from_exception(py, &error)));
            };
            let completion = Completion::new(then);
            let started = make(py, runtime)
                .and_then(|coroutine| runtime.call_method1("spawn", (coroutine, Py::new(py, completion)?)));
            if let Err(error) = started {
                log::error!("{}", PythonError::from_exception(py, &error).traceback);
            }
        });
        receiver.await.unwrap_or_else(|_| Err(PythonError::new("RuntimeError", "the event loop dropped the work")))
    }
}

impl Shared {
    /// Starts an async handler. On the loop's thread.
    fn start_call(self: &Arc<Self>, py: Python<'_>, pending: PendingCall) {
        self.with_call(py, pending, |py, instance, data, call| {
            let arguments = (instance.slot.bind(py), data, call, self.event_loop(py)?);
            let task = self.runtime.start.call1(py, arguments)?;
            self.remember_task(call.get(), task);
            Ok(())
        });
    }

    /// Runs a plain handler to its end. On a thread of the pool.
    pub(super) fn run_plain(self: &Arc<Self>, py: Python<'_>, job: PoolJob) {
        match job {
            PoolJob::New(pending) => self.with_call(py, pending, |py, instance, data, call| {
                self.run_plain_handler(py, instance, data, call, false)
            }),
            PoolJob::Checked { call, data, instance } => {
                let call = call.bind(py);
                if let Err(error) = self.run_plain_handler(py, &instance, data.into_bound(py), call, true) {
                    call.get().raised(py, &error);
                }
            }
        }
    }

    fn run_plain_handler<'py>(
        &self,
        py: Python<'py>,
        instance: &PluginInstance,
        data: Bound<'py, PyDict>,
        call: &Bound<'py, Call>,
        is_checked: bool,
    ) -> PyResult<()> {
        let arguments = (instance.slot.bind(py), data, call, self.event_loop(py)?, is_checked);
        self.runtime.run_plain.call1(py, arguments).map(drop)
    }

    /// Runs a coroutine that a call on a thread has left for the event loop. On the loop's thread.
    pub(super) fn carry_on(&self, py: Python<'_>, call: &Py<Call>, coroutine: &Py<PyAny>) {
        let slot = call.get().slot(py);
        let task = self
            .event_loop(py)
            .and_then(|event_loop| self.runtime.carry_on.call1(py, (slot, coroutine.bind(py), event_loop)));
        match task {
            Ok(task) => self.remember_task(call.get(), task),
            Err(error) => call.get().raised(py, &error),
        }
    }

    /// Looked up each time: a new loop takes the place of one that a plugin has closed.
    fn event_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.runtime.object.bind(py).getattr(pyo3::intern!(py, "loop"))
    }

    fn with_call<'py>(
        self: &Arc<Self>,
        py: Python<'py>,
        pending: PendingCall,
        run: impl FnOnce(Python<'py>, &PluginInstance, Bound<'py, PyDict>, &Bound<'py, Call>) -> PyResult<()>,
    ) {
        let (instance, request) = (Arc::clone(&pending.instance), Arc::clone(&pending.request));
        let call = match Bound::new(py, Call::new(Arc::clone(self), pending)) {
            Ok(call) => call,
            Err(error) => return log::error!("cannot make a call object: {error}"),
        };
        let built = kwargs::build(py, &instance, &request, call.get().outlet(), &self.queue);
        let result = built.and_then(|data| match data {
            Some(data) => run(py, &instance, data, &call),
            None => {
                call.get().refuse();
                Ok(())
            }
        });
        if let Err(error) = result {
            call.get().raised(py, &error);
        }
    }

    /// Makes `asyncio.get_running_loop()` work on a thread of the pool.
    pub(super) fn enter_handler_thread(&self, py: Python<'_>) -> PyResult<()> {
        self.runtime.object.call_method0(py, "enter_handler_thread").map(drop)
    }

    fn remember_task(&self, call: &Call, task: Py<PyAny>) {
        let running = RunningTask { task, instance: call.instance() };
        self.running().insert(call.id(), running);
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, RunningTask>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels what still runs of plugins that end, such as a stream without an end. On the loop's thread.
    fn cancel_calls_of(&self, py: Python<'_>, instances: &[Arc<PluginInstance>]) {
        let tasks: Vec<Py<PyAny>> = {
            let running = self.running();
            let is_theirs = |one: &&RunningTask| instances.iter().any(|instance| Arc::ptr_eq(instance, &one.instance));
            running.values().filter(is_theirs).map(|one| one.task.clone_ref(py)).collect()
        };
        for instance in instances {
            instance.mark_ended();
        }
        for task in tasks {
            if let Err(error) = task.call_method0(py, "cancel") {
                log::warn!("a call cannot be cancelled: {error}");
            }
        }
    }

    pub(super) fn forget_task(&self, id: u64) {
        let task = self.running().remove(&id);
        // Outside the lock: the last reference may run Python code.
        drop(task);
    }
}

fn prepare(
    py: Python<'_>,
    options: &InterpreterOptions,
    queue: &Arc<LoopQueue>,
    loop_replaced: &Arc<Notify>,
) -> PyResult<Runtime> {
    let native = native::module(py)?;
    py.import("sys")?.getattr("modules")?.set_item("_pserve", native)?;
    embedded::install(py)?;
    log_bridge::install(py, options.log_level)?;
    let arguments = PyDict::new(py);
    arguments.set_item("plugins_dir", options.plugins_dir.as_os_str())?;
    arguments.set_item("ini_file", &options.ini_file)?;
    arguments.set_item("log_file", &options.log_file)?;
    arguments.set_item("level", &options.level_as_typed)?;
    arguments.set_item("wake_fd", queue.wake_fd())?;
    arguments.set_item("pump", Py::new(py, Pump::new(Arc::clone(queue)))?)?;
    let replaced = Arc::clone(loop_replaced);
    let notice = pyo3::types::PyCFunction::new_closure(py, None, None, move |_, _| replaced.notify_one())?;
    arguments.set_item("on_loop_replaced", notice)?;
    let object = py.import("pserve_runtime.runtime")?.getattr("Runtime")?.call((), Some(&arguments))?;
    let calls = py.import("pserve_runtime.calls")?;
    Ok(Runtime {
        object: object.unbind(),
        start: calls.getattr("start")?.unbind(),
        run_plain: calls.getattr("run_plain")?.unbind(),
        carry_on: calls.getattr("carry_on")?.unbind(),
    })
}
