//! Slows writers down to the log's pace before writes have to be refused: when replies of writes are held, and until when. Plain logic that is
//! given the time.
//!
//! The lag shows too late that the log is slower than its writers. A log at a third of their pace is 5 s behind after 7.5 s, and what it lacks by
//! then takes it 15 s more. So this goes by the *expected lag*: how long the log takes, at its pace, for all that it lacks. From half of the
//! limit on, each reply of a write is held until the log lacks no more of what was written up to that write than it takes in half of the limit
//! (the *window*). Acknowledgements release replies, so clients that wait for their replies write as fast as the log acknowledges. No reply waits
//! for longer than the limit: the lag is at least as old as the wait, and at the limit holding ends.
//!
//! A log that stops is no slow log: to hold replies would not make its lag less, so none are held for it that were not before. Half of the limit
//! on bytes is another matter. Who is held adds none, so replies are held from there on whatever the log does.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::decide::write_limit::{Behind, Limits};

/// The pace is measured over this part of the limit.
const SPANS_IN_LIMIT: u32 = 8;
/// It is measured over no less time: acknowledgements come in batches.
const SHORTEST_SPAN: Duration = Duration::from_millis(100);
/// So many places in a span are kept from which the pace is measured.
const MARKS: u32 = 8;
/// No less are kept, of a log that answers seldom.
const LEAST_MARKS: usize = 4;
/// Below this part of the limit nothing is held, whatever is expected: the log takes a burst in its stride.
const LEAST_LAG: u32 = 16;

/// How fast the log acknowledges while it lacks something.
#[derive(Default)]
struct Pace {
    /// Moments at which the log acknowledged something, and how far it was then, both ascending. As a rule they go back by a span.
    marks: VecDeque<(Instant, u64)>,
    /// The last acknowledgement.
    last: Option<(Instant, u64)>,
    /// What the log acknowledged, in bytes, and how long that took, when it was last possible to tell.
    measured: Option<(u64, Duration)>,
    /// From then on what was measured is too old to begin anything for it: the log has stopped, or answers seldom.
    fresh_until: Option<Instant>,
}

impl Pace {
    fn note(&mut self, now: Instant, durable: u64, span: Duration) {
        if self.last.is_some_and(|(_, newest)| durable <= newest) {
            return;
        }
        self.last = Some((now, durable));
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= span / MARKS) {
            self.marks.push_back((now, durable));
        }
        while self.marks.len() > LEAST_MARKS && now.duration_since(self.marks[1].0) >= span {
            self.marks.pop_front();
        }
    }

    /// Measures up to the last acknowledgement. After a stop of the log, which says nothing about its pace, that is not possible before the stop
    /// is a span ago.
    fn measure(&mut self, span: Duration) {
        let (Some((since, from)), Some((at, durable))) = (self.marks.front(), self.last) else { return };
        let (time, bytes) = (at.duration_since(*since), durable - from);
        let moments = self.marks.iter().map(|(moment, _)| *moment).chain([at]);
        let gaps = moments.clone().skip(1).zip(moments).map(|(next, moment)| next.duration_since(moment));
        let longest = gaps.max().unwrap_or_default();
        if bytes > 0 && time >= (span / 4).max(longest * 2) {
            self.measured = Some((bytes, time));
            self.fresh_until = Some(at + span.max(longest * 2));
        } else {
            self.fresh_until = None;
        }
    }

    /// Keeps the memory: with few writes this happens after each.
    fn forget(&mut self) {
        self.marks.clear();
        (self.last, self.measured, self.fresh_until) = (None, None, None);
    }

    /// How long the log takes for that many bytes, if it is still known.
    fn time_for(&self, bytes: u64, now: Instant) -> Option<Duration> {
        let (measured, time) = self.measured.filter(|_| self.fresh_until.is_some_and(|until| now <= until))?;
        let nanoseconds = u128::from(bytes) * time.as_nanos() / u128::from(measured);
        Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }

    /// How many bytes the log took in such a time when it was last known.
    fn bytes_in(&self, time: Duration) -> Option<u64> {
        let (bytes, measured) = self.measured?;
        let bytes = u128::from(bytes) * time.as_nanos() / measured.as_nanos();
        Some(u64::try_from(bytes).unwrap_or(u64::MAX))
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
        let Behind { lag, pending_bytes } = *behind;
        let span = (limits.lag / SPANS_IN_LIMIT).max(SHORTEST_SPAN);
        if pending_bytes == 0 || !is_allowed {
            self.pace.forget();
        } else {
            self.pace.note(now, durable, span);
        }
        let is_many = pending_bytes > limits.pending_bytes / 2;
        if self.since.is_none() && !is_many && lag < limits.lag / LEAST_LAG {
            return Change::None;
        }
        self.pace.measure(span);
        let expected = self.pace.time_for(pending_bytes, now);
        self.window_bytes = self.pace.bytes_in(limits.lag / 2).unwrap_or(u64::MAX).min(limits.pending_bytes / 2);
        let goes_on = match self.since {
            Some(_) => expected.unwrap_or(lag).max(lag) >= limits.lag / 4 || pending_bytes >= limits.pending_bytes / 4,
            None => is_many || expected.is_some_and(|expected| expected > limits.lag / 2),
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

    /// How long the log will take for all that it lacks, at its pace of late; never less than it is behind.
    pub fn expected_lag(&self, now: Instant, behind: &Behind) -> Duration {
        self.pace.time_for(behind.pending_bytes, now).map_or(behind.lag, |expected| expected.max(behind.lag))
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
