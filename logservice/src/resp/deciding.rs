//! Which commands take the service that decides over the shard's log. A service alone always decides.

use super::command_roles::Command;

/// Whether only the service that decides over the shard's log carries out `command`. The others refuse it with
/// [`Code::NotLeader`](durability_protocol::Code::NotLeader).
pub fn needs_decider(command: Command) -> bool {
    match command {
        // They change the log, its lease, or what is stored besides.
        Command::Append
        | Command::Renew
        | Command::Acquire
        | Command::Begin
        | Command::Resign
        | Command::Slots
        | Command::Release
        | Command::Drop
        | Command::Snapshot
        | Command::Backup => true,
        // What a node knows is compared with the end of the log, of which the others may know less.
        Command::Check | Command::Accept => true,
        // The leader sends its keys where it polls for the order to do so: where the lease is.
        Command::Audit | Command::AuditResult => true,
        // They show the shard as it is known here, or only concern this service.
        Command::Node
        | Command::Psync
        | Command::Replconf
        | Command::Status
        | Command::Shards
        | Command::Debug
        | Command::Info
        | Command::Sentinel
        | Command::Role
        | Command::Subscribe => false,
        // The cluster is decided over elsewhere than its shards.
        Command::Cluster => false,
        // They are about the connection.
        Command::Command
        | Command::Select
        | Command::Client
        | Command::Auth
        | Command::Hello
        | Command::Ping
        | Command::Quit => false,
    }
}
