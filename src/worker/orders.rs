//! What the supervisor asks of this worker, from the first load to the last drain.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::exchange::{Change, Changed, ControlError, PythonError};
use crate::exit_status;
use crate::handoff::{Assignment, Inherited, Order, Report};
use crate::logging;
use crate::python::{self, Interpreter};
use crate::web::{Leaving, Server, Site};

/// Requests after which memory is worth giving back, and requests in a second that are few enough to do it between.
const LOAD_REQUESTS: u64 = 1000;
const QUIET_REQUESTS: u64 = 20;

/// How long the stacks of Python may be waited for.
const STACKS_LIMIT: Duration = Duration::from_secs(2);

/// Does what is asked for.
pub(super) struct Conductor {
    pub(super) site: Arc<Site>,
    pub(super) interpreter: Interpreter,
    /// Files that wait for the worker before this one to end.
    later: Vec<PathBuf>,
}

impl Conductor {
    pub(super) fn new(site: Arc<Site>, interpreter: Interpreter) -> Self {
        Self { site, interpreter, later: Vec::new() }
    }

    pub(super) async fn run(
        mut self,
        assignment: Assignment,
        listeners: Vec<Inherited>,
        mut orders: UnboundedReceiver<Order>,
    ) {
        self.later = assignment.later.iter().map(|file| file.path.clone()).collect();
        let mut postponed = Vec::new();
        let is_loaded = self.load_or_stop(assignment, &mut orders, &mut postponed).await;
        let this = Arc::new(self);
        if !is_loaded {
            return this.leave(None, Leaving::LastOne).await;
        }
        this.serve(listeners, postponed, orders).await;
    }

    async fn serve(
        self: Arc<Self>,
        listeners: Vec<Inherited>,
        postponed: Vec<Order>,
        mut orders: UnboundedReceiver<Order>,
    ) {
        self.site.link.report(Report::Loaded(self.site.plugins.files()));
        for order in postponed {
            self.act(order);
        }
        let (server, leaving) = self.obey(listeners, &mut orders).await;
        // Requests that came before the end may wait for what is still to be loaded.
        let this = Arc::clone(&self);
        tokio::spawn(async move {
            while let Some(order) = orders.recv().await {
                this.act(order);
            }
            exit_status::leave(exit_status::FAILURE);
        });
        self.leave(server, leaving).await;
    }

    /// Loads the plugins. False when the end is asked for before they are all up: a constructor may hang.
    async fn load_or_stop(
        &self,
        assignment: Assignment,
        orders: &mut UnboundedReceiver<Order>,
        postponed: &mut Vec<Order>,
    ) -> bool {
        let loading = self.load_first(assignment);
        tokio::pin!(loading);
        loop {
            tokio::select! {
                () = &mut loading => return true,
                order = orders.recv() => match order {
                    Some(Order::Stop | Order::Retire | Order::Abandon) => {
                        log::info!("stopping before the plugins are loaded");
                        return false;
                    }
                    None => exit_status::leave(exit_status::FAILURE),
                    Some(other) => postponed.push(other),
                },
            }
        }
    }

    async fn load_first(&self, assignment: Assignment) {
        let Assignment { files, later, unloaded, quarantined, .. } = assignment;
        let files = files.map(|files| files.into_iter().map(|file| file.path).collect());
        match self.site.plugins.load_first(files, later, quarantined).await {
            Ok(failed) if failed.is_empty() => {}
            Ok(failed) => {
                log::warn!(target: logging::OF_LOADS, "plugin files with errors: {}; the others serve", failed.len());
            }
            Err(problem) => log::error!("{problem}"),
        }
        for id in unloaded {
            if let Err(problem) = self.site.plugins.unload(&id).await {
                log::debug!("{problem}");
            }
        }
    }

    /// Serves until the end is asked for.
    async fn obey(
        &self,
        listeners: Vec<Inherited>,
        orders: &mut UnboundedReceiver<Order>,
    ) -> (Option<Server>, Leaving) {
        let loop_replaced = self.interpreter.loop_replaced();
        let mut listeners = Some(listeners);
        let mut server = None;
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                () = loop_replaced.notified() => {
                    self.load_everything_again();
                    continue;
                }
            };
            match order {
                Some(Order::Serve) => {
                    let Some(listeners) = listeners.take() else { continue };
                    match Server::start(Arc::clone(&self.site), listeners) {
                        Ok(started) => server = Some(started),
                        Err(problem) => {
                            log::error!("{problem:#}");
                            exit_status::leave(exit_status::CANNOT_START);
                        }
                    }
                    self.site.link.report(Report::Serving);
                }
                Some(Order::Retire) => return (server, Leaving::SharedListeners),
                Some(Order::Abandon) => {
                    let count = self.interpreter.give_up_loop();
                    log::warn!("{count} calls on the event loop are answered without it");
                    return (server, Leaving::SharedListeners);
                }
                Some(Order::Stop) => return (server, Leaving::LastOne),
                Some(other) => self.act(other),
                // Whoever held the addresses has gone; another server may want them.
                None => exit_status::leave(exit_status::FAILURE),
            }
        }
    }

    /// Does something beside serving.
    fn act(&self, order: Order) {
        let site = Arc::clone(&self.site);
        match order {
            Order::Change { ticket, change, ini_text } => drop(tokio::spawn(async move {
                let result = make_change(Arc::clone(&site), change, ini_text).await;
                site.link.report(Report::Done { ticket, result, files: site.plugins.files() });
            })),
            Order::LoadLater => {
                let files = self.later.clone();
                tokio::spawn(async move {
                    if let Err(problem) = site.plugins.load_later(files).await {
                        log::error!("what had to wait does not load: {problem}");
                    }
                    site.link.report(Report::Loaded(site.plugins.files()));
                });
            }
            Order::Describe { ticket, since } => {
                self.site.link.report(Report::Described { ticket, report: Box::new(site.report(since)) })
            }
            Order::Quarantine(entry) => drop(tokio::spawn(async move { site.plugins.quarantine(entry).await })),
            Order::Dump => {
                let interpreter = self.interpreter.clone();
                // It waits for Python.
                tokio::task::spawn_blocking(move || {
                    log::info!("{}\n{}", site.describe(), interpreter.stacks(STACKS_LIMIT));
                });
            }
            Order::Serve | Order::Retire | Order::Abandon | Order::Stop | Order::Answer { .. } => {}
        }
    }

    /// The event loop on which the plugins lived has gone: they come up again on the new one.
    fn load_everything_again(&self) {
        let site = Arc::clone(&self.site);
        tokio::spawn(async move {
            match site.plugins.reload_all().await {
                Ok(failed) if failed.is_empty() => log::info!("every plugin is reloaded"),
                Ok(failed) => log::warn!("plugin files with errors: {}; what they served before stays", failed.len()),
                Err(problem) => log::error!("{problem}"),
            }
            site.link.report(Report::Loaded(site.plugins.files()));
        });
    }
}

/// One change, to its end even when plugin code makes this server's code panic. One that fails leaves the configuration
/// as it was, too: the other workers never get to see the new one.
async fn make_change(site: Arc<Site>, change: Change, ini_text: Option<String>) -> Result<Changed, ControlError> {
    let config = Arc::clone(&site.config);
    let before = config.get();
    if let Some(text) = ini_text {
        config.adopt(&text)?;
    }
    let work = tokio::spawn(async move { site.plugins.change(&change).await });
    let result = work.await;
    let result =
        result.unwrap_or_else(|problem| Err(ControlError::Failed(PythonError::new("Panic", problem.to_string()))));
    if result.is_err() {
        config.put_back(before);
    }
    result
}

/// Gives memory back once a load has ended, so that an idle server is as small as it was.
pub(super) async fn tidy_up_after_load(site: Arc<Site>) {
    let (mut at_last_look, mut at_last_tidying) = (0, 0);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = site.requests.load(Ordering::Relaxed);
        let is_quiet = now - at_last_look < QUIET_REQUESTS;
        if is_quiet && now - at_last_tidying >= LOAD_REQUESTS {
            at_last_tidying = now;
            let _ = tokio::task::spawn_blocking(python::give_back_free_memory).await;
        }
        at_last_look = now;
    }
}
