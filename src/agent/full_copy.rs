//! What the agent makes of a full copy that its server did not get, or did not load.

use std::time::Duration;

use crate::agent::{Agent, BACKOFF_FROM};
use crate::log::control::LogConnection;
use crate::settings;

/// Longest wait before the server is given another full copy.
const WAIT_TO: Duration = Duration::from_secs(30);

/// How long to wait after a full copy that the server could not load: longer each time, until it has loaded one.
#[derive(Debug)]
pub struct CopyWait(Duration);

impl Default for CopyWait {
    fn default() -> Self {
        CopyWait(BACKOFF_FROM)
    }
}

impl CopyWait {
    /// One more has failed.
    pub fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(WAIT_TO);
        wait
    }
}

impl Agent {
    /// Why the log gives nobody a full copy, as it says; `None` if it says nothing of the kind, or does not answer.
    pub fn why_no_copy(&self) -> Option<String> {
        let status = LogConnection::open(&self.shared).and_then(|mut log| log.status());
        status.ok()?.why_no_copy(&settings::SHARD.value())
    }

    /// What to tell an operator whose server did not load the full copy that it was sent.
    pub fn why_copy_failed(&self) -> String {
        self.why_no_copy().unwrap_or_else(|| {
            format!(
                "the server did not load the full copy that the log of shard {} sent: the server's log says why (the connection broke, or \
                 it lacks a module, or an engine for functions)",
                settings::SHARD.value()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound() {
        let mut wait = CopyWait::default();
        let waits: Vec<_> = (0..12).map(|_| wait.next()).collect();
        assert_eq!((waits[0], waits[1]), (BACKOFF_FROM, BACKOFF_FROM * 2));
        assert_eq!(waits.last(), Some(&WAIT_TO));
    }
}
