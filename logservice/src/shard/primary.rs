//! What clients are to know of a shard: which node they write to, which ones they can read from, and word of it when the first
//! of these changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use super::{Acceptance, Accepting, LeaseLeft, NodeStatus, Shard};
use crate::base::log_throttle::{say, LineThrottle};

/// Where the changes of all shards are told. Whoever listens is given each; who is behind by more of them than it holds is told so.
pub type Switches = broadcast::Sender<Arc<Switch>>;

/// Clients of a shard have to go to another address.
#[derive(Debug, PartialEq, Eq)]
pub struct Switch {
    /// The shard.
    pub shard: String,
    /// Where they went before.
    pub from: String,
    /// Where they go now.
    pub to: String,
}

/// The node that clients write to: whose epoch was the last to begin writing. Not the node that was only granted the lease, as that
/// does not serve yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    /// Its name.
    pub node_id: String,
    /// Where it is reached.
    pub address: String,
    /// The number of its epoch.
    pub epoch: u64,
    /// Whether it still leads, and its lease has not expired.
    pub leads: bool,
}

/// A shard to its clients.
#[derive(Debug, Clone)]
pub struct Roles {
    /// Its name.
    pub shard: String,
    /// The node to write to.
    pub primary: Primary,
    /// All nodes that told of themselves.
    pub nodes: Vec<NodeStatus>,
}

impl Shard {
    /// What clients are to know; nothing before any node has begun to write.
    pub fn roles(&self) -> Option<Roles> {
        let primary = self.primary()?;
        let nodes = self.nodes_at(self.notifier().progress().visible);
        Some(Roles { shard: self.name.clone(), primary, nodes })
    }

    /// The node that clients write to; `None` before any has begun to write.
    pub fn primary(&self) -> Option<Primary> {
        let accepting = self.accepting();
        let epochs = &accepting.epochs;
        let entry = epochs.newest_begun()?;
        let has_lease = match epochs.lease_left(self.environment.now()) {
            LeaseLeft::Nobody => false,
            LeaseLeft::Forever => true,
            LeaseLeft::For(left) => left > Duration::ZERO,
        };
        let (node_id, address, epoch) = (entry.node_id.clone(), entry.address.clone(), entry.epoch);
        Some(Primary { node_id, address, epoch, leads: has_lease && epoch == epochs.epoch() })
    }

    pub(super) fn primary_address(&self) -> Option<String> {
        self.accepting().primary_address()
    }

    /// Tells of it if clients have to go elsewhere than `before`. Called while the epochs are being changed, so that the order is that
    /// of the changes; not while the acceptance is locked, as it wakes everybody who listens.
    pub(super) fn announce_switch(&self, before: Option<String>) {
        self.acceptance.announce_switch(before, &self.lines);
    }
}

impl Accepting {
    pub(super) fn primary_address(&self) -> Option<String> {
        self.epochs.newest_begun().map(|entry| entry.address.clone())
    }
}

impl Acceptance {
    /// As [`Shard::announce_switch`].
    pub(super) fn announce_switch(&self, before: Option<String>, lines: &LineThrottle) {
        let after = self.lock().primary_address();
        let (Some(from), Some(to)) = (before, after) else { return };
        if from != to {
            let instead = if from.is_empty() { String::new() } else { format!(", no longer to {from}") };
            say!(lines, info, "shard {}: clients go to {to}{instead}", self.shard);
            // Fails if nobody listens.
            let _ = self.switches.send(Arc::new(Switch { shard: self.shard.clone(), from, to }));
        }
    }
}
