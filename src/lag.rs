//! The durability lag: the age of the oldest write that the log has not acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many samples are kept apart, however close they are: a log that keeps up with its writers has fewer.
const FINE_SAMPLES: usize = 512;
/// Beyond that, writes within this time of each other share a sample. The lag is never shown too small, and too large by at most this much.
const RESOLUTION: Duration = Duration::from_millis(10);

/// When the writes that are not durable happened. Main thread only.
///
/// It counts from the moment a write ran in the server, so it includes writes that nothing has shipped yet.
#[derive(Default)]
pub struct Lag {
    /// (when the first write of the sample ran, offset after its last write); both ascending.
    samples: VecDeque<(Instant, u64)>,
}

impl Lag {
    /// The replication stream stands at `offset` now.
    pub fn written(&mut self, now: Instant, offset: u64) {
        let is_coarse = self.samples.len() >= FINE_SAMPLES;
        match self.samples.back_mut() {
            Some((_, newest)) if *newest >= offset => {}
            Some((since, newest)) if is_coarse && now.duration_since(*since) < RESOLUTION => *newest = offset,
            _ => self.samples.push_back((now, offset)),
        }
    }

    /// The log has acknowledged everything up to `offset`. Tells `acknowledged`, of each sample that is durable now, when its first write ran.
    pub fn durable(&mut self, offset: u64, mut acknowledged: impl FnMut(Instant)) {
        while let Some((since, _)) = self.samples.front().filter(|(_, end)| *end <= offset) {
            acknowledged(*since);
            self.samples.pop_front();
        }
    }

    /// The age of the oldest write that is not durable; zero if there is none.
    pub fn age(&self, now: Instant) -> Duration {
        self.samples.front().map_or(Duration::ZERO, |(since, _)| now.duration_since(*since))
    }

    /// Whether every write is durable.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Forgets everything, as when the log starts anew from a snapshot.
    pub fn clear(&mut self) {
        self.samples.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn durable(lag: &mut Lag, offset: u64) {
        lag.durable(offset, |_| {});
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_write_that_is_not_durable() {
        let (start, mut lag) = (Instant::now(), Lag::default());
        assert_eq!(lag.age(start), Duration::ZERO);
        lag.written(start, 100);
        lag.written(start + ms(50), 200);
        assert_eq!(lag.age(start + ms(80)), ms(80));
        durable(&mut lag, 100);
        assert_eq!(lag.age(start + ms(80)), ms(30));
        durable(&mut lag, 200);
        assert!(lag.is_empty());
    }

    #[test]
    fn a_sample_that_is_partly_durable_still_counts_from_its_first_write() {
        let (start, mut lag) = (Instant::now(), Lag::default());
        let end = FINE_SAMPLES as u64;
        (1..=end).for_each(|n| lag.written(start, n));
        // There are many, so this shares the last one.
        lag.written(start + ms(9), end + 100);
        durable(&mut lag, end + 50);
        assert_eq!(lag.age(start + ms(20)), ms(20));
        // There are few again.
        lag.written(start + ms(10), end + 200);
        lag.written(start + ms(11), end + 300);
        durable(&mut lag, end + 250);
        assert_eq!(lag.age(start + ms(20)), ms(9));
    }

    #[test]
    fn each_sample_that_becomes_durable_is_told_once() {
        let (start, mut lag) = (Instant::now(), Lag::default());
        for n in 1..=3 {
            lag.written(start + ms(n), n * 100);
        }
        let mut told = Vec::new();
        for offset in [150, 299, 300, 300] {
            lag.durable(offset, |since| told.push((offset, since)));
        }
        assert_eq!(told, [(150, start + ms(1)), (299, start + ms(2)), (300, start + ms(3))]);
    }

    #[test]
    fn a_stream_that_stands_still_adds_no_sample() {
        let (start, mut lag) = (Instant::now(), Lag::default());
        lag.written(start, 100);
        for n in 0..1000 {
            lag.written(start + ms(n * 20), 100);
        }
        assert_eq!(lag.samples.len(), 1);
    }

    #[test]
    fn samples_are_bounded_by_time_not_by_writes() {
        let (start, mut lag) = (Instant::now(), Lag::default());
        for n in 0..100_000 {
            lag.written(start + Duration::from_micros(n * 100), n + 1);
        }
        assert!(lag.samples.len() <= 1001 + FINE_SAMPLES, "{}", lag.samples.len());
    }
}
