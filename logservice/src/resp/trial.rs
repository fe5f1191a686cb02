//! Connections in places that are kept for nodes. Nobody knows what a newcomer is before it has spoken, so when clients hold all
//! other places it gets one of these, and has to show soon that it is a node. A replica or an operator will do as well; who may only watch or look for the leader will not.

use bytes::Bytes;
use durability_protocol::Refusal;

use super::commands::{self, Access, Command};
use super::reply::failure;
use crate::roles::Role;

/// What a command tells of who sends it.
#[derive(Debug, PartialEq, Eq)]
pub enum Sign {
    /// Nodes and replicas send it, and operators who look after them: nobody else may.
    Node,
    /// These send it, and whoever watches: it depends on what the login allows besides.
    Watcher,
    /// Clients send it that look for the leader.
    Client,
    /// Everybody does.
    None,
}

impl Sign {
    /// What the command of that name tells.
    pub fn of(name: &[u8]) -> Self {
        let Some(entry) = commands::find(name) else { return Sign::None };
        match (entry.command, entry.access) {
            (Command::Sentinel | Command::Role | Command::Subscribe, _) => Sign::Client,
            (_, Access::Needs(Role::Follow | Role::Operate | Role::Node)) => Sign::Node,
            (_, Access::Needs(Role::Observe)) => Sign::Watcher,
            (_, Access::Needs(Role::Discover) | Access::Anyone) => Sign::None,
        }
    }
}

/// What one is told that is no node.
pub fn refusal() -> Refusal {
    failure(
        "too many connections: as many as --max-connections allows to clients are open, the others are kept for nodes",
    )
}

/// The name of a command.
pub fn name(arguments: &[Bytes]) -> &[u8] {
    arguments.first().map_or(&[], |name| &name[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_clients_are_told_by_what_only_they_send() {
        for node in ["LOG.CHECK", "log.append", "PSYNC", "REPLCONF", "LOG.DROP"] {
            assert_eq!(Sign::of(node.as_bytes()), Sign::Node, "{node}");
        }
        for watcher in ["LOG.STATUS", "log.shards"] {
            assert_eq!(Sign::of(watcher.as_bytes()), Sign::Watcher, "{watcher}");
        }
        for client in ["SENTINEL", "sentinel", "ROLE", "PSUBSCRIBE"] {
            assert_eq!(Sign::of(client.as_bytes()), Sign::Client, "{client}");
        }
        for both in ["AUTH", "HELLO", "PING", "CLIENT", "INFO", "LOG", "LOG.NO-COMMAND", ""] {
            assert_eq!(Sign::of(both.as_bytes()), Sign::None, "{both}");
        }
    }
}
