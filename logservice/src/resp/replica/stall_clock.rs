//! How long to wait for a replica that takes nothing of the stream.
//!
//! Signs of life do not count, as a replica that sends nothing else would keep the log for ever. But a replica that drops its data and loads
//! a snapshot can send nothing else. So loading has its own time, by the size of the snapshot, as long as signs of life arrive. The first
//! acknowledgement ends the loading. An acknowledgement counts if it is higher than the one before and not beyond what was sent.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// What a replica has done, and when.
#[derive(Debug)]
pub struct StallClock {
    patience: Duration,
    /// When it last took or applied something, or there was nothing to take.
    progressed: Instant,
    heard: Instant,
    /// How much longer it may send signs of life only, while it loads.
    loads_for: Option<Duration>,
    /// Offset at which the stream began for it.
    begins_at: u64,
    applied: u64,
}

impl StallClock {
    /// For a replica that has just come and may take nothing for as long as `patience`.
    pub fn new(patience: Duration, now: Instant) -> Self {
        StallClock { patience, progressed: now, heard: now, loads_for: None, begins_at: 0, applied: 0 }
    }

    /// Records that it is sent a snapshot, which may take so long to load.
    pub fn loads(&mut self, time: Duration) {
        self.loads_for = Some(time);
    }

    /// Records that the stream begins for it at `offset`.
    pub fn begin_stream(&mut self, offset: u64) {
        (self.begins_at, self.applied) = (offset, offset);
    }

    /// Records that it took something, or that there is something to take from now on.
    pub fn takes(&mut self, now: Instant) {
        (self.progressed, self.heard) = (now, now);
    }

    /// Records that something arrived from it.
    pub fn says_something(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Records that it acknowledged the stream up to `offset` (exclusive), of which it was sent what is below `sent`.
    pub fn has_applied(&mut self, offset: u64, sent: u64, now: Instant) {
        if offset > sent {
            return;
        }
        // The first acknowledgement ends the loading. It could take nothing before, so its time begins now.
        if offset >= self.begins_at && self.loads_for.take().is_some() {
            self.progressed = now;
        }
        if offset > self.applied {
            self.applied = offset;
            self.progressed = now;
        }
    }

    /// When it is given up, unless it takes something before.
    pub fn ends_at(&self) -> Instant {
        let ends_at = self.progressed + self.patience;
        match self.loads_for {
            Some(time) => (self.heard + self.patience).min(ends_at + time),
            None => ends_at,
        }
    }

    /// How long it will have taken nothing then.
    pub fn nothing_for(&self) -> Duration {
        self.ends_at().saturating_duration_since(self.progressed)
    }
}

/// The offset that a command acknowledges: `REPLCONF ACK offset`, possibly with other options.
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
    fn signs_of_life_do_not_count_and_taking_and_applying_do() {
        let start = Instant::now();
        let mut clock = StallClock::new(PATIENCE, start);
        clock.begin_stream(100);
        clock.says_something(second(start, 50));
        assert_eq!(clock.ends_at(), second(start, 60));
        clock.takes(second(start, 10));
        assert_eq!(clock.ends_at(), second(start, 70));
        clock.has_applied(150, 200, second(start, 20));
        assert_eq!(clock.ends_at(), second(start, 80));
        for offset in [100, 150, 201] {
            clock.has_applied(offset, 200, second(start, 30));
            assert_eq!(clock.ends_at(), second(start, 80), "{offset} is no progress");
        }
    }

    #[test]
    fn a_replica_that_loads_has_its_time_as_long_as_signs_of_life_arrive() {
        let start = Instant::now();
        let mut clock = StallClock::new(PATIENCE, start);
        clock.loads(Duration::from_secs(100));
        clock.takes(start);
        assert_eq!(clock.ends_at(), second(start, 60));
        clock.says_something(second(start, 59));
        assert_eq!(clock.ends_at(), second(start, 119));
        clock.says_something(second(start, 118));
        assert_eq!((clock.ends_at(), clock.nothing_for()), (second(start, 160), Duration::from_secs(160)));
        clock.begin_stream(7);
        clock.has_applied(7, 7, second(start, 120));
        assert_eq!(clock.ends_at(), second(start, 180), "it has loaded, and is judged as any other from now on");
        clock.says_something(second(start, 130));
        clock.has_applied(7, 7, second(start, 130));
        assert_eq!(clock.ends_at(), second(start, 180), "it says the same again");
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
