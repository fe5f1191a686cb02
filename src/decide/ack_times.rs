//! How long the log takes to acknowledge what was written, as the main thread sees it: from the moment the event loop woke for a group of
//! writes to the moment it found them durable. Main thread only.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The longest time that is told apart; longer ones count as this.
const LONGEST_US: u64 = 600_000_000;
/// Two figures of a time count: it is shown too long by a hundredth at most.
const FIGURES: u8 = 2;
/// The last minute consists of parts that are forgotten as wholes.
const PART: Duration = Duration::from_secs(10);
const PARTS_OF_A_MINUTE: u64 = 6;

/// What was counted in some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acks {
    /// How many groups of writes were acknowledged.
    pub count: u64,
    /// The median of their times in microseconds; 0 without any.
    pub p50_us: u64,
    /// The time that 99 % of them took at most.
    pub p99_us: u64,
    /// The longest time.
    pub max_us: u64,
}

/// The times since the module was loaded, and those of the last minute.
pub struct AckTimes {
    begun: Instant,
    ever: Histogram<u64>,
    /// The parts of the last minute, and the one that has begun, each at its number modulo their number.
    parts: [Part; PARTS_OF_A_MINUTE as usize + 1],
    longest: Option<Duration>,
}

/// The times of one [`PART`].
struct Part {
    number: u64,
    times: Histogram<u64>,
}

impl AckTimes {
    /// Nothing is acknowledged yet. `now` begins the first part.
    pub fn new(now: Instant) -> Self {
        let parts = std::array::from_fn(|_| Part { number: 0, times: histogram() });
        AckTimes { begun: now, ever: histogram(), parts, longest: None }
    }

    /// At `now`, what was written at `since` is found durable.
    pub fn note(&mut self, since: Instant, now: Instant) {
        let time = now.saturating_duration_since(since);
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        let number = self.part(now);
        let part = &mut self.parts[(number % (PARTS_OF_A_MINUTE + 1)) as usize];
        if part.number != number {
            part.number = number;
            part.times.reset();
        }
        part.times.saturating_record(us);
        self.ever.saturating_record(us);
        self.longest = self.longest.max(Some(time));
    }

    /// The longest time since this was last asked; none if there was none.
    #[inline]
    pub fn take_longest(&mut self) -> Option<Duration> {
        self.longest.take()
    }

    /// All since the module was loaded.
    pub fn ever(&self) -> Acks {
        acks(&self.ever)
    }

    /// Those of the last minute, and of up to ten seconds before it.
    pub fn last_minute(&self, now: Instant) -> Acks {
        let number = self.part(now);
        let mut times = histogram();
        for part in self.parts.iter().filter(|part| part.number + PARTS_OF_A_MINUTE >= number) {
            // All have the same bounds.
            times.add(&part.times).expect("bounds are the same");
        }
        acks(&times)
    }

    fn part(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_secs() / PART.as_secs()
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, FIGURES).expect("bounds are valid")
}

fn acks(times: &Histogram<u64>) -> Acks {
    let count = times.len();
    if count == 0 {
        return Acks::default();
    }
    let at = |quantile| times.value_at_quantile(quantile);
    Acks { count, p50_us: at(0.5), p99_us: at(0.99), max_us: times.max() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    fn near(shown: u64, time: u64) -> bool {
        shown >= time && shown <= time + time / 100 + 1
    }

    #[test]
    fn percentiles_are_those_of_the_times_within_a_hundredth() {
        let start = Instant::now();
        let mut times = AckTimes::new(start);
        assert_eq!((times.ever(), times.last_minute(start)), (Acks::default(), Acks::default()));
        for time in 1..=1000 {
            times.note(start, start + us(time));
        }
        let Acks { count, p50_us, p99_us, max_us } = times.ever();
        assert_eq!(times.last_minute(start), times.ever());
        assert!(count == 1000 && near(p50_us, 500) && near(p99_us, 990) && near(max_us, 1000), "{:?}", times.ever());
    }

    #[test]
    fn a_time_is_forgotten_after_a_minute_and_ten_seconds_at_most_but_not_for_good() {
        let start = Instant::now();
        let seconds = Duration::from_secs;
        // Whenever in a part of the minute it came.
        for begin in 0..25 {
            let came = start + seconds(begin);
            let mut times = AckTimes::new(start);
            times.note(came, came + us(700));
            for later in 0..=60 {
                assert_eq!(times.last_minute(came + seconds(later)).count, 1, "{begin} {later}");
            }
            for later in 70..200 {
                assert_eq!(times.last_minute(came + seconds(later)).count, 0, "{begin} {later}");
            }
            times.note(came + seconds(200), came + seconds(200) + us(5));
            assert_eq!(times.last_minute(came + seconds(200)).count, 1, "the place of an old part is used again");
            assert_eq!(times.ever().count, 2);
        }
    }

    #[test]
    fn the_longest_time_is_told_once() {
        let start = Instant::now();
        let mut times = AckTimes::new(start);
        assert_eq!(times.take_longest(), None);
        for time in [5, 90, 7] {
            times.note(start, start + us(time));
        }
        assert_eq!((times.take_longest(), times.take_longest()), (Some(us(90)), None));
    }

    #[test]
    fn a_time_beyond_all_bounds_counts_as_the_longest() {
        let start = Instant::now();
        let mut times = AckTimes::new(start);
        times.note(start, start + Duration::from_secs(86_400));
        times.note(start, start);
        assert!(near(times.ever().max_us, LONGEST_US), "{:?}", times.ever());
        assert_eq!(times.ever().count, 2);
    }
}
