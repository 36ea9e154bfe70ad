//! Plugin files are tried in a child process: one that crashes, hangs or ends its process costs its own line of the
//! report. The child tells of each file as it goes, in JSON lines through a pipe.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use rustix::stdio::dup2_stdin;
use serde::{Deserialize, Serialize};

use super::report::{FileError, FileReport, PluginReport};
use crate::cli::{CheckArguments, Cli};
use crate::config::live::LiveConfig;
use crate::config::{Config, Source};
use crate::plugins::Plugins;
use crate::python::{Interpreter, PythonError};
use crate::{exit_status, logging, worker};

/// What a file may take beyond the limit for `initialize`: import and constructor have none of their own.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a process may take to end after it has closed its report.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// How long the plugins may take to end at the very last.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is loaded, as a start of the server would, and its plugins are ended again.
    Loaded,
    /// Errors of syntax and missing modules are looked for, and nothing is run.
    ReadOnly,
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Begins(PathBuf),
    Done(FileReport),
    /// All have been tried, and the plugins of this one are ended.
    Ends(PathBuf),
    AllDone,
}

/// Tries files in children, with a new child after each file that takes one down.
/// Errs when Python itself does not start.
pub fn try_files(config: &Config, files: &[PathBuf], way: Way) -> Result<Vec<FileReport>, String> {
    let mut reports = Vec::new();
    let mut rest = files.to_vec();
    while !rest.is_empty() {
        let known = reports.len();
        let stopped_at = try_some(config, way, &rest, &mut reports)?;
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
    config: &Config,
    way: Way,
    files: &[PathBuf],
    reports: &mut Vec<FileReport>,
) -> Result<Option<FileReport>, String> {
    let known = reports.len();
    let failed = |what: &str, problem: &dyn std::fmt::Display| format!("{what}: {problem}");
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC).map_err(|problem| failed("cannot make a pipe", &problem))?;
    let program = std::env::current_exe().map_err(|problem| failed("cannot find this program", &problem))?;
    let mut command = Command::new(program);
    command.args(["check", "--child"]);
    name_source(&config.source, &config.settings.plugins_dir, &mut command);
    if way == Way::ReadOnly {
        command.arg("--no-run");
    }
    for file in files {
        command.arg("--child-file").arg(file);
    }
    // The report goes where standard input would be: the child puts another one in its place, so that no process
    // that a plugin starts holds the pipe. A group of its own lets those be ended with the child.
    command.stdin(Stdio::from(writing)).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = Tried(command.spawn().map_err(|problem| failed("cannot start a child process", &problem))?);
    drop(command);
    let complaints = Arc::new(Mutex::new(String::new()));
    if let Some(stderr) = child.0.stderr.take() {
        let complaints = Arc::clone(&complaints);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                *complaints.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
        });
    }
    let lines = lines_of(reading.into());
    let (mut begun, mut ending) = (None, None);
    let patience = config.settings.limits.load_timeout + PATIENCE;
    let ended_early = loop {
        match lines.recv_timeout(patience) {
            Ok(Line::Begins(file)) => begun = Some(file),
            Ok(Line::Done(report)) => {
                begun = None;
                reports.push(report);
            }
            Ok(Line::Ends(file)) => ending = Some(file),
            // Whatever it still does after its last line concerns nobody.
            Ok(Line::AllDone) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => break Some(format!("does not come to an end within {patience:?}")),
        }
    };
    let status = if ended_early.is_none() { child.ended_within(END_PATIENCE) } else { None };
    let message = ended_early.unwrap_or_else(|| match status {
        Some(status) => format!("its process ended {}", exit_status::in_words(&Ok(status))),
        None => "closes the files of its process".to_owned(),
    });
    if let Some(file) = begun {
        let error = PythonError::new("Crash", message);
        return Ok(Some(FileReport { error: Some(error.into()), ..FileReport::new(file) }));
    }
    if let Some(report) = reports[known..].iter_mut().find(|report| ending.as_ref() == Some(&report.file)) {
        let error = PythonError::new("Crash", format!("{message} when its plugins were terminated"));
        report.error.get_or_insert(error.into());
        return Ok(None);
    }
    let last = complaints.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let last = if last.is_empty() { "the child process says nothing".to_owned() } else { last };
    Err(format!("plugins cannot be tried: {}", last.trim_start_matches("pserve: ")))
}

/// Has the child work with the same configuration.
fn name_source(source: &Source, plugins_dir: &Path, command: &mut Command) {
    if source.has_file {
        command.arg("--ini-file").arg(&source.path);
    }
    if !source.fixed.is_empty() {
        command.arg("--child-folder").arg(plugins_dir);
    }
}

/// A child process; it ends with this, and the processes of its group with it.
struct Tried(Child);

impl Tried {
    fn ended_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.0.try_wait() {
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Tried {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
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
    let mut report = File::options().write(true).open("/dev/fd/0").context("the report cannot be written")?;
    dup2_stdin(File::open("/dev/null")?).context("standard input cannot be replaced")?;
    // Nobody wants to know any more when the parent has gone.
    set_parent_process_death_signal(Some(Signal::KILL)).context("the parent's end cannot be watched")?;
    let settings = config.settings.clone();
    logging::init(cli.asked_of_log(), None, logging::Need::Required, None)?;
    let config = Arc::new(LiveConfig::new(config));
    let interpreter = Interpreter::start(&worker::interpreter_options(cli, &config, &settings))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let plugins = Arc::new(Plugins::new(interpreter.clone(), config, Arc::default()));
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
        // File by file, so that a death has a name.
        for file in plugins.files() {
            say(&Line::Ends(file.path));
            for id in file.ids {
                if let Err(problem) = plugins.unload(&id).await {
                    log::debug!("{id}: {problem}");
                }
            }
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
            key: instance.key_rule().words().to_owned(),
            methods: instance.methods().to_vec(),
            about: instance.description().clone(),
        });
    }
    report
}
