//! The last time during which writes were not sent to the log.

use std::time::{SystemTime, UNIX_EPOCH};

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

    fn goes_on(&self) -> bool {
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
