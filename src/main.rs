//! Reads the command line and the configuration, serves, and turns the end into an exit status.

use std::io::Write;

use pserve::cli::{Cli, NotServing};
use pserve::config::Config;
use pserve::{exit_status, worker};

fn main() {
    exit_status::leave(match Cli::from_command_line() {
        Ok(cli) => serve(&cli),
        Err(NotServing::Answer(text)) => {
            let _ = write!(std::io::stdout(), "{text}");
            let _ = std::io::stdout().flush();
            exit_status::CLEAN
        }
        Err(NotServing::Mistake(mistake)) => {
            complain(&mistake);
            exit_status::USAGE
        }
    })
}

fn serve(cli: &Cli) -> i32 {
    let config = cli.ini_path().and_then(|path| Config::load(&path).map_err(|problem| problem.to_string()));
    match config.map(|config| worker::run(cli, config)) {
        Err(problem) => {
            complain(&problem);
            exit_status::USAGE
        }
        Ok(Err(problem)) => {
            complain(&format!("{problem:#}"));
            exit_status::FAILURE
        }
        Ok(Ok(())) => exit_status::CLEAN,
    }
}

/// One line on standard error; nobody reading it is no reason to panic.
fn complain(problem: &str) {
    let _ = writeln!(std::io::stderr(), "pserve: {problem}");
}
