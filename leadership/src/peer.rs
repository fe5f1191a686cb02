//! What the log service knows of the nodes of a shard.

use std::cmp::{Ordering, Reverse};
use std::time::Duration;

/// A node that follows the log, as the log service last heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<'a> {
    /// Its name, unique in the shard.
    pub node_id: &'a str,
    /// Who has more goes first; 0 never leads.
    pub priority: u32,
    /// The offset up to which (exclusive) it has applied the log.
    pub applied: u64,
    /// How long ago it was heard of.
    pub silent_for: Duration,
}

impl Peer<'_> {
    /// A node that was not heard of for so long is counted out. Nodes report at least once a second.
    pub const HEARD_WITHIN: Duration = Duration::from_secs(2);

    /// Whether it can be expected to lead if it is its turn.
    pub fn can_lead(&self, heard_within: Duration) -> bool {
        self.priority > 0 && self.silent_for < heard_within
    }

    /// Who should lead rather: the higher priority, then who has applied more, then the smaller name, so that all nodes
    /// put the same ones in the same order. The better one is `Less`.
    pub fn compare(&self, other: &Peer<'_>) -> Ordering {
        let key = |peer: &Peer<'_>| (Reverse(peer.priority), Reverse(peer.applied));
        key(self).cmp(&key(other)).then_with(|| self.node_id.cmp(other.node_id))
    }
}
