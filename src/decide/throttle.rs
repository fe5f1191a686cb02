//! Slows writers down to the log's pace before writes have to be refused: when replies of writes are held, and until when. Plain logic that is
//! given the time.
//!
//! The lag shows too late that the log is slower than its writers. A log at a third of their pace is 5 s behind after 7.5 s, and what it lacks by
//! then takes it 15 s more. So this goes by the *expected lag*: how long the log takes, at its pace, for all that it lacks. From half of the
//! limit on, each reply of a write is held until the log lacks no more of what was written up to that write than it takes in half of the limit
//! (the *window*). Acknowledgements release replies, so clients that wait for their replies write as fast as the log acknowledges. No reply waits
//! for longer than the limit: the lag is at least as old as the wait, and at the limit holding ends.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::decide::write_limit::{Behind, Limits};

/// The pace is measured over this part of the limit.
const SPANS_IN_LIMIT: u32 = 8;
/// It is measured over no less time: acknowledgements come in batches.
const SHORTEST_SPAN: Duration = Duration::from_millis(100);
/// So many places in a span are kept from which the pace is measured.
const MARKS: u32 = 8;
/// Below this part of the limit nothing is held, whatever is expected: the log takes a burst in its stride.
const LEAST_LAG: u32 = 16;

/// How fast the log acknowledges while it lacks something.
#[derive(Default)]
struct Pace {
    /// Moments and how far the log was, both ascending. The first is at least a span older than the last acknowledgement, if any is.
    marks: VecDeque<(Instant, u64)>,
    /// The last acknowledgement.
    last: Option<(Instant, u64)>,
}

impl Pace {
    fn note(&mut self, now: Instant, durable: u64, span: Duration) {
        match self.last {
            Some((_, newest)) if durable <= newest => return,
            // It stood still. That says nothing about how fast it is now.
            Some((at, _)) if now.duration_since(at) > span => self.marks.clear(),
            _ => {}
        }
        self.last = Some((now, durable));
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= span / MARKS) {
            self.marks.push_back((now, durable));
        }
        while self.marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= span) {
            self.marks.pop_front();
        }
    }

    /// What the log acknowledged, in bytes, and how long that took. `None` if it was too short a time to tell.
    fn measured(&self, span: Duration) -> Option<(u64, Duration)> {
        let (from, to) = (self.marks.front()?, self.last?);
        let (bytes, time) = (to.1 - from.1, to.0.duration_since(from.0));
        (time >= span / 4 && bytes > 0).then_some((bytes, time))
    }

    fn forget(&mut self) {
        self.marks.clear();
        self.last = None;
    }
}

/// What a judgement changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Replies of writes are held from now on as needed.
    Began,
    /// They are not held any more; they were, as needed, for this long.
    Ended(Duration),
}

/// Follows the log's pace, and judges. Main thread only.
#[derive(Default)]
pub struct Throttle {
    pace: Pace,
    expected_lag: Duration,
    /// Bytes that the log may lack when a reply leaves.
    window_bytes: u64,
    /// Since when replies are held as needed; `None` while none is.
    since: Option<Instant>,
    count: u64,
    /// Total time, excluding a throttle still in progress.
    time: Duration,
    /// How many writes had their replies held.
    pub writes: u64,
}

impl Throttle {
    /// The log has acknowledged everything up to `durable`, and is that far behind. With `is_allowed`, replies of writes may be held.
    pub fn judge(&mut self, now: Instant, durable: u64, behind: &Behind, limits: &Limits, is_allowed: bool) -> Change {
        if behind.pending_bytes == 0 {
            self.pace.forget();
        } else {
            let span = (limits.lag / SPANS_IN_LIMIT).max(SHORTEST_SPAN);
            self.pace.note(now, durable, span);
            self.learn(behind, limits, self.pace.measured(span));
        }
        let Behind { lag, pending_bytes } = *behind;
        let expected = self.expected_lag(behind);
        let goes_on = match self.since {
            Some(_) => expected >= limits.lag / 4 || pending_bytes >= limits.pending_bytes / 4,
            None => {
                let is_far = expected > limits.lag / 2 && lag >= limits.lag / LEAST_LAG;
                is_far || pending_bytes > limits.pending_bytes / 2
            }
        };
        match (goes_on && is_allowed, self.since) {
            (true, None) => {
                self.since = Some(now);
                self.count += 1;
                Change::Began
            }
            (false, Some(_)) => self.end(now).map_or(Change::None, Change::Ended),
            _ => Change::None,
        }
    }

    /// What was measured, if anything was. What was known before stays otherwise.
    fn learn(&mut self, behind: &Behind, limits: &Limits, measured: Option<(u64, Duration)>) {
        let Some((bytes, time)) = measured else {
            self.expected_lag = behind.lag;
            return;
        };
        let (bytes, nanoseconds) = (u128::from(bytes), time.as_nanos());
        let expected = u128::from(behind.pending_bytes) * nanoseconds / bytes;
        self.expected_lag = Duration::from_nanos(u64::try_from(expected).unwrap_or(u64::MAX));
        let window = bytes * (limits.lag / 2).as_nanos() / nanoseconds;
        self.window_bytes = u64::try_from(window).unwrap_or(u64::MAX).min(limits.pending_bytes / 2);
    }

    /// How long the log will take for all that it lacks, at its pace of late; never less than it is behind.
    pub fn expected_lag(&self, behind: &Behind) -> Duration {
        match behind.pending_bytes {
            0 => Duration::ZERO,
            _ => self.expected_lag.max(behind.lag),
        }
    }

    /// Whether replies of writes are held as needed.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// The window, in bytes, if the reply of a write is to be held that is about to run. The log lacks `pending_bytes` before it.
    #[inline]
    pub fn window(&self, pending_bytes: u64) -> Option<u64> {
        (self.is_on() && pending_bytes > self.window_bytes).then_some(self.window_bytes)
    }

    /// No reply is held any more. Returns how long replies were held as needed, if they were.
    pub fn end(&mut self, now: Instant) -> Option<Duration> {
        let time = now.saturating_duration_since(self.since.take()?);
        self.time += time;
        Some(time)
    }

    /// The epoch ends: nothing is known of the log's pace, and no reply is held.
    pub fn forget(&mut self, now: Instant) {
        self.end(now);
        self.pace.forget();
        (self.expected_lag, self.window_bytes) = (Duration::ZERO, 0);
    }

    /// How many times it began.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Total time in which replies were held as needed.
    pub fn time(&self, now: Instant) -> Duration {
        self.time + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
#[path = "throttle_tests.rs"]
mod tests;
