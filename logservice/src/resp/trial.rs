//! Connections in places that are kept for nodes. Nothing tells what a client is before its first command. So when clients hold all other
//! places, a newcomer gets one of these, and has to show soon that it is a node. Replicas and operators may stay as well; clients that may
//! only watch, or look up the leader, may not.

use bytes::Bytes;
use durability_protocol::Refusal;

use super::command_roles::{self, Command};
use super::reply::failure;
use crate::access::roles::{Access, TokenRole};

/// What a command shows of its sender.
#[derive(Debug, PartialEq, Eq)]
pub enum Sign {
    /// Only nodes, replicas and operators may send it.
    Node,
    /// These and monitoring send it, so it depends on what else the login allows.
    Watcher,
    /// Clients that look up the leader send it.
    Client,
    /// Everyone sends it.
    None,
}

impl Sign {
    /// What the command of that name shows.
    pub fn of(name: &[u8]) -> Self {
        let Some(entry) = command_roles::find(name) else { return Sign::None };
        match (entry.command, entry.access) {
            (Command::Sentinel | Command::Role | Command::Subscribe, _) => Sign::Client,
            (_, Access::Needs(TokenRole::Follow | TokenRole::Operate | TokenRole::Node)) => Sign::Node,
            (_, Access::Needs(TokenRole::Observe)) => Sign::Watcher,
            (_, Access::Needs(TokenRole::Discover) | Access::Anyone) => Sign::None,
        }
    }
}

/// The answer to a client that is no node.
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
