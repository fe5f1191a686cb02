//! The bound on what can be lost: how far the log is behind, and that writes are refused at the limit.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::decide::lag_history::History;
use crate::lag::Lag;
use crate::settings;

/// How far the log may be behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At this lag writes are refused.
    pub lag: Duration,
    /// When so many bytes are not acknowledged writes are refused.
    pub pending_bytes: u64,
}

impl Limits {
    /// As configured.
    pub fn configured() -> Self {
        Limits {
            lag: Duration::from_millis(settings::MAX_LAG_MS.load(Ordering::Relaxed).unsigned_abs()),
            pending_bytes: settings::MAX_PENDING_BYTES.load(Ordering::Relaxed).unsigned_abs(),
        }
    }
}

/// Whether writes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are, and the log is less than half of a limit behind.
    Taken,
    /// They are, and a limit may soon be reached.
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
    /// Writes are taken as before; whether that may end soon is another matter now.
    Outlook,
    /// Writes are refused from now on.
    Refusing,
    /// Writes are taken again, after so long.
    Resumed(Duration),
}

/// Follows stream and log, and judges. Main thread only.
pub struct Bound {
    lag: Lag,
    history: History,
    /// When the event loop last woke: what was written since ran after this.
    woke_at: Instant,
    /// Where the stream stood when the term began.
    begin: u64,
    /// The end of the stream when it was last looked at.
    offset: u64,
    verdict: Verdict,
    /// Since when writes are refused.
    refusing_since: Option<Instant>,
    refusals: u64,
    /// Time for which writes were refused, without the refusal that goes on.
    refused_for: Duration,
}

impl Bound {
    /// Nothing is written. `now` begins the history.
    pub fn new(now: Instant) -> Self {
        Bound {
            lag: Lag::default(),
            history: History::new(now),
            woke_at: now,
            begin: 0,
            offset: 0,
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

    /// A term begins, with the stream at `offset`: what came before counts no more.
    pub fn begin(&mut self, now: Instant, offset: u64) {
        self.end(now);
        self.woke_at = now;
        self.begin = offset;
        self.offset = offset;
    }

    /// A term ends: what is not acknowledged does not count any more, and nothing is refused for it.
    pub fn end(&mut self, now: Instant) {
        self.lag.clear();
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
    /// what the node began its term with. Returns how far the log is behind now; the verdict stays until [`Bound::judge`].
    pub fn look(&mut self, now: Instant, offset: u64, durable: Option<u64>) -> Behind {
        let durable = durable.unwrap_or(self.begin);
        if offset > self.offset {
            // From the moment the loop woke, as nobody knows at which command of its round this was written.
            self.lag.written(self.woke_at, offset);
        }
        // The stream of a server that was made a replica in between may be shorter.
        self.offset = offset;
        self.history.record(now, self.lag.age(now));
        self.lag.durable(durable);
        Behind { lag: self.lag.age(now), pending_bytes: offset.saturating_sub(durable) }
    }

    /// Judges what [`Bound::look`] saw: writes are refused at a limit, and taken again at half of it, so that a log that only
    /// just keeps up does not make them alternate.
    pub fn judge(&mut self, now: Instant, behind: &Behind, limits: &Limits) -> Change {
        let verdict = match self.verdict {
            Verdict::Refused if behind.is_beyond_half(limits) => Verdict::Refused,
            _ if behind.reaches(limits) => Verdict::Refused,
            _ if behind.is_beyond_half(limits) => Verdict::TakenYet,
            _ => Verdict::Taken,
        };
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

    /// Returns for how long writes were refused, if they were.
    fn resume(&mut self, now: Instant) -> Option<Duration> {
        let time = now.saturating_duration_since(self.refusing_since.take()?);
        self.refused_for += time;
        Some(time)
    }

    /// Whether writes are taken.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Times that writes began to be refused.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// For how long writes were refused, all in all.
    pub fn refused_for(&self, now: Instant) -> Duration {
        let current = self.refusing_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.refused_for + current
    }

    /// One-second maxima of the lag. To be asked after [`Bound::look`] at the same moment.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Nothing is written: the history goes on.
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

    fn at(bound: &mut Bound, now: Instant, offset: u64, durable: u64) -> Verdict {
        let behind = bound.look(now, offset, Some(durable));
        bound.judge(now, &behind, &LIMITS);
        bound.verdict()
    }

    #[test]
    fn writes_are_refused_at_the_limit_and_taken_again_below_half_of_it() {
        let start = Instant::now();
        let mut bound = Bound::new(start);
        bound.begin(start, 1000);
        bound.woke(start);
        assert_eq!(at(&mut bound, start, 1010, 1000), Verdict::Taken);
        bound.woke(start + ms(800));
        assert_eq!(at(&mut bound, start + ms(800), 1020, 1000), Verdict::TakenYet);
        assert_eq!(at(&mut bound, start + ms(999), 1020, 1000), Verdict::TakenYet);
        assert_eq!(at(&mut bound, start + ms(1000), 1020, 1000), Verdict::Refused);
        // The first write is durable, the second 700 ms old.
        assert_eq!(at(&mut bound, start + ms(1500), 1020, 1010), Verdict::Refused, "not below half yet");
        assert_eq!(at(&mut bound, start + ms(1600), 1020, 1020), Verdict::Taken);
        assert_eq!((bound.refusals(), bound.refused_for(start + ms(9000))), (1, ms(600)));
    }

    #[test]
    fn a_write_counts_from_the_moment_the_loop_woke_for_it() {
        let start = Instant::now();
        let mut bound = Bound::new(start);
        bound.begin(start, 0);
        bound.woke(start + ms(100));
        // The round took 300 ms.
        assert_eq!(bound.look(start + ms(400), 10, Some(0)).lag, ms(300));
    }

    #[test]
    fn bytes_have_a_limit_of_their_own() {
        let start = Instant::now();
        let mut bound = Bound::new(start);
        bound.begin(start, 0);
        assert_eq!(at(&mut bound, start, 51, 0), Verdict::TakenYet);
        assert_eq!(at(&mut bound, start, 100, 0), Verdict::Refused);
        assert_eq!(at(&mut bound, start, 100, 49), Verdict::Refused);
        assert_eq!(at(&mut bound, start, 100, 50), Verdict::Taken);
    }

    #[test]
    fn while_the_log_is_seeded_only_what_was_written_since_counts() {
        let start = Instant::now();
        let mut bound = Bound::new(start);
        bound.begin(start, 1_000_000);
        assert_eq!(bound.look(start, 1_000_000, None), Behind { lag: ms(0), pending_bytes: 0 });
        assert_eq!(bound.look(start + ms(7), 1_000_020, None), Behind { lag: ms(7), pending_bytes: 20 });
    }

    #[test]
    fn a_new_term_refuses_nothing_for_the_old_one() {
        let start = Instant::now();
        let mut bound = Bound::new(start);
        bound.begin(start, 0);
        at(&mut bound, start, 200, 0);
        assert_eq!(bound.verdict(), Verdict::Refused);
        bound.end(start + ms(50));
        assert_eq!((bound.verdict(), bound.refused_for(start + ms(90))), (Verdict::Taken, ms(50)));
        bound.begin(start + ms(60), 500);
        assert!(bound.is_idle_at(500));
    }
}
