//! What the module does in each round of the server's event loop. Main thread only.

use std::sync::atomic::Ordering;
use std::time::Instant;

use valkey_module::logging::log_notice;

use crate::base::panic_guard::has_failed;
use crate::decide::gate::Gate;
use crate::decide::taken_replies;
use crate::exchange::mailbox::{Command, Task};
use crate::exchange::NO_TARGET;
use crate::node::claims;
use crate::node::leading;
use crate::node::minority;
use crate::node::monitoring;
use crate::node::ran_commands::has_thread_written;
use crate::node::{role_changes, slot_moves};
use crate::node::{Module, Role};
use crate::server::cluster::bus_messages;
use crate::server::{api, follow_settings};

/// The event loop wakes.
#[inline]
pub fn woke(module: &mut Module) {
    leading::check_lease(module);
    if module.role != Role::Leader {
        return;
    }
    let now = Instant::now();
    let offset = api::replication_offset(&module.ctx);
    if offset != module.limits.writes.offset() {
        // With I/O threads, commands run after modules were told that the loop sleeps. These ran in the last round.
        module.limits.writes.look(now, offset, module.shared.acknowledged());
        take_in_thread_writes(module);
    } else if module.commands.has_others() && has_thread_written() {
        // A thread of another module wrote, and the stream stands still.
        module.found_unlogged("");
    }
    module.limits.writes.woke(now);
}

/// The stream moved while the main thread slept. If no event told of the commands that moved it, threads of other modules wrote: which keys
/// is not known.
fn take_in_thread_writes(module: &mut Module) {
    let has_written = module.commands.has_others() && has_thread_written();
    if !module.commands.has_others() || !module.is_listening {
        return;
    }
    if let Some(gate) = module.gate.as_mut().filter(|gate| has_written || !gate.has_open_writes()) {
        gate.write_all();
    }
}

/// The event loop is about to write replies and sleep.
pub fn before_sleep(module: &mut Module) {
    if !module.has_run {
        module.has_run = true;
        if module.role == Role::Attaching {
            module.read_pauses.last_until_seeded();
            module.pause_reads();
        }
    }
    if has_failed() && !module.has_given_up {
        role_changes::give_up(module);
    }
    if let Some(gate) = &module.gate {
        gate.connections.round_is_over();
    }
    // No command runs: what is left here was read by a module's callback or thread.
    module.dependencies.nothing_runs();
    // This comes before the lease is checked: a leader whose lease has passed keeps everything it had if nobody else has led.
    find_silent_writes(module);
    leading::check_lease(module);
    match module.role {
        Role::Leader | Role::Suspended => {
            claims::store_if_changed(module);
            minority::look(module);
            slot_moves::look(module);
            account(module);
        }
        Role::Attaching | Role::Follower => {
            claims::look_for_change(module);
            report_applied(module);
        }
        Role::Off | Role::Replica => release_held(module),
        Role::Refused(_) => {}
    }
    close_withheld(module);
    module.write_to_half_closed();
    bus_messages::send_released();
    if taken_replies::total() > 0 && module.gate.is_some() && module.limits.is_memory_due(Instant::now()) {
        module.shared.send(Task::LookAtHeldBytes);
    }
    if follow_settings::is_retry_due() {
        module.shared.send(Task::RestoreSettings);
    }
    end_read_pause_if_done(module);
    monitoring::publish_if_wanted(module);
}

fn find_silent_writes(module: &mut Module) {
    if module.silent_writes.is_waiting() {
        let offset = api::replication_offset(&module.ctx);
        if module.silent_writes.nothing_runs(offset) && module.role.leads() {
            module.found_unlogged("");
        }
    }
}

/// Ends the pause of clients that wait for nothing any more, or have waited long enough.
fn end_read_pause_if_done(module: &mut Module) {
    if !module.read_pauses.is_active() {
        return;
    }
    let is_done = match module.role {
        Role::Attaching | Role::Suspended => false,
        Role::Leader if module.read_pauses.is_for_failover() => false,
        Role::Leader if module.read_pauses.is_until_seeded() => module.shared.durable().is_some(),
        Role::Follower => module.read_pauses.is_redirected(),
        _ => true,
    };
    if is_done {
        module.end_read_pause();
    } else {
        end_read_pause_in_time(module);
    }
}

/// Ends the pause of clients that have waited long enough.
pub fn end_read_pause_in_time(module: &mut Module) {
    if module.read_pauses.is_over() {
        if module.role == Role::Attaching {
            log_notice("durability: not attached yet; clients are refused until it is");
            if module.slot_moves.holds_clients() {
                module.shared.send(Task::CloseWaiting);
            }
        }
        module.end_read_pause();
    }
}

/// Releases what the log has acknowledged, and enforces the limits.
fn account(module: &mut Module) {
    let offset = api::replication_offset(&module.ctx);
    let durable = module.shared.durable();
    let Module { gate, limits, commands, is_listening, unlogged, .. } = module;
    if let Some(gate) = gate {
        let may_be_untold = commands.has_others() && *is_listening && offset != limits.writes.offset();
        if may_be_untold && !gate.has_open_writes() && gate.connections.is_anyone_awaiting() {
            // A module may have written in a callback, which no event tells of. Its answers may show what it wrote.
            gate.write();
        }
        if !gate.is_idle() {
            gate.close_group(|| offset);
        }
        // tests/histories must notice this: everything leaves at once.
        let released = if cfg!(feature = "broken-gate") { Some(u64::MAX) } else { durable };
        if let Some(released) = released {
            gate.release(released);
        }
        let late_answers = gate.late_answers();
        if limits.timeouts.is_kept() {
            late_answers.into_iter().for_each(|(client, group)| limits.timeouts.held(client, group));
        }
    }
    if durable.is_some() {
        unlogged.time.end();
    }
    let is_anyone_held = gate.as_ref().is_some_and(|gate| gate.held_clients() > 0);
    if !limits.writes.is_idle_at(offset) || is_anyone_held || limits.timeouts.is_waiting() {
        let now = Instant::now();
        module.judge_writes(now, offset);
        if let Module { gate: Some(gate), limits, .. } = module {
            limits.close_late(gate, now);
            limits.offer_again(gate, now);
        }
    }
    if let Module { gate: Some(gate), limits, .. } = module {
        // Also when writes are refused now: who was held got in before, and is answered.
        if gate.is_throttling() && !limits.writes.throttle.is_on() {
            gate.end_throttling();
        }
    }
    monitoring::report_latency(module);
}

/// Closes clients that were to be notified of keys before the log had confirmed them.
fn close_withheld(module: &mut Module) {
    let closed = module.gate.as_mut().map_or(0, Gate::take_late_holds);
    if closed > 0 {
        log_notice(format!(
            "durability: closed {closed} clients that would have been notified of keys which the log has not confirmed"
        ));
    }
}

/// Releases what the log has acknowledged since the event loop last went round.
pub fn release_held(module: &mut Module) {
    if let (Some(gate), Some(durable)) = (&mut module.gate, module.shared.durable()) {
        gate.release(durable);
    }
}

/// Publishes how far this node is with its log, and reports once that it has reached the offset that the agent asked for.
fn report_applied(module: &mut Module) {
    let offset = api::replication_offset(&module.ctx);
    if module.role == Role::Follower {
        module.shared.applied.store(offset, Ordering::Relaxed);
    }
    let target = module.shared.attach_target.load(Ordering::Acquire);
    if target == NO_TARGET || offset < target {
        return;
    }
    if !api::role(&module.ctx).is_some_and(|role| role.is_connected_replica) {
        return;
    }
    module.shared.attach_target.store(NO_TARGET, Ordering::Release);
    module.tell_agent(Command::Applied);
}
