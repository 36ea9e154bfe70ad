//! The only room that names pyo3. What leaves it is plain data and handles that can be sent between threads.
//!
//! Modules in reading order: the interpreter starts, its main thread runs the event loop, files become instances,
//! a request becomes keyword arguments, a return value becomes a reply.

mod blocking_pool;
mod call;
mod context;
mod coroutine;
mod cpython;
mod driver;
mod embedded;
mod error;
mod event_loop;
mod faults;
mod forked;
mod handler;
mod instance;
mod interpreter;
mod json;
mod kwargs;
mod log_bridge;
mod memory;
mod native;
mod reply;
mod request;
mod scheduling;
mod script;
mod stacks;
mod streams;
mod sysinfo;
mod ticket;
mod waiting;
mod watch;
mod websocket;

pub use cpython::{check_venv, version};
pub use embedded::write_plugincore;
pub use error::PythonError;
pub use forked::keep_from_children;
pub use instance::{
    FileInspection, FileOutcome, FileToLoad, MissingModule, Parameter, ParameterPlace, PluginDescription,
    PluginInstance,
};
pub use interpreter::{Interpreter, InterpreterOptions};
pub use memory::{give_back_free_memory, keep_free_memory_under_load};
pub use scheduling::{io_thread_ends, io_thread_starts, share_the_core_in_turns};
pub use script::run_script;
pub use ticket::{CallGuard, CallWatch};
pub use waiting::PendingAnswer;
pub use watch::LoopHealth;
