//! What this node is in the cluster, and how that changes: a node whose log lets it lead becomes the primary of its shard's slots, and one
//! that follows its log becomes a replica of the node that leads. The cluster's bus then tells the other nodes.
//!
//! Main thread, outside of any command and of any server event, where the layout is verified.

use std::ffi::{c_char, c_int, CString};

use durability_protocol::{SlotRanges, SLOT_COUNT};

use crate::decide::cluster_claim::{Claim, Stored};
use crate::server::cluster::functions::Functions;
use crate::server::cluster::layout_check::{self, Layout};
use crate::server::cluster::node::{
    Node, FAIL, FAIL_MINORITY, FAIL_NOT_COVERED, ID_BYTES, MAY_FAIL, MIGRATE_TO, PRIMARY, REPLICA, STATE_OK,
};

/// `CLUSTER_TODO_UPDATE_STATE`, `CLUSTER_TODO_SAVE_CONFIG` and `CLUSTER_TODO_FSYNC_CONFIG`.
const SAVE: c_int = 1 << 1 | 1 << 2 | 1 << 3;
/// `CLUSTER_TODO_BROADCAST_ALL`.
const BROADCAST: c_int = 1 << 5;

/// How far the config epoch of a node that takes over lies beyond the greatest one that is stored or known. The bus may have given the
/// leader before it greater ones that were not stored yet: one for each primary of another shard that had the same.
const MARGIN: u64 = 16;

/// This node in its cluster.
pub struct Membership {
    functions: &'static Functions,
    layout: &'static Layout,
}

impl Membership {
    /// Of the running server; `None` if it is not a node of a cluster whose layout is known.
    pub fn get() -> Option<Self> {
        Some(Membership { functions: Functions::get().ok()?, layout: layout_check::found()? })
    }

    fn node(&self) -> *mut Node {
        // SAFETY: `myself` is a static of the server, which is set before modules are loaded.
        unsafe { *self.functions.myself }
    }

    fn view(&self) -> &Node {
        // SAFETY: the server's own node lives as long as the server, and only the main thread changes it: by the server's functions below,
        // through none of which what is returned here is kept.
        unsafe { &*self.node() }
    }

    /// This node's id in the cluster.
    pub fn id(&self) -> String {
        self.view().id()
    }

    /// Whether this node is a primary to the cluster.
    pub fn is_primary(&self) -> bool {
        self.view().is_primary()
    }

    /// This node's config epoch, and how many slots it serves, as a primary.
    pub fn standing(&self) -> (u64, u32) {
        let node = self.view();
        (node.config_epoch, node.slot_count.unsigned_abs())
    }

    /// This node's primary in the cluster; none if this node is one, or does not know it.
    fn primary(&self) -> Option<&Node> {
        let node = self.view();
        // SAFETY: as in `view`: null, or a node that the server knows.
        unsafe { node.replica_of.as_ref() }.filter(|_| !node.is_primary())
    }

    /// The id of this node's primary in the cluster; none if this node is one, or does not know it.
    pub fn primary_id(&self) -> Option<String> {
        self.primary().map(Node::id)
    }

    /// As [`Membership::primary_id`]; none if that node is known to have failed.
    pub fn living_primary_id(&self) -> Option<String> {
        self.primary().filter(|primary| primary.flags & FAIL == 0).map(Node::id)
    }

    /// Whether another node owns that slot, as far as this node knows.
    pub fn is_anothers(&self, slot: u16) -> bool {
        // SAFETY: only looks at the cluster's state; the slot is one.
        let owner = unsafe { (self.functions.node_by_slot)(c_int::from(slot)) };
        !owner.is_null() && owner != self.node()
    }

    /// Whether none of these slots has an owner, as far as this node knows, and none is named twice.
    pub fn are_free(&self, slots: &[u16]) -> bool {
        // SAFETY: only looks at the cluster's state; the slots are slots.
        let has_owner = |slot: &u16| unsafe { !(self.functions.node_by_slot)(c_int::from(*slot)).is_null() };
        let distinct = SlotRanges::of(slots.iter().copied());
        usize::from(distinct.count()) == slots.len() && !slots.iter().any(has_owner)
    }

    /// Whether this node sees the majority of the cluster's primaries; none before the server has looked, or if no primary has slots.
    pub fn sees_majority(&self) -> Option<bool> {
        // SAFETY: the server's state of its cluster, which is there for as long as it runs, and which only the main thread changes.
        let (state, why) = unsafe { ((*self.layout.state).state, (*self.layout.state).fail_reason) };
        match (state, why) {
            (STATE_OK, _) | (_, FAIL_NOT_COVERED) => Some(true),
            // The server answers nobody for a while after it has seen the majority again.
            (_, FAIL_MINORITY) => self.reaches_majority(),
            _ => None,
        }
    }

    /// Whether this node reaches most of the primaries that have slots, as the server counts them; none if there are none.
    fn reaches_majority(&self) -> Option<bool> {
        let mut primaries: Vec<*mut Node> = Vec::new();
        for slot in 0..SLOT_COUNT {
            // SAFETY: only looks at the cluster's state.
            let owner = unsafe { (self.functions.node_by_slot)(c_int::from(slot)) };
            if !owner.is_null() && !primaries.contains(&owner) {
                primaries.push(owner);
            }
        }
        // SAFETY: the owner of a slot is a node that the server knows; nothing changes that meanwhile.
        let is_reached = |node: &&*mut Node| unsafe { (**(*node)).flags } & (FAIL | MAY_FAIL) == 0;
        let reached = primaries.iter().filter(is_reached).count();
        (!primaries.is_empty()).then_some(reached > primaries.len() / 2)
    }

    /// The slots that this node serves as a primary.
    pub fn slots(&self) -> SlotRanges {
        self.view().slots()
    }

    /// The greatest epoch that this node knows of in the cluster.
    fn greatest_epoch(&self) -> u64 {
        // SAFETY: only looks at the cluster's state.
        unsafe { (self.functions.greatest_epoch)() }
    }

    /// What this node is to claim as the leader of its shard, of which the log has stored that. A shard of which nothing is stored has the
    /// slots that the cluster gives to it.
    pub fn plan(&self, stored: &Stored) -> Claim {
        let is_stored = stored.config_epoch > 0 || !stored.slots.is_empty();
        let slots = match self.primary() {
            _ if is_stored => stored.slots.clone(),
            Some(primary) => primary.slots(),
            None => self.slots(),
        };
        let is_known = is_stored || !slots.is_empty();
        // A cluster that is being made gives each node its first config epoch, and only if it has none.
        let config_epoch = if is_known { self.epoch_above(stored.config_epoch) } else { 0 };
        Claim { config_epoch, slots, node_id: self.id() }
    }

    /// A config epoch for a claim of this leader's that has to lie above that one.
    pub fn epoch_above(&self, other: u64) -> u64 {
        other.max(self.greatest_epoch()) + MARGIN
    }

    /// Whether all of these slots are this node's, as far as the server knows.
    pub fn has_all(&self, slots: &SlotRanges) -> bool {
        let node = self.node();
        // SAFETY: only looks at the cluster's state; the slots are slots.
        slots.slots().all(|slot| unsafe { (self.functions.node_by_slot)(c_int::from(slot)) } == node)
    }

    /// Why this node cannot claim that any more: the cluster has gone on since it was planned. `None` if it can.
    pub fn why_outdated(&self, claim: &Claim) -> Option<String> {
        let known = self.greatest_epoch();
        let is_outdated = claim.config_epoch > 0 && claim.config_epoch <= known;
        is_outdated.then(|| {
            format!("the cluster has reached epoch {known} meanwhile, and this node would take {}", claim.config_epoch)
        })
    }

    /// Makes the server a replica of the one at that address, whatever it is in the cluster.
    ///
    /// # Errors
    /// The host holds a zero byte.
    pub fn replicate_from(&self, host: &str, port: u16) -> Result<(), String> {
        let host = CString::new(host).map_err(|_| format!("'{host}' holds a zero byte"))?;
        // SAFETY: the server copies the host. Outside of commands and events, as a command REPLICAOF would be.
        unsafe { (self.functions.set_primary)(host.as_ptr(), c_int::from(port), 0, true) };
        Ok(())
    }

    /// Makes the server no replica of another one any more, whatever it is in the cluster.
    pub fn stop_replicating(&self) {
        // SAFETY: as above.
        unsafe { (self.functions.unset_primary)() }
    }

    /// Makes this node the primary of its shard: with exactly those slots, under that config epoch. The log has stored the claim.
    pub fn take(&self, claim: &Claim) {
        let node = self.node();
        // SAFETY: the server's own node and functions, in the order in which its `clusterFailoverReplaceYourPrimary` calls them. That
        // function would give the node the slots that the cluster believes to be its primary's, and delete the keys of all others.
        unsafe {
            (self.functions.set_node_as_primary)(node);
            (self.functions.unset_primary)();
        }
        let own = self.slots();
        self.move_to(&own.without(&claim.slots), std::ptr::null_mut());
        self.move_to(&claim.slots.without(&own), node);
        self.raise_epoch(claim.config_epoch);
        self.tell(BROADCAST);
        // SAFETY: the server's own function.
        unsafe { (self.functions.reset_manual_failover)() }
    }

    /// This leader serves these slots as well from now on, under that config epoch. The log has stored it.
    pub fn take_more(&self, slots: &SlotRanges, config_epoch: u64) {
        self.raise_epoch(config_epoch);
        self.move_to(slots, self.node());
        self.tell(BROADCAST);
    }

    /// These slots are that node's from now on, which the cluster has not told yet. If the cluster does not know that node any more, they are
    /// nobody's.
    pub fn give(&self, slots: &SlotRanges, node_id: &str) {
        let id = if node_id.len() == ID_BYTES { node_id } else { "" };
        // SAFETY: the id has the length that the server is told, or none, and then nothing is found.
        let to = unsafe { (self.functions.lookup_node)(id.as_ptr().cast::<c_char>(), id.len() as c_int) };
        self.move_to(slots, to);
        self.tell(0);
    }

    /// This node's config epoch is that one, unless it is greater.
    fn raise_epoch(&self, config_epoch: u64) {
        let (node, state) = (self.node(), self.layout.state);
        // SAFETY: the server's own node and state.
        unsafe {
            (*node).config_epoch = (*node).config_epoch.max(config_epoch);
            (*state).current_epoch = (*state).current_epoch.max(config_epoch);
        }
    }

    /// Makes these slots that node's in the server's view; null: nobody's.
    fn move_to(&self, slots: &SlotRanges, node: *mut Node) {
        for slot in slots.slots() {
            // SAFETY: the server's own functions; the node is one that the server knows.
            unsafe {
                (self.functions.delete_slot)(c_int::from(slot));
                if !node.is_null() {
                    (self.functions.add_slot)(node, c_int::from(slot));
                }
            }
        }
    }

    /// The server saves its view, and tells other nodes if `todo` says so.
    fn tell(&self, todo: c_int) {
        // SAFETY: the server's own functions.
        unsafe {
            (self.functions.forget_slots_answer)();
            (self.functions.update_state)();
            (self.functions.do_before_sleep)(SAVE | todo);
        }
    }

    /// Deletes the keys in all slots that are not this leader's, but for those that `keeps` names. The stream tells of it. Returns how many.
    pub fn drop_foreign_keys(&self, keeps: impl Fn(u16) -> bool) -> u64 {
        let node = self.node();
        let is_foreign = |slot: &u16| {
            // SAFETY: only looks at the cluster's state.
            let owner = unsafe { (self.functions.node_by_slot)(c_int::from(*slot)) };
            owner != node && !keeps(*slot)
        };
        (0..SLOT_COUNT).filter(is_foreign).map(|slot| self.delete_keys(slot)).sum()
    }

    /// Deletes the keys in these slots. The stream tells of it.
    pub fn drop_keys(&self, slots: &SlotRanges) -> u64 {
        slots.slots().map(|slot| self.delete_keys(slot)).sum()
    }

    fn delete_keys(&self, slot: u16) -> u64 {
        // SAFETY: the server's own function, which it calls for slots that it has lost. Memory is freed in the background.
        u64::from(unsafe { (self.functions.delete_keys)(u32::from(slot), 1, true, false) })
    }

    /// This node serves no slots as a primary from now on, in its own view: it is about to follow its log, which knows whose they are. While
    /// the server believes that a slot is its own, it deletes the keys in it when the bus tells of another owner, although they are the log's.
    /// The other nodes hear no more from this one than that it claims no slot, and leave them with it until another one claims them.
    pub fn let_go_of_slots(&self) {
        if !self.is_primary() || self.standing().1 == 0 {
            return;
        }
        self.move_to(&self.slots(), std::ptr::null_mut());
        // SAFETY: the server's own function.
        unsafe { (self.functions.do_before_sleep)(SAVE) }
    }

    /// Makes this node, which follows its log, a replica of that node in the cluster: its shard's leader. Its link to the log stays. Returns
    /// whether it is one now: not if the cluster does not know that node as a primary yet, or believes that slots are this node's, which the
    /// bus puts right.
    pub fn belong_to(&self, leader: &str) -> bool {
        let node = self.node();
        if leader.len() != ID_BYTES {
            return false;
        }
        // SAFETY: the server's own nodes and functions, in the order in which its `clusterSetPrimary` calls them; the id has the length that
        // the server is told.
        unsafe {
            let primary = (self.functions.lookup_node)(leader.as_ptr().cast::<c_char>(), ID_BYTES as c_int);
            if primary.is_null() || primary == node || !(*primary).is_primary() {
                return false;
            }
            if !(*node).is_primary() && (*node).replica_of == primary {
                return true;
            }
            if (*node).is_primary() {
                if (*node).slot_count > 0 {
                    return false;
                }
                (*node).flags = (*node).flags & !(PRIMARY | MIGRATE_TO) | REPLICA;
            } else if !(*node).replica_of.is_null() {
                (self.functions.remove_replica)((*node).replica_of, node);
            }
            (*node).replica_of = primary;
            if (*node).shard_id != (*primary).shard_id {
                (self.functions.remove_from_shard)(node);
                (*node).shard_id = (*primary).shard_id;
                (self.functions.add_to_shard)((*primary).shard_id.as_ptr().cast::<c_char>(), node);
            }
            (self.functions.add_replica)(primary, node);
            (self.functions.reset_manual_failover)();
            (self.functions.do_before_sleep)(SAVE | BROADCAST);
        }
        true
    }
}
