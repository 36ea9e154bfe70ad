//! `pserve call`: one handler, once, without a server. The request goes the way that every request goes, in this process,
//! which loads the plugin first and ends it afterwards.

mod loading;
mod output;
mod request;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::cli::{CallArguments, Cli};
use crate::config::Config;
use crate::config::live::LiveConfig;
use crate::handoff::Link;
use crate::logging::Need;
use crate::plugins::Plugins;
use crate::python::Interpreter;
use crate::shutdown::Wish;
use crate::web::{Site, ask};
use crate::{exit_status, logging, shutdown, worker};
use loading::NotCallable;
use output::Output;
use request::Wanted;

/// How long the plugins may take to end.
const END_LIMIT: Duration = Duration::from_secs(8);

/// How long Python may take for its last steps.
const LAST_STEPS_LIMIT: Duration = Duration::from_secs(5);

/// The statuses of answers that are errors.
const FIRST_ERROR: u16 = 400;

/// Calls the plugin; the answer is the exit status. Must run on the process's main thread, which becomes Python's.
pub fn run(cli: &Cli, arguments: &CallArguments, config: Config) -> anyhow::Result<i32> {
    let wanted = match Wanted::new(arguments) {
        Ok(wanted) => wanted,
        Err(problem) => {
            exit_status::complain(&problem);
            return Ok(exit_status::USAGE);
        }
    };
    let output = Output::take_over().context("standard output cannot be taken over")?;
    logging::init(cli.asked_of_log(), cli.log.as_deref(), Need::Required, None)?;
    let signals = shutdown::listen().context("cannot listen for signals")?;
    let settings = config.settings.clone();
    let config = Arc::new(LiveConfig::new(config));
    let interpreter = Interpreter::start(&worker::interpreter_options(cli, &config, &settings))?;
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
    let call = Call { site, interpreter: interpreter.clone(), wanted, output, status: Arc::clone(&status) };
    runtime.spawn(call.run(signals));
    interpreter.run()?;
    Ok(status.load(Ordering::SeqCst))
}

struct Call {
    site: Arc<Site>,
    interpreter: Interpreter,
    wanted: Wanted,
    output: Output,
    status: Arc<AtomicI32>,
}

impl Call {
    /// The call, and then the end of the plugins and of Python, each within its limit.
    async fn run(mut self, mut signals: UnboundedReceiver<Wish>) {
        let status = tokio::select! {
            status = self.call() => status.unwrap_or_else(|problem| {
                exit_status::complain(&format!("{problem:#}"));
                exit_status::FAILURE
            }),
            () = stop_asked(&mut signals) => exit_status::INTERRUPTED,
        };
        self.status.store(status, Ordering::SeqCst);
        // Whoever asks for the end while it is under way wants it at once.
        tokio::select! {
            () = self.end(status) => {}
            () = stop_asked(&mut signals) => exit_status::leave(exit_status::INTERRUPTED),
        }
        tokio::time::sleep(LAST_STEPS_LIMIT).await;
        exit_status::leave(status);
    }

    async fn call(&mut self) -> anyhow::Result<i32> {
        if let Err(reason) = loading::load(&self.site, &self.wanted.name).await {
            exit_status::complain(&reason.to_string());
            let is_typing_error = matches!(reason, NotCallable::Unknown { .. } | NotCallable::OfTheServer { .. });
            return Ok(if is_typing_error { exit_status::USAGE } else { exit_status::FAILURE });
        }
        let mut answer = ask(Arc::clone(&self.site), self.wanted.request.clone()).await?;
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

/// Comes back when a signal asks for the end; that of a terminal that was closed does, too.
async fn stop_asked(signals: &mut UnboundedReceiver<Wish>) {
    while let Some(wish) = signals.recv().await {
        if matches!(wish, Wish::Stop(_) | Wish::Reload("SIGHUP")) {
            return;
        }
    }
    std::future::pending().await
}
