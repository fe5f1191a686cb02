//! What clients are to know of a shard: which node they write to, and which ones they can read from.

use std::time::Duration;

use super::{Acceptance, LeaseLeft, NodeStatus, Shard, Switch};
use crate::base::log_throttle::{say, LineThrottle};

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
        let leads = has_lease && epoch == epochs.epoch();
        drop(accepting);
        Some(Primary { node_id, address, epoch, leads: leads && self.leads_by_report(epoch) })
    }

    /// Tells of it if clients have to go elsewhere than was told last. Called while the epochs are being changed; not while the acceptance
    /// is locked, as it wakes everybody who listens.
    pub(super) fn announce_switch(&self) {
        self.acceptance.announce_switch(&self.lines);
    }
}

impl Acceptance {
    /// As [`Shard::announce_switch`].
    pub(super) fn announce_switch(&self, lines: &LineThrottle) {
        let newest = self.lock().epochs.newest_begun().map(|entry| (entry.epoch, entry.address.clone()));
        let Some((epoch, address)) = newest else { return };
        if let Some(switch) = self.switches.note(&self.shard, &self.log_id, epoch, &address) {
            let Switch { from, to, .. } = &*switch;
            let instead = if from.is_empty() { String::new() } else { format!(", no longer to {from}") };
            say!(lines, info, "shard {}: clients go to {to}{instead}", self.shard);
        }
    }
}
