//! For how long a replica is waited for that takes nothing of what it is owed.
//!
//! What it says does not count: whoever sends a line now and then would keep the log for ever. But a replica that empties itself and
//! loads a snapshot can do nothing else. So that has its time, by the size of the snapshot, as long as it says that it is there. The
//! first acknowledgement shows that it is over; from then on it is judged as any other. What is acknowledged counts if it is more than
//! before and was sent at all.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// What a replica has done, and when.
#[derive(Debug)]
pub struct Life {
    patience: Duration,
    /// When it last took or applied something, or was owed nothing.
    progressed: Instant,
    heard: Instant,
    /// How much longer it may only say that it is there, while it loads.
    loads_for: Option<Duration>,
    /// Where the stream began for it.
    begins_at: u64,
    applied: u64,
}

impl Life {
    /// A replica that has just come, and may take nothing for as long as `patience`.
    pub fn new(patience: Duration, now: Instant) -> Self {
        Life { patience, progressed: now, heard: now, loads_for: None, begins_at: 0, applied: 0 }
    }

    /// It is sent a snapshot, which may take so long to load.
    pub fn loads(&mut self, time: Duration) {
        self.loads_for = Some(time);
    }

    /// The stream begins for it at `offset`.
    pub fn begin_stream(&mut self, offset: u64) {
        (self.begins_at, self.applied) = (offset, offset);
    }

    /// It took something, or is owed something from now on.
    pub fn takes(&mut self, now: Instant) {
        (self.progressed, self.heard) = (now, now);
    }

    /// It said something.
    pub fn says_something(&mut self, now: Instant) {
        self.heard = now;
    }

    /// It says that it has applied the stream up to `offset` (exclusive), of which it was sent what is below `sent`.
    pub fn has_applied(&mut self, offset: u64, sent: u64, now: Instant) {
        if offset > sent {
            return;
        }
        // The first acknowledgement ends the loading, in which it could take nothing. What it has not taken meanwhile, it takes from now on.
        if offset >= self.begins_at && self.loads_for.take().is_some() {
            self.progressed = now;
        }
        if offset > self.applied {
            self.applied = offset;
            self.progressed = now;
        }
    }

    /// Until when it is waited for, unless it takes something.
    pub fn ends_at(&self) -> Instant {
        let ends_at = self.progressed + self.patience;
        match self.loads_for {
            Some(time) => (self.heard + self.patience).min(ends_at + time),
            None => ends_at,
        }
    }

    /// For how long it has taken nothing, at the end of that.
    pub fn nothing_for(&self) -> Duration {
        self.ends_at().saturating_duration_since(self.progressed)
    }
}

/// The offset that a command acknowledges: `REPLCONF ACK offset`, among other things perhaps.
pub fn acknowledged(arguments: &[Bytes]) -> Option<u64> {
    let (name, options) = arguments.split_first()?;
    let ack = options.chunks_exact(2).find(|pair| pair[0].eq_ignore_ascii_case(b"ack"))?;
    let offset = std::str::from_utf8(&ack[1]).ok()?.parse().ok()?;
    name.eq_ignore_ascii_case(b"REPLCONF").then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn second(start: Instant, second: u64) -> Instant {
        start + Duration::from_secs(second)
    }

    #[test]
    fn what_is_said_does_not_count_and_what_is_taken_or_applied_does() {
        let start = Instant::now();
        let mut life = Life::new(PATIENCE, start);
        life.begin_stream(100);
        life.says_something(second(start, 50));
        assert_eq!(life.ends_at(), second(start, 60));
        life.takes(second(start, 10));
        assert_eq!(life.ends_at(), second(start, 70));
        life.has_applied(150, 200, second(start, 20));
        assert_eq!(life.ends_at(), second(start, 80));
        for offset in [100, 150, 201] {
            life.has_applied(offset, 200, second(start, 30));
            assert_eq!(life.ends_at(), second(start, 80), "{offset} is no progress");
        }
    }

    #[test]
    fn one_that_loads_has_its_time_as_long_as_it_says_something() {
        let start = Instant::now();
        let mut life = Life::new(PATIENCE, start);
        life.loads(Duration::from_secs(100));
        life.takes(start);
        assert_eq!(life.ends_at(), second(start, 60));
        life.says_something(second(start, 59));
        assert_eq!(life.ends_at(), second(start, 119));
        life.says_something(second(start, 118));
        assert_eq!((life.ends_at(), life.nothing_for()), (second(start, 160), Duration::from_secs(160)));
        life.begin_stream(7);
        life.has_applied(7, 7, second(start, 120));
        assert_eq!(life.ends_at(), second(start, 180), "it has loaded, and is judged as any other from now on");
        life.says_something(second(start, 130));
        life.has_applied(7, 7, second(start, 130));
        assert_eq!(life.ends_at(), second(start, 180), "it says the same again");
    }

    #[test]
    fn an_acknowledgement_is_found_among_other_things() {
        let parse = |text: &'static str| acknowledged(&text.split(' ').map(Bytes::from).collect::<Vec<_>>());
        assert_eq!(parse("REPLCONF ACK 17"), Some(17));
        assert_eq!(parse("replconf ack 17 fack 5"), Some(17));
        for other in ["REPLCONF ACK", "REPLCONF ACK x", "REPLCONF ACK -1", "PING ACK 17", "REPLCONF GETACK *", ""] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }
}
