//! How long the module's threads may wait for the log: each until a time of its own, and not beyond the time that the node has left
//! once it is told to end. So what waits does so in short steps, and looks between them.

use std::io::{Error, ErrorKind, Result};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Nothing waits longer than this without looking whether the node is told to end.
const STEP: Duration = Duration::from_millis(50);

/// So long before the node ends it is given up to wait for what decides what is left to do.
const TIME_AFTER: Duration = Duration::from_millis(300);

/// By when a node that is told to end, or to have no log any more, has done what is left to do. Any thread.
#[derive(Debug, Default)]
pub struct EndTime(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    stop: Option<Instant>,
    leave: Option<Instant>,
}

impl EndTime {
    /// The module ends, at `at` at the latest. That is for good.
    pub fn stop(&self, at: Instant) {
        let mut times = self.lock();
        times.stop = Some(times.stop.map_or(at, |before| before.min(at)));
    }

    /// The node is to have no log from `at` on at the latest; none: it may have one again.
    pub fn leave(&self, at: Option<Instant>) {
        self.lock().leave = at;
    }

    /// When the node ends, or leaves its log; none if it is not to.
    pub fn get(&self) -> Option<Instant> {
        let Times { stop, leave } = *self.lock();
        [stop, leave].into_iter().flatten().min()
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What becomes of something that waits when the node is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// It breaks off.
    BreaksOff,
    /// It is among what is left to do, and may go on for as long as the node may.
    GoesOn,
    /// What it comes to decides what is left to do: it goes on, but for the time that this takes.
    Settles,
}

/// Until when something may take that waits for the log, however many steps it has.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimit<'a> {
    until: Instant,
    at_end: AtEnd,
    end: &'a EndTime,
}

impl<'a> TimeLimit<'a> {
    /// From now on for `time`.
    pub fn within(time: Duration, at_end: AtEnd, end: &'a EndTime) -> Self {
        TimeLimit { until: Instant::now() + time, at_end, end }
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        let until = match (self.end.get(), self.at_end) {
            (None, _) => self.until,
            (Some(end), AtEnd::GoesOn) => end.min(self.until),
            (Some(end), AtEnd::Settles) => (end.checked_sub(TIME_AFTER).unwrap_or(end)).min(self.until),
            (Some(_), AtEnd::BreaksOff) => return Duration::ZERO,
        };
        until.saturating_duration_since(Instant::now())
    }

    /// As this one, but for no more than one of `parts` equal parts of what is left: other things are to be done within it as well.
    #[must_use]
    pub fn part(&self, parts: u32) -> Self {
        TimeLimit { until: Instant::now() + self.left() / parts.max(1), ..*self }
    }

    /// As this one, but for no more than `time` from now on.
    #[must_use]
    pub fn at_most(&self, time: Duration) -> Self {
        TimeLimit { until: self.until.min(Instant::now() + time), ..*self }
    }

    /// For so long something may wait before it asks again. More than zero.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn next_step(&self) -> Result<Duration> {
        match self.left() {
            Duration::ZERO if self.end.get().is_some() => {
                Err(Error::new(ErrorKind::TimedOut, "no answer before this node ended or left its log"))
            }
            Duration::ZERO => Err(Error::new(ErrorKind::TimedOut, "no answer in time")),
            left => Ok(left.min(STEP)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn nothing_waits_beyond_the_time_at_which_the_node_ends() {
        let end = EndTime::default();
        let [work, last, settles] =
            [AtEnd::BreaksOff, AtEnd::GoesOn, AtEnd::Settles].map(|at_end| TimeLimit::within(HOUR, at_end, &end));
        for limit in [work, last, settles] {
            assert!(limit.left() > HOUR / 2 && limit.next_step().unwrap() == STEP);
            assert!(limit.part(4).left() <= HOUR / 4);
            assert!(limit.at_most(HOUR / 4).left() <= HOUR / 4 && limit.at_most(2 * HOUR).left() <= HOUR);
        }
        end.leave(Some(Instant::now() + HOUR / 2));
        assert_eq!(work.left(), Duration::ZERO, "it was told while something waited");
        assert_eq!(work.next_step().unwrap_err().kind(), ErrorKind::TimedOut);
        assert!((HOUR / 4..=HOUR / 2).contains(&last.left()));
        assert!((HOUR / 4..=HOUR / 2 - TIME_AFTER).contains(&settles.left()));
        end.stop(Instant::now());
        assert_eq!(
            (last.left(), last.part(1).left(), settles.left()),
            (Duration::ZERO, Duration::ZERO, Duration::ZERO)
        );
        end.leave(None);
        end.stop(Instant::now() + HOUR);
        assert_eq!(last.left(), Duration::ZERO, "a module that ends does so for good");
    }
}
