//! `pserve call`: one handler, once, without a server. The request goes the way that every request goes, in this process,
//! which loads the plugin first and ends it afterwards. It is the child of one that outlives whatever the plugin does.

mod apart;
mod loading;
mod output;
mod request;
mod stops;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::cli::{CallArguments, Cli};
use crate::config::Config;
use crate::config::live::LiveConfig;
use crate::flight::{self, FlightRecorder};
use crate::handoff::Link;
use crate::logging::Need;
use crate::plugins::Plugins;
use crate::python::{self, Interpreter, InterpreterOptions};
use crate::web::{Site, ask};
use crate::{choice, exit_status, logging, shutdown, worker};
use apart::Place;
use loading::NotCallable;
use output::Output;
use request::Wanted;
use stops::{Stop, Stops};

/// How long the plugins may take to end.
const END_LIMIT: Duration = Duration::from_secs(8);

/// How long Python may take for its last steps.
const LAST_STEPS_LIMIT: Duration = Duration::from_secs(5);

/// How long an answer is held back when the plugin has just asked for the end of its process.
const DEATH_PATIENCE: Duration = Duration::from_secs(2);

/// The statuses of answers that are errors.
const FIRST_ERROR: u16 = 400;

/// Calls the plugin in a child process; the answer is the exit status. In the child itself it calls it, and must run on
/// the process's main thread, which becomes Python's.
pub fn run(cli: &Cli, arguments: &CallArguments) -> i32 {
    match Place::take() {
        Ok(None) => apart::run().unwrap_or_else(|problem| {
            exit_status::complain(&format!("{problem:#}"));
            exit_status::FAILURE
        }),
        Ok(Some(place)) => {
            let config = choice::configuration(cli, arguments.folder.as_deref());
            let channel = Arc::new(place.channel);
            let called = config.map(|config| call(cli, arguments, config, place.flight, Arc::clone(&channel)));
            let status = match called {
                Ok(Ok(status)) => status,
                Ok(Err(problem)) => {
                    exit_status::complain(&format!("{problem:#}"));
                    exit_status::FAILURE
                }
                Err(problem) => {
                    exit_status::complain(&problem);
                    exit_status::USAGE
                }
            };
            apart::leave(&channel, status)
        }
        // Whoever started this process has gone.
        Err(_) => exit_status::FAILURE,
    }
}

fn call(
    cli: &Cli,
    arguments: &CallArguments,
    config: Config,
    flight: OwnedFd,
    parent: Arc<UnixStream>,
) -> anyhow::Result<i32> {
    let wanted = match Wanted::new(arguments) {
        Ok(wanted) => wanted,
        Err(problem) => {
            exit_status::complain(&problem);
            return Ok(exit_status::USAGE);
        }
    };
    let output = Output::take_over().context("standard output cannot be taken over")?;
    logging::init(cli.asked_of_log(), cli.log.as_deref(), Need::Required, None)?;
    let signals = shutdown::listen_beside_parent().context("cannot listen for signals")?;
    let end_asked = shutdown::note_end_asked().context("cannot listen for signals")?;
    let settings = config.settings.clone();
    let config = Arc::new(LiveConfig::new(config));
    let recorder = FlightRecorder::open(&flight).context("cannot open the flight recorder")?;
    let options =
        InterpreterOptions { flight: Some(Arc::new(recorder)), ..worker::interpreter_options(cli, &config, &settings) };
    python::keep_from_children([parent.as_fd()].into_iter());
    let interpreter = Interpreter::start(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // There is no supervisor; what a plugin asks of one is not answered.
    let (channel, _nobody) = UnixStream::pair().context("cannot make a channel")?;
    let (link, _orders) = {
        let _on_runtime = runtime.enter();
        Link::open(channel)?
    };
    let plugins = Arc::new(Plugins::new(interpreter.clone(), Arc::clone(&config), Arc::default()));
    let site = Arc::new(Site::new(config, plugins, Arc::default(), link, None, None));
    let status = Arc::new(AtomicI32::new(exit_status::FAILURE));
    let stops = Stops::listen(signals, &parent)?;
    let call =
        Call { site, interpreter: interpreter.clone(), wanted, output, status: Arc::clone(&status), parent, flight };
    runtime.spawn(call.run(stops));
    interpreter.run()?;
    // A plugin may signal its own process and answer as if nothing were.
    let is_interrupted = end_asked.load(Ordering::SeqCst);
    Ok(if is_interrupted { exit_status::INTERRUPTED } else { status.load(Ordering::SeqCst) })
}

struct Call {
    site: Arc<Site>,
    interpreter: Interpreter,
    wanted: Wanted,
    output: Output,
    status: Arc<AtomicI32>,
    parent: Arc<UnixStream>,
    flight: OwnedFd,
}

impl Call {
    /// The call, and then the end of the plugins and of Python, each within its limit.
    async fn run(mut self, mut stops: Stops) {
        let status = tokio::select! {
            status = self.call() => status.unwrap_or_else(|problem| {
                exit_status::complain(&format!("{problem:#}"));
                exit_status::FAILURE
            }),
            _ = stops.next() => {
                exit_status::complain("interrupted");
                exit_status::INTERRUPTED
            }
        };
        self.status.store(status, Ordering::SeqCst);
        let ends = self.end(status);
        tokio::pin!(ends);
        loop {
            tokio::select! {
                () = &mut ends => break,
                stop = stops.next() => {
                    self.status.store(exit_status::INTERRUPTED, Ordering::SeqCst);
                    if stop == Stop::Again {
                        apart::leave(&self.parent, exit_status::INTERRUPTED);
                    }
                }
            }
        }
        tokio::time::sleep(LAST_STEPS_LIMIT).await;
        apart::leave(&self.parent, self.status.load(Ordering::SeqCst));
    }

    async fn call(&mut self) -> anyhow::Result<i32> {
        if let Err(reason) = loading::load(&self.site, &self.wanted.name).await {
            exit_status::complain(&reason.to_string());
            let is_typing_error = matches!(reason, NotCallable::Unknown { .. } | NotCallable::OfTheServer { .. });
            return Ok(if is_typing_error { exit_status::USAGE } else { exit_status::FAILURE });
        }
        let mut answer = ask(Arc::clone(&self.site), self.wanted.request.clone()).await?;
        // The end that a plugin has asked for may come a moment after the answer of a handler that goes on meanwhile.
        if flight::read(&self.flight).note.is_some() {
            tokio::time::sleep(DEATH_PATIENCE).await;
        }
        let (status, version) = (answer.head().status(), answer.head().version());
        if self.wanted.must_include_head {
            self.output.write_head(version, status, answer.head().headers())?;
        }
        while let Some(piece) = answer.next_piece().await {
            let piece = piece.context("the answer breaks off")?;
            if !self.output.write(&piece)? {
                return Ok(exit_status::FAILURE);
            }
        }
        self.output.end()?;
        if status.as_u16() < FIRST_ERROR && !status.is_informational() {
            return Ok(exit_status::CLEAN);
        }
        let hint = match status.as_u16() {
            101 => "; the plugin wants to go on with another protocol, which this command does not speak",
            403 if !self.wanted.has_key => "; give the key with --key",
            _ => "",
        };
        exit_status::complain(&format!("the answer has status {status}{hint}"));
        Ok(exit_status::FAILURE)
    }

    async fn end(&self, status: i32) {
        let plugins = &self.site.plugins;
        let limit = self.site.config.get().settings.limits.drain_timeout;
        let limit = if status == exit_status::INTERRUPTED { Duration::ZERO } else { limit };
        plugins.drain(limit).await;
        if tokio::time::timeout(END_LIMIT, plugins.terminate_all()).await.is_err() {
            log::warn!("plugins did not terminate within {END_LIMIT:?}");
        }
        self.interpreter.stop();
    }
}
