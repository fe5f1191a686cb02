//! The last thing that went wrong, and what the server's log has of it already.

use std::time::{Duration, Instant};

/// Errors that take turns, each of which is new whenever it comes, are told again after so long.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// So many errors are remembered as told. More take no turns.
const MAX_TOLD: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub struct LastError {
    text: String,
    told: Vec<(String, Instant)>,
}

impl LastError {
    /// Empty if nothing has gone wrong since all was well.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// This has gone wrong; if empty, all is well. Returns whether to tell: not if it goes on, nor if it was told a moment ago.
    pub fn set(&mut self, error: &str, now: Instant) -> bool {
        if self.text == error {
            return false;
        }
        error.clone_into(&mut self.text);
        if error.is_empty() {
            self.told.clear();
            return false;
        }
        self.told.retain(|(_, told)| now.saturating_duration_since(*told) < TOLD_AGAIN_AFTER);
        if self.told.iter().any(|(told, _)| told == error) {
            return false;
        }
        if self.told.len() == MAX_TOLD {
            self.told.remove(0);
        }
        self.told.push((error.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_told_once_and_what_comes_back_again() {
        let (mut error, start) = (LastError::default(), Instant::now());
        assert!(error.set("away", start));
        assert!(!error.set("away", start + TOLD_AGAIN_AFTER * 2));
        assert!(!error.set("", start));
        assert_eq!(error.text(), "");
        assert!(error.set("away", start), "it was well in between");
    }

    #[test]
    fn errors_that_take_turns_are_told_once_a_minute() {
        let (mut error, start) = (LastError::default(), Instant::now());
        let told: usize = (0..120)
            .map(|second| {
                let text = ["closed", "reset"][second % 2];
                let is_told = error.set(text, start + Duration::from_secs(second as u64));
                assert_eq!(error.text(), text);
                usize::from(is_told)
            })
            .sum();
        assert_eq!(told, 4);
    }

    #[test]
    fn many_errors_take_no_more_room_than_a_few() {
        let mut error = LastError::default();
        for number in 0..100 {
            assert!(error.set(&number.to_string(), Instant::now()));
        }
        assert_eq!(error.told.len(), MAX_TOLD);
    }
}
