//! A thread that notices saved files: the system tells that something has happened (inotify, through `notify`), a look
//! at the files tells what. Where the system does not tell, the look is taken again and again.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::UnboundedSender;

use super::snapshot::{Snapshot, Targets};

/// How long nothing may happen until a save counts as complete, and how long it is waited for at most.
const QUIET: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_millis(500);

/// How often files are looked at where nobody tells.
const POLL_PAUSE: Duration = Duration::from_millis(400);

/// File systems on which others than this kernel write: their changes cause no events (magic numbers of statfs(2)).
const SILENT_FILE_SYSTEMS: [(i64, &str); 12] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9p, as in WSL"),
    (0x5346_4846, "WSL"),
    (0x6573_5546, "FUSE"),
    (0x786f_4256, "a folder shared by VirtualBox"),
    (0xbacb_acbc, "a folder shared by VMware"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x7375_7245, "Coda"),
];

/// What has been saved.
#[derive(Debug)]
pub struct Saved {
    /// Files that are not what they were, the INI file left out.
    pub files: Vec<PathBuf>,
    pub is_ini: bool,
    pub noticed: Instant,
}

/// How changes are noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    Events,
    /// By looking again and again, for this reason.
    Polling(String),
}

enum Message {
    SomethingHappened,
    Watch(Targets),
}

/// The thread's other end.
#[derive(Debug)]
pub struct Watch {
    sender: Sender<Message>,
    pub method: Method,
    /// Whether there are more folders than are watched.
    pub is_cut: bool,
}

impl Watch {
    /// Starts the thread. What is saved from now on is told.
    pub fn start(targets: Targets, must_poll: bool, told: UnboundedSender<Saved>) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let snapshot = Snapshot::take(&targets, &Snapshot::default()).unwrap_or_default();
        let is_cut = snapshot.is_cut;
        let reason = if must_poll { Some("--poll".to_owned()) } else { silent_file_system(&targets.folder) };
        let (events, method) = match reason.map_or_else(|| Events::start(&sender, &targets, &snapshot), Err) {
            Ok(events) => (Some(events), Method::Events),
            Err(reason) => (None, Method::Polling(reason)),
        };
        let mut eye = Eye { targets, snapshot, events, told, events_to: sender.clone() };
        std::thread::Builder::new().name("watch-files".to_owned()).spawn(move || eye.watch(&receiver))?;
        Ok(Self { sender, method, is_cut })
    }

    /// Watches other files from now on.
    pub fn retarget(&self, targets: Targets) {
        let _ = self.sender.send(Message::Watch(targets));
    }
}

/// The kind of file system on which a folder lies, when it is one that does not tell.
fn silent_file_system(folder: &Path) -> Option<String> {
    let found = rustix::fs::statfs(folder).ok()?.f_type & 0xffff_ffff;
    let (_, name) = SILENT_FILE_SYSTEMS.iter().find(|(magic, _)| *magic == found)?;
    Some((*name).to_owned())
}

/// Whether an event may mean that one of the files is another now.
fn is_worth_a_look(event: &notify::Event, targets: &Targets) -> bool {
    // To read a file is no change: the look that follows an event would cause the next one.
    let is_change = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    };
    // A log or a database beside the plugins may be written to all the time. What has no ending may be a folder.
    let is_ours = |path: &PathBuf| {
        let may_be_source = path.extension().is_none_or(|ending| ending == "py");
        may_be_source || targets.folder.starts_with(path) || targets.named().any(|named| named == path)
    };
    is_change && (event.paths.is_empty() || event.paths.iter().any(is_ours))
}

/// What the system tells of folders.
struct Events {
    watcher: RecommendedWatcher,
    /// The folders that are watched, as they were then: one that is made anew is another one.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

impl Events {
    fn start(sender: &Sender<Message>, targets: &Targets, snapshot: &Snapshot) -> Result<Self, String> {
        let sender = sender.clone();
        let targets = targets.clone();
        let heed = move |event: notify::Result<notify::Event>| {
            // An error may stand for events that were lost.
            if event.map_or(true, |event| is_worth_a_look(&event, &targets)) {
                let _ = sender.send(Message::SomethingHappened);
            }
        };
        let watcher = notify::recommended_watcher(heed).map_err(|problem| problem.to_string())?;
        let mut events = Self { watcher, watched: BTreeMap::new() };
        events.follow(snapshot)?;
        Ok(events)
    }

    /// Watches the folders that there are now.
    fn follow(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let identity = |folder: &PathBuf| std::fs::metadata(folder).map(|found| (found.dev(), found.ino())).ok();
        let gone: Vec<PathBuf> = self
            .watched
            .iter()
            .filter(|(folder, known)| !snapshot.folders.contains(*folder) || identity(folder) != Some(**known))
            .map(|(folder, _)| folder.clone())
            .collect();
        for folder in gone {
            // The system has let go of a folder that was removed.
            let _ = self.watcher.unwatch(&folder);
            self.watched.remove(&folder);
        }
        for folder in &snapshot.folders {
            if self.watched.contains_key(folder) {
                continue;
            }
            let Some(identity) = identity(folder) else { continue };
            self.watcher.watch(folder, RecursiveMode::NonRecursive).map_err(|problem| problem.to_string())?;
            self.watched.insert(folder.clone(), identity);
        }
        Ok(())
    }
}

/// Whoever looks.
struct Eye {
    targets: Targets,
    snapshot: Snapshot,
    events: Option<Events>,
    told: UnboundedSender<Saved>,
    /// Where events go.
    events_to: Sender<Message>,
}

impl Eye {
    fn watch(&mut self, messages: &Receiver<Message>) {
        // A save between the first look and the first watch caused no event.
        let mut must_look = true;
        loop {
            let next = if must_look {
                Ok(Message::SomethingHappened)
            } else if self.events.is_some() {
                messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                messages.recv_timeout(POLL_PAUSE)
            };
            must_look = false;
            match next {
                Ok(Message::Watch(targets)) => self.retarget(targets),
                Ok(Message::SomethingHappened) => {
                    if let Some(targets) = wait_for_quiet(messages) {
                        self.retarget(targets);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.look().is_err() {
                return;
            }
        }
    }

    fn retarget(&mut self, targets: Targets) {
        if targets == self.targets {
            return;
        }
        if let Some(snapshot) = Snapshot::of_other_targets(&targets, &self.snapshot, &self.targets) {
            self.snapshot = snapshot;
        }
        self.targets = targets;
        if self.events.is_some() {
            let events = Events::start(&self.events_to, &self.targets, &self.snapshot);
            self.events = events.map_err(|problem| warn_of_polling(&problem)).ok();
        }
    }

    /// Tells what is not as it was. Errs when nobody listens any more.
    fn look(&mut self) -> Result<(), ()> {
        let Some(mut now) = Snapshot::take(&self.targets, &self.snapshot) else { return Ok(()) };
        let mut files = now.changes_since(&self.snapshot);
        if !files.is_empty() && self.events.is_none() {
            // Nobody tells when a save is complete.
            std::thread::sleep(QUIET);
            let Some(later) = Snapshot::take(&self.targets, &now) else { return Ok(()) };
            now = later;
            files = now.changes_since(&self.snapshot);
        }
        self.snapshot = now;
        if let Some(events) = &mut self.events
            && let Err(problem) = events.follow(&self.snapshot)
        {
            warn_of_polling(&problem);
            self.events = None;
        }
        let is_ini = self.targets.ini.as_ref().is_some_and(|ini| files.contains(ini));
        files.retain(|path| Some(path) != self.targets.ini.as_ref());
        if files.is_empty() && !is_ini {
            return Ok(());
        }
        self.told.send(Saved { files, is_ini, noticed: Instant::now() }).map_err(drop)
    }
}

fn warn_of_polling(problem: &str) {
    log::warn!("a folder cannot be watched ({problem}); files are looked at every {POLL_PAUSE:?} from now on");
}

/// Waits until nothing has happened for a moment. The answer is what is to be watched from now on, if that was said
/// meanwhile.
fn wait_for_quiet(messages: &Receiver<Message>) -> Option<Targets> {
    let deadline = Instant::now() + PATIENCE;
    let mut targets = None;
    while Instant::now() < deadline {
        match messages.recv_timeout(QUIET) {
            Ok(Message::SomethingHappened) => {}
            Ok(Message::Watch(wanted)) => targets = Some(wanted),
            Err(_) => break,
        }
    }
    targets
}
