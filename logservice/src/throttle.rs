//! Log lines that strangers can cause as often as they like.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lets one line of a kind through each second and counts the others.
#[derive(Debug, Default)]
pub struct LineThrottle(Mutex<(Option<Instant>, u64)>);

impl LineThrottle {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// A throttle that lets the next line through.
    pub const fn new() -> Self {
        LineThrottle(Mutex::new((None, 0)))
    }

    /// How many lines were left out before this one; `None` if this one is to be left out.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.0.is_some_and(|last| now.saturating_duration_since(last) < Self::INTERVAL) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_passes_and_says_how_many_did_not() {
        let (throttle, start) = (LineThrottle::new(), Instant::now());
        let at_ms = |ms| throttle.pass_at(start + Duration::from_millis(ms));
        assert_eq!([at_ms(0), at_ms(1), at_ms(999), at_ms(1000), at_ms(2500)], [Some(0), None, None, Some(2), Some(0)]);
    }
}
