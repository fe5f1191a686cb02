//! How long things took, counted in buckets that are always the same, so that figures of several services can be added up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds, inclusive. What took longer is counted in one more.
pub const BOUNDS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// A histogram of times. Any thread adds to it, by two additions that wait for nothing.
#[derive(Debug)]
pub struct Latency {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    total_us: AtomicU64,
}

/// What a [`Latency`] holds at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatencyCounts {
    /// How many took at most as long as each of [`BOUNDS_US`] and longer than the bound before; last, those that took longer than all.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// The sum of all, in microseconds.
    pub total_us: u64,
}

impl Latency {
    /// Nothing is counted yet.
    pub const fn new() -> Self {
        Latency { counts: [const { AtomicU64::new(0) }; BOUNDS_US.len() + 1], total_us: AtomicU64::new(0) }
    }

    /// One more took `time`.
    pub fn note(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.total_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was counted so far. What is added meanwhile may be in it in part.
    pub fn counts(&self) -> LatencyCounts {
        let counts = std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed));
        LatencyCounts { counts, total_us: self.total_us.load(Ordering::Relaxed) }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Latency::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_the_first_bucket_whose_bound_it_does_not_pass() {
        let latency = Latency::new();
        for us in [0, 50, 51, 1_000, 1_001, 10_000_000, 10_000_001] {
            latency.note(Duration::from_micros(us));
        }
        let LatencyCounts { counts, total_us } = latency.counts();
        let expected = [2, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
        assert_eq!((counts, total_us), (expected, 20_002_103));
    }
}
