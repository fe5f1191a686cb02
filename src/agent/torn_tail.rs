//! Recognizes a log that ends inside a command. Plain logic; agent's thread.

use crate::exchange::mailbox::Progress;

/// Recognizes a log that ends inside a command: the server has received everything, and what it has applied stays before the end.
#[derive(Default)]
pub struct TornTail {
    last: Option<Progress>,
    seen: u32,
}

impl TornTail {
    /// A replica applies what it received within one turn of its event loop, unless a command takes long. During such a command the server
    /// answers no question. So a few equal answers are proof.
    const LOOKS: u32 = 3;

    /// Takes in the server's progress with a log that ends at `end` (exclusive) and that no node writes to. Returns whether the log is
    /// certain to end inside a command.
    pub fn is_certain(&mut self, progress: Option<&Progress>, end: u64) -> bool {
        let is_torn =
            progress.is_some_and(|progress| progress.received == end && progress.applied < end && !progress.is_paused);
        let stands_still = progress == self.last.as_ref();
        self.last = progress.cloned();
        self.seen = if is_torn && stands_still { self.seen + 1 } else { 0 };
        self.seen >= Self::LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_torn_only_if_all_was_received_and_nothing_moves() {
        let at = |applied, received| Some(Progress { replid: String::new(), applied, received, is_paused: false });
        let mut tail = TornTail::default();
        for progress in [at(5, 8), at(5, 10), at(6, 10), at(6, 10), at(6, 10), None, at(6, 10), at(6, 10), at(6, 10)] {
            assert!(!tail.is_certain(progress.as_ref(), 10), "{progress:?}");
        }
        assert!(tail.is_certain(at(6, 10).as_ref(), 10));
        let mut paused = TornTail::default();
        let held = at(6, 10).map(|progress| Progress { is_paused: true, ..progress });
        for _ in 0..10 {
            assert!(!paused.is_certain(held.as_ref(), 10), "what it received waits for the operator");
        }
        let mut whole = TornTail::default();
        for _ in 0..10 {
            assert!(!whole.is_certain(at(10, 10).as_ref(), 10));
        }
    }
}
