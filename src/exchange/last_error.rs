//! The last error, and which errors the server's log already has.

use std::time::{Duration, Instant};

/// Errors that alternate are each new whenever they come. Each is logged again only after this time.
const LOGGED_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How many logged errors are remembered. More do not alternate.
const MAX_LOGGED: usize = 8;

/// The last error. Plain logic; any thread.
#[derive(Debug, Default)]
pub struct LastError {
    text: String,
    /// Errors that were logged, and when; the oldest first.
    logged: Vec<(String, Instant)>,
}

impl LastError {
    /// The last error; empty if nothing has gone wrong since all was well.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Sets the last error; empty if all is well. Returns whether to log it: not while it lasts, nor if it was logged a moment ago.
    pub fn set(&mut self, error: &str, now: Instant) -> bool {
        if self.text == error {
            return false;
        }
        error.clone_into(&mut self.text);
        if error.is_empty() {
            self.logged.clear();
            return false;
        }
        self.logged.retain(|(_, logged)| now.saturating_duration_since(*logged) < LOGGED_AGAIN_AFTER);
        if self.logged.iter().any(|(logged, _)| logged == error) {
            return false;
        }
        if self.logged.len() == MAX_LOGGED {
            self.logged.remove(0);
        }
        self.logged.push((error.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_lasts_is_logged_once_and_one_that_comes_back_again() {
        let (mut error, start) = (LastError::default(), Instant::now());
        assert!(error.set("away", start));
        assert!(!error.set("away", start + LOGGED_AGAIN_AFTER * 2));
        assert!(!error.set("", start));
        assert_eq!(error.text(), "");
        assert!(error.set("away", start), "it was well in between");
    }

    #[test]
    fn alternating_errors_are_logged_once_a_minute() {
        let (mut error, start) = (LastError::default(), Instant::now());
        let logged: usize = (0..120)
            .map(|second| {
                let text = ["closed", "reset"][second % 2];
                let is_logged = error.set(text, start + Duration::from_secs(second as u64));
                assert_eq!(error.text(), text);
                usize::from(is_logged)
            })
            .sum();
        assert_eq!(logged, 4);
    }

    #[test]
    fn many_errors_take_no_more_memory_than_a_few() {
        let mut error = LastError::default();
        for number in 0..100 {
            assert!(error.set(&number.to_string(), Instant::now()));
        }
        assert_eq!(error.logged.len(), MAX_LOGGED);
    }
}
