//! How long the agent waits between attempts to attach, and to reach the log.

use std::time::Duration;

use crate::base::backoff::Backoff;

/// The first wait.
pub const RETRY_FROM: Duration = Duration::from_millis(100);
/// The longest wait.
pub const RETRY_TO: Duration = Duration::from_secs(2);

/// The waits between attempts.
pub const fn retry_waits() -> Backoff {
    Backoff::new(RETRY_FROM, RETRY_TO)
}
