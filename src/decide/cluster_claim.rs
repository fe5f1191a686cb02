//! What a shard is in a Valkey cluster: as its log has stored it, and as its leader claims it.

use durability_protocol::SlotRanges;

/// As the log has stored it last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// The config epoch of its primary; 0 if nothing was stored.
    pub config_epoch: u64,
    /// The slots that it serves.
    pub slots: SlotRanges,
    /// Slots that an earlier leader was about to claim from other shards. Its log holds their keys.
    pub intentions: Vec<Intention>,
}

/// Slots that a leader is about to claim from another shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intention {
    /// The migration: 40 hexadecimal digits.
    pub job: String,
    /// What moves.
    pub slots: SlotRanges,
    /// The shard that has them.
    pub source: String,
}

/// What its leader makes the cluster believe, once the log has stored it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its config epoch. 0: the shard has none yet, so nothing is stored, and the node keeps the one that it has.
    pub config_epoch: u64,
    /// The slots that it serves.
    pub slots: SlotRanges,
    /// The leader's id in the cluster.
    pub node_id: String,
}
