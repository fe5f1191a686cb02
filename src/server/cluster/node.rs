//! Structs of the server's cluster that it does not show to modules. Mirrors `cluster_legacy.h` of Valkey 9.1.
//!
//! `layout_check.rs` compares them with what the server says of itself before anything relies on them.

use std::ffi::c_int;

use durability_protocol::{SlotRanges, SLOT_COUNT};

/// `CLUSTER_NAMELEN`: bytes of a node's id, and of a shard's.
pub const ID_BYTES: usize = 40;

/// `CLUSTER_NODE_PRIMARY`, of [`Node::flags`].
pub const PRIMARY: c_int = 1 << 0;
/// `CLUSTER_NODE_REPLICA`, of [`Node::flags`].
pub const REPLICA: c_int = 1 << 1;
/// `CLUSTER_NODE_PFAIL`, of [`Node::flags`].
pub const MAY_FAIL: c_int = 1 << 2;
/// `CLUSTER_NODE_FAIL`, of [`Node::flags`].
pub const FAIL: c_int = 1 << 3;
/// `CLUSTER_NODE_MYSELF`, of [`Node::flags`].
pub const MYSELF: c_int = 1 << 4;
/// `CLUSTER_NODE_MIGRATE_TO`, of [`Node::flags`].
pub const MIGRATE_TO: c_int = 1 << 8;

/// `CLUSTER_OK`, a [`State::state`].
pub const STATE_OK: c_int = 0;
/// `CLUSTER_FAIL_NOT_FULL_COVERAGE`, a [`State::fail_reason`].
pub const FAIL_NOT_COVERED: c_int = 1;
/// `CLUSTER_FAIL_MINORITY_PARTITION`, a [`State::fail_reason`].
pub const FAIL_MINORITY: c_int = 2;

/// `clusterNode`, as far as the module uses it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Node {
    created_ms: i64,
    /// Its id.
    pub name: [u8; ID_BYTES],
    /// The id of its shard of the cluster.
    pub shard_id: [u8; ID_BYTES],
    /// [`PRIMARY`], [`REPLICA`] and others.
    pub flags: c_int,
    /// The newest config epoch that is known of it.
    pub config_epoch: u64,
    /// One bit for each slot that it serves as a primary.
    pub slots: [u8; SLOT_COUNT as usize / 8],
    slot_info_pairs: *const u16,
    slot_info_pairs_count: c_int,
    /// How many bits are set in [`Node::slots`].
    pub slot_count: c_int,
    replica_count: c_int,
    replicas: *const *mut Node,
    /// The primary of a replica; null if it is not known.
    pub replica_of: *mut Node,
}

impl Node {
    /// Whether it is a primary of the cluster.
    pub fn is_primary(&self) -> bool {
        self.flags & PRIMARY != 0
    }

    /// The slots that it serves as a primary.
    pub fn slots(&self) -> SlotRanges {
        let serves = |slot: &u16| self.slots[usize::from(slot / 8)] & 1 << (slot % 8) != 0;
        SlotRanges::of((0..SLOT_COUNT).filter(serves))
    }

    /// Its id as text.
    pub fn id(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// `clusterState`, as far as the module uses it.
#[repr(C)]
pub struct State {
    /// This node.
    pub myself: *mut Node,
    /// The newest epoch that this node has heard of in the cluster.
    pub current_epoch: u64,
    /// [`STATE_OK`], or another number: it answers nobody.
    pub state: c_int,
    /// Why it does not, as of the last time that it did not: [`FAIL_NOT_COVERED`], [`FAIL_MINORITY`], or 0.
    pub fail_reason: c_int,
    safe_to_join: c_int,
    /// How many primaries with slots there are.
    pub size: c_int,
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn fields_stand_where_the_server_has_them() {
        assert_eq!((offset_of!(Node, name), offset_of!(Node, shard_id), offset_of!(Node, flags)), (8, 48, 88));
        assert_eq!((offset_of!(Node, config_epoch), offset_of!(Node, slots)), (96, 104));
        assert_eq!((offset_of!(State, state), offset_of!(State, fail_reason), offset_of!(State, size)), (16, 20, 28));
        assert_eq!((offset_of!(Node, slot_count), offset_of!(Node, replica_of)), (2164, 2184));
    }
}
