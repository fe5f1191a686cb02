//! Slots that come to this leader's shard. Main thread only.

use std::time::Instant;

use durability_protocol::SlotRanges;
use valkey_module::logging::{log_notice, log_warning};
use valkey_module::Context;

use crate::decide::slot_imports::ImportAction;
use crate::decide::slot_steps::{NotDone, SlotAnswer, SlotStep};
use crate::node::slot_moves::ask;
use crate::node::{self, Module};
use crate::server::api;
use crate::server::cluster::membership::Membership;
use crate::server::cluster::migrations::{self, Migration, Step};
use crate::server::stream;

/// The source begins a migration over that connection. Returns whether it may: not if there are too many.
pub fn begin(module: &mut Module, client: u64, job: String, slots: SlotRanges, source_node: String) -> bool {
    // To be known by the time that it matters.
    let _ = module.slot_moves.names.of(&module.ctx, &source_node);
    module.slot_moves.imports.begin(client, job, slots, source_node)
}

/// The source takes no more writes to the slots. Returns whether that is a migration of this node's.
pub fn paused(module: &mut Module, client: u64) -> bool {
    let end = api::replication_offset(&module.ctx);
    module.slot_moves.imports.paused(client, end)
}

/// The source grants the slots.
pub fn granted(module: &mut Module, client: u64) {
    module.slot_moves.imports.granted(client);
}

/// Does what is due.
pub fn run(ctx: &Context) {
    let next = || {
        node::with(|module| {
            let durable = module.shared.durable();
            module.slot_moves.imports.look(Instant::now(), durable)
        })
    };
    while let Some(action) = next().flatten() {
        carry_out(ctx, action);
    }
}

/// The log has answered.
pub fn answered(ctx: &Context, step: &SlotStep, answer: Result<SlotAnswer, NotDone>) {
    let actions = node::with(|module| module.slot_moves.imports.answered(step, answer, Instant::now()));
    actions.into_iter().flatten().for_each(|action| carry_out(ctx, action));
}

fn carry_out(ctx: &Context, action: ImportAction) {
    match action {
        ImportAction::LetRequest(client) => {
            migrations::go_on(client, Step::Paused);
        }
        ImportAction::End { job, source_node } => {
            let next = end(ctx, &job, &source_node);
            next.into_iter().for_each(|next| carry_out(ctx, next));
        }
        ImportAction::Ask(step) => {
            node::with(|module| ask(module, step));
        }
        ImportAction::Plan { job, above } => {
            let next = node::with(|module| plan(module, &job, above)).flatten();
            next.into_iter().for_each(|next| carry_out(ctx, next));
        }
        ImportAction::Take(slots, config_epoch) => take(&slots, config_epoch),
        ImportAction::Drop(slots) => {
            let dropped = Membership::get().map_or(0, |membership| membership.drop_keys(&slots));
            log_warning(format!(
                "durability: slots {slots} do not come here after all; {dropped} of their keys are deleted"
            ));
        }
    }
}

/// Ends the server's migration, which then deletes nothing that came, whatever becomes of the source. Waits until it is known which shard the
/// source's is.
fn end(ctx: &Context, job: &str, source_node: &str) -> Option<ImportAction> {
    let waits = |migration: &Migration| migration.name == job && migration.has_requested();
    let waits = migrations::all(ctx).iter().any(waits);
    let source = node::with(|module| module.slot_moves.names.of(&module.ctx, source_node)).flatten();
    // While somebody has paused clients, the server would end itself.
    if waits && (source.is_none() || !stream::takes_words(ctx)) {
        return None;
    }
    let source = source.filter(|_| waits && migrations::finish(ctx, job, true, "").is_ok());
    node::with(|module| module.slot_moves.imports.ended(job, source)).flatten()
}

/// Chooses the config epoch, unless the log is being told something else of this shard's slots.
fn plan(module: &mut Module, job: &str, above: u64) -> Option<ImportAction> {
    let membership = Membership::get().filter(|_| module.claims.are_told());
    let imports = &mut module.slot_moves.imports;
    match membership {
        Some(membership) => imports.planned(job, membership.epoch_above(above)),
        None => {
            imports.put_off(job, Instant::now());
            None
        }
    }
}

/// The log has stored that the slots are this shard's.
fn take(slots: &SlotRanges, config_epoch: u64) {
    let Some(membership) = Membership::get() else { return };
    membership.take_more(slots, config_epoch);
    node::with(|module| module.claims.took_more(config_epoch));
    log_notice(format!("durability: slots {slots} are of this shard now, config epoch {config_epoch}"));
}
