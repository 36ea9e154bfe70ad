//! The flight recorder: what a worker was doing, kept where the death of the worker does not reach it.
//!
//! The supervisor makes the memory, one piece for each worker process. The worker writes into it which handlers run and
//! which files load, and what a plugin was about to do to the process. The supervisor reads it after the death, and
//! makes out of it, and of what `faulthandler` wrote, who has to answer for it.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Calls and loads that are recorded at a time. What goes on beyond that is not recorded.
const SLOTS: usize = 512;
const SLOT_BYTES: usize = 256;
const NOTE_BYTES: usize = 1024;
const TOTAL_BYTES: usize = NOTE_BYTES + SLOTS * SLOT_BYTES;

/// Before the texts: one word that says what it is and how long they are, and the time.
const HEAD_BYTES: usize = 16;

/// The longest plugin id that is kept whole.
const PLUGIN_BYTES: usize = 80;

const WORD: usize = size_of::<u64>();

/// What a slot tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Call = 1,
    Load = 2,
    Terminate = 3,
    Note = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Call, Self::Load, Self::Terminate, Self::Note].into_iter().find(|kind| *kind as u8 == byte)
    }

    fn words(self) -> &'static str {
        match self {
            Self::Call => "handling a request",
            Self::Load => "loading a file",
            Self::Terminate => "terminating",
            Self::Note => "",
        }
    }
}

/// Makes the memory for one worker process. It is closed on exec unless it is handed on.
pub fn create() -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("pserve-flight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, TOTAL_BYTES as u64)?;
    // Nobody can make it shorter, which would take the mapping from under the worker.
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// The worker's side.
pub struct FlightRecorder {
    mapping: Mapping,
    taken: [AtomicU64; SLOTS / 64],
    /// Held while a note is written.
    note: Mutex<()>,
    /// Set in a forked child: what happens there is none of the worker's doing.
    is_disowned: AtomicBool,
}

impl fmt::Debug for FlightRecorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FlightRecorder").finish_non_exhaustive()
    }
}

impl FlightRecorder {
    /// Takes the memory that [`create`] made. The descriptor may be closed afterwards.
    pub fn open(fd: impl AsFd) -> io::Result<Self> {
        let mapping = Mapping::new(fd)?;
        Ok(Self { mapping, taken: Default::default(), note: Mutex::default(), is_disowned: AtomicBool::new(false) })
    }

    /// Records a handler until the entry is dropped. `path` is without its query, which may hold a key.
    pub fn begin_call(self: &Arc<Self>, plugin_id: &str, method: &str, path: &str) -> Entry {
        self.begin(Kind::Call, plugin_id, &[method.as_bytes(), b" ", path.as_bytes()])
    }

    /// Records the import, construction and initialisation of a plugin file.
    pub fn begin_load(self: &Arc<Self>, path: &str) -> Entry {
        // Of a long path the end counts.
        let most = SLOT_BYTES - HEAD_BYTES;
        let path = path.as_bytes();
        self.begin(Kind::Load, "", &[&path[path.len().saturating_sub(most)..]])
    }

    /// Records the end of a plugin.
    pub fn begin_terminate(self: &Arc<Self>, plugin_id: &str) -> Entry {
        self.begin(Kind::Terminate, plugin_id, &[])
    }

    /// Leaves word of what a plugin is about to do to the process. The last note counts.
    pub fn note(&self, plugin: &str, words: &str) {
        if self.is_disowned.load(Ordering::Relaxed) {
            return;
        }
        let _alone = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        self.mapping.write::<NOTE_BYTES>(0, Kind::Note, plugin.as_bytes(), &[words.as_bytes()]);
    }

    /// How long the oldest of the calls has run that are recorded now.
    pub fn longest_call(&self) -> Duration {
        let (now, words) = (now(), self.mapping.words());
        let begun = (0..SLOTS).filter_map(|slot| {
            let at = offset_of(slot) / WORD;
            let is_call = words[at].load(Ordering::Acquire).to_le_bytes()[0] == Kind::Call as u8;
            is_call.then(|| u64::from_le(words[at + 1].load(Ordering::Relaxed)))
        });
        Duration::from_nanos(begun.min().map_or(0, |begun| now.saturating_sub(begun)))
    }

    /// For a forked child, which shares the memory: it writes nothing any more.
    pub fn disown(&self) {
        self.is_disowned.store(true, Ordering::Relaxed);
    }

    fn begin(self: &Arc<Self>, kind: Kind, plugin: &str, text: &[&[u8]]) -> Entry {
        let slot = self.take_slot();
        if let Some(slot) = slot {
            self.mapping.write::<SLOT_BYTES>(offset_of(slot), kind, plugin.as_bytes(), text);
        }
        Entry { recorder: Arc::clone(self), slot }
    }

    fn take_slot(&self) -> Option<usize> {
        if self.is_disowned.load(Ordering::Relaxed) {
            return None;
        }
        for (index, bits) in self.taken.iter().enumerate() {
            let mut known = bits.load(Ordering::Relaxed);
            while known != u64::MAX {
                let free = known.trailing_ones();
                let before = bits.fetch_or(1 << free, Ordering::Acquire);
                if before & (1 << free) == 0 {
                    return Some(index * 64 + free as usize);
                }
                known = before;
            }
        }
        None
    }
}

/// Something that goes on, until it is dropped.
#[derive(Debug)]
pub struct Entry {
    recorder: Arc<FlightRecorder>,
    slot: Option<usize>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(slot) = self.slot
            && !self.recorder.is_disowned.load(Ordering::Relaxed)
        {
            self.recorder.mapping.clear(offset_of(slot));
            self.recorder.taken[slot / 64].fetch_and(!(1 << (slot % 64)), Ordering::Release);
        }
    }
}

fn offset_of(slot: usize) -> usize {
    NOTE_BYTES + slot * SLOT_BYTES
}

/// The shared memory in this process, as words that any thread may write.
struct Mapping {
    start: NonNull<AtomicU64>,
}

// SAFETY: the memory is only ever touched through atomic words, and stays mapped until the drop.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: impl AsFd) -> io::Result<Self> {
        let size = rustix::fs::fstat(&fd)?.st_size;
        if usize::try_from(size).ok() != Some(TOTAL_BYTES) {
            return Err(io::Error::other(format!("the flight recorder has {size} bytes and not {TOTAL_BYTES}")));
        }
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at a place of the kernel's choice, over memory whose size was just checked and is sealed.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), TOTAL_BYTES, protection, flags, fd, 0)? };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at nowhere"))?;
        Ok(Self { start })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, holds that many bytes, lives as long as `self`, and every bit pattern is
        // a valid word. Other processes read it, with `pread`, or are forked children that have disowned it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), TOTAL_BYTES / WORD) }
    }

    /// Writes a record of `N` bytes. Its first word is written last and is zero until then: whoever reads sees a whole
    /// record, or none.
    fn write<const N: usize>(&self, offset: usize, kind: Kind, plugin: &[u8], text: &[&[u8]]) {
        let mut record = [0u8; N];
        let plugin = &plugin[..plugin.len().min(PLUGIN_BYTES)];
        let mut end = HEAD_BYTES + plugin.len();
        record[HEAD_BYTES..end].copy_from_slice(plugin);
        for part in text {
            let part = &part[..part.len().min(N - end)];
            record[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        record[WORD..HEAD_BYTES].copy_from_slice(&now().to_le_bytes());
        let text_length = end - HEAD_BYTES - plugin.len();
        let head = kind as u64 | (plugin.len() as u64) << 16 | (text_length as u64) << 32;
        self.clear(offset);
        let words = &self.words()[offset / WORD..(offset + N) / WORD];
        for (word, bytes) in words[1..].iter().zip(record[WORD..end.next_multiple_of(WORD)].chunks_exact(WORD)) {
            let mut value = [0u8; WORD];
            value.copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
        }
        words[0].store(head.to_le(), Ordering::Release);
    }

    fn clear(&self, offset: usize) {
        // In this order for the reader, too: what follows is not written before it.
        self.words()[offset / WORD].swap(0, Ordering::AcqRel);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size, and nobody holds a reference into it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), TOTAL_BYTES) };
        if let Err(problem) = unmapped {
            log::debug!("the flight recorder stays mapped: {problem}");
        }
    }
}

/// Nanoseconds of a clock that every process reads alike.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// What a dead worker was doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FlightReport {
    /// The longest first.
    pub running: Vec<Running>,
    pub note: Option<Note>,
}

/// A handler, or a file while it loads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Running {
    /// In words: `handling a request`, `loading a file`, `terminating`.
    pub what: String,
    /// Empty while a file loads: its plugins have no names yet.
    pub plugin: String,
    /// Method and path without the query; of a load the file.
    pub request: String,
    pub seconds: f64,
    #[serde(skip)]
    kind: Kind,
}

/// What a plugin was about to do to the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The plugin's id; while its file is imported or constructed, the file's stem or the class's name in lower case.
    pub plugin: String,
    pub words: String,
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nobody knows whose thread it was when no name stands there.
        write!(formatter, "{}{}{}", self.plugin, if self.plugin.is_empty() { "" } else { " " }, self.words)
    }
}

impl fmt::Display for Running {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::from_secs_f64(self.seconds.max(0.0)).as_secs_f64();
        match self.kind {
            Kind::Load => write!(formatter, "{} {} for {seconds:.1} s", self.what, self.request),
            Kind::Terminate => write!(formatter, "{} /{} for {seconds:.1} s", self.what, self.plugin),
            _ => write!(formatter, "/{} was {}, {}, for {seconds:.1} s", self.plugin, self.what, self.request),
        }
    }
}

/// Reads what a worker has left. Whatever stands there, sense or not, becomes text.
pub fn read(fd: impl AsFd) -> FlightReport {
    let mut bytes = vec![0u8; TOTAL_BYTES];
    let mut length = 0;
    while length < TOTAL_BYTES {
        match rustix::io::pread(&fd, &mut bytes[length..], length as u64) {
            Ok(0) | Err(_) => break,
            Ok(read) => length += read,
        }
    }
    report_of(&bytes, now())
}

fn report_of(bytes: &[u8], now: u64) -> FlightReport {
    let (note, slots) = bytes.split_at(NOTE_BYTES.min(bytes.len()));
    let note = record_of(note).filter(|record| record.kind == Kind::Note);
    let mut running: Vec<Running> = slots
        .chunks_exact(SLOT_BYTES)
        .filter_map(record_of)
        .filter(|record| record.kind != Kind::Note)
        .map(|record| Running {
            what: record.kind.words().to_owned(),
            plugin: record.plugin,
            request: record.text,
            seconds: Duration::from_nanos(now.saturating_sub(record.started)).as_secs_f64(),
            kind: record.kind,
        })
        .collect();
    running.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    FlightReport { running, note: note.map(|record| Note { plugin: record.plugin, words: record.text }) }
}

struct Record {
    kind: Kind,
    started: u64,
    plugin: String,
    text: String,
}

fn record_of(bytes: &[u8]) -> Option<Record> {
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + WORD)?.try_into().ok()?));
    let head = word(0)?;
    let kind = Kind::from_byte((head & 0xff) as u8)?;
    let length = |shift: u32| usize::from((head >> shift) as u16);
    let texts = bytes.get(HEAD_BYTES..)?;
    let (plugin, rest) = texts.split_at(length(16).min(texts.len()));
    let text = &rest[..length(32).min(rest.len())];
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Record { kind, started: word(WORD)?, plugin: lossy(plugin), text: lossy(text) })
}

/// Who may have caused a death, and how sure that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Culprits {
    /// Its code was on the stack of the thread that crashed: this file of the plugins folder.
    OnStack(PathBuf),
    /// It asked for the end itself. A plugin's id, or what [`Note::plugin`] says.
    Noted(String),
    /// No more is known than what was running.
    Running(Vec<Suspect>),
}

/// One of several that may have caused a death.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspect {
    Plugin(String),
    /// A file that was loading. Its path may lack its beginning when it is very long.
    File(PathBuf),
}

/// Makes out who has to answer for the death of a worker, from its recorder and from what `faulthandler` wrote.
pub fn culprits(report: &FlightReport, crash_text: &str, plugins_dir: &Path) -> Culprits {
    if let Some(file) = file_on_stack(crash_text, plugins_dir) {
        return Culprits::OnStack(file);
    }
    if let Some(note) = report.note.as_ref().filter(|note| !note.plugin.is_empty()) {
        return Culprits::Noted(note.plugin.clone());
    }
    let mut suspects = Vec::new();
    for running in &report.running {
        let suspect = match running.kind {
            Kind::Load => Suspect::File(PathBuf::from(&running.request)),
            _ => Suspect::Plugin(running.plugin.clone()),
        };
        if !suspects.contains(&suspect) {
            suspects.push(suspect);
        }
    }
    Culprits::Running(suspects)
}

/// The plugin file nearest to the bottom of the crashed thread's stack: helpers that it called stand above it.
fn file_on_stack(crash_text: &str, plugins_dir: &Path) -> Option<PathBuf> {
    let mut lines = crash_text.lines();
    lines.find(|line| line.starts_with("Current thread") && line.contains("most recent call first"))?;
    let frames =
        lines.map_while(|line| line.strip_prefix("  File \"")).filter_map(|rest| rest.rsplit_once("\", line "));
    let inside: Vec<PathBuf> = frames
        .map(|(file, _)| PathBuf::from(without_escapes(file)))
        .filter(|file| file.starts_with(plugins_dir))
        .collect();
    let direct = inside.iter().rev().find(|file| file.parent() == Some(plugins_dir));
    direct.or(inside.last()).cloned()
}

/// `faulthandler` writes what is not ASCII as Python's escapes.
fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let digits = match after.as_bytes().first() {
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        let number = after.get(1..=digits).filter(|_| digits > 0).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match number.and_then(char::from_u32) {
            Some(c) => {
                plain.push(c);
                rest = &after[1 + digits..];
            }
            None => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> (OwnedFd, Arc<FlightRecorder>) {
        let fd = create().expect("a memfd");
        let recorder = Arc::new(FlightRecorder::open(&fd).expect("a mapping"));
        (fd, recorder)
    }

    #[test]
    fn what_runs_is_read_and_what_has_ended_is_not() {
        let (fd, recorder) = recorder();
        let call = recorder.begin_call("api/v1", "GET", "/api/v1/käse");
        let load = recorder.begin_load("/plugins/slow.py");
        drop(recorder.begin_terminate("gone"));
        recorder.note("killer", "called os._exit(1)");
        recorder.note("killer", "called os._exit(3)");
        let report = read(&fd);
        let running: Vec<_> = report.running.iter().map(|one| (one.plugin.as_str(), one.request.as_str())).collect();
        assert_eq!(running, [("api/v1", "GET /api/v1/käse"), ("", "/plugins/slow.py")]);
        assert_eq!(report.note, Some(Note { plugin: "killer".to_owned(), words: "called os._exit(3)".to_owned() }));
        assert!(report.running.iter().all(|one| (0.0..60.0).contains(&one.seconds)));
        drop((call, load));
        assert!(read(&fd).running.is_empty());
    }

    #[test]
    fn long_names_are_cut_and_more_calls_than_slots_do_no_harm() {
        let (fd, recorder) = recorder();
        let long = "ä".repeat(500);
        let entries: Vec<_> = (0..SLOTS + 10).map(|_| recorder.begin_call(&long, "GET", &long)).collect();
        let report = read(&fd);
        assert_eq!(report.running.len(), SLOTS);
        assert!(report.running[0].request.starts_with("GET ää"));
        drop(entries);
        let _load = recorder.begin_load(&format!("/{long}/end.py"));
        assert!(read(&fd).running[0].request.ends_with("/end.py"));
    }

    #[test]
    fn threads_share_the_slots_without_mixing_them_up() {
        let (fd, recorder) = recorder();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (recorder, fd) = (&recorder, &fd);
                scope.spawn(move || {
                    let (id, path) =
                        (format!("plugin{thread}"), format!("/plugin{thread}/{}", "x".repeat(thread * 30)));
                    for _ in 0..2000 {
                        let _entry = recorder.begin_call(&id, "POST", &path);
                        if thread == 0 {
                            let whole = |one: &Running| one.request.starts_with(&format!("POST /{}/", one.plugin));
                            assert!(read(fd).running.iter().all(whole));
                        }
                    }
                });
            }
        });
        assert!(read(&fd).running.is_empty());
    }

    #[test]
    fn any_bytes_at_all_become_a_report() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..50 {
            let bytes: Vec<u8> = (0..TOTAL_BYTES)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    // Small numbers are what kinds and lengths look like.
                    if state & 0x100 == 0 { (state >> 60) as u8 } else { (state >> 40) as u8 }
                })
                .collect();
            report_of(&bytes, state);
        }
        assert_eq!(report_of(&[4, 0, 0], 0), FlightReport::default());
        assert_eq!(report_of(&[0xff; TOTAL_BYTES], 0), FlightReport::default());
    }

    #[test]
    fn a_record_that_was_being_written_is_none() {
        let (fd, recorder) = recorder();
        let entry = recorder.begin_call("half", "GET", "/half");
        // As the writer leaves it between its first and its last word.
        recorder.mapping.clear(offset_of(entry.slot.expect("a slot")));
        assert!(read(&fd).running.is_empty());
    }

    #[test]
    fn a_forked_child_changes_nothing() {
        let (fd, recorder) = recorder();
        let entry = recorder.begin_call("parent", "GET", "/parent");
        recorder.disown();
        drop(entry);
        recorder.note("child", "called os._exit(0)");
        let report = read(&fd);
        assert_eq!((report.running.len(), report.note), (1, None));
    }

    const CRASH: &str = "Fatal Python error: Segmentation fault

Thread 0x00007f0000000001 (most recent call first):
  File \"/srv/plugins/innocent.py\", line 3 in request_handler

Current thread 0x00007f0000000002 (most recent call first):
  File \"/usr/lib/python3.11/ctypes/__init__.py\", line 500 in string_at
  File \"/srv/plugins/helper.py\", line 9 in crash
  File \"/srv/plugins/gr\\xfc\\u20acn.py\", line 5 in request_handler
  File \"<pserve>/pserve_runtime/calls.py\", line 70 in _run_plain

Thread 0x00007f0000000003 (most recent call first):
  File \"/srv/plugins/other.py\", line 3 in request_handler
";

    #[test]
    fn the_culprit_is_on_the_stack_or_noted_or_among_those_that_ran() {
        let folder = Path::new("/srv/plugins");
        let (fd, recorder) = recorder();
        let _entries = [
            recorder.begin_call("one", "GET", "/one"),
            recorder.begin_call("one", "GET", "/one/2"),
            recorder.begin_load("/srv/plugins/two.py"),
        ];
        let suspects = vec![Suspect::Plugin("one".to_owned()), Suspect::File(PathBuf::from("/srv/plugins/two.py"))];
        assert_eq!(culprits(&read(&fd), "", folder), Culprits::Running(suspects.clone()));
        assert_eq!(culprits(&read(&fd), "Current thread", folder), Culprits::Running(suspects));
        recorder.note("three", "called os.abort()");
        assert_eq!(culprits(&read(&fd), "", folder), Culprits::Noted("three".to_owned()));
        let on_stack = Culprits::OnStack(PathBuf::from("/srv/plugins/grü€n.py"));
        assert_eq!(culprits(&read(&fd), CRASH, folder), on_stack);
        assert_eq!(culprits(&read(&fd), CRASH, Path::new("/elsewhere")), Culprits::Noted("three".to_owned()));
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let fd = rustix::fs::memfd_create("small", MemfdFlags::CLOEXEC).expect("a memfd");
        assert!(FlightRecorder::open(&fd).is_err());
        assert_eq!(read(&fd), FlightReport::default());
    }
}
