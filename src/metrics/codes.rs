//! Answers by status code: a counter for each code that HTTP knows, and one for the others of each class. A plugin may
//! answer with any number a client sends it; the labels must not multiply with that.

use std::array;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The codes that have a counter of their own: those that IANA has registered.
const KNOWN: [u16; 61] = [
    100, 101, 102, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400,
    401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 424, 425, 426,
    428, 429, 431, 451, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];

/// The counters of the classes, `0xx` to `9xx`, come first.
const CLASSES: usize = 10;

/// Code -> its counter.
const SLOTS: [u8; 1000] = slots();

const fn slots() -> [u8; 1000] {
    let mut slots = [0; 1000];
    let mut code = 0;
    while code < slots.len() {
        slots[code] = (code / 100) as u8;
        code += 1;
    }
    let mut index = 0;
    while index < KNOWN.len() {
        slots[KNOWN[index] as usize] = (CLASSES + index) as u8;
        index += 1;
    }
    slots
}

/// How often each code was answered. A key below ten is a class: 4 stands for the codes of `4xx` that are not known.
pub type CodeCounts = BTreeMap<u16, u64>;

/// Counters by code.
pub struct CodeCounters([AtomicU64; CLASSES + KNOWN.len()]);

impl Default for CodeCounters {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl CodeCounters {
    pub fn count(&self, code: u16) {
        let slot = SLOTS.get(usize::from(code)).copied().unwrap_or(0);
        self.0[usize::from(slot)].fetch_add(1, Ordering::Relaxed);
    }

    /// What is not zero.
    pub fn counts(&self) -> CodeCounts {
        let classes = 0..CLASSES as u16;
        let counts = classes.chain(KNOWN).zip(&self.0).map(|(key, counter)| (key, counter.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// The text that stands for a key of [`CodeCounts`].
pub fn label(key: u16) -> String {
    if usize::from(key) < CLASSES { format!("{key}xx") } else { key.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_codes_count_by_themselves_and_others_by_class() {
        let counters = CodeCounters::default();
        for code in [200, 200, 404, 418, 499, 299, 999, 7, 1000, u16::MAX] {
            counters.count(code);
        }
        assert_eq!(counters.counts(), [(200, 2), (404, 1), (4, 2), (2, 1), (9, 1), (0, 3)].into());
        assert_eq!((label(2), label(204)), ("2xx".to_owned(), "204".to_owned()));
    }

    #[test]
    fn every_number_has_a_label_and_they_are_few() {
        let counters = CodeCounters::default();
        (0..=u16::MAX).for_each(|code| counters.count(code));
        let counts = counters.counts();
        assert!(counts.len() <= CLASSES + KNOWN.len(), "{}", counts.len());
        assert_eq!(counts.values().sum::<u64>(), 1 << 16);
    }
}
