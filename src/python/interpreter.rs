//! Starts CPython on the calling thread, with the right environment, and runs the event loop there until the end.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::{Notify, oneshot};

use super::blocking_pool::{BlockingPool, PoolJob};
use super::call::Call;
use super::cpython::{Arguments, check_venv, give_up_interpreter, initialize, sys_executable};
use super::driver::{self, Driver};
use super::error::PythonError;
use super::event_loop::{Completion, LoopQueue, Pump};
use super::instance::{self, FileInspection, FileOutcome, FileToLoad, PluginInstance};
use super::stacks::StackDump;
use super::ticket::{CallGuard, ThreadIdent, Ticket, lock};
use super::waiting::PendingAnswer;
use super::watch::{LoopHealth, Watch};
use super::{context, embedded, faults, handler, kwargs, log_bridge, native};
use crate::config::Table;
use crate::config::settings::PluginOptions;
use crate::exchange::{CallError, PluginRequest};
use crate::flight::FlightRecorder;

/// What the interpreter needs to know at its start.
#[derive(Debug, Clone)]
pub struct InterpreterOptions {
    pub venv: Option<PathBuf>,
    pub plugins_dir: PathBuf,
    pub handler_threads: usize,
    /// Threads that are replaced when their handler was given up and does not return.
    pub max_lost_threads: usize,
    /// Where calls and loads are recorded.
    pub flight: Option<Arc<FlightRecorder>>,
    /// Where `faulthandler` writes when the process crashes; standard error otherwise. It must stay open.
    pub crash_report_fd: Option<RawFd>,
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
    pub(super) watch: Watch,
    pub(super) flight: Option<Arc<FlightRecorder>>,
    runtime: Runtime,
    pending: Arc<PendingWork>,
    loop_replaced: Arc<Notify>,
}

/// What goes on on the event loop.
#[derive(Default)]
struct PendingWork {
    /// The tasks of async calls, by call: asyncio itself holds tasks weakly.
    tasks: Mutex<HashMap<u64, RunningTask>>,
    /// The async call whose first step is under way.
    starting: Mutex<Option<Arc<Ticket>>>,
    /// The server's own coroutines.
    own: Mutex<Vec<Py<Completion>>>,
}

impl PendingWork {
    /// Answers everything: its event loop has gone, and it would wait for ever.
    fn end_all(&self, py: Python<'_>) {
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        let own = std::mem::take(&mut *lock(&self.own));
        for running in tasks.values() {
            running.ticket.end_flight();
            running.ticket.outlet.end(Err(CallError::Lost));
        }
        for completion in own {
            completion.get().end(py, Err(PyRuntimeError::new_err("a plugin has closed the event loop")));
        }
        // Outside the locks: the last references may run Python code.
        drop(tasks);
    }
}

/// An async call on the event loop.
struct RunningTask {
    task: Py<PyAny>,
    ticket: Arc<Ticket>,
}

/// Python objects that are looked up once.
struct Runtime {
    /// `pserve_runtime.runtime.Runtime`.
    object: Py<PyAny>,
    /// `asyncio.Task`, and how asyncio is told which task runs.
    task_class: Py<PyAny>,
    enter_task: Py<PyAny>,
    leave_task: Py<PyAny>,
    /// The module `pserve_runtime.stacks`.
    stacks: Py<PyAny>,
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
        let (loop_replaced, pending) = (Arc::new(Notify::new()), Arc::<PendingWork>::default());
        let dump = StackDump::new().context("cannot make memory for stacks")?;
        if let Some(recorder) = &options.flight {
            native::record_flight(recorder);
        }
        let on_loop_replaced = {
            let (replaced, pending) = (Arc::clone(&loop_replaced), Arc::clone(&pending));
            move |py: Python<'_>| {
                pending.end_all(py);
                replaced.notify_one();
            }
        };
        let runtime = Python::attach(|py| {
            prepare(py, options, &queue, &dump, on_loop_replaced)
                .map_err(|error| anyhow::anyhow!("{}", PythonError::from_exception(py, &error).traceback))
        })
        .context("the embedded Python code does not start")?;
        faults::end_by_sent_faults().context("cannot take signals of faults")?;
        let pool = BlockingPool::new(options.handler_threads, options.max_lost_threads);
        let (watch, flight) = (Watch::new(dump), options.flight.clone());
        let shared = Shared { queue, pool, watch, flight, runtime, pending, loop_replaced };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs the event loop on this thread, the one that started Python, until [`Interpreter::stop`].
    pub fn run(&self) -> anyhow::Result<()> {
        Watch::start(&self.shared).context("cannot start the thread that watches Python")?;
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

    /// How well the event loop and the interpreter do. Never waits for Python.
    pub fn health(&self) -> LoopHealth {
        self.shared.watch.health()
    }

    /// Where every Python thread and task stands. May be called from any thread but the loop's; waits for the
    /// interpreter no longer than the limit, and does without it then.
    pub fn stacks(&self, limit: Duration) -> String {
        self.shared.watch.all_stacks(limit)
    }

    /// Threads that plain handlers occupy which were given up.
    pub fn lost_threads(&self) -> usize {
        self.shared.pool.lost_threads()
    }

    /// Wakes whoever waits when [`InterpreterOptions::max_lost_threads`] are lost: those after them are not replaced.
    pub fn many_threads_lost(&self) -> Arc<Notify> {
        self.shared.pool.many_lost()
    }

    /// Answers every call that is on the event loop or waits for it: the loop stands still, and nobody should wait for it
    /// any more. The answer is how many there were. Never waits for Python.
    pub fn give_up_loop(&self) -> usize {
        let mut running: Vec<_> =
            lock(&self.shared.pending.tasks).values().map(|one| Arc::clone(&one.ticket)).collect();
        running.extend(lock(&self.shared.pending.starting).clone());
        let waiting = self.shared.queue.waiting_calls();
        // An answer that has begun cannot be another one any more: it is cut.
        let answer = |ticket: &&Arc<Ticket>| {
            ticket.outlet.give_up(CallError::LoopStalled) || {
                let has_begun = ticket.outlet.has_begun();
                ticket.outlet.end(Err(CallError::LoopStalled));
                has_begun
            }
        };
        running.iter().chain(&waiting).filter(answer).count()
    }

    /// Threads for plain handlers that there are now.
    pub fn handler_threads(&self) -> usize {
        self.shared.pool.threads()
    }

    /// Sends a request to a plugin. Never waits for Python; the answer is to be awaited.
    pub fn call(
        &self,
        instance: &Arc<PluginInstance>,
        request: Box<PluginRequest>,
        limit: Option<Duration>,
        guard: CallGuard,
    ) -> PendingAnswer {
        let (sender, receiver) = oneshot::channel();
        let ticket = Arc::new(Ticket::new(Arc::clone(instance), request, sender, guard));
        let answer = PendingAnswer::new(Arc::clone(&self.shared), Arc::clone(&ticket), receiver, limit);
        if instance.is_async() {
            self.shared.queue.push_call(&self.shared, ticket);
        } else {
            self.shared.pool.submit(&self.shared, PoolJob::New(ticket));
        }
        answer
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

    /// The plugin files that import one of these modules of the plugins folder, by way of others too.
    pub async fn importers(&self, modules: Vec<PathBuf>) -> Result<Vec<PathBuf>, PythonError> {
        let make = move |_: Python<'_>, runtime: &Bound<'_, PyAny>| {
            let modules: Vec<_> = modules.iter().map(|path| path.as_os_str()).collect();
            Ok(runtime.call_method1("importers", (modules,))?.unbind())
        };
        self.run_coroutine(make, |found| found.extract()).await
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
            let all: Vec<_> = shared.running().values().map(|one| Arc::clone(&one.ticket.instance)).collect();
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
            let started = Py::new(py, Completion::new(then)).and_then(|completion| {
                let coroutine = make(py, runtime)?;
                shared.remember_own(&completion, py);
                runtime.call_method1("spawn", (coroutine, completion))
            });
            if let Err(error) = started {
                log::error!("{}", PythonError::from_exception(py, &error).traceback);
            }
        });
        receiver.await.unwrap_or_else(|_| Err(PythonError::new("RuntimeError", "the event loop dropped the work")))
    }
}

impl Shared {
    /// Starts an async handler. On the loop's thread.
    pub(super) fn start_call(self: &Arc<Self>, py: Python<'_>, ticket: Arc<Ticket>) {
        // Who waits for a call that is dropped is told so.
        if ticket.outlet.is_given_up() || ticket.instance.has_ended() {
            return;
        }
        ticket.begin_flight(self.flight.as_ref());
        *lock(&self.pending.starting) = Some(Arc::clone(&ticket));
        self.with_call(py, ticket, |py, data, call| driver::start(py, self, call, &data));
        *lock(&self.pending.starting) = None;
    }

    /// Makes the asyncio task of a call.
    pub(super) fn make_task(
        &self,
        py: Python<'_>,
        driver: &Bound<'_, Driver>,
        own_context: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let options = PyDict::new(py);
        options.set_item(intern!(py, "loop"), self.event_loop(py)?)?;
        if cfg!(Py_3_11) {
            options.set_item(intern!(py, "context"), own_context)?;
        }
        self.runtime.task_class.call(py, (driver,), Some(&options))
    }

    /// Lets asyncio take a task for the one that runs.
    pub(super) fn enter_task(&self, py: Python<'_>, task: &Py<PyAny>) -> PyResult<()> {
        self.runtime.enter_task.call1(py, (self.event_loop(py)?, task)).map(drop)
    }

    pub(super) fn leave_task(&self, py: Python<'_>, task: &Py<PyAny>) -> PyResult<()> {
        self.runtime.leave_task.call1(py, (self.event_loop(py)?, task)).map(drop)
    }

    /// Runs a plain handler to its end. On a thread of the pool.
    pub(super) fn run_plain(self: &Arc<Self>, py: Python<'_>, job: PoolJob) {
        match job {
            PoolJob::New(ticket) => {
                self.with_call(py, ticket, |py, data, call| self.run_plain_handler(py, data, call, false));
            }
            PoolJob::Checked { call, data, .. } => {
                let call = call.bind(py);
                if let Err(error) = self.run_plain_handler(py, data.into_bound(py), call, true) {
                    call.get().raised(py, &error);
                }
            }
        }
    }

    fn run_plain_handler<'py>(
        &self,
        py: Python<'py>,
        data: Bound<'py, PyDict>,
        call: &Bound<'py, Call>,
        is_checked: bool,
    ) -> PyResult<()> {
        handler::run_plain(py, call, &data, is_checked)?;
        // What the handler did to a future, an event or a queue has put work on the loop's list, which a loop asleep in
        // `select` does not see.
        let event_loop = self.event_loop(py)?;
        match event_loop.getattr_opt(intern!(py, "_ready"))? {
            Some(ready) if !ready.is_truthy()? => {}
            _ => self.queue.signal_once(),
        }
        Ok(())
    }

    /// Runs a coroutine that a call on a thread has left for the event loop. On the loop's thread.
    pub(super) fn carry_on(
        &self,
        py: Python<'_>,
        call: &Py<Call>,
        coroutine: &Py<PyAny>,
        own_context: &Bound<'_, PyAny>,
    ) {
        let ticket = call.get().ticket();
        ticket.begin_flight(self.flight.as_ref());
        let make_task = || {
            let options = PyDict::new(py);
            options.set_item(intern!(py, "loop"), self.event_loop(py)?)?;
            // It takes the context that it is made in.
            self.runtime.task_class.call(py, (coroutine,), Some(&options))
        };
        let task = context::run_in(own_context, make_task).flatten();
        match task {
            Ok(task) => self.remember_task(ticket, task),
            Err(error) => call.get().raised(py, &error),
        }
        // Given up between the thread and here.
        if ticket.outlet.is_given_up() || ticket.outlet.has_ended() {
            self.cancel_task(py, ticket.id);
        }
    }

    /// Looked up each time: a new loop takes the place of one that a plugin has closed.
    fn event_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.runtime.object.bind(py).getattr(intern!(py, "loop"))
    }

    fn with_call<'py>(
        self: &Arc<Self>,
        py: Python<'py>,
        ticket: Arc<Ticket>,
        run: impl FnOnce(Python<'py>, Bound<'py, PyDict>, &Bound<'py, Call>) -> PyResult<()>,
    ) {
        let call = match Bound::new(py, Call::new(Arc::clone(self), ticket)) {
            Ok(call) => call,
            Err(error) => return log::error!("cannot make a call object: {error}"),
        };
        let built = kwargs::build(py, call.get().ticket(), &self.queue);
        let result = built.and_then(|data| match data {
            Some(data) => run(py, data, &call),
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

    pub(super) fn remember_task(&self, ticket: &Arc<Ticket>, task: Py<PyAny>) {
        self.running().insert(ticket.id, RunningTask { task, ticket: Arc::clone(ticket) });
    }

    fn remember_own(&self, completion: &Py<Completion>, py: Python<'_>) {
        let mut own = lock(&self.pending.own);
        own.retain(|one| !one.get().has_ended());
        own.push(completion.clone_ref(py));
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, RunningTask>> {
        lock(&self.pending.tasks)
    }

    /// Cancels a call that was given up, if it has begun. On the loop's thread.
    pub(super) fn cancel_task(&self, py: Python<'_>, id: u64) {
        let task = self.running().get(&id).map(|running| running.task.clone_ref(py));
        if let Some(Err(error)) = task.map(|task| task.call_method0(py, "cancel")) {
            log::warn!("a call cannot be cancelled: {error}");
        }
    }

    /// One thread's stack, or everything.
    pub(super) fn describe_stacks(&self, py: Python<'_>, thread: Option<ThreadIdent>) -> PyResult<String> {
        let stacks = self.runtime.stacks.bind(py);
        match thread {
            Some(ident) => stacks.call_method1("of_thread", (ident,)),
            None => stacks.call_method1("of_everything", (self.event_loop(py)?,)),
        }?
        .extract()
    }

    /// Cancels what still runs of plugins that end, such as a stream without an end. On the loop's thread.
    fn cancel_calls_of(&self, py: Python<'_>, instances: &[Arc<PluginInstance>]) {
        let tasks: Vec<Py<PyAny>> = {
            let running = self.running();
            let is_theirs =
                |one: &&RunningTask| instances.iter().any(|instance| Arc::ptr_eq(instance, &one.ticket.instance));
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
    dump: &StackDump,
    on_loop_replaced: impl Fn(Python<'_>) + Send + Sync + 'static,
) -> PyResult<Runtime> {
    let native = native::module(py)?;
    py.import("sys")?.getattr("modules")?.set_item("_pserve", native)?;
    embedded::install(py)?;
    py.import("pserve_runtime.late_ssl")?.call_method0("import_asyncio")?;
    log_bridge::install(py)?;
    let arguments = PyDict::new(py);
    arguments.set_item("plugins_dir", options.plugins_dir.as_os_str())?;
    arguments.set_item("ini_file", &options.ini_file)?;
    arguments.set_item("log_file", &options.log_file)?;
    arguments.set_item("level", &options.level_as_typed)?;
    arguments.set_item("wake_fd", queue.wake_fd())?;
    arguments.set_item("pump", Py::new(py, Pump::new(Arc::clone(queue)))?)?;
    arguments.set_item("crash_report_fd", options.crash_report_fd)?;
    arguments.set_item("stacks_fd", dump.fd())?;
    arguments.set_item("stacks_signal", dump.signal())?;
    let notice = pyo3::types::PyCFunction::new_closure(py, None, None, move |arguments, _| {
        on_loop_replaced(arguments.py());
    })?;
    arguments.set_item("on_loop_replaced", notice)?;
    let object = py.import("pserve_runtime.runtime")?.getattr("Runtime")?.call((), Some(&arguments))?;
    let tasks = py.import("asyncio.tasks")?;
    // Now, as long as everything can be imported: a plugin may take the finders away.
    for name in ["calls", "request", "threads", "stacks"] {
        py.import(format!("pserve_runtime.{name}"))?;
    }
    Ok(Runtime {
        object: object.unbind(),
        task_class: tasks.getattr("Task")?.unbind(),
        enter_task: tasks.getattr("_enter_task")?.unbind(),
        leave_task: tasks.getattr("_leave_task")?.unbind(),
        stacks: py.import("pserve_runtime.stacks")?.into_any().unbind(),
    })
}
