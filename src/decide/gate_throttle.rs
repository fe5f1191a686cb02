//! Replies that the gate holds for the log's pace only (`decide/throttle.rs`). They depend on nothing, so they may leave at any time.
//!
//! They are held for a group as others are, but that group has an earlier offset than the end of what its iteration wrote. It dirties no key and
//! holds no message. A group in which something was written that replies depend on has its own offset, whatever else is held for it.

use std::collections::HashSet;

use crate::decide::gate::{ClientId, Connections, Gate, Held, Use};

impl<C: Connections> Gate<C> {
    /// The client's reply to the write that is about to run is held until the log has acknowledged all but `window` bytes of what this
    /// iteration wrote, and what came before. Nothing is held of a client whose connection cannot be held.
    pub fn throttle(&mut self, client: ClientId, window: u64) -> Held {
        if !self.connections.can_hold(client) {
            return Held::NoConnection;
        }
        if self.open_group_is_for != Use::Write {
            self.open_group_is_for = Use::Throttle(window);
        }
        self.hold(client, self.open_group())
    }

    /// The open group closes at that offset, which is none of its own.
    pub(super) fn close_throttled(&mut self, offset: u64) {
        let group = self.newest();
        (group.offset, group.is_throttled) = (offset, true);
        self.throttled_groups += 1;
    }

    /// Whether replies may be held for the log's pace only.
    #[inline]
    pub fn is_throttling(&self) -> bool {
        self.throttled_groups > 0
    }

    /// Lets go of what closed groups hold for the log's pace only. What waits behind a reply that waits for a write leaves with that.
    pub fn end_throttling(&mut self) {
        let mut previous = 0;
        for group in &mut self.waiting {
            match group.is_throttled {
                true => group.offset = previous,
                false => previous = group.offset,
            }
        }
        self.release(0);
    }

    /// How many clients have a reply that waits for the log's pace only.
    pub fn throttled_clients(&self) -> usize {
        let groups = self.waiting.iter().filter(|group| group.is_throttled);
        let clients: HashSet<ClientId> = groups.flat_map(|group| &group.clients).copied().collect();
        let is_held = |client: &&ClientId| self.connections.mark(**client).is_some_and(|mark| mark > self.released);
        clients.iter().filter(is_held).count()
    }
}
