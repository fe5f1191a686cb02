//! When bytes became durable, so that the age of any byte can be told. Plain logic: the clock is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far apart samples are at least, and so by how much an age may be too great.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Samples that are kept. While a log is written all the time that is five minutes of it, in 48 KB.
const MAX_SAMPLES: usize = 3000;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    /// The end before the bytes that came then.
    start: u64,
}

/// A bounded series of when bytes came.
#[derive(Debug)]
pub struct Arrivals(VecDeque<Sample>);

impl Arrivals {
    /// Whatever is there was not there before `now`, as far as anybody can tell.
    pub fn new(now: Instant) -> Self {
        Arrivals(VecDeque::from([Sample { at: now, start: 0 }]))
    }

    /// Bytes from `start` on have come. Called for everything that comes, in order; cheap.
    pub fn note(&mut self, start: u64, now: Instant) {
        if self.0.back().is_some_and(|last| now.saturating_duration_since(last.at) < SAMPLE_EVERY) {
            return;
        }
        if self.0.len() >= MAX_SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(Sample { at: now, start });
    }

    /// How long ago the byte at `offset`, which has come, did so: too long by 100 ms at most. Of a byte that is older than
    /// the series, the age of the series.
    pub fn age(&self, offset: u64, now: Instant) -> Duration {
        let later = self.0.partition_point(|sample| sample.start <= offset);
        let sample = self.0.get(later.saturating_sub(1));
        sample.map_or(Duration::ZERO, |sample| now.saturating_duration_since(sample.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn an_age_is_never_too_small_and_hardly_too_great() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start);
        // A byte every 7 ms, with a pause now and then.
        let mut came = Vec::new();
        let mut now = start + ms(1000);
        for byte in 0..1000 {
            now += if byte % 100 == 99 { ms(5000) } else { ms(7) };
            arrivals.note(byte, now);
            came.push(now);
        }
        for (byte, came) in came.iter().enumerate() {
            let told = arrivals.age(byte as u64, now);
            let age = now - *came;
            assert!(told >= age && told < age + SAMPLE_EVERY, "byte {byte}: {told:?} and not {age:?}");
        }
    }

    #[test]
    fn what_was_there_at_the_beginning_is_as_old_as_the_series() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start);
        arrivals.note(500, start + ms(3000));
        assert_eq!(arrivals.age(0, start + ms(4000)), ms(4000));
        assert_eq!(arrivals.age(499, start + ms(4000)), ms(4000));
        assert_eq!(arrivals.age(500, start + ms(4000)), ms(1000));
    }

    #[test]
    fn the_series_is_bounded_and_forgets_the_oldest() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start);
        let samples = 2 * MAX_SAMPLES as u64;
        for step in 1..=samples {
            arrivals.note(step, start + SAMPLE_EVERY * step as u32);
        }
        assert_eq!(arrivals.0.len(), MAX_SAMPLES);
        let now = start + SAMPLE_EVERY * samples as u32;
        assert_eq!(arrivals.age(samples, now), Duration::ZERO);
        assert_eq!(arrivals.age(0, now), SAMPLE_EVERY * (MAX_SAMPLES as u32 - 1), "as old as what is remembered");
    }
}
