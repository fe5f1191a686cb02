//! All commands, and who may send each. The dispatcher looks up commands here only, so there is none without a role.

use durability_protocol as protocol;
use durability_protocol::Refusal;

use crate::access::roles::{no_permission, Access, TokenRole, TokenRoles};

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `LOG.APPEND`.
    Append,
    /// `LOG.NODE`.
    Node,
    /// `LOG.RENEW`.
    Renew,
    /// `LOG.CHECK`.
    Check,
    /// `LOG.ACQUIRE`.
    Acquire,
    /// `LOG.BEGIN`.
    Begin,
    /// `LOG.RESIGN`.
    Resign,
    /// `LOG.SLOTS`.
    Slots,
    /// `LOG.AUDIT-RESULT`.
    AuditResult,
    /// `LOG.ACCEPT`.
    Accept,
    /// `LOG.RELEASE`.
    Release,
    /// `LOG.DROP`.
    Drop,
    /// `LOG.SNAPSHOT`.
    Snapshot,
    /// `LOG.AUDIT`.
    Audit,
    /// `LOG.BACKUP`.
    Backup,
    /// `LOG.DEBUG`.
    Debug,
    /// `PSYNC`.
    Psync,
    /// `REPLCONF`.
    Replconf,
    /// `LOG.STATUS`.
    Status,
    /// `LOG.SHARDS`.
    Shards,
    /// `LOG.CLUSTER`.
    Cluster,
    /// `INFO`.
    Info,
    /// `SENTINEL`.
    Sentinel,
    /// `ROLE`.
    Role,
    /// `SUBSCRIBE` and its like.
    Subscribe,
    /// `COMMAND`.
    Command,
    /// `SELECT`.
    Select,
    /// `CLIENT`.
    Client,
    /// `AUTH`.
    Auth,
    /// `HELLO`.
    Hello,
    /// `PING`.
    Ping,
    /// `QUIT`.
    Quit,
}

/// A row of [`COMMANDS`].
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in capitals.
    pub name: &'static str,
    /// What it is.
    pub command: Command,
    /// Who may send it.
    pub access: Access,
}

const fn entry(name: &'static str, command: Command, access: Access) -> Entry {
    Entry { name, command, access }
}

const NODE: Access = Access::Needs(TokenRole::Node);
const OPERATE: Access = Access::Needs(TokenRole::Operate);
const FOLLOW: Access = Access::Needs(TokenRole::Follow);
const OBSERVE: Access = Access::Needs(TokenRole::Observe);
const DISCOVER: Access = Access::Needs(TokenRole::Discover);

/// All commands. They are looked up in this order, so frequent ones stand first.
pub const COMMANDS: [Entry; 35] = [
    entry(protocol::APPEND, Command::Append, NODE),
    entry(protocol::NODE, Command::Node, NODE),
    entry(protocol::RENEW, Command::Renew, NODE),
    entry(protocol::CHECK, Command::Check, NODE),
    entry(protocol::ACQUIRE, Command::Acquire, NODE),
    entry(protocol::BEGIN, Command::Begin, NODE),
    entry(protocol::RESIGN, Command::Resign, NODE),
    entry(protocol::SLOTS, Command::Slots, NODE),
    entry(protocol::AUDIT_RESULT, Command::AuditResult, NODE),
    entry(protocol::ACCEPT, Command::Accept, OPERATE),
    entry(protocol::RELEASE, Command::Release, OPERATE),
    entry(protocol::DROP, Command::Drop, OPERATE),
    entry(protocol::SNAPSHOT, Command::Snapshot, OPERATE),
    entry(protocol::BACKUP, Command::Backup, OPERATE),
    entry(protocol::AUDIT, Command::Audit, OPERATE),
    entry(protocol::DEBUG, Command::Debug, OPERATE),
    entry("PSYNC", Command::Psync, FOLLOW),
    entry("REPLCONF", Command::Replconf, FOLLOW),
    entry(protocol::STATUS, Command::Status, OBSERVE),
    entry(protocol::SHARDS, Command::Shards, OBSERVE),
    // INIT needs more.
    entry(protocol::CLUSTER, Command::Cluster, OBSERVE),
    // Of a shard it shows more than clients need only to those who may see its status.
    entry("INFO", Command::Info, DISCOVER),
    entry("SENTINEL", Command::Sentinel, DISCOVER),
    entry("ROLE", Command::Role, DISCOVER),
    entry("SUBSCRIBE", Command::Subscribe, DISCOVER),
    entry("PSUBSCRIBE", Command::Subscribe, DISCOVER),
    entry("UNSUBSCRIBE", Command::Subscribe, DISCOVER),
    entry("PUNSUBSCRIBE", Command::Subscribe, DISCOVER),
    entry("COMMAND", Command::Command, DISCOVER),
    entry("SELECT", Command::Select, DISCOVER),
    entry("CLIENT", Command::Client, DISCOVER),
    entry("AUTH", Command::Auth, Access::Anyone),
    entry("HELLO", Command::Hello, Access::Anyone),
    entry("PING", Command::Ping, Access::Anyone),
    entry("QUIT", Command::Quit, Access::Anyone),
];

/// The command of that name, in any case.
pub fn find(name: &[u8]) -> Option<&'static Entry> {
    COMMANDS.iter().find(|entry| name.eq_ignore_ascii_case(entry.name.as_bytes()))
}

impl Entry {
    /// Whether a client with `roles` may send it.
    pub fn is_allowed(&self, roles: TokenRoles) -> bool {
        match self.access {
            Access::Anyone => true,
            Access::Needs(role) => roles.allow(role),
        }
    }

    /// Refuses it to a client with `roles` that do not allow it.
    ///
    /// # Errors
    /// [`Code::NoPerm`](durability_protocol::Code::NoPerm) if they do not allow it.
    pub fn check(&self, roles: TokenRoles) -> Result<(), Refusal> {
        match self.access {
            Access::Needs(role) if !roles.allow(role) => Err(no_permission(self.name, role, roles)),
            _ => Ok(()),
        }
    }
}
