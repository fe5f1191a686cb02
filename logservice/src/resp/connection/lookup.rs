//! Finds the shard that a command is about.

use std::sync::Arc;

use bytes::Bytes;
use durability_protocol::{Code, Refusal};

use super::Connection;
use crate::resp::arguments::text;
use crate::resp::command_roles::Entry;
use crate::resp::deciding::needs_decider;
use crate::resp::reply::failure;
use crate::shard::Shard;

impl Connection {
    /// The shard that the first argument names, if `command` is allowed on it.
    pub(super) async fn shard(&self, command: &Entry, arguments: &[Bytes]) -> Result<Arc<Shard>, Refusal> {
        self.shard_named(command, first_argument(arguments)?).await
    }

    /// The same for a node's LOG.CHECK, which makes the shard if there is none.
    pub(super) async fn node_shard(&self, command: &Entry, arguments: &[Bytes]) -> Result<Arc<Shard>, Refusal> {
        let name = first_argument(arguments)?;
        self.identity.check(command, name)?;
        let shard = self.service.shard_or_new(name).await?;
        check_decides(command, &shard)?;
        Ok(shard)
    }

    /// The shard of that name, if `command` is allowed on it.
    pub(super) async fn shard_named(&self, command: &Entry, name: &str) -> Result<Arc<Shard>, Refusal> {
        self.identity.check(command, name)?;
        let shard = self.service.shard(name).await?;
        if self.identity.has_checked_another(&shard) {
            let text = format!("shard '{name}' is another one since this connection compared it: connect anew");
            let code = if shard.is_replicated() { Code::NotLeader } else { Code::NoShard };
            let detail = if shard.is_replicated() { format!("- decided anew over the log: {text}") } else { text };
            return Err(Refusal::new(code, detail));
        }
        check_decides(command, &shard)?;
        Ok(shard)
    }

    /// Checks that the node has compared what it knows with the log of `shard`.
    pub(super) fn check_compared(&self, shard: &Arc<Shard>) -> Result<(), Refusal> {
        if self.identity.has_checked(shard) {
            return Ok(());
        }
        Err(failure(
            "this connection has not sent LOG.CHECK: module and log service are of different builds; use those of one build",
        ))
    }
}

/// Refuses what only the service that decides over the shard's log carries out, if this one does not.
fn check_decides(command: &Entry, shard: &Shard) -> Result<(), Refusal> {
    match needs_decider(command.command) {
        true => shard.check_decides(),
        false => Ok(()),
    }
}

fn first_argument(arguments: &[Bytes]) -> Result<&str, Refusal> {
    text(arguments.get(1).ok_or_else(|| failure("which shard? it is the first argument"))?)
}
