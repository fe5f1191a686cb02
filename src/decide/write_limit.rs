//! The limit on what can be lost: how far the log is behind, and whether writes are refused for it.

use std::time::{Duration, Instant};

use crate::decide::ack_times::AckTimes;
use crate::decide::lag_history::LagHistory;
use crate::decide::throttle::{self, Throttle};
use crate::lag::Lag;

/// How far the log may be behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At this lag writes are refused.
    pub lag: Duration,
    /// At this number of bytes that are not acknowledged, writes are refused.
    pub pending_bytes: u64,
}

/// Whether writes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are taken, and the log is less than half of a limit behind.
    Taken,
    /// They are taken, and a limit may soon be reached, or writers are slowed down so that it is not.
    TakenYet,
    /// They are refused.
    Refused,
}

/// How far the log is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// Age of the oldest write that is not acknowledged; zero if there is none.
    pub lag: Duration,
    /// Bytes that are not acknowledged.
    pub pending_bytes: u64,
}

impl Behind {
    fn reaches(&self, limits: &Limits) -> bool {
        self.lag >= limits.lag || self.pending_bytes >= limits.pending_bytes
    }

    fn is_beyond_half(&self, limits: &Limits) -> bool {
        self.lag > limits.lag / 2 || self.pending_bytes > limits.pending_bytes / 2
    }
}

/// What a judgement changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Writes are taken as before, but whether that may end soon has changed.
    Outlook,
    /// Writes are refused from now on.
    Refusing,
    /// Writes are taken again; they were refused for this long.
    Resumed(Duration),
    /// Replies of writes are held as needed from now on, for the log is slower than its writers.
    Throttling,
    /// They are not held any more; they were for this long.
    Throttled(Duration),
}

/// Follows stream and log, and judges. Main thread only.
pub struct WriteLimit {
    lag: Lag,
    history: LagHistory,
    /// How long acknowledgements took.
    pub ack_times: AckTimes,
    /// How writers are slowed down to the log's pace.
    pub throttle: Throttle,
    /// When the event loop last woke: what was written since ran after this.
    woke_at: Instant,
    /// The end of the stream when the epoch began.
    begin: u64,
    /// The end of the stream when it was last looked at.
    offset: u64,
    /// How far the log was when it was last looked at.
    durable: u64,
    verdict: Verdict,
    /// When writes began to be refused; `None` while they are taken.
    refusing_since: Option<Instant>,
    refusals: u64,
    /// Total time writes were refused, excluding a refusal still in progress.
    refused_for: Duration,
}

impl WriteLimit {
    /// Nothing is written. `now` begins the history.
    pub fn new(now: Instant) -> Self {
        WriteLimit {
            lag: Lag::default(),
            history: LagHistory::new(now),
            ack_times: AckTimes::new(now),
            throttle: Throttle::default(),
            woke_at: now,
            begin: 0,
            offset: 0,
            durable: 0,
            verdict: Verdict::Taken,
            refusing_since: None,
            refusals: 0,
            refused_for: Duration::ZERO,
        }
    }

    /// The event loop wakes.
    #[inline]
    pub fn woke(&mut self, now: Instant) {
        self.woke_at = now;
    }

    /// An epoch begins, with the stream at `offset`: what came before does not count any more.
    pub fn begin(&mut self, now: Instant, offset: u64) {
        self.end(now);
        self.woke_at = now;
        self.begin = offset;
        self.offset = offset;
        self.durable = offset;
    }

    /// The epoch ends: what is not acknowledged does not count any more, and nothing is refused for it.
    pub fn end(&mut self, now: Instant) {
        self.lag.clear();
        self.throttle.forget(now);
        self.resume(now);
        self.verdict = Verdict::Taken;
    }

    /// The end of the stream when it was last looked at.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether there is nothing to judge: the stream still stands at `offset` and was durable when last looked at.
    #[inline]
    pub fn is_idle_at(&self, offset: u64) -> bool {
        offset == self.offset && self.lag.is_empty() && self.verdict == Verdict::Taken
    }

    /// The stream stands at `offset` and the log has acknowledged everything up to `durable`; `None` if it does not hold yet
    /// what the node began its epoch with. Returns how far the log is behind now; the verdict stays until [`WriteLimit::judge`].
    pub fn look(&mut self, now: Instant, offset: u64, durable: Option<u64>) -> Behind {
        let durable = durable.unwrap_or(self.begin);
        if offset > self.offset {
            // From the moment the loop woke, as nobody knows which command of its round wrote this.
            self.lag.written(self.woke_at, offset);
        }
        // The stream of a server that was made a replica in between may be shorter.
        self.offset = offset;
        self.durable = durable;
        self.history.record(now, self.lag.age(now));
        let WriteLimit { lag, ack_times, .. } = self;
        lag.durable(durable, |since| ack_times.note(since, now));
        Behind { lag: self.lag.age(now), pending_bytes: offset.saturating_sub(durable) }
    }

    /// Judges what [`WriteLimit::look`] saw: writes are refused at a limit, and taken again at half of it, so that a log that only
    /// just keeps up does not make them alternate. With `may_throttle`, writers are slowed down before that as needed.
    pub fn judge(&mut self, now: Instant, behind: &Behind, limits: &Limits, may_throttle: bool) -> Change {
        let verdict = match self.verdict {
            Verdict::Refused if behind.is_beyond_half(limits) => Verdict::Refused,
            _ if behind.reaches(limits) => Verdict::Refused,
            _ if behind.is_beyond_half(limits) => Verdict::TakenYet,
            _ => Verdict::Taken,
        };
        let may_throttle = may_throttle && verdict != Verdict::Refused;
        let throttle = self.throttle.judge(now, self.durable, behind, limits, may_throttle);
        let verdict = match verdict {
            Verdict::Taken if self.throttle.is_on() => Verdict::TakenYet,
            verdict => verdict,
        };
        match (throttle, self.set_verdict(now, verdict)) {
            (throttle::Change::Began, Change::None | Change::Outlook) => Change::Throttling,
            (throttle::Change::Ended(time), Change::None | Change::Outlook) => Change::Throttled(time),
            (_, change) => change,
        }
    }

    fn set_verdict(&mut self, now: Instant, verdict: Verdict) -> Change {
        if verdict == self.verdict {
            return Change::None;
        }
        self.verdict = verdict;
        if verdict == Verdict::Refused {
            self.refusals += 1;
            self.refusing_since = Some(now);
            return Change::Refusing;
        }
        self.resume(now).map_or(Change::Outlook, Change::Resumed)
    }

    /// Returns how long writes were refused, if they were.
    fn resume(&mut self, now: Instant) -> Option<Duration> {
        let time = now.saturating_duration_since(self.refusing_since.take()?);
        self.refused_for += time;
        Some(time)
    }

    /// Whether writes are taken.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The window, in bytes, if the reply of a write is to be held that is about to run (see [`Throttle::window`]).
    #[inline]
    pub fn window(&self) -> Option<u64> {
        self.throttle.window(self.offset.saturating_sub(self.durable))
    }

    /// How many times writes began to be refused.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Total time writes were refused.
    pub fn refused_for(&self, now: Instant) -> Duration {
        let current = self.refusing_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.refused_for + current
    }

    /// One-second maxima of the lag. To be asked after [`WriteLimit::look`] at the same moment.
    pub fn history(&self) -> &LagHistory {
        &self.history
    }

    /// Nothing is written; the history goes on.
    pub fn look_idle(&mut self, now: Instant) {
        self.history.record(now, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { lag: Duration::from_millis(1000), pending_bytes: 100 };

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn at(limit: &mut WriteLimit, now: Instant, offset: u64, durable: u64) -> Verdict {
        let behind = limit.look(now, offset, Some(durable));
        limit.judge(now, &behind, &LIMITS, false);
        limit.verdict()
    }

    #[test]
    fn writes_are_refused_at_the_limit_and_taken_again_below_half_of_it() {
        let start = Instant::now();
        let mut limit = WriteLimit::new(start);
        limit.begin(start, 1000);
        limit.woke(start);
        assert_eq!(at(&mut limit, start, 1010, 1000), Verdict::Taken);
        limit.woke(start + ms(800));
        assert_eq!(at(&mut limit, start + ms(800), 1020, 1000), Verdict::TakenYet);
        assert_eq!(at(&mut limit, start + ms(999), 1020, 1000), Verdict::TakenYet);
        assert_eq!(at(&mut limit, start + ms(1000), 1020, 1000), Verdict::Refused);
        // The first write is durable, the second 700 ms old.
        assert_eq!(at(&mut limit, start + ms(1500), 1020, 1010), Verdict::Refused, "not below half yet");
        assert_eq!(at(&mut limit, start + ms(1600), 1020, 1020), Verdict::Taken);
        assert_eq!((limit.refusals(), limit.refused_for(start + ms(9000))), (1, ms(600)));
    }

    #[test]
    fn a_write_counts_from_the_moment_the_loop_woke_for_it() {
        let start = Instant::now();
        let mut limit = WriteLimit::new(start);
        limit.begin(start, 0);
        limit.woke(start + ms(100));
        // The round took 300 ms.
        assert_eq!(limit.look(start + ms(400), 10, Some(0)).lag, ms(300));
    }

    #[test]
    fn bytes_have_a_limit_of_their_own() {
        let start = Instant::now();
        let mut limit = WriteLimit::new(start);
        limit.begin(start, 0);
        assert_eq!(at(&mut limit, start, 51, 0), Verdict::TakenYet);
        assert_eq!(at(&mut limit, start, 100, 0), Verdict::Refused);
        assert_eq!(at(&mut limit, start, 100, 49), Verdict::Refused);
        assert_eq!(at(&mut limit, start, 100, 50), Verdict::Taken);
    }

    #[test]
    fn writers_are_slowed_down_only_while_writes_are_taken() {
        let start = Instant::now();
        let mut limit = WriteLimit::new(start);
        limit.begin(start, 0);
        limit.woke(start);
        let mut at = |later_ms, durable, may_throttle| {
            let now = start + ms(later_ms);
            let behind = limit.look(now, 60, Some(durable));
            (limit.judge(now, &behind, &LIMITS, may_throttle), limit.verdict(), limit.window())
        };
        assert_eq!(at(1, 0, false), (Change::Outlook, Verdict::TakenYet, None));
        assert_eq!(at(2, 0, true), (Change::Throttling, Verdict::TakenYet, Some(50)));
        assert_eq!(at(3, 20, true), (Change::None, Verdict::TakenYet, None), "below half, but it goes on");
        assert_eq!(at(4, 0, true), (Change::None, Verdict::TakenYet, Some(50)));
        assert_eq!(at(1000, 0, true), (Change::Refusing, Verdict::Refused, None), "whoever was held is let go");
        assert_eq!(at(1001, 0, true), (Change::None, Verdict::Refused, None));
        assert_eq!(at(1100, 60, true), (Change::Resumed(ms(100)), Verdict::Taken, None));
        assert_eq!((limit.throttle.count(), limit.throttle.time(start + ms(1100))), (1, ms(998)));
    }

    #[test]
    fn while_the_log_is_seeded_only_what_was_written_since_counts() {
        let start = Instant::now();
        let mut limit = WriteLimit::new(start);
        limit.begin(start, 1_000_000);
        assert_eq!(limit.look(start, 1_000_000, None), Behind { lag: ms(0), pending_bytes: 0 });
        assert_eq!(limit.look(start + ms(7), 1_000_020, None), Behind { lag: ms(7), pending_bytes: 20 });
    }

    #[test]
    fn a_new_term_refuses_nothing_for_the_old_one() {
        let start = Instant::now();
        let mut limit = WriteLimit::new(start);
        limit.begin(start, 0);
        at(&mut limit, start, 200, 0);
        assert_eq!(limit.verdict(), Verdict::Refused);
        limit.end(start + ms(50));
        assert_eq!((limit.verdict(), limit.refused_for(start + ms(90))), (Verdict::Taken, ms(50)));
        limit.begin(start + ms(60), 500);
        assert!(limit.is_idle_at(500));
    }
}
