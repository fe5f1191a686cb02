//! The last time during which writes were not sent to the log, and writes that were found not to be in the stream.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Writes that are not in the stream are logged this often at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Writes that are not in the replication stream, so not in the log. Main thread only.
#[derive(Debug, Default)]
pub struct UnloggedWrites {
    /// How many were found.
    pub count: u64,
    /// Full name of the command that made the last one; empty if it was none's.
    pub last_command: String,
    logged: Option<Instant>,
}

impl UnloggedWrites {
    /// One was found. Returns whether it is to be logged.
    pub fn found(&mut self, command: &str, now: Instant) -> bool {
        self.count += 1;
        command.clone_into(&mut self.last_command);
        let is_due = self.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_INTERVAL);
        if is_due {
            self.logged = Some(now);
        }
        is_due
    }
}

/// When it began and ended, in milliseconds since 1970. Main thread only.
#[derive(Debug, Default, Clone, Copy)]
pub struct Unlogged {
    /// 0 if there was no such time.
    pub from_ms: u64,
    /// 0 while it goes on: until the log holds everything that was written meanwhile.
    pub until_ms: u64,
}

impl Unlogged {
    /// Writes are not sent to the log from now on.
    pub fn begin(&mut self) {
        if !self.goes_on() {
            *self = Unlogged { from_ms: now_ms(), until_ms: 0 };
        }
    }

    /// The log holds everything. To be called often: it reads the clock only if that is news.
    #[inline]
    pub fn end(&mut self) {
        if self.goes_on() {
            self.until_ms = now_ms();
        }
    }

    /// Whether the log may lack what was written since that time began.
    pub fn goes_on(&self) -> bool {
        self.from_ms > 0 && self.until_ms == 0
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_and_logged_once_a_minute() {
        let (mut writes, now) = (UnloggedWrites::default(), Instant::now());
        assert!(writes.found("a.b", now));
        assert!(!writes.found("a.c", now + LOG_INTERVAL - Duration::from_millis(1)));
        assert!(writes.found("a.d", now + LOG_INTERVAL));
        assert_eq!((writes.count, writes.last_command.as_str()), (3, "a.d"));
    }

    #[test]
    fn it_lasts_until_the_log_holds_everything() {
        let mut unlogged = Unlogged::default();
        unlogged.end();
        assert_eq!((unlogged.from_ms, unlogged.until_ms), (0, 0));
        unlogged.begin();
        let from_ms = unlogged.from_ms;
        assert!(from_ms > 0 && unlogged.until_ms == 0);
        unlogged.begin();
        assert_eq!(unlogged.from_ms, from_ms);
        unlogged.end();
        let until_ms = unlogged.until_ms;
        assert!(until_ms >= from_ms);
        unlogged.end();
        assert_eq!(unlogged.until_ms, until_ms);
    }
}
