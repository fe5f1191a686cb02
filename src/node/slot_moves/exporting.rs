//! Slots that leave this leader's shard. Main thread only.

use std::time::{Duration, Instant};

use valkey_module::logging::{log_notice, log_warning};
use valkey_module::Context;

use crate::decide::slot_exports::{ExportAction, ExportJob};
use crate::decide::slot_steps::{NotDone, SlotAnswer, SlotStep};
use crate::node::slot_moves::ask;
use crate::node::{self, Module, Role};
use crate::server::cluster::membership::Membership;
use crate::server::cluster::migrations::{self, Migration, Step};
use crate::settings;

/// How often a target is asked which shard it belongs to.
const ASK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a target may take to tell.
const ASK_TIME: Duration = Duration::from_secs(5);

/// A user has the server move slots: learns which shards they go to. A task.
pub fn ask_for_targets(ctx: &Context) {
    for migration in migrations::all(ctx).iter().filter(|migration| migration.is_export && migration.goes_on()) {
        node::with(|module| module.slot_moves.names.of(&module.ctx, &migration.target_node));
    }
}

/// The target says that it has nearly everything.
pub fn ask_to_pause(module: &mut Module, client: u64) {
    module.slot_moves.exports.ask_to_pause(client);
}

/// The target says that it has everything. No client is answered from then on, until it is known whose the slots are.
pub fn ask_to_fail_over(module: &mut Module, client: u64) {
    if module.role != Role::Leader {
        return;
    }
    if let Some(grant) = module.slot_moves.exports.ask_to_fail_over(client) {
        module.slot_moves.hold_clients();
        ask(module, grant);
    }
}

/// Does what is due.
pub fn run(ctx: &Context) {
    let due = node::with(|module| {
        let has_slots = module.slot_moves.has_exported();
        module.slot_moves.exports.look(Instant::now(), has_slots)
    });
    if let Some(action) = due.flatten() {
        carry_out(ctx, action);
    }
    if let Some(client) = node::with(|module| module.slot_moves.exports.next_to_pause()).flatten() {
        pause(ctx, client);
    }
}

/// Has the server pause writes, for the migration of that client. Which one that is shows in what changes.
fn pause(ctx: &Context, client: u64) {
    let streaming: Vec<Migration> = migrations::all(ctx).into_iter().filter(Migration::streams).collect();
    if streaming.is_empty() || !migrations::is_there(client) {
        node::with(|module| module.slot_moves.exports.withdraw(client));
        return;
    }
    if !targets_are_known(ctx, &streaming) {
        return;
    }
    migrations::go_on(client, Step::RequestPause);
    let paused = migrations::all(ctx)
        .into_iter()
        .find(|migration| migration.has_paused() && streaming.iter().any(|before| before.name == migration.name));
    node::with(|module| {
        let moves = &mut module.slot_moves;
        let target = paused.as_ref().and_then(|migration| moves.names.of(&module.ctx, &migration.target_node));
        match (paused, target) {
            (Some(Migration { name, slots, target_node, .. }), Some(target)) => {
                moves.exports.paused(client, ExportJob { name, slots, target_node, target });
            }
            _ => moves.exports.withdraw(client),
        }
    });
}

/// A target that is not known would be granted nothing, and writes would wait in vain. Ends migrations to those that do not tell which shard
/// they belong to, or that belong to this one.
fn targets_are_known(ctx: &Context, streaming: &[Migration]) -> bool {
    let (own, now) = (settings::SHARD.value(), Instant::now());
    let mut all_are = true;
    for migration in streaming {
        let why = node::with(|module| {
            let moves = &mut module.slot_moves;
            match moves.names.of(&module.ctx, &migration.target_node) {
                Some(name) if name != own => None,
                Some(_) => Some("The target belongs to the same shard of the log"),
                None if now >= *moves.untold_since.get_or_insert(now) + ASK_TIME => {
                    Some("The target does not tell its shard of the log: every node has to run the module")
                }
                None => Some(""),
            }
        });
        let Some(why) = why.flatten() else { continue };
        all_are = false;
        if !why.is_empty() {
            log_warning(format!(
                "durability: slots {} stay here: migration {}: {why}",
                migration.slots, migration.name
            ));
            finish_if_open(ctx, &migration.name, false, why);
        }
    }
    node::with(|module| {
        module.slot_moves.asks_again = (!all_are).then_some(now + ASK_INTERVAL);
        if all_are {
            module.slot_moves.untold_since = None;
        }
    });
    all_are
}

/// The log has answered.
pub fn answered(ctx: &Context, step: &SlotStep, answer: Result<SlotAnswer, NotDone>) {
    let action = node::with(|module| module.slot_moves.exports.answered(step, answer, Instant::now()));
    if let Some(action) = action.flatten() {
        carry_out(ctx, action);
    }
}

fn carry_out(ctx: &Context, action: ExportAction) {
    match action {
        ExportAction::Ask(step) => {
            node::with(|module| ask(module, step));
        }
        ExportAction::LetFailOver(client) => {
            let name = node::with(|module| module.slot_moves.exports.current_name().map(str::to_owned)).flatten();
            let has_granted = |migration: &Migration| migration.has_granted() && Some(&migration.name) == name.as_ref();
            let is_let =
                migrations::go_on(client, Step::RequestFailover) && migrations::all(ctx).iter().any(has_granted);
            if !is_let {
                let abort = node::with(|module| module.slot_moves.exports.not_let()).flatten();
                abort.into_iter().for_each(|abort| carry_out(ctx, abort));
            }
        }
        ExportAction::Fail(job, why) => {
            log_warning(format!("durability: slots {} stay here: migration {}: {why}", job.slots, job.name));
            finish_if_open(ctx, &job.name, false, "The log has not moved the slots");
            node::with(|module| module.slot_moves.answer_clients());
        }
        ExportAction::Give(job) => give(ctx, &job),
    }
}

/// The log has moved the slots. The cluster may not have told yet: the target's leader may be gone.
fn give(ctx: &Context, job: &ExportJob) {
    let Some(membership) = Membership::get() else { return };
    let own = membership.slots();
    let left = own.without(&own.without(&job.slots));
    if !left.is_empty() {
        membership.give(&left, &job.target_node);
        finish_if_open(ctx, &job.name, true, "");
        membership.drop_keys(&left);
    }
    log_notice(format!("durability: slots {} are of shard {} now", job.slots, job.target));
    node::with(|module| {
        module.claims.gave_away();
        module.slot_moves.answer_clients();
    });
}

/// Ends the server's migration of that name, unless the server has given it up by itself.
fn finish_if_open(ctx: &Context, name: &str, is_success: bool, message: &str) {
    let is_open = |migration: &Migration| migration.name == name && migration.goes_on();
    if migrations::all(ctx).iter().any(is_open) {
        if let Err(why) = migrations::finish(ctx, name, is_success, message) {
            log_warning(format!("durability: the server does not end its migration: {why}"));
        }
    }
}
