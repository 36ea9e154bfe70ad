//! What a plugin is to the server: loaded, listed, called, reloaded, unloaded. Knows no HTTP.
//!
//! Every change is a transaction: the new is proven while the old serves, then they change places in one step.

mod dispatch;
mod loader;
mod registry;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;

pub use dispatch::{Entered, Plugin};
pub use registry::{FileState, Held, Registry};

use crate::config::Config;
use crate::config::live::LiveConfig;
use crate::exchange::{
    CallResult, Change, Changed, ControlError, PluginFile, PluginFiles, PluginRequest, Quarantined, SavedFile,
};
use crate::logging::{self, Record, Severity};
use crate::metrics::Metrics;
use crate::python::{FileOutcome, Interpreter, LoopHealth, PythonError};

/// How long an answer to a reload waits for the old plugin to be terminated. The termination itself goes on.
const RETIREMENT_PATIENCE: Duration = Duration::from_secs(2);

/// How much longer than a drain requests wait for a plugin that comes after it.
const ARRIVAL_MARGIN: Duration = Duration::from_secs(5);

/// Routes of the server that a plugin may take.
pub const PROBES: [&str; 4] = ["livez", "readyz", "healthz", "metrics"];

/// All plugins of this process.
#[derive(Debug)]
pub struct Plugins {
    interpreter: Interpreter,
    config: Arc<LiveConfig>,
    metrics: Arc<Metrics>,
    registry: ArcSwap<Registry>,
    /// Changes run one at a time.
    change: Mutex<()>,
    /// Woken after each change, for requests that wait for a plugin which restarts.
    changed: Notify,
    /// Set when nothing is loaded any more.
    has_ended: AtomicBool,
    /// How long a change waits for the end of what it has replaced.
    patience: Duration,
}

impl Plugins {
    /// No plugin yet; [`Plugins::load_first`] loads them.
    pub fn new(interpreter: Interpreter, config: Arc<LiveConfig>, metrics: Arc<Metrics>) -> Self {
        let (registry, change, changed) = (ArcSwap::default(), Mutex::default(), Notify::new());
        let (has_ended, patience) = (AtomicBool::new(false), RETIREMENT_PATIENCE);
        Self { interpreter, config, metrics, registry, change, changed, has_ended, patience }
    }

    /// A change is told as soon as the new plugins serve: somebody waits for it who has just saved a file.
    pub fn without_patience(self) -> Self {
        Self { patience: Duration::ZERO, ..self }
    }

    /// How well the event loop and the interpreter do.
    pub fn health(&self) -> LoopHealth {
        self.interpreter.health()
    }

    /// Threads that are lost to handlers which were given up.
    pub fn lost_threads(&self) -> usize {
        self.interpreter.lost_threads()
    }

    /// Threads for plain handlers that there are now.
    pub fn handler_threads(&self) -> usize {
        self.interpreter.handler_threads()
    }

    /// The state of all plugins now.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    /// Enters a plugin, or the one that has taken its place. Waits, for a bounded time, while it is being replaced by `reload=restart`.
    pub async fn enter(&self, plugin: &Plugin) -> Option<Entered> {
        match plugin.enter() {
            Some(entered) => Some(entered),
            None => Box::pin(self.enter_successor(plugin.id())).await,
        }
    }

    /// For a request that has met a retired plugin: enters the one that takes its place.
    async fn enter_successor(&self, id: &str) -> Option<Entered> {
        let deadline = tokio::time::Instant::now() + self.config.get().settings.limits.drain_timeout;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(entered) = self.registry.load().get(id)?.enter() {
                return Some(entered);
            }
            // Retired and still in the table: it restarts. Otherwise the table has just changed.
            let is_restarting = self.registry.load().get(id).is_some_and(|plugin| plugin.enter().is_none());
            if is_restarting && tokio::time::timeout_at(deadline, changed).await.is_err() {
                return None;
            }
        }
    }

    /// Sends a request to a plugin that has been entered.
    pub async fn call(&self, entered: Entered, request: Box<PluginRequest>) -> CallResult {
        let limit = self.config.get().settings.limits.request_timeout;
        entered.call(&self.interpreter, request, limit).await
    }

    /// Waits until a plugin that is awaited has come; false when it does not within the limit of a drain.
    pub async fn has_come(&self, id: &str) -> bool {
        let limit = self.config.get().settings.limits.drain_timeout + ARRIVAL_MARGIN;
        let arrival = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if !self.registry.load().is_awaited(id) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, arrival).await.is_ok()
    }

    /// Does what a control route asks for, with the configuration that is in force.
    pub async fn change(self: &Arc<Self>, change: &Change) -> Result<Changed, ControlError> {
        Ok(match change {
            Change::ReloadAll => {
                let failed = self.reload_all().await?.into_iter();
                let failed = failed.map(|(path, error)| PluginFile { path, ids: Vec::new(), error: Some(error) });
                Changed { failed: failed.collect(), ..Changed::default() }
            }
            Change::Reload(id) => {
                self.reload(id).await?;
                Changed::default()
            }
            Change::Load(stem) => Changed { ids: self.load(stem).await?, ..Changed::default() },
            Change::Unload(id) => {
                self.unload(id).await?;
                Changed::default()
            }
            Change::TakeUp(files) => self.take_up(files).await?,
        })
    }

    /// What every file serves now.
    pub fn files(&self) -> PluginFiles {
        self.registry.load().report()
    }

    /// Loads the file of one plugin again, with all its classes. One in quarantine gets another chance.
    pub async fn reload(&self, id: &str) -> Result<(), ControlError> {
        let _alone = self.change.lock().await;
        let registry = self.registry.load_full();
        let path = registry.get(id).map(|plugin| plugin.path()).or_else(|| registry.quarantined_file(id));
        let path = path.ok_or_else(|| ControlError::NoSuchPlugin(id.to_owned()))?;
        let config = self.config.get();
        let refused = self.load_one(&config, path.to_owned()).await?;
        if self.registry.load().get(id).is_some_and(|now| now.path() == path) {
            return Ok(());
        }
        Err(match refused {
            Some(error) => ControlError::Failed(error),
            None => ControlError::Gone { id: id.to_owned(), file: path.display().to_string() },
        })
    }

    /// Loads a file of the plugins folder, for the first time or again. The answer is the ids that it serves.
    pub async fn load(&self, stem: &str) -> Result<Vec<String>, ControlError> {
        let _alone = self.change.lock().await;
        let config = self.config.get();
        let files = plugin_files(&config)?;
        let exact = files.iter().find(|path| loader::stem(path) == stem);
        let path = exact.or_else(|| files.iter().find(|path| loader::stem(path).eq_ignore_ascii_case(stem)));
        let path = path.cloned().ok_or_else(|| ControlError::NoSuchFile(stem.to_owned()))?;
        let refused = self.load_one(&config, path.clone()).await?;
        let registry = self.registry.load();
        let ids = registry.file(&path).map(|state| state.ids.clone()).unwrap_or_default();
        match refused {
            Some(error) if ids.is_empty() => Err(ControlError::Failed(error)),
            _ => Ok(ids),
        }
    }

    /// Takes up files that have been saved: those of plugins, with all that import what was saved or have it for their
    /// parameters, and those that did not load before, since that may have been the reason. Plugins whose file has gone
    /// are dropped.
    async fn take_up(&self, saved: &[SavedFile]) -> Result<Changed, ControlError> {
        let _alone = self.change.lock().await;
        let config = self.config.get();
        let before = self.registry.load_full();
        let files = plugin_files(&config)?;
        let is_saved = |path: &Path| saved.iter().any(|file| file.path == path);
        let modules: Vec<PathBuf> = saved
            .iter()
            .map(|file| &file.path)
            .filter(|path| path.extension().is_some_and(|end| end == "py"))
            .cloned()
            .collect();
        let importers = match modules.is_empty() {
            true => Vec::new(),
            false => self.interpreter.importers(modules.clone()).await.map_err(ControlError::Failed)?,
        };
        let is_meant = |path: &PathBuf| {
            let parameters = loader::with_params(path.clone(), &config.settings).json_file;
            is_saved(path)
                || importers.contains(path)
                || parameters.is_some_and(|file| is_saved(&file))
                || (!modules.is_empty() && before.may_be_mended(path))
        };
        let paths: Vec<PathBuf> = files.iter().filter(|path| is_meant(path)).cloned().collect();
        let gone: PluginFiles = before.report().into_iter().filter(|file| !files.contains(&file.path)).collect();
        let gone_paths: Vec<&Path> = gone.iter().map(|file| file.path.as_path()).collect();
        self.exchange_files(&config, paths.clone(), &gone_paths).await?;
        let loaded = self.files().into_iter().filter(|file| paths.contains(&file.path)).collect();
        Ok(Changed { loaded, gone, ..Changed::default() })
    }

    /// Takes one plugin out of service and terminates it.
    pub async fn unload(self: &Arc<Self>, id: &str) -> Result<(), ControlError> {
        let _alone = self.change.lock().await;
        let mut registry = Registry::clone(&self.registry.load());
        let plugin = registry.remove(id).ok_or_else(|| ControlError::NoSuchPlugin(id.to_owned()))?;
        self.publish(registry);
        self.retire(vec![plugin], "unloaded").await;
        Ok(())
    }

    /// Loads every file of the folder again, new ones too; plugins whose file has gone are dropped. The answer is the
    /// files that failed; they keep their old plugins.
    pub async fn reload_all(&self) -> Result<Vec<(PathBuf, PythonError)>, ControlError> {
        let _alone = self.change.lock().await;
        let config = self.config.get();
        let paths = plugin_files(&config)?;
        self.load_everything(&config, paths).await
    }

    /// The first load: these files, or all of the folder, but for those that have to wait or are in quarantine.
    pub async fn load_first(
        self: &Arc<Self>,
        files: Option<Vec<PathBuf>>,
        later: PluginFiles,
        quarantined: Vec<Quarantined>,
    ) -> Result<Vec<(PathBuf, PythonError)>, ControlError> {
        let _alone = self.change.lock().await;
        let config = self.config.get();
        let mut paths = files.map_or_else(|| plugin_files(&config), Ok)?;
        let is_held = |path: &PathBuf| {
            later.iter().any(|file| file.path == *path) || quarantined.iter().any(|entry| entry.path == *path)
        };
        paths.retain(|path| !is_held(path));
        let failed = self.load_everything(&config, paths).await?;
        let mut registry = Registry::clone(&self.registry.load());
        for file in later {
            let held = Held::Awaited { path: file.path.clone() };
            registry.hold(file, &held);
        }
        for entry in quarantined {
            hold_in_quarantine(&mut registry, entry);
        }
        self.publish(registry);
        Ok(failed)
    }

    /// Loads what had to wait for the worker before this one to end.
    pub async fn load_later(&self, files: Vec<PathBuf>) -> Result<(), ControlError> {
        let _alone = self.change.lock().await;
        if self.has_ended.load(Ordering::Relaxed) {
            return Ok(());
        }
        let config = self.config.get();
        let outcomes = self.load_files(&config, files).await?;
        self.take_over(outcomes, &[]).await;
        // A file that failed is awaited no longer.
        let mut registry = Registry::clone(&self.registry.load());
        registry.await_nothing();
        self.publish(registry);
        Ok(())
    }

    /// Takes a file out of service that has ended other workers.
    pub async fn quarantine(self: &Arc<Self>, entry: Quarantined) {
        let _alone = self.change.lock().await;
        let mut registry = Registry::clone(&self.registry.load());
        let gone = hold_in_quarantine(&mut registry, entry);
        self.publish(registry);
        self.retire(gone, "put in quarantine").await;
    }

    async fn load_everything(
        &self,
        config: &Config,
        paths: Vec<PathBuf>,
    ) -> Result<Vec<(PathBuf, PythonError)>, ControlError> {
        let before = self.registry.load_full();
        let gone: Vec<&Path> =
            before.files().map(|(path, _)| path).filter(|path| !paths.iter().any(|kept| kept == path)).collect();
        self.exchange_files(config, paths, &gone).await
    }

    /// Loads files and drops others, as one change.
    async fn exchange_files(
        &self,
        config: &Config,
        paths: Vec<PathBuf>,
        gone: &[&Path],
    ) -> Result<Vec<(PathBuf, PythonError)>, ControlError> {
        self.restart_first(config, &paths).await;
        let outcomes = self.load_files(config, paths).await?;
        let mut failed: Vec<(PathBuf, PythonError)> = Vec::new();
        for outcome in &outcomes {
            if let Err(error) = &outcome.result {
                failed.push((outcome.path.clone(), error.clone()));
            }
        }
        failed.extend(self.take_over(outcomes, gone).await);
        Ok(failed)
    }

    /// Loads one file. The answer is why a plugin of it was refused, if one was; the others of the file serve.
    async fn load_one(&self, config: &Config, path: PathBuf) -> Result<Option<PythonError>, ControlError> {
        self.restart_first(config, std::slice::from_ref(&path)).await;
        let outcomes = self.load_files(config, vec![path]).await?;
        let failed = outcomes.iter().find_map(|outcome| outcome.result.as_ref().err().cloned());
        let refused = self.take_over(outcomes, &[]).await.into_iter().map(|(_, error)| error).next();
        failed.map_or(Ok(refused), |error| Err(ControlError::Failed(error)))
    }

    async fn load_files(&self, config: &Config, paths: Vec<PathBuf>) -> Result<Vec<FileOutcome>, ControlError> {
        let files = paths.into_iter().map(|path| loader::with_params(path, &config.settings)).collect();
        let (folder, table) = (config.settings.plugins_dir.clone(), Arc::new(config.table.clone()));
        let options = config.settings.plugin_options.clone();
        let options_of = move |id: &str| options.get(&id.to_lowercase()).cloned().unwrap_or_default();
        let has_key = config.settings.global_key.is_some();
        let limit = config.settings.limits.load_timeout;
        let outcomes = self.interpreter.load(folder, files, table, has_key, limit, options_of).await;
        let outcomes = outcomes.map_err(ControlError::Failed)?;
        for outcome in &outcomes {
            log_outcome(outcome);
        }
        Ok(outcomes)
    }

    /// Retires the plugins of these files that asked for `reload=restart`, before the new ones start. They stay in
    /// the table: requests for them wait.
    async fn restart_first(&self, config: &Config, paths: &[PathBuf]) {
        let registry = self.registry.load_full();
        let wants_restart = |plugin: &Arc<Plugin>| {
            paths.iter().any(|path| path == plugin.path()) && config.settings.options_of(plugin.id()).restart_on_reload
        };
        let old: Vec<_> = registry.all().into_iter().filter(wants_restart).collect();
        for plugin in &old {
            self.warn_of_stragglers(plugin, plugin.retire(config.settings.limits.drain_timeout).await);
        }
        if !old.is_empty() {
            self.terminate(&old).await;
        }
    }

    /// Puts outcomes and removals into the table in one step, then retires what fell out of it.
    /// The answer is the plugins that were refused because their id is taken.
    async fn take_over(&self, outcomes: Vec<FileOutcome>, gone: &[&Path]) -> Vec<(PathBuf, PythonError)> {
        let mut registry = Registry::clone(&self.registry.load());
        let mut replaced: Vec<Arc<Plugin>> = gone.iter().flat_map(|path| registry.remove_file(path)).collect();
        let before = self.registry.load_full();
        let files: Vec<(PathBuf, bool)> =
            outcomes.iter().map(|outcome| (outcome.path.clone(), outcome.result.is_ok())).collect();
        let merged = registry.merge(outcomes, &self.metrics);
        let mut next = merged.registry;
        // A plugin that was retired for a restart and has no successor: its file failed.
        for dead in next.all().into_iter().filter(|plugin| plugin.is_retired()) {
            next.forget(dead.id());
        }
        replaced.extend(merged.replaced);
        let mut refused = Vec::new();
        for instance in &merged.rejected {
            let error = next.file(instance.path()).and_then(|state| state.error.clone());
            if let Some(error) = error.filter(|_| refused.iter().all(|(path, _)| path != instance.path())) {
                log::error!(target: logging::OF_LOADS, "{}: {error}", instance.path().display());
                refused.push((instance.path().to_owned(), error));
            }
        }
        count_loads(&files, &before, &next);
        self.publish(next);
        if !merged.rejected.is_empty()
            && let Err(error) = self.interpreter.terminate(merged.rejected).await
        {
            log::error!("plugins that were refused did not end well: {error}");
        }
        self.retire(replaced, "replaced").await;
        refused
    }

    fn publish(&self, registry: Registry) {
        self.registry.store(Arc::new(registry));
        self.changed.notify_waiters();
    }

    /// Waits until the last calls of these plugins have ended, then terminates them. Returns sooner when that takes
    /// long: a plugin may be reloading itself.
    async fn retire(&self, plugins: Vec<Arc<Plugin>>, what: &'static str) {
        if plugins.is_empty() {
            return;
        }
        let limit = self.config.get().settings.limits.drain_timeout;
        let interpreter = self.interpreter.clone();
        let work: JoinHandle<()> = tokio::spawn(async move {
            for plugin in &plugins {
                if !plugin.retire(limit).await {
                    log::warn!("{}: {what} while {} calls still run", plugin.id(), plugin.calls_inside());
                }
            }
            let instances = plugins.iter().map(|plugin| Arc::clone(plugin.instance())).collect();
            if let Err(error) = interpreter.terminate(instances).await {
                log::error!("old plugins did not end well: {error}");
            }
        });
        let _ = tokio::time::timeout(self.patience, work).await;
    }

    fn warn_of_stragglers(&self, plugin: &Plugin, all_left: bool) {
        if !all_left {
            log::warn!("{}: restarted while {} calls still run", plugin.id(), plugin.calls_inside());
        }
    }

    async fn terminate(&self, plugins: &[Arc<Plugin>]) {
        let instances = plugins.iter().map(|plugin| Arc::clone(plugin.instance())).collect();
        if let Err(error) = self.interpreter.terminate(instances).await {
            log::error!("plugins did not end well: {error}");
        }
    }

    /// Waits until no call runs any more, no longer than the limit. Requests are no longer accepted by then.
    /// False when some still run.
    pub async fn drain(&self, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        let mut all_left = true;
        for plugin in self.registry.load().all() {
            let rest = deadline.saturating_duration_since(tokio::time::Instant::now());
            if !plugin.retire(rest).await {
                log::warn!("{}: {} calls still run at the end of the drain", plugin.id(), plugin.calls_inside());
                all_left = false;
            }
        }
        all_left
    }

    /// Terminates every plugin: the last step of a stop.
    pub async fn terminate_all(&self) {
        let _alone = self.change.lock().await;
        self.has_ended.store(true, Ordering::Relaxed);
        self.registry.store(Arc::default());
        // All that Python knows of: a load that was under way may have brought up more than the table has.
        if let Err(error) = self.interpreter.terminate_all().await {
            log::error!("plugins did not end well: {error}");
        }
    }
}

/// Counts what became of each file with the plugins that it serves; a file that never served any has none to count it
/// with.
fn count_loads(files: &[(PathBuf, bool)], before: &Registry, after: &Registry) {
    for (path, is_loaded) in files {
        let registry = if *is_loaded { after } else { before };
        let ids = registry.file(path).map(|state| state.ids.as_slice()).unwrap_or_default();
        for plugin in ids.iter().filter_map(|id| registry.get(id)) {
            if *is_loaded {
                plugin.metrics().loaded(before.get(plugin.id()).is_some());
            } else {
                plugin.metrics().reload_failed();
            }
        }
    }
}

/// Every plugin file of the folder.
pub fn plugin_files(config: &Config) -> Result<Vec<PathBuf>, ControlError> {
    loader::plugin_files(&config.settings.plugins_dir).map_err(|problem| ControlError::Folder(problem.to_string()))
}

fn hold_in_quarantine(registry: &mut Registry, entry: Quarantined) -> Vec<Arc<Plugin>> {
    let error = PythonError {
        file: Some(entry.path.display().to_string()),
        ..PythonError::new(registry::QUARANTINED, entry.reason.clone())
    };
    let file = PluginFile { path: entry.path.clone(), ids: entry.ids, error: Some(error) };
    registry.hold(file, &Held::Quarantined { path: entry.path, reason: entry.reason })
}

fn log_outcome(outcome: &FileOutcome) {
    let path = outcome.path.display();
    match &outcome.result {
        Ok(instances) => {
            for instance in instances {
                let kind = if instance.is_async() { "async" } else { "plain" };
                log::info!("loaded /{} from {path} ({kind})", instance.id());
                if PROBES.contains(&instance.id()) {
                    log::warn!("/{} of {path} takes the place of the server's own probe", instance.id());
                }
            }
            if instances.is_empty() {
                log::debug!("{path} defines no plugin");
            }
        }
        Err(error) => {
            let line = format!("{path} failed: {error}");
            Record { traceback: Some(&error.traceback), ..Record::new(Severity::Error, "pserve", &line) }
                .emit_of_load();
        }
    }
}
