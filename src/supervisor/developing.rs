//! What is saved under `pserve dev`: an INI file is taken up as by a signal, other files by a change as of the control
//! routes. The session tells people what has come of it.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::changes::{Origin, Wanted};
use crate::config::settings::ListenAddress;
use crate::dev::{Saved, errors};
use crate::exchange::{Change, Changed, ControlError, SavedFile};

/// What stands for the signal of a reload that a saved INI file asks for.
const INI_SAVED: &str = "the INI file was saved";

/// When it is said that a save is still being taken up.
const SLOW_SAVE: Duration = Duration::from_secs(2);

impl Supervisor {
    pub(super) fn take_up(&mut self, saved: Saved) {
        if saved.is_ini {
            self.reload(INI_SAVED);
        }
        if !saved.files.is_empty() {
            let files = saved.files.into_iter().map(|path| SavedFile { path }).collect();
            self.want(Wanted { origin: Origin::Saved, change: Change::TakeUp(files), since: saved.noticed });
        }
    }

    pub(super) fn has_taken_up(&mut self, wanted: &Wanted, result: &Result<Changed, ControlError>) {
        let (Change::TakeUp(files), Some(dev)) = (&wanted.change, &mut self.dev) else { return };
        if self.ending.is_none() {
            let folder = &self.config.settings.plugins_dir;
            let names: Vec<String> = files.iter().map(|file| errors::short_name(&file.path, folder)).collect();
            dev.took_up(&names, result, wanted.since.elapsed());
        }
    }

    /// Somebody has used a control route: files may not load now, or load again.
    pub(super) fn tell_of_other_change(&mut self) {
        let files = self.serving().next().map(|(_, worker)| worker.files.clone());
        if let (Some(dev), Some(files)) = (&mut self.dev, files) {
            dev.looks_at(&files);
        }
    }

    /// A plugin that takes its time to load leaves nobody wondering.
    pub(super) fn mind_slow_saves(&mut self) {
        let wanted = self.changes.under_way().filter(|wanted| wanted.origin == Origin::Saved);
        if let (Some(dev), Some(wanted)) = (&mut self.dev, wanted)
            && wanted.since.elapsed() > SLOW_SAVE
        {
            dev.waits_for(wanted.since);
        }
    }

    /// A set of workers has taken over.
    pub(super) fn tell_of_new_set(&mut self, signal: Option<&'static str>, since: Instant) {
        let addresses: Vec<ListenAddress> = self.listeners.iter().map(|bound| bound.actual().clone()).collect();
        let files = self.files.clone().unwrap_or_default();
        if let Some(dev) = &mut self.dev {
            if signal.is_some() {
                dev.ini_taken_up(&self.config, since.elapsed());
            }
            dev.serves(&self.config, &addresses, &files, signal.is_none());
        }
    }
}
