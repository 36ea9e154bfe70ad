//! `pserve dev`: serves a folder while somebody writes in it. What is saved is taken up, what does not load is shown
//! with its source, requests are shown as they come.
//!
//! This room belongs to the supervisor's side: it watches files and writes to the terminal. The supervisor does the
//! changes, by the transaction of the control routes; a worker shows the requests (`web/request_lines`).

pub mod errors;
pub mod folder;
mod report;
mod routes;
mod snapshot;
mod start;
pub mod terminal;
mod watch;

use std::io;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub use routes::address_of;
pub use start::{Plan, plan};
pub use watch::Saved;

use crate::config::Config;
use crate::config::settings::ListenAddress;
use crate::exchange::{Changed, ControlError, PluginFiles};
use crate::palette::Ink;
use report::Told;
use snapshot::Targets;
use terminal::{Terminal, in_words};
use watch::{Method, Watch};

/// One run of `pserve dev`, as the supervisor has it.
#[derive(Debug)]
pub struct Session {
    terminal: Terminal,
    watch: Watch,
    notes: Vec<String>,
    started: Instant,
    told: Told,
    /// Where the routes are.
    base: String,
    /// The save of which it was said that it takes its time.
    waited_for: Option<Instant>,
}

impl Session {
    /// Begins to watch. The receiver gets what is saved.
    pub fn open(plan: &Plan) -> io::Result<(Self, UnboundedReceiver<Saved>)> {
        let (sender, saved) = unbounded_channel();
        let mut notes = plan.notes.clone();
        let watch = Watch::start(Targets::of(&plan.config), plan.must_poll, sender)?;
        if let Method::Polling(reason) = &watch.method {
            notes.push(format!("files are looked at again and again, not watched ({reason})"));
        }
        if watch.is_cut {
            notes.push("the plugins folder holds very many folders; not all of them are watched".to_owned());
        }
        let terminal = Terminal::of_stdout()?;
        let (started, told, base, waited_for) = (Instant::now(), Told::default(), String::new(), None);
        Ok((Self { terminal, watch, notes, started, told, base, waited_for }, saved))
    }

    /// A set of workers has taken over: the first one, or that of an INI file which has changed.
    pub fn serves(&mut self, config: &Config, addresses: &[ListenAddress], files: &PluginFiles, is_first: bool) {
        let folder = &config.settings.plugins_dir;
        let base = routes::base_address(addresses, config.settings.tls.is_some());
        let is_elsewhere = base != std::mem::replace(&mut self.base, base.clone());
        self.told.know_folder(folder);
        let is_other = self.told.take_routes(files);
        if is_first {
            let source = match config.source.has_file {
                true => format!("with {}", config.source.path.display()),
                false => "without an INI file".to_owned(),
            };
            let version = env!("CARGO_PKG_VERSION");
            let title = format!("pserve {version} serves {} at {} {source}", folder.display(), self.base);
            let title = self.terminal.paint(Ink::Strong, &title);
            self.terminal.write(&format!("{title}\n"));
            // No browser reaches a Unix socket.
            if self.base.starts_with("http") {
                let page = self.terminal.paint(Ink::Address, &format!("{}/-/", self.base));
                self.terminal.write(&format!("  what goes on, in a browser: {page}\n"));
            }
            self.terminal.write("\n");
        }
        if is_first || is_elsewhere || is_other {
            routes::write(&mut self.terminal, files, &self.base, folder);
        }
        if is_first {
            for note in std::mem::take(&mut self.notes) {
                let note = self.terminal.paint(Ink::Doubtful, &note);
                self.terminal.write(&format!("  {note}\n"));
            }
            let took = in_words(self.started.elapsed());
            let words = format!("ready after {took}; files are reloaded when they are saved, Ctrl-C stops");
            let words = self.terminal.paint(Ink::Faint, &words);
            self.terminal.write(&format!("  {words}\n\n"));
        }
        self.told.news(&mut self.terminal, files, &self.base);
        self.watch.retarget(Targets::of(config));
    }

    /// Saved files have been taken up.
    pub fn took_up(&mut self, names: &[String], result: &Result<Changed, ControlError>, took: Duration) {
        match result {
            Ok(changed) => self.told.changed(&mut self.terminal, names, changed, &self.base, took),
            Err(problem) => {
                let words = format!("{} cannot be taken up: {problem}", report::listed(names));
                let words = self.terminal.paint(Ink::Bad, &words);
                self.terminal.tell(&words);
            }
        }
    }

    /// Tells of the files that a control route has loaded what is new about them.
    pub fn looks_at(&mut self, files: &PluginFiles) {
        self.told.news(&mut self.terminal, files, &self.base);
        self.told.take_routes(files);
    }

    /// What was saved at that time is still being taken up. Said once.
    pub fn waits_for(&mut self, noticed: Instant) {
        if self.waited_for.replace(noticed) != Some(noticed) {
            let words = "still loading: the plugin's module, constructor or initialize takes its time";
            let words = self.terminal.paint(Ink::Doubtful, words);
            self.terminal.tell(&words);
        }
    }

    /// The INI file has been saved, and the workers that read it serve.
    pub fn ini_taken_up(&mut self, config: &Config, took: Duration) {
        let name = report::file_name(&config.source.path);
        let what = if config.source.has_file { format!("{name}, with") } else { "everything in".to_owned() };
        let done = self.terminal.paint(Ink::Good, "reloaded");
        let line = format!("{done} {what} new workers ({})", in_words(took));
        self.terminal.tell(&line);
    }

    /// It has been saved and cannot work.
    pub fn ini_refused(&mut self, why: &str) {
        let why = self.terminal.paint(Ink::Bad, why);
        self.terminal.tell(&why);
    }

    /// The end has been asked for.
    pub fn stopping(&mut self) {
        let words = self.terminal.paint(Ink::Faint, "stopping; once more stops at once");
        self.terminal.tell(&words);
    }
}
