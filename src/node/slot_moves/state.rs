//! What is known of slots that move. Main thread only.

use std::collections::HashSet;
use std::time::Instant;

use crate::decide::slot_exports::Exports;
use crate::decide::slot_imports::Imports;
use crate::lead::slot_worker::SlotWorker;
use crate::node::slot_moves::shard_names::ShardNames;
use crate::server::cluster::membership::Membership;
use crate::server::cluster::migrations;

/// What is known of migrations.
#[derive(Default)]
pub struct SlotMoves {
    /// Slots that leave this shard.
    pub exports: Exports,
    /// Slots that come to it.
    pub imports: Imports,
    /// Which shard a node belongs to.
    pub names: ShardNames,
    /// The threads that ask the logs, once they were needed.
    pub workers: Workers,
    /// Whether a task that looks at all of this is on its way.
    pub is_looked_at: bool,
    /// Whether no command of a client runs until it is known whose slots are.
    holds_clients: bool,
    /// Clients that have queued a command in a transaction which deletes the keys of slots that may be coming.
    queued_flushes: HashSet<u64>,
    /// When the target of an export is asked for its shard again.
    pub asks_again: Option<Instant>,
    /// Since when such a target has not told.
    pub untold_since: Option<Instant>,
}

/// One for what leaves, and one for what comes: the log of another shard must not delay what clients wait for.
#[derive(Default)]
pub struct Workers {
    /// For steps of the source's leader.
    pub exports: Option<SlotWorker>,
    /// For steps of the target's leader.
    pub imports: Option<SlotWorker>,
}

impl SlotMoves {
    /// That client is gone.
    pub fn disconnected(&mut self, client: u64) {
        if !self.exports.is_idle() {
            self.exports.withdraw(client);
            if self.exports.paused_client() == Some(client) {
                self.exports.end();
            }
        }
        if !self.imports.is_idle() {
            self.imports.disconnected(client);
        }
        self.queued_flushes.remove(&client);
    }

    /// The client has queued a command that deletes the keys of slots.
    pub fn queued_flush(&mut self, client: u64) {
        self.queued_flushes.insert(client);
    }

    /// The client's transaction ends. Returns whether such a command is queued in it.
    pub fn end_transaction(&mut self, client: u64) -> bool {
        self.queued_flushes.remove(&client)
    }

    /// Whether keys are here in slots of which it is being decided whether they come to this shard.
    pub fn is_claiming(&self) -> bool {
        self.imports.are_claiming()
    }

    /// Whether it is being decided whose slots are. A leader does not hand over meanwhile.
    pub fn is_deciding(&self) -> bool {
        self.may_lose_slots() || self.is_claiming()
    }

    /// Whether the server may lose slots to another shard, as this node knows.
    pub fn may_lose_slots(&self) -> bool {
        self.exports.may_be_claimed()
    }

    /// Whether the record of this shard's slots is about to change.
    pub fn is_settling(&self) -> bool {
        self.imports.is_settling()
    }

    /// No command of a client runs from now on.
    pub fn hold_clients(&mut self) {
        self.holds_clients = true;
        migrations::hold_clients();
    }

    /// Whether no command of a client runs at the moment.
    pub fn holds_clients(&self) -> bool {
        self.holds_clients
    }

    /// Commands of clients run again.
    pub fn answer_clients(&mut self) {
        if std::mem::take(&mut self.holds_clients) {
            migrations::answer_clients();
        }
    }

    /// Whether the server believes that the slots which leave are this node's. It is not asked while nobody can have claimed them.
    pub fn has_exported(&self) -> bool {
        let slots = self.exports.current_slots().filter(|_| self.may_lose_slots());
        slots.is_none_or(|slots| Membership::get().is_none_or(|membership| membership.has_all(slots)))
    }
}
