//! What the node becomes to its clients. Main thread, outside of any command and of any server event.

use std::sync::atomic::{AtomicBool, Ordering};

use valkey_module::logging::{log_notice, log_warning};
use valkey_module::Context;

use crate::base::panic_guard::has_failed;
use crate::exchange::lease_clock;
use crate::node::listening::listen_to_commands;
use crate::node::role_changes::serve_nobody;
use crate::node::{self, event_loop, leading, slot_moves, Module, Role};
use crate::server::cluster::membership::Membership;
use crate::server::{api, cluster};

/// Comes before the id of every client.
const NO_CLIENT: u64 = 0;

/// Changes the module, if it is loaded.
pub fn change(change: impl FnOnce(&mut Module)) {
    node::with(change);
}

/// Changes the node's role, and logs why that failed.
pub fn change_role(what: &str, change: impl FnOnce(&mut Module) -> Result<(), String>) {
    if let Some(Err(why)) = node::with(change) {
        log_warning(format!("durability: {what} failed: {why}"));
    }
}

/// Whether the node has been attaching ever since the agent saw that stage.
pub fn is_attaching_in(stage: u64) -> bool {
    let found =
        node::with(|module| module.shared.stage.load(Ordering::Relaxed) == stage && module.role == Role::Attaching);
    found == Some(true)
}

/// Everything is in place: leads `epoch`.
pub fn lead(ctx: &Context, epoch: u64, stage: u64) {
    if is_attaching_in(stage) && !api::is_replica(ctx) {
        change_role("leading", |module| leading::lead(module, epoch));
        node::with(|module| module.slot_moves.answer_clients());
        slot_moves::drop_foreign_keys();
    }
}

/// The lease has passed: closes all clients that were connected until then.
pub fn stop_answering(ctx: &Context) {
    change_role("not leading", listen_to_commands);
    close_clients(ctx);
}

/// Steps down for a planned failover, if the stream still ends at `end`. Returns whether this node has stepped down; none if the agent does
/// not wait for that any more.
pub fn hand_over(ctx: &Context, end: u64, is_decided: &AtomicBool) -> Option<bool> {
    if is_decided.swap(true, Ordering::AcqRel) {
        return None;
    }
    let may = node::with(|module| leading::may_step_down(module, end)) == Some(true);
    if may {
        log_notice("durability: everything is in the log; this node leads no more");
        if cluster::is_enabled() {
            step_down_in_cluster(ctx);
        } else {
            step_down(ctx, Role::Attaching);
        }
    }
    Some(may)
}

/// The log does not answer, or another node leads: serves nobody until this node is told to lead again. A node that serves reads goes on
/// doing so.
pub fn hold(ctx: &Context, why: &str) {
    // Clients are refused at once instead of waiting for the log. Those that wait to be told who leads do not wait for this node.
    node::with(|module| {
        if !module.read_pauses.awaits_redirect() {
            module.end_read_pause();
        }
    });
    if node::with(leading::end_leading) == Some(true) {
        log_warning(format!("durability: not serving clients: {why}"));
        node::with(leading::count_discarded);
        step_down(ctx, Role::Attaching);
    } else {
        lease_clock::put_off();
    }
}

/// Serves nobody until an operator acts.
pub fn refuse(ctx: &Context, why: String) {
    log_warning(format!("durability: refusing clients until an operator acts: {why}"));
    if node::with(leading::end_leading) == Some(true) {
        step_down(ctx, Role::Refused(why));
        return;
    }
    lease_clock::put_off();
    close_waiting(ctx);
    // A node that has left its log serves without it.
    if node::with(|module| module.role.has_no_log()) == Some(false) {
        change_role("refusing", |module| serve_nobody(module, Role::Refused(why)));
    }
}

/// The reason for which this node refused its clients is gone: attaches to its log again, if its role is still the one that `applies_to`
/// finds.
pub fn attach_again(what: &str, applies_to: impl FnOnce(&Role) -> bool) {
    if node::with(|module| applies_to(&module.role)) == Some(true) && !has_failed() {
        change_role(what, |module| serve_nobody(module, Role::Attaching));
    }
}

/// This node leads no more. Nobody who is connected gets another answer from it.
fn step_down(ctx: &Context, role: Role) {
    lease_clock::lost();
    node::with(|module| lease_clock::answer_beyond(module.newest_client));
    change_role("ceasing to lead", |module| serve_nobody(module, role));
    close_clients(ctx);
    node::with(Module::end_read_pause);
}

/// This node leads no more, and has handed over in a cluster: everything is in the log, so there is no answer that must not leave any more.
/// Clients wait until this node can tell them who leads (`MOVED`), as they would in a plain cluster. Elsewhere nobody tells them, so they are
/// closed.
///
/// The server is the primary of its slots until the bus tells it otherwise, or it follows its log. Until then it runs no command. The filter
/// would not see those that wait in the server for the end of a pause: they have passed it. Nor does anything expire, as the stream has to
/// end where the log does.
fn step_down_in_cluster(ctx: &Context) {
    node::with(event_loop::release_held);
    let answered_later = node::with(|module| module.gate.as_ref().map(|gate| gate.connections.blocked_by_modules()));
    lease_clock::lost();
    lease_clock::answer_beyond(NO_CLIENT);
    change_role("ceasing to lead", |module| serve_nobody(module, Role::Attaching));
    node::with(|module| module.slot_moves.hold_clients());
    close_replicas(ctx);
    // What another module answers, and writes as it does, may come when this node has long followed.
    for client in answered_later.flatten().unwrap_or_default() {
        close(ctx, &["KILL", "ID", &client.to_string()]);
    }
    let own_slot = Membership::get().and_then(|membership| membership.slots().slots().next());
    node::with(|module| module.read_pauses.last_until_redirected(own_slot));
}

/// This node has handed over in a cluster, and does not know for too long who leads: commands that come are refused from now on, and those that
/// wait in the server are not run.
pub fn close_waiting(ctx: &Context) {
    if node::with(|module| module.role == Role::Attaching && module.slot_moves.holds_clients()) == Some(true) {
        close_clients(ctx);
        node::with(|module| module.slot_moves.answer_clients());
    }
}

/// Closes all clients without another answer: they look for the node that leads.
fn close_clients(ctx: &Context) {
    close(ctx, &["KILL", "TYPE", "normal"]);
    close(ctx, &["KILL", "TYPE", "pubsub"]);
    close_replicas(ctx);
}

/// Closes all replicas but for the tap, whose bytes the log judges by itself.
fn close_replicas(ctx: &Context) {
    let tap = node::with(|module| module.shared.tap_client.load(Ordering::Relaxed)).unwrap_or(0);
    for line in api::client_list(ctx, "replica").unwrap_or_default() {
        let id = line.strip_prefix("id=").and_then(|line| line.split_whitespace().next()).unwrap_or("0");
        if id != tap.to_string() {
            close(ctx, &["KILL", "ID", id]);
        }
    }
}

fn close(ctx: &Context, arguments: &[&str]) {
    // A client that is gone already is no error worth logging.
    if let Err(why) = api::call(ctx, "CLIENT", arguments) {
        if !why.contains("No such client") {
            log_warning(format!("durability: clients are not closed, and get no answer: {why}"));
        }
    }
}
