//! A node of a cluster that follows its log becomes a replica of the node that leads, in the cluster too. Agent's thread.

use std::time::{Duration, Instant};

use crate::agent::interrupt::Interrupt;
use crate::agent::state::Agent;
use crate::exchange::mailbox::Task;
use crate::log::control::LogConnection;
use crate::log::shard_view::ShardView;

/// How often to try, while this node is no replica of the leader: the bus may not have told of the leader yet, it is not in this node's
/// cluster, or its log has not stored which one it is.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How often to look whether this node still is one.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What a node that follows remembers of that.
#[derive(Default)]
pub struct Membership {
    /// The epoch in which it last looked, and when it looks again.
    next_look: Option<(u64, Instant)>,
}

impl Membership {
    /// Makes this node a replica of the leader, if it is not. Does nothing outside of cluster mode.
    ///
    /// # Errors
    /// The log cannot be reached, or something else is to be done first.
    pub fn look(&mut self, agent: &mut Agent, view: &ShardView) -> Result<(), Interrupt> {
        let is_due = self.next_look.is_none_or(|(epoch, next)| epoch != view.epoch || next <= Instant::now());
        if !agent.control.support.is_cluster || !is_due {
            return Ok(());
        }
        // Asked anew each time: a leader takes the lease first, and stores what it is in the cluster then.
        let leader = LogConnection::open(&agent.shared)?.status()?.cluster_node_id;
        let belongs = !leader.is_empty() && agent.control.ask(|reply| Task::BelongTo(leader, reply))?;
        let wait = if belongs { LOOK_INTERVAL } else { RETRY_INTERVAL };
        self.next_look = Some((view.epoch, Instant::now() + wait));
        Ok(())
    }
}
