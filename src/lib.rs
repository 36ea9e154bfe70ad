//! pserve: a server that runs existing Python plugin files as HTTP endpoints.
//!
//! The rooms, in reading order. Imports point down the list in `docs/architecture.md`; `pyo3` occurs only in
//! [`python`], `warp` and `hyper` only in [`web`].
//!
//! * [`cli`]: flags as they were typed.
//! * [`config`]: from INI text to what the program means.
//! * [`logging`], [`console`], [`palette`], [`request_id`], [`shutdown`], [`exit_status`]: small, shared, know nobody.
//! * [`recent`]: the latest requests and log lines, for who watches.
//! * [`flight`]: what a worker was doing, readable after its death.
//! * [`metrics`]: what is counted, and the text of `/metrics`.
//! * [`pipe`]: bytes on their way between a connection and Python.
//! * [`exchange`]: what passes between the web room and the Python room, as plain data.
//! * [`choice`]: which configuration a command without a server works with.
//! * [`call`]: `pserve call`.
//! * [`listing`]: `pserve plugins`.
//! * [`check`]: `pserve check`, the doctor.
//! * [`top`]: `pserve top`.
//! * [`palette`]: colours for a terminal that wants them.
//! * [`client`]: asks the server of an INI file, for commands.
//! * [`dev`]: `pserve dev`, on the supervisor's side: watches files, writes to the terminal.
//! * [`scaffold`]: `pserve new`.
//! * [`generate`]: man page, completions, table of keys.
//! * [`supervisor`]: the parent process, which people signal; never starts Python.
//! * [`handoff`]: what the supervisor and a worker say to each other.
//! * [`worker`]: the serving process's start order and stop order.
//! * [`web`]: HTTP. Accepts, routes, checks keys, answers.
//! * [`plugins`]: what a plugin is to the server: loaded, called, reloaded. Knows no HTTP.
//! * [`python`]: the interpreter, its event loop, one call. The only room that names pyo3.

pub mod call;
pub mod check;
pub mod choice;
pub mod cli;
pub mod client;
pub mod config;
pub mod console;
pub mod dev;
pub mod exchange;
pub mod exit_status;
pub mod flight;
pub mod generate;
pub mod handoff;
pub mod listing;
pub mod logging;
pub mod metrics;
pub mod palette;
pub mod pipe;
pub mod plugins;
pub mod python;
pub mod recent;
pub mod request_id;
pub mod scaffold;
pub mod shutdown;
pub mod supervisor;
pub mod top;
pub mod web;
pub mod worker;
