//! Plugin id -> plugin, and what became of every file. Read without waiting, replaced whole.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dispatch::Plugin;
use crate::config::settings::CONTROL_ROUTES;
use crate::exchange::{PluginFile, PluginFiles};
use crate::metrics::Metrics;
use crate::python::{FileOutcome, PluginInstance, PythonError};

/// What stands for the kind of error of a file in quarantine.
pub(super) const QUARANTINED: &str = "Quarantined";

/// One state of all plugins. Never changed: a reload makes a new one.
#[derive(Debug, Default, Clone)]
pub struct Registry {
    by_id: HashMap<String, Arc<Plugin>>,
    /// How many segments the longest id has ever had: no path is tried further.
    deepest: usize,
    /// Files in the order of their names.
    files: BTreeMap<PathBuf, FileState>,
    /// Ids of plugins that are not there, and why.
    held: HashMap<String, Held>,
}

/// Why a plugin that is known is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// It waits for the worker before this one to end.
    Awaited { path: PathBuf },
    /// It has ended its worker again and again.
    Quarantined { path: PathBuf, reason: String },
}

/// What became of one file.
#[derive(Debug, Default, Clone)]
pub struct FileState {
    /// The ids that it serves, in the order of its classes.
    pub ids: Vec<String>,
    /// Why its last load failed, whole or in part. A file can serve its old plugins all the same.
    pub error: Option<PythonError>,
    /// Whether it failed whole: what the file serves, if anything, is from before.
    pub is_broken: bool,
}

/// A registry with outcomes of a load worked in, and the plugins that fell out of it.
#[derive(Debug)]
pub struct Merged {
    pub registry: Registry,
    /// Served until now; to be retired.
    pub replaced: Vec<Arc<Plugin>>,
    /// Loaded for nothing, because another plugin has the id; to be terminated.
    pub rejected: Vec<Arc<PluginInstance>>,
}

impl Registry {
    pub fn get(&self, id: &str) -> Option<&Arc<Plugin>> {
        self.by_id.get(id)
    }

    /// The plugin that answers for a path, given as encoded segments: the longest id that begins it. The answer tells
    /// also how many segments that id has.
    pub fn route<'a>(
        &self,
        segments: &[&'a str],
        decode: impl Fn(&'a str) -> Cow<'a, str>,
    ) -> Option<(&Arc<Plugin>, usize)> {
        for count in (2..=segments.len().min(self.deepest)).rev() {
            let id: Vec<_> = segments[..count].iter().map(|segment| decode(segment)).collect();
            if let Some(plugin) = self.by_id.get(&id.join("/")) {
                return Some((plugin, count));
            }
        }
        Some((self.by_id.get(&*decode(segments.first()?))?, 1))
    }

    /// As [`Registry::route`], for plugins that are not there for a reason.
    pub fn held<'a>(&self, segments: &[&'a str], decode: impl Fn(&'a str) -> Cow<'a, str>) -> Option<(String, &Held)> {
        if self.held.is_empty() {
            return None;
        }
        let decoded: Vec<_> = segments.iter().map(|segment| decode(segment)).collect();
        let ids = (1..=decoded.len()).rev().map(|count| decoded[..count].join("/"));
        ids.into_iter().find_map(|id| self.held.get(&id).map(|held| (id, held)))
    }

    /// Notes that a file is not loaded, and why its plugins are not there. The answer is those that it served.
    pub fn hold(&mut self, file: PluginFile, held: &Held) -> Vec<Arc<Plugin>> {
        let gone = self.remove_file(&file.path);
        for id in &file.ids {
            self.held.insert(id.clone(), held.clone());
        }
        self.files.insert(file.path, FileState { error: file.error, ..FileState::default() });
        gone
    }

    /// Whether a plugin waits for the worker before this one to end.
    pub fn is_awaited(&self, id: &str) -> bool {
        matches!(self.held.get(id), Some(Held::Awaited { .. }))
    }

    /// Whether a file did not load for a reason that may be gone when another file has changed.
    pub fn may_be_mended(&self, path: &Path) -> bool {
        let error = self.files.get(path).and_then(|state| state.error.as_ref());
        error.is_some_and(|error| error.kind != QUARANTINED)
    }

    /// The file of a plugin that is in quarantine.
    pub fn quarantined_file(&self, id: &str) -> Option<&Path> {
        match self.held.get(id)? {
            Held::Quarantined { path, .. } => Some(path),
            Held::Awaited { .. } => None,
        }
    }

    /// What every file serves, as plain data; of those that are held what they would serve.
    pub fn report(&self) -> PluginFiles {
        let of_held = |path: &Path| {
            let is_its = |held: &Held| match held {
                Held::Awaited { path: its } | Held::Quarantined { path: its, .. } => its == path,
            };
            let mut ids: Vec<String> =
                self.held.iter().filter(|(_, held)| is_its(held)).map(|(id, _)| id.clone()).collect();
            ids.sort();
            ids
        };
        self.files
            .iter()
            .map(|(path, state)| {
                let ids = if state.ids.is_empty() { of_held(path) } else { state.ids.clone() };
                PluginFile { path: path.clone(), ids, error: state.error.clone() }
            })
            .collect()
    }

    /// The ids in the order of files and classes.
    pub fn ids(&self) -> Vec<&str> {
        self.files.values().flat_map(|file| &file.ids).map(String::as_str).collect()
    }

    pub fn files(&self) -> impl Iterator<Item = (&Path, &FileState)> {
        self.files.iter().map(|(path, state)| (path.as_path(), state))
    }

    pub fn file(&self, path: &Path) -> Option<&FileState> {
        self.files.get(path)
    }

    pub fn all(&self) -> Vec<Arc<Plugin>> {
        self.by_id.values().cloned().collect()
    }

    /// Works outcomes in. A file that failed keeps the plugins that it serves. Whatever had a plugin's id before, its
    /// counters go on.
    pub fn merge(&self, outcomes: Vec<FileOutcome>, metrics: &Metrics) -> Merged {
        let mut merged = Merged { registry: self.clone(), replaced: Vec::new(), rejected: Vec::new() };
        let mut loaded = Vec::new();
        for FileOutcome { path, result } in outcomes {
            match result {
                Ok(instances) => {
                    // All files that change leave first: two of them may have exchanged their ids.
                    merged.replaced.extend(merged.registry.remove_file(&path));
                    loaded.push((path, instances));
                }
                Err(error) => {
                    merged.registry.release(&path);
                    let state = merged.registry.files.entry(path).or_default();
                    (state.error, state.is_broken) = (Some(error), true);
                }
            }
        }
        for (path, instances) in loaded {
            let mut state = FileState::default();
            for instance in instances {
                match merged.registry.objection(instance.id()) {
                    None => {
                        let id = instance.id().to_owned();
                        state.ids.push(id.clone());
                        merged.registry.held.remove(&id);
                        merged.registry.deepest = merged.registry.deepest.max(id.split('/').count());
                        let counters = metrics.of_plugin(&id);
                        merged.registry.by_id.insert(id, Arc::new(Plugin::new(instance, counters)));
                    }
                    Some(objection) => {
                        let before = state.error.take().map(|error: PythonError| error.message + "; ");
                        let objection = before.unwrap_or_default() + &objection;
                        state.error = Some(PythonError {
                            file: Some(path.display().to_string()),
                            ..PythonError::new("ValueError", objection)
                        });
                        merged.rejected.push(instance);
                    }
                }
            }
            merged.registry.files.insert(path, state);
        }
        merged
    }

    /// Takes a file out with all its plugins.
    pub fn remove_file(&mut self, path: &Path) -> Vec<Arc<Plugin>> {
        self.release(path);
        let state = self.files.remove(path).unwrap_or_default();
        state.ids.iter().filter_map(|id| self.by_id.remove(id)).collect()
    }

    /// Takes one plugin out; its file stays as long as it serves another.
    pub fn remove(&mut self, id: &str) -> Option<Arc<Plugin>> {
        let plugin = self.by_id.remove(id)?;
        if let Some(state) = self.files.get_mut(plugin.path()) {
            state.ids.retain(|known| known != id);
            if state.ids.is_empty() {
                self.files.remove(plugin.path());
            }
        }
        Some(plugin)
    }

    /// Takes one plugin out and leaves its file with its error, so that the status tells of it.
    pub fn forget(&mut self, id: &str) {
        if let Some(plugin) = self.by_id.remove(id)
            && let Some(state) = self.files.get_mut(plugin.path())
        {
            state.ids.retain(|known| known != id);
        }
    }

    /// Nothing is awaited any more.
    pub fn await_nothing(&mut self) {
        self.held.retain(|_, held| !matches!(held, Held::Awaited { .. }));
    }

    /// Forgets that a file is in quarantine.
    fn release(&mut self, path: &Path) {
        self.held.retain(|_, held| !matches!(held, Held::Quarantined { path: its, .. } if its == path));
    }

    fn objection(&self, id: &str) -> Option<String> {
        if id.is_empty() {
            return Some("a plugin has an empty name; set route_path or _plugin_id".to_owned());
        }
        if CONTROL_ROUTES.contains(&id.split('/').next().unwrap_or_default()) {
            return Some(format!("/{id} is a control route; give the plugin another route_path"));
        }
        let taken = self.by_id.get(id)?;
        let other = taken.path().display();
        Some(format!("/{id} is served by {other} already; give one of the two another route_path"))
    }
}
