//! What the agent makes of a full copy that its server did not get, or did not load.

use std::sync::Arc;
use std::time::Duration;

use crate::agent::retry::RETRY_FROM;
use crate::base::backoff::Backoff;
use crate::exchange::Shared;
use crate::log::control::LogConnection;
use crate::settings;

/// The longest wait before the server is given another full copy.
const WAIT_TO: Duration = Duration::from_secs(30);

/// The waits after full copies that the server could not load. They start over once it has loaded one.
pub const fn waits() -> Backoff {
    Backoff::new(RETRY_FROM, WAIT_TO)
}

/// Why the log gives nobody a full copy, as the log service says; `None` if it gives one, or does not answer.
pub fn why_no_copy(shared: &Arc<Shared>) -> Option<String> {
    let status = LogConnection::open(shared).and_then(|mut log| log.status());
    status.ok()?.why_no_copy(&settings::SHARD.value())
}

/// What to tell an operator whose server did not load the full copy that it was sent.
pub fn why_copy_failed(shared: &Arc<Shared>) -> String {
    why_no_copy(shared).unwrap_or_else(|| {
        format!(
            "the server did not load the full copy that the log of shard {} sent: the server's log says why (the connection broke, or \
             it lacks a module, or an engine for functions)",
            settings::SHARD.value()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound() {
        let mut backoff = waits();
        let waits: Vec<_> = (0..12).map(|_| backoff.next()).collect();
        assert_eq!((waits[0], waits[1]), (RETRY_FROM, RETRY_FROM * 2));
        assert_eq!(waits.last(), Some(&WAIT_TO));
    }
}
