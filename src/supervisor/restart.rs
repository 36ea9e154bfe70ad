//! How soon a worker that died comes back, and which plugin file has killed too many.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A worker that has served this long starts with a clean record.
const GOOD_SERVICE: Duration = Duration::from_secs(10);

/// The first pause that is one; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause after a death in service, and after one before it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE_UNREADY: Duration = Duration::from_secs(5);

/// Crashes longer ago than this are forgotten.
const CRASH_MEMORY: Duration = Duration::from_secs(600);

/// How often the workers of one number have died in a row, in service and before it.
#[derive(Debug, Default)]
pub struct Patience {
    in_service: u32,
    before_it: u32,
}

impl Patience {
    /// How long to wait with the next start: at once the first time, then longer and longer. `served` is how long the
    /// dead one has served; `None` when it did not get that far.
    pub fn pause_after(&mut self, served: Option<Duration>) -> Duration {
        if served.is_some_and(|time| time >= GOOD_SERVICE) {
            *self = Self::default();
        }
        let (deaths, longest) = if served.is_some() {
            self.before_it = 0;
            (&mut self.in_service, LONGEST_PAUSE)
        } else {
            (&mut self.before_it, LONGEST_PAUSE_UNREADY)
        };
        let earlier = *deaths;
        *deaths = earlier.saturating_add(1);
        match earlier {
            0 => Duration::ZERO,
            more => (FIRST_PAUSE * 2_u32.saturating_pow((more - 1).min(16))).min(longest),
        }
    }
}

/// Which plugin files have ended workers, and when.
#[derive(Debug, Default)]
pub struct CrashBook {
    crashes: HashMap<PathBuf, Vec<Instant>>,
}

impl CrashBook {
    /// Notes a crash; the answer is how many of this file are remembered.
    pub fn note(&mut self, file: &Path, now: Instant) -> usize {
        let crashes = self.crashes.entry(file.to_owned()).or_default();
        crashes.retain(|when| now.duration_since(*when) < CRASH_MEMORY);
        crashes.push(now);
        crashes.len()
    }

    /// Forgets what a file has done: it gets another chance.
    pub fn forgive(&mut self, file: &Path) {
        self.crashes.remove(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_pauses_grow() {
        let mut patience = Patience::default();
        let short = Some(Duration::from_secs(1));
        let pauses: Vec<u128> = (0..7).map(|_| patience.pause_after(short).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(patience.pause_after(Some(GOOD_SERVICE)), Duration::ZERO);
        let unready: Vec<u128> = (0..12).map(|_| patience.pause_after(None).as_millis()).collect();
        assert_eq!((unready[0], unready[1], unready[11]), (0, 100, 5000));
    }

    #[test]
    fn old_crashes_do_not_count() {
        let mut book = CrashBook::default();
        let (file, start) = (Path::new("/p/x.py"), Instant::now());
        assert_eq!(book.note(file, start), 1);
        assert_eq!(book.note(file, start + Duration::from_secs(1)), 2);
        assert_eq!(book.note(Path::new("/p/y.py"), start), 1);
        assert_eq!(book.note(file, start + CRASH_MEMORY + Duration::from_secs(2)), 1);
        book.forgive(file);
        assert_eq!(book.note(file, start), 1);
    }
}
