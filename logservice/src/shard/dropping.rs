//! The end of a shard: nobody uses it, or whoever does is told.

use std::time::{Duration, Instant};

use durability_protocol::{Code, Refusal, IN_USE_MS};

use super::{LeaseLeft, Shard};
use crate::base::log_throttle::say;
use crate::store::SlotMove;

impl Shard {
    /// Whether the shard was dropped, or is opened anew.
    pub fn has_ended(&self) -> bool {
        self.notifier().has_ended()
    }

    /// Refuses if it has.
    pub fn check_not_ended(&self) -> Result<(), Refusal> {
        if self.has_ended() {
            return self.check_not_failed();
        }
        Ok(())
    }

    /// Ends the shard for everybody: appends in flight, polls and replicas are refused, and nothing of it is touched on the medium
    /// once this returns. Without `force` only if nobody uses it.
    ///
    /// # Errors
    /// Somebody does; nothing has changed.
    pub async fn retire(&self, force: bool) -> Result<(), Refusal> {
        // Nothing of it is being stored from here on.
        let _changing = match force {
            true => {
                // First, so that a change which waits for appends ends.
                self.set_dropped();
                self.changing.lock().await
            }
            false => {
                let changing = self.changing.lock().await;
                self.check_unused()?;
                self.set_dropped();
                changing
            }
        };
        let store = self.store.clone();
        let closed = self.environment.run_blocking(move || store.close()).await;
        closed.map_err(|error| Refusal::new(Code::Err, format!("the log could not be closed: {error}")))
    }

    fn set_dropped(&self) {
        say!(super::OPENED, warn, "shard {}: it is dropped, log {}", self.name, self.log_id());
        self.notifier().set_dropped(&format!("shard '{}' was dropped", self.name));
        self.accepting().wake_polls();
    }

    /// Refuses while somebody leads, follows, or has told of itself a moment ago, and says who; and while another shard has yet to store which
    /// slots it has from here: its next leader asks for them, and would wait for ever.
    fn check_unused(&self) -> Result<(), Refusal> {
        let refuse = |why| {
            Err(Refusal::new(Code::Err, format!("shard '{}' is in use: {why}, or drop it with FORCE", self.name)))
        };
        if let Some(user) = self.user(self.environment.now()) {
            return refuse(format!("{user}; stop its nodes first"));
        }
        let manifest = self.store.manifest();
        match manifest.cluster.iter().find_map(|cluster| cluster.migrations.moved.first()) {
            Some(SlotMove { slots, shard, .. }) => refuse(format!(
                "shard '{shard}' has claimed slots {slots} and not stored that yet; have a node of it lead first"
            )),
            None => Ok(()),
        }
    }

    fn user(&self, now: Instant) -> Option<String> {
        {
            let accepting = self.accepting();
            let leads = match accepting.epochs.lease_left(now) {
                LeaseLeft::Nobody => false,
                LeaseLeft::Forever => true,
                LeaseLeft::For(left) => left > Duration::ZERO,
            };
            if let Some(leader) = accepting.epochs.leader().filter(|_| leads) {
                return Some(format!("node {} at {} leads", leader.node_id, leader.address));
            }
        }
        let heard = |node: &super::NodeStatus| node.silent_ms < IN_USE_MS;
        if let Some(node) = self.nodes_at(0).into_iter().find(heard) {
            let (role, contact_ms) = (node.role.word(), node.contact_ms);
            return Some(format!("node {} at {} ({role}) was heard of {contact_ms} ms ago", node.id, node.address));
        }
        if let Some(node) = Some(self.contradictions().text(now)).filter(|text| !text.is_empty()) {
            return Some(format!("a node knows another log of that name: {node}"));
        }
        let replicas = self.replicas.load(std::sync::atomic::Ordering::Relaxed);
        (replicas > 0).then(|| format!("{replicas} replicas follow its stream"))
    }
}
