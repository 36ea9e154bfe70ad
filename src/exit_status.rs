//! The exit statuses of the program, by name, and the way out.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// A stop that a signal asked for, or an answer such as `--version`.
pub const CLEAN: i32 = 0;
/// The port is taken, Python does not start, a file cannot be written: nothing the user typed is wrong.
pub const FAILURE: i32 = 1;
/// The command line or the configuration cannot work.
pub const USAGE: i32 = 2;
/// A signal ended a command, as shells name SIGINT.
pub const INTERRUPTED: i32 = 130;
/// Of a worker: it could not start, and has told the supervisor why.
pub const CANNOT_START: i32 = 70;

/// Ends the process at once, as the last step. Finalising an interpreter whose threads still run would hang, so that
/// nothing may run at exit any more: what has to be flushed has been.
pub fn leave(status: i32) -> ! {
    signal_hook::low_level::exit(status)
}

/// One line on standard error; nobody reading it is no reason to panic.
pub fn complain(problem: &str) {
    let _ = writeln!(std::io::stderr(), "pserve: {problem}");
}

/// How a process ended, in words.
pub fn in_words(status: &io::Result<ExitStatus>) -> String {
    let status = match status {
        Ok(status) => status,
        Err(problem) => return format!("for no known reason ({problem})"),
    };
    match (status.code(), status.signal()) {
        (_, Some(signal)) => {
            let name = signal_hook::low_level::signal_name(signal);
            format!("by {}", name.map_or_else(|| format!("signal {signal}"), str::to_owned))
        }
        (Some(code), _) => format!("with status {code}"),
        _ => "for no known reason".to_owned(),
    }
}
