//! Log lines that others can cause as often as they like.

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

/// Lets a reason for the same trouble through when it is another than before, and again after a while.
#[derive(Debug, Clone, Default)]
pub struct ReasonThrottle(Option<(String, Instant)>);

impl ReasonThrottle {
    const INTERVAL: Duration = Duration::from_secs(60);

    /// Whether `reason` is worth a line at `now`.
    pub fn pass_at(&mut self, reason: &str, now: Instant) -> bool {
        let is_known =
            |(told, at): &(String, Instant)| told == reason && now.saturating_duration_since(*at) < Self::INTERVAL;
        let passes = !self.0.as_ref().is_some_and(is_known);
        if passes {
            self.0 = Some((reason.to_owned(), now));
        }
        passes
    }
}

/// Lets so many lines through at once, and then one for each while that passes: reasons that take turns, or have no end of forms.
#[derive(Debug, Clone)]
pub struct LineBudget {
    left: u32,
    counted: Option<Instant>,
}

impl LineBudget {
    const MOST: u32 = 6;
    const WHILE: Duration = Duration::from_secs(10);

    /// Whether one more line is let through at `now`.
    pub fn pass_at(&mut self, now: Instant) -> bool {
        let since = self.counted.map_or(Duration::ZERO, |counted| now.saturating_duration_since(counted));
        let earned = u32::try_from(since.as_secs() / Self::WHILE.as_secs()).unwrap_or(u32::MAX);
        if earned > 0 || self.counted.is_none() {
            (self.left, self.counted) = (self.left.saturating_add(earned).min(Self::MOST), Some(now));
        }
        let passes = self.left > 0;
        self.left = self.left.saturating_sub(1);
        passes
    }
}

impl Default for LineBudget {
    fn default() -> Self {
        LineBudget { left: Self::MOST, counted: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_passes_once_a_minute_and_another_one_at_once() {
        let (mut throttle, start) = (ReasonThrottle::default(), Instant::now());
        let mut passes = |reason, second| throttle.pass_at(reason, start + Duration::from_secs(second));
        assert!(passes("gone", 0));
        assert!(!passes("gone", 30) && !passes("gone", 59));
        assert!(passes("gone", 60) && !passes("gone", 61));
        assert!(passes("damaged", 62) && !passes("damaged", 63));
    }

    #[test]
    fn reasons_without_end_are_told_six_times_a_minute() {
        let (mut budget, start) = (LineBudget::default(), Instant::now());
        let told = (0..600).filter(|second| budget.pass_at(start + Duration::from_secs(*second))).count();
        assert_eq!(told, 6 + 59);
    }

    #[test]
    fn one_line_a_second_passes_and_says_how_many_did_not() {
        let (throttle, start) = (LineThrottle::new(), Instant::now());
        let at_ms = |ms| throttle.pass_at(start + Duration::from_millis(ms));
        assert_eq!([at_ms(0), at_ms(1), at_ms(999), at_ms(1000), at_ms(2500)], [Some(0), None, None, Some(2), Some(0)]);
    }
}
