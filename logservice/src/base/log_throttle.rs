//! Bounds log lines that clients can cause as often as they like.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lets a number of lines through at once, then one each second, and counts the others.
#[derive(Debug)]
pub struct LineThrottle {
    at_once: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Lines that passed and still count.
    passed: u32,
    since: Option<Instant>,
    left_out: u64,
}

/// How many lines were left out before one. Shown at its end; empty if there were none.
#[derive(Debug, Clone, Copy)]
pub struct LeftOut(u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            lines => write!(f, " ({lines} more such lines left out)"),
        }
    }
}

impl LineThrottle {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// A throttle that lets one line through at once.
    pub const fn new() -> Self {
        Self::of(1)
    }

    /// A throttle that lets `at_once` lines through at once.
    pub const fn of(at_once: u32) -> Self {
        LineThrottle { at_once, state: Mutex::new(State { passed: 0, since: None, left_out: 0 }) }
    }

    /// How many lines were left out before this one; `None` if this one is to be left out.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    /// The same, to be shown at the line's end by [`say`](crate::base::log_throttle::say).
    pub fn line(&self) -> Option<LeftOut> {
        self.pass().map(LeftOut)
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let since = *state.since.get_or_insert(now);
        let made_up = now.saturating_duration_since(since).as_secs();
        if made_up >= u64::from(state.passed) {
            (state.passed, state.since) = (0, Some(now));
        } else {
            state.passed -= made_up as u32;
            state.since = Some(since + Self::INTERVAL * made_up as u32);
        }
        if state.passed >= self.at_once {
            state.left_out += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

/// Logs a line at a level, as `tracing` does, if a [`LineThrottle`] lets it through.
macro_rules! say {
    ($throttle:expr, $level:ident, $($text:tt)+) => {
        if let Some(left_out) = $throttle.line() {
            tracing::$level!("{}{left_out}", format_args!($($text)+));
        }
    };
}
pub(crate) use say;

/// Lets the reason for a lasting problem through when it changes, and again after a while.
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

/// Lets a few lines through at once, then one per interval: for reasons that alternate or have no end of forms.
#[derive(Debug, Clone)]
pub struct LineBudget {
    left: u32,
    counted: Option<Instant>,
}

impl LineBudget {
    const MOST: u32 = 6;
    const INTERVAL: Duration = Duration::from_secs(10);

    /// Whether one more line is let through at `now`.
    pub fn pass_at(&mut self, now: Instant) -> bool {
        let since = self.counted.map_or(Duration::ZERO, |counted| now.saturating_duration_since(counted));
        let earned = u32::try_from(since.as_secs() / Self::INTERVAL.as_secs()).unwrap_or(u32::MAX);
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

    #[test]
    fn so_many_lines_pass_at_once_and_then_one_a_second() {
        let (throttle, start) = (LineThrottle::of(3), Instant::now());
        let at_ms = |ms| throttle.pass_at(start + Duration::from_millis(ms));
        assert_eq!([0, 1, 2, 3, 999].map(at_ms), [Some(0), Some(0), Some(0), None, None]);
        assert_eq!([1000, 1001, 2001, 2002].map(at_ms), [Some(2), None, Some(1), None]);
        assert_eq!([60_000, 60_001, 60_002, 60_003].map(at_ms), [Some(1), Some(0), Some(0), None]);
        assert_eq!(LeftOut(0).to_string() + &LeftOut(2).to_string(), " (2 more such lines left out)");
    }
}
