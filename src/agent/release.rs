//! How a node gives its lease back when it ends, or leaves its log. Agent's thread.

use std::time::{Duration, Instant};

use durability_protocol::Code;
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::grant::Grant;
use crate::agent::state::Agent;
use crate::base::time_limit::AtEnd;
use crate::exchange::mailbox::Task;
use crate::lead::keeper_state::Duty;
use crate::log::control::LogConnection;
use crate::log::error::LogError;

/// How long giving back a lease may take.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(700);

impl Agent {
    /// The node is to have no log, whatever was under way. What was held is never acknowledged.
    pub fn leave_log(&mut self) {
        self.was_off = true;
        self.shared.send(Task::ShippingEnded);
        self.give_back();
    }

    /// Gives back the lease, if the log service may hold one for this node. Best effort: if it fails, it is tried again when the node ends.
    /// Otherwise the same node takes the lease over when it comes back, or the lease passes.
    pub fn give_back(&mut self) {
        self.keeper.set(Duty::Nothing);
        if self.grant == Grant::None {
            return;
        }
        match self.resign() {
            Ok(Some(epoch)) => {
                self.grant = Grant::None;
                log_notice(format!("durability: released the lease of epoch {epoch}"));
            }
            // The lease may still be granted, but no time is left.
            Ok(None) if matches!(self.grant, Grant::Unknown(_)) => {}
            Ok(None) => self.grant = Grant::None,
            Err(error) if error.code() == Some(Code::Fenced) => self.grant = Grant::None,
            Err(error) => log_warning(format!("durability: the lease is not released: {error}")),
        }
    }

    /// See [`Grant::resign`].
    fn resign(&self) -> Result<Option<u64>, LogError> {
        // A node that ends has until its end. Any other is to attach again soon.
        let end = self.shared.end.get();
        let left = end.map_or(RELEASE_TIMEOUT, |end| end.saturating_duration_since(Instant::now()));
        let mut log = LogConnection::open_within(&self.shared, left, AtEnd::GoesOn)?;
        self.grant.resign(&mut log, &self.shared.node_id(), end)
    }
}
