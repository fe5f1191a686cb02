//! Every command, and who may send it. The dispatcher finds commands here and nowhere else, so there is none without a role.

use durability_protocol as protocol;
use durability_protocol::{Code, Refusal};

use crate::roles::{Role, Roles};

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

/// Who may send a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, also before a login.
    Anyone,
    /// Who has logged in with a token of this role, or of one that includes it.
    Needs(Role),
}

/// A row of [`COMMANDS`].
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it is sent, in capitals.
    pub name: &'static str,
    /// What it is.
    pub command: Command,
    /// Who may send it.
    pub access: Access,
}

const fn entry(name: &'static str, command: Command, access: Access) -> Entry {
    Entry { name, command, access }
}

const NODE: Access = Access::Needs(Role::Node);
const OPERATE: Access = Access::Needs(Role::Operate);
const FOLLOW: Access = Access::Needs(Role::Follow);
const OBSERVE: Access = Access::Needs(Role::Observe);
const DISCOVER: Access = Access::Needs(Role::Discover);

/// All commands. They are looked for in this order, so those that come often stand first.
pub const COMMANDS: [Entry; 32] = [
    entry(protocol::APPEND, Command::Append, NODE),
    entry(protocol::NODE, Command::Node, NODE),
    entry(protocol::RENEW, Command::Renew, NODE),
    entry(protocol::CHECK, Command::Check, NODE),
    entry(protocol::ACQUIRE, Command::Acquire, NODE),
    entry(protocol::BEGIN, Command::Begin, NODE),
    entry(protocol::RESIGN, Command::Resign, NODE),
    entry(protocol::AUDIT_RESULT, Command::AuditResult, NODE),
    entry(protocol::ACCEPT, Command::Accept, OPERATE),
    entry(protocol::RELEASE, Command::Release, OPERATE),
    entry(protocol::DROP, Command::Drop, OPERATE),
    entry(protocol::SNAPSHOT, Command::Snapshot, OPERATE),
    entry(protocol::AUDIT, Command::Audit, OPERATE),
    entry(protocol::DEBUG, Command::Debug, OPERATE),
    entry("PSYNC", Command::Psync, FOLLOW),
    entry("REPLCONF", Command::Replconf, FOLLOW),
    entry(protocol::STATUS, Command::Status, OBSERVE),
    entry(protocol::SHARDS, Command::Shards, OBSERVE),
    // What it tells of shards beyond what clients need is for those who may see their status.
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
    /// Whether who has `roles` may send it.
    pub fn is_allowed(&self, roles: Roles) -> bool {
        match self.access {
            Access::Anyone => true,
            Access::Needs(role) => roles.allow(role),
        }
    }

    /// What one is told who has `roles`.
    ///
    /// # Errors
    /// [`Code::NoPerm`] if they do not allow it.
    pub fn check(&self, roles: Roles) -> Result<(), Refusal> {
        match self.access {
            Access::Needs(role) if !roles.allow(role) => Err(no_permission(self.name, role, roles)),
            _ => Ok(()),
        }
    }
}

/// Who has `roles` may not do `what`, which needs `role`.
pub fn no_permission(what: &str, role: Role, roles: Roles) -> Refusal {
    let (needed, includes_all) = (role.word(), Role::Node.word());
    let or_node = if role == Role::Node { String::new() } else { format!(" (or {includes_all})") };
    Refusal::new(
        Code::NoPerm,
        format!("{what} needs a token with the role {needed}{or_node}, and this one's is {roles}"),
    )
}
