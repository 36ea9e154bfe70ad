//! Plugin files are tried in a child process: one that crashes, hangs or ends its process costs its own line of the
//! report. The child tells of each file as it goes, in JSON lines through a pipe.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Context;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use super::report::{FileError, FileReport, PluginReport};
use crate::cli::{CheckArguments, Cli};
use crate::config::live::LiveConfig;
use crate::config::{Config, KeyRule};
use crate::plugins::Plugins;
use crate::python::{Interpreter, PythonError};
use crate::{exit_status, logging, worker};

/// What a file may take beyond the limit for `initialize`: import and constructor have none of their own.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the plugins may take to end at the very last.
const END_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Begins(PathBuf),
    Done(FileReport),
    AllDone,
}

/// Tries files in children, with a new child after each file that takes one down.
/// Errs when Python itself does not start.
pub fn try_files(
    arguments: &CheckArguments,
    ini: &Path,
    files: &[PathBuf],
    load_timeout: Duration,
) -> Result<Vec<FileReport>, String> {
    let mut reports = Vec::new();
    let mut rest = files.to_vec();
    while !rest.is_empty() {
        let known = reports.len();
        let stopped_at = try_some(arguments, ini, &rest, load_timeout + PATIENCE, &mut reports)?;
        rest.drain(..reports.len() - known);
        if let Some(report) = stopped_at {
            rest.retain(|file| *file != report.file);
            reports.push(report);
        } else if reports.len() == known {
            break;
        }
    }
    Ok(reports)
}

/// One child. The answer is the file that it did not survive, if there was one.
fn try_some(
    arguments: &CheckArguments,
    ini: &Path,
    files: &[PathBuf],
    patience: Duration,
    reports: &mut Vec<FileReport>,
) -> Result<Option<FileReport>, String> {
    let failed = |what: &str, problem: &dyn std::fmt::Display| format!("{what}: {problem}");
    let (reading, writing) = pipe_with(PipeFlags::empty()).map_err(|problem| failed("cannot make a pipe", &problem))?;
    let program = std::env::current_exe().map_err(|problem| failed("cannot find this program", &problem))?;
    let mut command = Command::new(program);
    command.args(["check", "--ini-file"]).arg(ini);
    command.arg("--child-report").arg(format!("/dev/fd/{}", writing.as_raw_fd()));
    if arguments.no_run {
        command.arg("--no-run");
    }
    for file in files {
        command.arg("--child-file").arg(file);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|problem| failed("cannot start a child process", &problem))?;
    drop(writing);
    let complaints = child.stderr.take().map(|mut stderr| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let lines = lines_of(reading.into());
    let mut begun = None;
    let mut is_done = false;
    let ended_early = loop {
        match lines.recv_timeout(patience) {
            Ok(Line::Begins(file)) => begun = Some(file),
            Ok(Line::Done(report)) => {
                begun = None;
                reports.push(report);
            }
            Ok(Line::AllDone) => is_done = true,
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => break Some(format!("does not come to an end within {patience:?}")),
        }
    };
    if ended_early.is_some() || is_done {
        // Whatever it still does after its last line concerns nobody.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|problem| failed("cannot wait for the child process", &problem))?;
    let complaints = complaints.and_then(|reader| reader.join().ok()).unwrap_or_default();
    if is_done {
        return Ok(None);
    }
    let Some(file) = begun else {
        let last = complaints.lines().last().unwrap_or("it says nothing").trim_start_matches("pserve: ").to_owned();
        return Err(format!("plugins cannot be tried: {last}"));
    };
    let message = ended_early.unwrap_or_else(|| format!("ends its process ({})", how(status)));
    let error = PythonError::new("Crash", message);
    Ok(Some(FileReport { error: Some(error.into()), ..FileReport::new(file) }))
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (_, Some(signal)) => {
            signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
        }
        (Some(code), _) => format!("exit status {code}"),
        _ => "no reason given".to_owned(),
    }
}

fn lines_of(reading: File) -> Receiver<Line> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reading).lines() {
            let parsed = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            if parsed.is_none_or(|line| sender.send(line).is_err()) {
                return;
            }
        }
    });
    receiver
}

/// The child: tries each file, as a start of the server would, and ends its plugins again.
pub fn run(cli: &Cli, arguments: &CheckArguments, config: Config) -> anyhow::Result<()> {
    let path = arguments.child_report.as_deref().context("a child needs a place for its report")?;
    let mut report = File::options().write(true).open(path).context("the report cannot be written")?;
    let settings = config.settings.clone();
    logging::init(cli.severity(), None)?;
    let config = Arc::new(LiveConfig::new(config));
    let interpreter = Interpreter::start(&worker::interpreter_options(cli, &config, &settings))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let plugins = Arc::new(Plugins::new(interpreter.clone(), config));
    let (files, is_only_read) = (arguments.child_files.clone(), arguments.no_run);
    let on_tokio = interpreter.clone();
    runtime.spawn(async move {
        let mut say = |line: &Line| {
            let text = serde_json::to_string(line).unwrap_or_default();
            // The parent has gone when it cannot be written; nobody wants to know the rest.
            if writeln!(report, "{text}").is_err() {
                exit_status::leave(exit_status::FAILURE);
            }
        };
        for file in files {
            say(&Line::Begins(file.clone()));
            say(&Line::Done(try_one(&on_tokio, &plugins, file, is_only_read).await));
        }
        let _ = tokio::time::timeout(END_LIMIT, plugins.terminate_all()).await;
        say(&Line::AllDone);
        exit_status::leave(exit_status::CLEAN);
    });
    interpreter.run()
}

async fn try_one(interpreter: &Interpreter, plugins: &Plugins, file: PathBuf, is_only_read: bool) -> FileReport {
    let inspection = interpreter.inspect(file.clone()).await.unwrap_or_default();
    let mut report = FileReport { missing: inspection.missing, ..FileReport::new(file.clone()) };
    report.is_only_read = is_only_read;
    if is_only_read {
        report.error = inspection.error.map(|error| FileError { file: Some(file), ..error.into() });
        return report;
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let failed = plugins.load(&stem).await.err();
    let registry = plugins.registry();
    let state = registry.file(&file).cloned().unwrap_or_default();
    report.error = match (state.error, failed) {
        (Some(error), _) => Some(error.into()),
        (None, Some(error)) => Some(PythonError::new("Error", error.to_string()).into()),
        (None, None) => None,
    };
    for plugin in state.ids.iter().filter_map(|id| registry.get(id)) {
        let instance = plugin.instance();
        report.plugins.push(PluginReport {
            route: format!("/{}", instance.id()),
            class: instance.class_name().to_owned(),
            line: inspection.classes.get(instance.class_name()).copied(),
            is_async: instance.is_async(),
            key: match &*instance.key_rule() {
                KeyRule::Open => "none",
                KeyRule::Global => "global",
                KeyRule::Own(_) => "own",
                KeyRule::Custom => "decided by the plugin",
                KeyRule::Never => "nobody may call it",
            }
            .to_owned(),
        });
    }
    report
}
