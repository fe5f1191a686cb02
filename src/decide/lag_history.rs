//! The greatest lag of each of the last ten minutes' seconds.

use std::time::{Duration, Instant};

/// Seconds that are kept.
pub const SECONDS: usize = 600;

/// A ring of one-second maxima. Main thread only.
pub struct LagHistory {
    start: Instant,
    /// The newest second that has a value, counted from `start`.
    newest: u64,
    /// In milliseconds, by second modulo their number. Those beyond `newest` are of older seconds.
    maxima_ms: Box<[u32; SECONDS]>,
}

impl LagHistory {
    /// The first second begins at `start`.
    pub fn new(start: Instant) -> Self {
        LagHistory { start, newest: 0, maxima_ms: Box::new([0; SECONDS]) }
    }

    /// The lag is `lag` now. If nothing was recorded for some seconds it has grown all the while, or there was none.
    pub fn record(&mut self, now: Instant, lag: Duration) {
        let since_start = now.saturating_duration_since(self.start);
        let second = since_start.as_secs();
        let first = (self.newest + 1).max(second.saturating_sub(SECONDS as u64 - 1));
        if second > self.newest {
            // What the last second with a value came to in the end.
            self.raise(self.newest, lag.saturating_sub(since_start - Duration::from_secs(self.newest + 1)));
        }
        for later in first..=second {
            let end = Duration::from_secs(later + 1).min(since_start);
            self.maxima_ms[later as usize % SECONDS] = 0;
            self.raise(later, lag.saturating_sub(since_start - end));
        }
        self.newest = self.newest.max(second);
        self.raise(second, lag);
    }

    fn raise(&mut self, second: u64, lag: Duration) {
        let value = &mut self.maxima_ms[second as usize % SECONDS];
        *value = (*value).max(u32::try_from(lag.as_millis()).unwrap_or(u32::MAX));
    }

    /// The maxima in milliseconds with the age of their second in seconds, oldest first. The last has the age 0: it is the
    /// second that is not over yet. To be asked after [`LagHistory::record`] at the same moment.
    pub fn maxima(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let oldest = self.newest.saturating_sub(SECONDS as u64 - 1);
        (oldest..=self.newest).map(|second| (self.newest - second, self.maxima_ms[second as usize % SECONDS]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn values(history: &LagHistory) -> Vec<u32> {
        history.maxima().map(|(_, lag_ms)| lag_ms).collect()
    }

    #[test]
    fn each_second_shows_its_greatest_lag() {
        let start = Instant::now();
        let mut history = LagHistory::new(start);
        history.record(start + ms(100), ms(5));
        history.record(start + ms(200), ms(3));
        history.record(start + ms(1100), ms(0));
        history.record(start + ms(1900), ms(70));
        history.record(start + ms(1950), ms(0));
        assert_eq!(values(&history), [5, 70]);
    }

    #[test]
    fn seconds_in_which_nobody_looked_show_what_the_lag_was_at_their_end() {
        let start = Instant::now();
        let mut history = LagHistory::new(start);
        history.record(start + ms(500), ms(0));
        // Written at 0.7 s; the main thread was busy until 3.2 s.
        history.record(start + ms(3200), ms(2500));
        assert_eq!(values(&history), [300, 1300, 2300, 2500]);
    }

    #[test]
    fn seconds_without_lag_show_none() {
        let start = Instant::now();
        let mut history = LagHistory::new(start);
        history.record(start + ms(500), ms(40));
        history.record(start + ms(4900), ms(0));
        assert_eq!(values(&history), [40, 0, 0, 0, 0]);
    }

    #[test]
    fn ten_minutes_are_kept() {
        let start = Instant::now();
        let mut history = LagHistory::new(start);
        for second in 0..1000 {
            history.record(start + ms(second * 1000 + 1), ms(second));
        }
        let all: Vec<_> = history.maxima().collect();
        assert_eq!(all.len(), SECONDS);
        assert_eq!((all[0], all[SECONDS - 1]), ((599, 400), (0, 999)));
        history.record(start + ms(5_000_000), ms(0));
        assert!(values(&history).iter().all(|lag_ms| *lag_ms == 0));
    }
}
