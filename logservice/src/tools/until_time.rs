//! What of a log was written until a time.

use super::restore::{written_time, RestoreError, RestorePoint};

/// Finds what was written until a time. Each record has the time of the service's clock. If that was set back, records with earlier times
/// follow records with later ones.
pub struct UntilTime {
    time_ms: u64,
    /// The end of the records before the first one that is later than the time.
    end: u64,
    /// When the last of these was written.
    written: Option<u64>,
    /// The latest record since `end`, if it is later than the time: where it begins, and when it was written.
    later: Option<(u64, u64)>,
    /// The last record that is within the time and follows a later one: its end, when it was written, and the latest record before it.
    again: Option<(u64, u64, (u64, u64))>,
}

impl UntilTime {
    /// Time services set clocks back by so much on their own.
    const CLOCK_STEP_MS: u64 = 1000;

    /// Nothing was added yet.
    pub fn new(time_ms: u64) -> Self {
        UntilTime { time_ms, end: 0, written: None, later: None, again: None }
    }

    /// Everything below `offset` was written before `time_ms`, and no record of it is kept.
    pub fn skip_to(&mut self, offset: u64, time_ms: u64) {
        if time_ms <= self.time_ms {
            self.end = self.end.max(offset);
        }
    }

    /// The next record, from `offset` to `end` (exclusive).
    pub fn add(&mut self, offset: u64, end: u64, time_ms: u64) {
        if time_ms > self.time_ms {
            if self.later.is_none_or(|(_, latest_ms)| latest_ms < time_ms) {
                self.later = Some((offset, time_ms));
            }
        } else if let Some(later) = self.later {
            self.again = Some((end, time_ms, later));
        } else if end > self.end {
            (self.end, self.written) = (end, Some(time_ms));
        }
    }

    /// The end (exclusive) of what was written until then, and when the last of that was written, if that is known.
    ///
    /// # Errors
    /// The times do not tell.
    pub fn end(self, asked: RestorePoint) -> Result<(u64, Option<u64>), RestoreError> {
        let UntilTime { time_ms, end, written, again, .. } = self;
        match again {
            None => Ok((end, written)),
            Some((later_end, written, (_, latest_ms))) if latest_ms <= time_ms + Self::CLOCK_STEP_MS => {
                Ok((later_end, Some(written)))
            }
            Some((later_end, _, (later, latest_ms))) => {
                let later_time = written_time(latest_ms);
                Err(RestoreError::ClockSetBack { asked, without: end, later, later_time, with: later_end })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(time_ms: u64, times: &[u64]) -> Result<(u64, Option<u64>), RestoreError> {
        let mut until = UntilTime::new(time_ms);
        for (number, time_ms) in times.iter().enumerate() {
            until.add(10 * number as u64, 10 * number as u64 + 10, *time_ms);
        }
        until.end(RestorePoint::TimeMs(time_ms))
    }

    #[test]
    fn a_restore_to_a_time_ends_before_the_first_later_record() {
        assert_eq!(until(300, &[100, 200, 300, 301, 400]).unwrap(), (30, Some(300)));
        assert_eq!(until(99, &[100, 200]).unwrap(), (0, None));
        assert_eq!(until(500, &[100, 200]).unwrap(), (20, Some(200)));
    }

    #[test]
    fn a_clock_that_is_set_back_a_little_hides_nothing() {
        assert_eq!(until(5000, &[4000, 5900, 5000, 6500]).unwrap(), (30, Some(5000)));
    }

    #[test]
    fn a_clock_that_once_stood_in_the_future_is_told_with_both_offsets() {
        let text = until(5000, &[4000, 900_000, 900_500, 4500, 6000]).unwrap_err().to_string();
        assert!(text.contains("offset 20 says that it was written at 1970-01-01T00:15:00.500Z"), "{text}");
        assert!(text.contains("--to 10 leaves out both, --to 40 takes both"), "{text}");
        // Before and after that time there is no doubt.
        assert_eq!(until(950_000, &[4000, 900_000, 4500, 6000]).unwrap(), (40, Some(6000)));
        assert_eq!(until(3000, &[2000, 900_000, 4500, 6000]).unwrap(), (10, Some(2000)));
    }

    #[test]
    fn a_snapshot_holds_what_was_written_before_the_log_that_is_kept() {
        let mut until = UntilTime::new(300);
        until.skip_to(100, 250);
        assert_eq!(until.end(RestorePoint::TimeMs(300)).unwrap(), (100, None));
    }
}
