//! What became of saved files, in one line each, and the source around an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::errors::{excerpt, in_one_line, short_name};
use super::routes::address_of;
use super::terminal::{Terminal, in_words};
use crate::exchange::{Changed, PluginFile, PluginFiles, PythonError};
use crate::palette::Ink;

/// Lines of a traceback that are shown, from its end.
const TRACEBACK_LINES: usize = 24;

/// Files that are named when many were saved at once.
const MOST_NAMES: usize = 4;

/// What has been told so far: what is as it was is not told again.
#[derive(Debug, Default)]
pub struct Told {
    folder: PathBuf,
    errors: BTreeMap<PathBuf, PythonError>,
    /// The place of the source that was shown last, while one change is told.
    shown: Option<(String, u32)>,
    routes: BTreeMap<PathBuf, Vec<String>>,
}

impl Told {
    pub fn know_folder(&mut self, folder: &Path) {
        folder.clone_into(&mut self.folder);
    }

    /// Takes over what the table shows. The answer is whether it is another one than before.
    pub fn take_routes(&mut self, files: &PluginFiles) -> bool {
        let routes = files.iter().map(|file| (file.path.clone(), file.ids.clone())).collect();
        let is_other = routes != self.routes;
        self.routes = routes;
        is_other
    }

    /// Tells what became of saved files. `names` are those that were saved.
    pub fn changed(
        &mut self,
        terminal: &mut Terminal,
        names: &[String],
        changed: &Changed,
        base: &str,
        took: Duration,
    ) {
        let took = format!("({})", in_words(took));
        let (mut reloaded, mut is_silent) = (Vec::new(), changed.gone.is_empty());
        self.shown = None;
        for file in &changed.loaded {
            let is_known = self.routes.get(&file.path).is_some_and(|ids| *ids == file.ids);
            let is_same = is_known && file.error.is_none() && !self.errors.contains_key(&file.path);
            let is_saved = names.contains(&short_name(&file.path, &self.folder));
            if is_same {
                reloaded.extend(file.ids.iter().map(|id| format!("/{id}")));
            } else if is_saved || file.error.as_ref() != self.errors.get(&file.path) {
                is_silent = false;
                self.file(terminal, file, base, Some(&took));
            }
            self.routes.insert(file.path.clone(), file.ids.clone());
        }
        if !reloaded.is_empty() {
            let (done, names) = (terminal.paint(Ink::Good, "reloaded"), terminal.paint(Ink::Strong, &listed(names)));
            terminal.tell(&format!("{done} {names}: {} {took}", reloaded.join(", ")));
        }
        for file in &changed.gone {
            let routes: Vec<String> = file.ids.iter().map(|id| format!("/{id}")).collect();
            self.routes.remove(&file.path);
            self.errors.remove(&file.path);
            let name = terminal.paint(Ink::Strong, &short_name(&file.path, &self.folder));
            let what = if routes.is_empty() { String::new() } else { format!(": {} unloaded", routes.join(", ")) };
            terminal.tell(&format!("{} {name}{what} {took}", terminal.paint(Ink::Doubtful, "removed")));
        }
        if is_silent && reloaded.is_empty() {
            let words = format!("{} saved; no plugin imports it", listed(names));
            let words = terminal.paint(Ink::Faint, &words);
            terminal.tell(&words);
        }
    }

    /// Tells of files that nobody has saved what is new about them.
    pub fn news(&mut self, terminal: &mut Terminal, files: &PluginFiles, base: &str) {
        self.shown = None;
        for file in files {
            self.file(terminal, file, base, None);
        }
    }

    /// Tells of one file what is new about it: an error, its end, other routes. `took` is for a file that was saved.
    fn file(&mut self, terminal: &mut Terminal, file: &PluginFile, base: &str, took: Option<&str>) {
        let name = terminal.paint(Ink::Strong, &short_name(&file.path, &self.folder));
        let took = took.map(|took| format!(" {took}")).unwrap_or_default();
        if let Some(error) = &file.error {
            let is_known = self.errors.insert(file.path.clone(), error.clone()).as_ref() == Some(error);
            if is_known && took.is_empty() {
                return;
            }
            if is_known {
                let words = format!("still does not load: {}", in_one_line(error, &self.folder));
                return terminal.tell(&format!("{name} {}{took}", terminal.paint(Ink::Bad, &words)));
            }
            let words = format!("does not load: {}", in_one_line(error, &self.folder));
            let line = format!("{name} {}{took}", terminal.paint(Ink::Bad, &words));
            // A module with a mistake in it is shown once, however many import it.
            let place = error.file.clone().zip(error.line);
            let is_shown = place.is_some() && self.shown == place;
            self.shown = place;
            let details = if is_shown { String::new() } else { self.details(terminal, error) };
            return terminal.tell_more(&line, &details);
        }
        let was_broken = self.errors.remove(&file.path).is_some();
        if took.is_empty() {
            return;
        }
        let before = self.routes.get(&file.path).into_iter().flatten();
        let lost: Vec<String> = before.filter(|id| !file.ids.contains(id)).map(|id| format!("/{id}")).collect();
        let lost = if lost.is_empty() { String::new() } else { format!("; {} has gone", lost.join(", ")) };
        let addresses: Vec<String> =
            file.ids.iter().map(|id| terminal.paint(Ink::Address, &address_of(base, id))).collect();
        let what = if was_broken { "mended" } else { "loaded" };
        let what = terminal.paint(Ink::Good, what);
        let what = match addresses.as_slice() {
            [] if was_broken => format!("{what} {name}"),
            [] => format!("{what} {name}, which defines no plugin"),
            _ => format!("{what} {name}: {}", addresses.join(", ")),
        };
        terminal.tell(&format!("{what}{lost}{took}"));
    }

    /// The source around an error, and how the program came there.
    fn details(&self, terminal: &Terminal, error: &PythonError) -> String {
        let mut text = String::new();
        if let Some(excerpt) = excerpt(error, &self.folder) {
            let place = format!("{}, line {}", excerpt.file, excerpt.line);
            text.push_str(&format!("          {}\n", terminal.paint(Ink::Faint, &place)));
            for line in &excerpt.lines {
                let ink = if line.starts_with('>') { Ink::Strong } else { Ink::Faint };
                text.push_str(&format!("          {}\n", terminal.paint(ink, line)));
            }
        }
        let places = error.traceback.lines().filter(|line| line.trim_start().starts_with("File \"")).count();
        // One place has been shown already.
        if places > 1 || text.is_empty() {
            let lines: Vec<&str> = error.traceback.trim_end().lines().collect();
            for line in &lines[lines.len().saturating_sub(TRACEBACK_LINES)..] {
                text.push_str(&format!("          {}\n", terminal.paint(Ink::Faint, line)));
            }
        }
        text
    }
}

/// Names of files, no more of them than fit into a line.
pub fn listed(names: &[String]) -> String {
    match names.len() {
        0..=MOST_NAMES => names.join(", "),
        count => format!("{} and {} other files", names[..MOST_NAMES].join(", "), count - MOST_NAMES),
    }
}

/// The name of a file for people who know where it is.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
