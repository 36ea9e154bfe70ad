//! `pserve check`: reads the configuration and tries every plugin file in a child process, then says what would work,
//! what would not, and what to do about it. Serves nothing and changes nothing.

mod child;
mod findings;
mod report;

use std::path::{Path, PathBuf};

pub use child::{Way, run as run_child, try_files};
use report::Report;
pub use report::{FileReport, one_line};

use crate::cli::CheckArguments;
use crate::config::live::hide_keys;
use crate::config::{Config, read_text};
use crate::{exit_status, logging, plugins, python};

/// The answer of the command, to be printed, and its exit status.
#[derive(Debug)]
pub struct Outcome {
    pub text: String,
    pub status: i32,
}

/// Checks one installation. `ini` is the file, or why there is none.
pub fn run(arguments: &CheckArguments, ini: Result<PathBuf, String>) -> Outcome {
    let mut report = Report::new(&python::version());
    let status = match ini {
        Err(problem) => {
            report.error(problem);
            exit_status::USAGE
        }
        Ok(path) => examine(arguments, &path, &mut report),
    };
    let text = if arguments.json { report.to_json(status) } else { report.to_text(status) };
    // What plugins raise may hold a key.
    Outcome { text: logging::without_secrets(&text), status }
}

fn examine(arguments: &CheckArguments, ini: &Path, report: &mut Report) -> i32 {
    report.ini_file = Some(ini.to_owned());
    let config = match Config::load(ini) {
        Ok(config) => config,
        Err(problem) => {
            report.config_error(&problem);
            return exit_status::USAGE;
        }
    };
    hide_keys(&config);
    report.describe(&config);
    findings::of_configuration(&config, report);
    if let Ok(text) = read_text(ini) {
        findings::of_text(&text, ini, report);
    }
    let files = match plugins::plugin_files(&config) {
        Ok(files) => files,
        Err(problem) => {
            report.error(format!("{}: {problem}", config.settings.plugins_dir.display()));
            return exit_status::FAILURE;
        }
    };
    if !report.has_errors_of_the_environment {
        let way = if arguments.no_run { Way::ReadOnly } else { Way::Loaded };
        match child::try_files(&config, &files, way) {
            Ok(tried) => report.files = tried,
            Err(problem) => report.error(problem),
        }
    }
    findings::of_plugins(&config, &files, report);
    if report.has_errors() { exit_status::FAILURE } else { exit_status::CLEAN }
}
