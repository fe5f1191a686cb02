//! One step of an audit. The audit's thread sends it to the main thread, which reads a few keys and sends it back.

use std::collections::VecDeque;
use std::time::Duration;

use durability_protocol::audit::{Picker, Reading};

/// A database's number and a key's name.
pub type KeyName = (u32, Vec<u8>);

/// What was read under a name.
pub enum KeyRead {
    /// There is no such key.
    Nothing,
    /// The key has a module's type.
    OtherType,
    /// The key.
    Key(Reading),
}

/// What the main thread is to read, and then what it has read.
#[derive(Default)]
pub struct AuditStep {
    /// The epoch that this node is to lead.
    pub epoch: u64,
    /// Picks keys. `None` before the first step.
    pub picker: Option<Picker>,
    /// How many keys the picker is to pick.
    pub keys: u64,
    /// Unpredictable numbers for the picker.
    pub random: VecDeque<u64>,
    /// Keys that the log service asks for.
    pub names: VecDeque<KeyName>,
    /// Whether to count the keys of each database.
    pub counts: bool,

    /// How many keys each database had, if they were counted.
    pub databases: Option<Vec<(u32, u64)>>,
    /// What was read.
    pub read: Vec<(KeyName, KeyRead)>,
    /// The end of the replication stream (exclusive) at that moment.
    pub offset: u64,
    /// The time after the reads, in milliseconds since 1970.
    pub time_ms: u64,
    /// How long the main thread's core was busy with it.
    pub took: Duration,
    /// Everything is picked, and no names are left.
    pub is_done: bool,
    /// Why the node cannot go on.
    pub failure: Option<String>,
}
