//! Connections in places that are kept for nodes. Nobody knows what a newcomer is before it has spoken, so when clients hold all
//! other places it gets one of these, and has to show soon that it is a node.

use bytes::Bytes;

use super::reply::{failure, Reply};

/// What a command tells of who sends it.
#[derive(Debug, PartialEq, Eq)]
pub enum Sign {
    /// Nodes send it, and operators who look after them.
    Node,
    /// Clients send it that look for the leader.
    Client,
    /// Everybody does.
    None,
}

impl Sign {
    /// What the command of that name tells.
    pub fn of(name: &[u8]) -> Self {
        const CLIENTS: [&[u8]; 4] = [b"SENTINEL", b"ROLE", b"SUBSCRIBE", b"PSUBSCRIBE"];
        let begins_with = |start: &[u8]| name.get(..start.len()).is_some_and(|part| part.eq_ignore_ascii_case(start));
        if begins_with(b"LOG.") || name.eq_ignore_ascii_case(b"PSYNC") {
            Sign::Node
        } else if CLIENTS.into_iter().any(|client| name.eq_ignore_ascii_case(client)) {
            Sign::Client
        } else {
            Sign::None
        }
    }
}

/// What one is told that is no node.
pub fn refusal() -> Reply {
    super::reply::error(&failure(
        "too many connections: as many as --max-connections allows to clients are open, the others are kept for nodes",
    ))
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
        for node in ["LOG.CHECK", "log.status", "PSYNC"] {
            assert_eq!(Sign::of(node.as_bytes()), Sign::Node, "{node}");
        }
        for client in ["SENTINEL", "sentinel", "ROLE", "PSUBSCRIBE"] {
            assert_eq!(Sign::of(client.as_bytes()), Sign::Client, "{client}");
        }
        for both in ["AUTH", "HELLO", "PING", "REPLCONF", "CLIENT", "INFO", "LOG", ""] {
            assert_eq!(Sign::of(both.as_bytes()), Sign::None, "{both}");
        }
    }
}
