//! How long calls took: fixed buckets, the same for every plugin, so that those of all workers can be added up.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The upper ends of the buckets as the text names them, with their time in microseconds. A last one has no end.
pub const BUCKETS: [(&str, u64); 13] = [
    ("0.001", 1_000),
    ("0.0025", 2_500),
    ("0.005", 5_000),
    ("0.01", 10_000),
    ("0.025", 25_000),
    ("0.05", 50_000),
    ("0.1", 100_000),
    ("0.25", 250_000),
    ("0.5", 500_000),
    ("1", 1_000_000),
    ("2.5", 2_500_000),
    ("5", 5_000_000),
    ("10", 10_000_000),
];

/// Counters of times.
pub struct Histogram {
    /// Each time is in one bucket here; the text adds them up from the smallest on.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_nanoseconds: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU64::new(0)), sum_nanoseconds: AtomicU64::new(0) }
    }
}

/// What a histogram has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    buckets: [u64; BUCKETS.len() + 1],
    sum_nanoseconds: u64,
}

impl Histogram {
    pub fn observe(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // "Up to and including": a time of exactly a bucket's end is in it.
        let bucket = BUCKETS.iter().position(|(_, end)| nanoseconds <= end * 1_000).unwrap_or(BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub fn times(&self) -> Times {
        Times {
            buckets: array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed)),
            sum_nanoseconds: self.sum_nanoseconds.load(Ordering::Relaxed),
        }
    }
}

impl Times {
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_nanoseconds = self.sum_nanoseconds.saturating_add(other.sum_nanoseconds);
    }

    /// Each bucket's end with the number of times up to it; the last is the number of all.
    pub fn cumulative(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let ends = BUCKETS.iter().map(|(end, _)| *end).chain(["+Inf"]);
        let counts = self.buckets.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        ends.zip(counts)
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_nanoseconds as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_every_bucket_that_reaches_it() {
        let histogram = Histogram::default();
        for microseconds in [0, 1_000, 1_001, 30_000, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(microseconds));
        }
        let times = histogram.times();
        let counts: Vec<u64> = times.cumulative().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5, 6]);
        assert_eq!(times.cumulative().last(), Some(("+Inf", 6)));
        assert_eq!(times.count(), 6);
        assert!((times.sum_seconds() - 20.032_002).abs() < 1e-9, "{}", times.sum_seconds());
    }

    #[test]
    fn the_names_of_the_buckets_are_their_times() {
        for (name, microseconds) in BUCKETS {
            let seconds: f64 = name.parse().expect("a number");
            assert!((seconds * 1e6 - microseconds as f64).abs() < 1e-6, "{name}");
        }
    }

    #[test]
    fn times_of_two_workers_are_added() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(2));
        let mut sum = histogram.times();
        sum.add(&histogram.times());
        assert_eq!((sum.count(), sum.sum_seconds()), (2, 0.004));
    }
}
