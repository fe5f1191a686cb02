//! Finds the shard that a command is about.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use durability_protocol::{Code, Refusal};
use tokio::time::{interval, Instant};

use super::Connection;
use crate::resp::arguments::text;
use crate::resp::command_roles::Entry;
use crate::resp::deciding::needs_decider;
use crate::resp::reply::failure;
use crate::shard::Shard;

/// How long a command waits at most until it is known who decides. Nodes wait for an answer for longer.
const DECIDED_AT_MOST: Duration = Duration::from_millis(100);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(2);

impl Connection {
    /// The shard that the first argument names, if `command` is allowed on it.
    pub(super) async fn shard(&self, command: &Entry, arguments: &[Bytes]) -> Result<Arc<Shard>, Refusal> {
        self.shard_named(command, first_argument(arguments)?).await
    }

    /// The shard `other`, for a command that is allowed on the shard that the first argument names and is decided over with that other one.
    pub(super) async fn other_shard(
        &self,
        command: &Entry,
        arguments: &[Bytes],
        other: &str,
    ) -> Result<Arc<Shard>, Refusal> {
        self.identity.check(command, first_argument(arguments)?)?;
        let shard = self.service.shard(other).await?;
        let shard = self.once_decided(command, shard).await?;
        check_decides(command, &shard)?;
        Ok(shard)
    }

    /// The same for a node's LOG.CHECK, which makes the shard if there is none.
    pub(super) async fn node_shard(&self, command: &Entry, arguments: &[Bytes]) -> Result<Arc<Shard>, Refusal> {
        let name = first_argument(arguments)?;
        self.identity.check(command, name)?;
        let shard = self.service.shard_or_new(name).await?;
        let shard = self.once_decided(command, shard).await?;
        check_decides(command, &shard)?;
        Ok(shard)
    }

    /// The shard of that name, if `command` is allowed on it.
    pub(super) async fn shard_named(&self, command: &Entry, name: &str) -> Result<Arc<Shard>, Refusal> {
        self.identity.check(command, name)?;
        let shard = self.service.shard(name).await?;
        let shard = self.once_decided(command, shard).await?;
        if self.identity.has_checked_another(&shard) {
            // First, as that says where to go.
            check_decides(command, &shard)?;
            let text = format!("shard '{name}' is another one since this connection compared it: connect anew");
            let code = if shard.is_replicated() { Code::NotLeader } else { Code::NoShard };
            let detail = if shard.is_replicated() { format!("- decided anew over the log: {text}") } else { text };
            return Err(Refusal::new(code, detail));
        }
        check_decides(command, &shard)?;
        Ok(shard)
    }

    /// The shard as it is once it is known who decides over its log, if `command` takes that one. While an election or a handover is under
    /// way nobody is: whoever asks then would only ask in vain everywhere, and wait before it asks again. Waits for a moment at most.
    async fn once_decided(&self, command: &Entry, shard: Arc<Shard>) -> Result<Arc<Shard>, Refusal> {
        let is_known = |shard: &Shard| shard.decides() || shard.decider().is_some();
        if is_known(&shard) || !needs_decider(command.command) {
            return Ok(shard);
        }
        let (name, until) = (shard.name().to_owned(), Instant::now() + DECIDED_AT_MOST);
        let mut looks = interval(LOOK_EVERY);
        let mut shard = shard;
        while !is_known(&shard) && Instant::now() < until {
            looks.tick().await;
            shard = self.service.shard(&name).await?;
        }
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
