//! Which clients have waited too long for the log.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::decide::gate::ClientId;
use crate::decide::valve::Group;

/// When clients began to wait, oldest first. Main thread only.
#[derive(Default)]
pub struct ReplyTimeouts {
    /// Held in this round of the event loop, whose time is not known yet.
    fresh: Vec<(ClientId, Group)>,
    waiting: VecDeque<(Instant, ClientId, Group)>,
    is_kept: bool,
}

impl ReplyTimeouts {
    /// Whether this is the first time that it is asked since [`ReplyTimeouts::forget`].
    pub fn is_new(&mut self) -> bool {
        !std::mem::replace(&mut self.is_kept, true)
    }

    /// Whether clients are to be noted at all.
    #[inline]
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Whether anybody may wait.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.fresh.is_empty() || !self.waiting.is_empty()
    }

    /// A reply of the client waits for `group` from this round of the event loop on.
    #[inline]
    pub fn held(&mut self, client: ClientId, group: Group) {
        self.fresh.push((client, group));
    }

    /// Nothing is kept any more.
    pub fn forget(&mut self) {
        if self.is_kept {
            *self = ReplyTimeouts::default();
        }
    }

    /// The round of the event loop ends `now`. Returns the clients that have a reply which has waited for at least `timeout`, each
    /// once; groups up to `released` are acknowledged.
    pub fn late(&mut self, now: Instant, timeout: Duration, released: Group) -> HashSet<ClientId> {
        self.waiting.extend(self.fresh.drain(..).map(|(client, group)| (now, client, group)));
        let mut late = HashSet::new();
        while let Some(&(since, client, group)) = self.waiting.front() {
            if group > released {
                if now.saturating_duration_since(since) < timeout {
                    break;
                }
                late.insert(client);
            }
            self.waiting.pop_front();
        }
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);

    fn late(timeouts: &mut ReplyTimeouts, now: Instant, released: Group) -> Vec<ClientId> {
        let mut clients: Vec<_> = timeouts.late(now, TIMEOUT, released).into_iter().collect();
        clients.sort_unstable();
        clients
    }

    #[test]
    fn a_client_is_late_when_its_own_reply_has_waited_for_too_long() {
        let (start, mut timeouts) = (Instant::now(), ReplyTimeouts::default());
        timeouts.held(1, 5);
        timeouts.held(2, 5);
        assert_eq!(late(&mut timeouts, start, 4), []);
        // Reads what the others wrote, and waits for the same group, but not for as long.
        timeouts.held(3, 5);
        assert_eq!(late(&mut timeouts, start + TIMEOUT / 2, 4), []);
        assert_eq!(late(&mut timeouts, start + TIMEOUT, 4), [1, 2]);
        assert_eq!(late(&mut timeouts, start + TIMEOUT, 4), [], "told once");
        assert_eq!(late(&mut timeouts, start + TIMEOUT * 2, 4), [3]);
    }

    #[test]
    fn who_was_answered_is_not_late() {
        let (start, mut timeouts) = (Instant::now(), ReplyTimeouts::default());
        timeouts.held(1, 5);
        timeouts.held(1, 6);
        late(&mut timeouts, start, 4);
        assert_eq!(late(&mut timeouts, start + TIMEOUT, 5), [1], "its second reply still waits");
        timeouts.held(2, 7);
        late(&mut timeouts, start + TIMEOUT, 6);
        assert_eq!(late(&mut timeouts, start + TIMEOUT * 3, 7), []);
        assert!(timeouts.waiting.is_empty());
    }
}
