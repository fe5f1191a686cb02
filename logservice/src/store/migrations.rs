//! What a shard of a Valkey cluster remembers of slots that move between it and other shards.

use durability_protocol::SlotRanges;
use serde::{Deserialize, Serialize};

/// Slots on their way from this shard or to it. `shard/slots/migration.rs` has the rules by which they change. No slot is in two of `given`,
/// the slots of the shard and those of an import.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Migrations {
    /// What this shard has granted to another, and that one has not claimed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<SlotGrant>,
    /// What another shard has claimed of this one, and has not yet said that it has stored. Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<SlotMove>,
    /// The slots that this shard has given away and has not got back by a migration.
    #[serde(default, skip_serializing_if = "SlotRanges::is_empty")]
    pub given: SlotRanges,
    /// What this shard is about to claim of another one, or has claimed and not yet added to its slots. Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<SlotMove>,
    /// The newest jobs that were aborted or are settled, from this shard and to it: they are granted and imported no more. Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<String>,
}

/// Slots that move between this shard and another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMove {
    /// The server's name of the migration, see `durability_protocol::is_valid_slot_job`.
    pub job: String,
    /// The slots.
    pub slots: SlotRanges,
    /// The other shard.
    pub shard: String,
}

/// Slots that a leader has granted to another shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotGrant {
    /// What is granted, and to which shard.
    pub moving: SlotMove,
    /// The epoch whose leader has granted it. It is void when that does not lead any more.
    pub epoch: u64,
}

impl Migrations {
    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        *self == Migrations::default()
    }
}
