//! A terminal as this program uses it: another screen, keys as they are pressed, and everything as before at the end.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::view::Size;

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Quit,
    Letter(char),
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
}

/// How long a wait for a key may be until the size of the terminal is looked at again.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Enters the other screen, hides the cursor and lets long lines end at the edge; and back (xterm's control sequences).
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";

/// The terminal of standard input and output, in raw mode.
pub struct Terminal {
    before: Termios,
    is_asked_to_end: Arc<AtomicBool>,
    /// Keys that have come and have not been asked for.
    pressed: VecDeque<Key>,
}

impl Terminal {
    pub fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let is_asked_to_end = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&is_asked_to_end))?;
        }
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let terminal = Self { before, is_asked_to_end, pressed: VecDeque::new() };
        write(ENTER)?;
        Ok(terminal)
    }

    pub fn size(&self) -> Size {
        let known = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
        known.map_or(Size::default(), |size| Size { rows: size.ws_row.into(), columns: size.ws_col.into() })
    }

    /// Writes over what is there, line by line, so that nothing flickers.
    pub fn show(&self, lines: &[String]) -> io::Result<()> {
        let mut text = "\u{1b}[H".to_owned();
        // Each line ends with "erase to its end", the last one with "erase everything below".
        text.push_str(&lines.join("\u{1b}[K\r\n"));
        text.push_str("\u{1b}[K\u{1b}[J");
        write(&text)
    }

    /// Waits for a key; `None` when there is none in time, or when the size may have changed.
    pub fn next_key(&mut self, limit: Duration) -> io::Result<Option<Key>> {
        let deadline = Instant::now() + limit.min(LONGEST_WAIT);
        loop {
            if let Some(key) = self.pressed.pop_front() {
                return Ok(Some(key));
            }
            if self.is_asked_to_end.load(Ordering::Relaxed) {
                return Ok(Some(Key::Quit));
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if !is_readable(rest)? {
                return Ok(None);
            }
            let mut bytes = [0; 16];
            // Past the buffer of `io::Stdin`, which the wait does not see.
            let count = rustix::io::read(io::stdin(), &mut bytes)?;
            if count == 0 {
                // Nobody sits there any more.
                return Ok(Some(Key::Quit));
            }
            self.pressed.extend(keys(&bytes[..count]));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = write(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn is_readable(limit: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut descriptors = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut descriptors, Timespec::try_from(limit).ok().as_ref()) {
        Ok(ready) => Ok(ready > 0),
        // The size has changed, or the end is asked for.
        Err(Errno::INTR) => Ok(false),
        Err(problem) => Err(problem.into()),
    }
}

/// What a terminal sends for keys: letters, and control sequences as xterm has them. Several may come at a time.
fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while !bytes.is_empty() {
        let known = SEQUENCES.iter().find(|(sequence, _)| bytes.starts_with(sequence));
        let (length, key) = match (known, bytes[0]) {
            (Some((sequence, key)), _) => (sequence.len(), Some(*key)),
            // One that means nothing here; the rest of it is no letters.
            (None, b'\x1b') if bytes.len() > 1 => (bytes.len(), None),
            (None, letter) => (1, key_of(letter)),
        };
        keys.extend(key);
        bytes = &bytes[length..];
    }
    keys
}

const SEQUENCES: [(&[u8], Key); 13] = [
    (b"\x1b[A", Key::Up),
    (b"\x1bOA", Key::Up),
    (b"\x1b[B", Key::Down),
    (b"\x1bOB", Key::Down),
    (b"\x1b[C", Key::Right),
    (b"\x1bOC", Key::Right),
    (b"\x1b[D", Key::Left),
    (b"\x1bOD", Key::Left),
    (b"\x1b[5~", Key::PageUp),
    (b"\x1b[6~", Key::PageDown),
    (b"\x1b[H", Key::Home),
    (b"\x1bOH", Key::Home),
    (b"\x1b[1~", Key::Home),
];

fn key_of(letter: u8) -> Option<Key> {
    match letter {
        // Control-C, Control-D, Escape.
        b'q' | b'Q' | b'\x03' | b'\x04' | b'\x1b' => Some(Key::Quit),
        b'k' => Some(Key::Up),
        b'j' => Some(Key::Down),
        b' ' => Some(Key::PageDown),
        letter if letter.is_ascii_graphic() => Some(Key::Letter(char::from(letter.to_ascii_lowercase()))),
        _ => None,
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_terminals_send_for_them() {
        assert_eq!(keys(b"\x1b[A\x1bOBEe"), [Key::Up, Key::Down, Key::Letter('e'), Key::Letter('e')]);
        assert_eq!(keys(b"\x03"), [Key::Quit]);
        assert_eq!(keys(b"\x1b"), [Key::Quit]);
        assert_eq!(keys(b"\x1b[99~"), []);
    }
}
