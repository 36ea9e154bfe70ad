//! Reads the command line and the configuration, serves, and turns the end into an exit status.

use std::io::Write;

use clap::Parser;
use pserve::cli::Cli;
use pserve::config::Config;
use pserve::{exit_status, worker};

fn main() {
    let cli = Cli::parse();
    let config = cli.ini_path().and_then(|path| Config::load(&path).map_err(|problem| problem.to_string()));
    let status = match config {
        Err(problem) => {
            complain(&problem);
            exit_status::USAGE
        }
        Ok(config) => match worker::run(&cli, config) {
            Ok(()) => exit_status::CLEAN,
            Err(problem) => {
                complain(&format!("{problem:#}"));
                exit_status::FAILURE
            }
        },
    };
    exit_status::leave(status);
}

/// One line on standard error; nobody reading it is no reason to panic.
fn complain(problem: &str) {
    let _ = writeln!(std::io::stderr(), "pserve: {problem}");
}
