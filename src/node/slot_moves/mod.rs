//! Slots that move from one shard of the cluster to another. The server's own migration (`CLUSTER MIGRATESLOTS`) moves the keys. The commands
//! with which its two sides decide whose the slots are do not reach the server: what they mean happens when the logs have stored it.
//! Main thread only.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | when something is due, and what ends all of it |
//! | `state.rs` | what is known of migrations |
//! | `exporting.rs` | slots that leave this shard |
//! | `importing.rs` | slots that come to this shard |
//! | `shard_names.rs` | which shard of the log a node of the cluster belongs to |
//!
//! What is done next is decided in `decide/slot_exports.rs` and `decide/slot_imports.rs`.

mod exporting;
mod importing;
mod shard_names;
pub mod state;

use std::sync::Arc;
use std::time::Instant;

use valkey_module::logging::{log_notice, log_warning};
use valkey_module::Context;

use crate::decide::slot_exports::Exports;
use crate::decide::slot_steps::{NotDone, SlotAnswer, SlotStep};
use crate::exchange::mailbox::Task;
use crate::lead::slot_worker::SlotWorker;
use crate::node::{self, Module, Role};
use crate::server::cluster::membership::Membership;
use crate::server::cluster::{self, messages, migrations};
use crate::server::stream;
use crate::settings;

pub use crate::node::slot_moves::exporting::{ask_for_targets, ask_to_fail_over, ask_to_pause};
pub use crate::node::slot_moves::importing::{begin, granted, paused};

/// The epoch is over: what moves is the next leader's. Called from server events as well.
pub fn end(module: &mut Module) {
    let moves = &mut module.slot_moves;
    let had_any = !moves.exports.is_idle() || !moves.imports.is_idle();
    moves.exports = Exports::default();
    moves.imports.end();
    (moves.asks_again, moves.untold_since) = (None, None);
    moves.answer_clients();
    if had_any {
        module.shared.send(Task::EndSlotMoves);
    }
}

/// The lease has passed, and may be renewed in the same epoch: nothing of what is being decided is forgotten. Clients get no answer to what
/// they ask, but for that.
pub fn suspend(module: &mut Module) {
    let (moves, now) = (&mut module.slot_moves, Instant::now());
    moves.exports.suspended(now);
    moves.imports.ask_again(now);
    moves.answer_clients();
}

/// This node is about to lead again in the same epoch. Another shard may have got slots meanwhile.
pub fn resume(module: &mut Module) {
    if module.slot_moves.may_lose_slots() {
        module.slot_moves.hold_clients();
    }
}

/// The epoch is over: ends what the server moves, without deleting what came. The next leader deletes what its log does not give it. A task.
pub fn end_in_server(ctx: &Context) {
    let may_end = node::with(|module| module.role != Role::Leader) == Some(true);
    if cluster::is_enabled() && may_end {
        end_undecided_in_server(ctx);
    }
}

/// Ends migrations of the server's of which nothing is decided. Returns whether it could: while somebody has paused clients, the server ends
/// itself if it is told.
fn end_undecided_in_server(ctx: &Context) -> bool {
    let open: Vec<_> = migrations::all(ctx).into_iter().filter(migrations::Migration::goes_on).collect();
    if open.iter().any(|migration| migration.is_export) {
        migrations::cancel_exports(ctx);
    }
    let imports: Vec<_> = open.iter().filter(|migration| !migration.is_export).collect();
    if !imports.is_empty() && !stream::takes_words(ctx) {
        return false;
    }
    for import in imports {
        if let Err(why) = migrations::finish(ctx, &import.name, true, "this node leads its shard no more") {
            log_warning(format!("durability: the server still imports slots {}: {why}", import.slots));
        }
    }
    true
}

/// Whether a planned failover may begin: what is being decided is decided first, so that the next leader knows whose the slots are. Ends
/// migrations of which nothing is decided. Whoever hands over asks again. A task.
pub fn may_hand_over(ctx: &Context) -> bool {
    if !cluster::is_enabled() {
        return true;
    }
    let is_deciding = node::with(|module| module.slot_moves.is_deciding()) == Some(true);
    if is_deciding || !end_undecided_in_server(ctx) {
        return false;
    }
    node::with(|module| {
        module.slot_moves.exports.end_undecided();
        module.slot_moves.imports.end_undecided();
    });
    true
}

/// The event loop goes round: has what is due done.
#[inline]
pub fn look(module: &mut Module) {
    let moves = &module.slot_moves;
    let has_none = moves.exports.is_idle() && moves.imports.is_idle();
    if has_none || moves.is_looked_at || module.role != Role::Leader {
        return;
    }
    let now = Instant::now();
    let may_begin = moves.exports.next_to_pause().is_some() && moves.asks_again.is_none_or(|again| now >= again);
    let is_due = may_begin
        || moves.exports.is_due(now, moves.has_exported())
        || moves.imports.is_due(now, module.shared.durable());
    if is_due {
        module.slot_moves.is_looked_at = true;
        module.shared.send(Task::MoveSlots);
    }
}

/// Does what is due. A task.
pub fn run(ctx: &Context) {
    let leads = node::with(|module| {
        module.slot_moves.is_looked_at = false;
        module.role == Role::Leader
    });
    if leads == Some(true) {
        exporting::run(ctx);
        importing::run(ctx);
    }
}

/// The log has answered a step. A task.
pub fn answered(ctx: &Context, step: &SlotStep, answer: Result<SlotAnswer, NotDone>) {
    if let Err(NotDone::Refused(why) | NotDone::Unknown(why)) = &answer {
        log_notice(format!("durability: slot migration {}: {why}", step.job()));
    }
    let leads = node::with(|module| {
        let leads = module.role == Role::Leader;
        if !leads {
            // Asked again when this node leads again in the same epoch.
            module.slot_moves.imports.ask_again(Instant::now());
        }
        leads
    });
    if leads != Some(true) {
        return;
    }
    if step.is_the_sources() {
        exporting::answered(ctx, step, answer);
    } else {
        importing::answered(ctx, step, answer);
    }
}

/// Has the log asked.
fn ask(module: &mut Module, step: SlotStep) {
    let Some(epoch) = module.epoch else { return };
    let workers = &mut module.slot_moves.workers;
    let worker = if step.is_the_sources() { &mut workers.exports } else { &mut workers.imports };
    if worker.is_none() {
        match SlotWorker::start(Arc::clone(&module.shared)) {
            Ok(started) => *worker = Some(started),
            Err(why) => {
                let why = NotDone::Unknown(format!("no thread can be started: {why}"));
                return module.shared.send(Task::SlotStepAnswered(step, Err(why)));
            }
        }
    }
    if let Some(worker) = worker {
        worker.ask(epoch, step);
    }
}

/// A leader holds keys only of slots that its log gives to its shard. What else is there came with a migration that a leader before it did
/// not finish, or is left of slots that it gave away. A task.
pub fn drop_foreign_keys() {
    let is_known = node::with(|module| module.role == Role::Leader && module.claims.knows_slots()) == Some(true);
    let Some(membership) = Membership::get().filter(|_| is_known) else { return };
    let keeps = |slot| node::with(|module| module.slot_moves.imports.may_own(slot)) != Some(false);
    let dropped = membership.drop_foreign_keys(keeps);
    if dropped > 0 {
        log_notice(format!(
            "durability: deleted {dropped} keys in slots that are not this shard's: left over from migrations"
        ));
    }
}

/// The node with that id in the cluster is of that shard of the log.
pub fn heard_shard(module: &mut Module, sender: &str, shard: &str, asks: bool) {
    module.slot_moves.names.learn(sender, shard);
    (module.slot_moves.asks_again, module.slot_moves.untold_since) = (None, None);
    if asks {
        messages::tell_shard(&module.ctx, sender, &settings::SHARD.value());
    }
}
