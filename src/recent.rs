//! The latest requests and log lines of a process, for who watches it. Each has a running number, so that a watcher asks
//! for what has come since. What is kept is bounded, by count and by length.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// One request that has been answered. A query may hold keys: it is not kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeenRequest {
    /// The process that answered.
    pub pid: u32,
    /// What the log and the answer call it.
    pub id: String,
    /// When it came, as Unix time.
    pub time: f64,
    pub method: String,
    pub path: String,
    pub status: u16,
    /// From its head to the head of the answer.
    pub seconds: f64,
    /// The answer's length, when it is known at its head.
    pub bytes: Option<u64>,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// As Unix time.
    pub time: f64,
    pub severity: String,
    pub name: String,
    pub message: String,
    /// The request that it is about, if it is about one.
    pub request_id: Option<String>,
}

/// The numbers from which on something is news.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    pub request: u64,
    pub line: u64,
}

/// What a process has seen since.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct News {
    /// Where the next question begins.
    pub next: Since,
    pub requests: Vec<SeenRequest>,
    pub log: Vec<LogLine>,
}

/// What was told of the last two minutes, once a second: the points of plots. As text, since nobody here reads it.
#[derive(Debug, Default)]
pub struct Pulses {
    texts: VecDeque<String>,
    bytes: usize,
    last: Option<Instant>,
}

impl Pulses {
    /// The least time between two of them. Several may tell the same at the same time.
    const APART: Duration = Duration::from_millis(800);
    const MOST: usize = 135;

    /// How much all of them may hold: with very many plugins there are fewer of them.
    const MOST_BYTES: usize = 1 << 20;

    /// Keeps one more that is told now.
    pub fn push(&mut self, text: String, now: Instant) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < Self::APART) {
            return;
        }
        self.last = Some(now);
        self.bytes += text.len();
        self.texts.push_back(text);
        while self.texts.len() > Self::MOST || self.bytes > Self::MOST_BYTES {
            self.bytes -= self.texts.pop_front().map_or(0, |gone| gone.len());
        }
    }

    /// All of them, the oldest first.
    pub fn concat(&self) -> String {
        self.texts.iter().map(String::as_str).collect()
    }
}

/// The last few of many.
#[derive(Debug)]
pub struct Latest<T> {
    most: usize,
    kept: Mutex<Kept<T>>,
}

#[derive(Debug)]
struct Kept<T> {
    /// How many there have been.
    count: u64,
    items: VecDeque<T>,
}

impl<T: Clone> Latest<T> {
    pub const fn new(most: usize) -> Self {
        Self { most, kept: Mutex::new(Kept { count: 0, items: VecDeque::new() }) }
    }

    /// Keeps one more, in the place of the oldest when there are enough.
    pub fn push(&self, item: T) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = if kept.items.len() >= self.most { kept.items.pop_front() } else { None };
        kept.items.push_back(item);
        kept.count += 1;
        drop(kept);
        // Freed where nobody waits for it.
        drop(gone);
    }

    /// What is kept from a number on, and the number of the next one.
    pub fn since(&self, number: u64) -> (u64, Vec<T>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let first = kept.count - kept.items.len() as u64;
        let known = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        (kept.count, kept.items.iter().skip(known).cloned().collect())
    }
}

/// Now, as Unix time.
pub fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The beginning of a text, no longer than so many bytes.
pub fn shortened(text: &str, most_bytes: usize) -> &str {
    let mut end = text.len().min(most_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room_and_numbers_go_on() {
        let latest = Latest::new(3);
        assert_eq!(latest.since(0), (0, Vec::<u32>::new()));
        (0..5).for_each(|item| latest.push(item));
        assert_eq!(latest.since(0), (5, vec![2, 3, 4]));
        assert_eq!(latest.since(4), (5, vec![4]));
        assert_eq!(latest.since(5), (5, vec![]));
        // A number of another process with this one's name.
        assert_eq!(latest.since(99), (5, vec![]));
    }

    #[test]
    fn pulses_are_apart_and_bounded() {
        let (mut pulses, start) = (Pulses::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for (millis, text) in [(0, "a"), (300, "b"), (1000, "c"), (1799, "d"), (1800, "e")] {
            pulses.push(text.to_owned(), at(millis));
        }
        assert_eq!(pulses.concat(), "ace");
        (2..300).for_each(|second| pulses.push("x".to_owned(), at(second * 1000)));
        assert_eq!(pulses.concat(), "x".repeat(Pulses::MOST));
        (300..310).for_each(|second| pulses.push("y".repeat(Pulses::MOST_BYTES / 4), at(second * 1000)));
        assert_eq!(pulses.concat().len(), Pulses::MOST_BYTES);
    }

    #[test]
    fn a_text_is_cut_between_two_letters() {
        assert_eq!(shortened("häh", 2), "h");
        assert_eq!(shortened("häh", 3), "hä");
        assert_eq!(shortened("häh", 9), "häh");
    }
}
