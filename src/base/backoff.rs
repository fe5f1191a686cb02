//! The waits between attempts.

use std::time::Duration;

/// Waits that double from the first to the longest. Plain arithmetic; any thread.
#[derive(Debug, Clone)]
pub struct Backoff {
    from: Duration,
    to: Duration,
    next: Duration,
}

impl Backoff {
    /// The first wait is `from`, the longest `to`.
    pub const fn new(from: Duration, to: Duration) -> Self {
        Backoff { from, to, next: from }
    }

    /// How long to wait now. The next wait is twice as long, up to the longest.
    pub fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.to);
        wait
    }

    /// The next wait is the first one again.
    pub fn reset(&mut self) {
        self.next = self.from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut waits = || [(); 6].map(|()| backoff.next().as_millis());
        assert_eq!(waits(), [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next().as_millis(), 100);
    }
}
