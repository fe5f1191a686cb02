//! What follows from a command that ran: what the server left out goes into the stream, and the reply is held for what it tells about
//! (`decide/dependency.rs`).

use std::sync::atomic::{AtomicBool, Ordering};

use durability_protocol::Logged;
use valkey_module::Context;

use crate::decide::command_properties::Properties;
use crate::decide::dependency::Execution;
use crate::decide::gate::{Gate, Held};
use crate::decide::omitted_effects::Omits;
use crate::decide::reply_timeouts::ReplyTimeouts;
use crate::node::limits::ClientLimits;
use crate::node::{self, Module};
use crate::server::command_result::{CommandResult, EventArguments};
use crate::server::command_table::CommandTable;
use crate::server::connections::ServerConnections;
use crate::server::{api, main_thread, propagation};

/// A thread of another module wrote while the main thread slept.
static THREAD_WROTE: AtomicBool = AtomicBool::new(false);
/// Another module wrote while this one was in use, because of something that this one did.
static MISSED_A_WRITE: AtomicBool = AtomicBool::new(false);

/// Forgets what was missed in an earlier life of the module. Main thread.
pub fn forget_all() {
    THREAD_WROTE.store(false, Ordering::Relaxed);
    MISSED_A_WRITE.store(false, Ordering::Relaxed);
}

/// Whether a thread of another module has written since this was last asked. Main thread.
pub fn has_thread_written() -> bool {
    THREAD_WROTE.swap(false, Ordering::AcqRel)
}

/// A command ran. At its event: on the main thread, or on a thread of another module.
pub fn ran(ctx: &Context, result: &CommandResult, has_failed: bool) {
    let is_taken_in = node::with(|module| {
        // Before this command is judged, and what it made other modules write.
        take_in_missed(module);
        command_ran(module, ctx, result, has_failed);
        take_in_missed(module);
    });
    if is_taken_in.is_none() {
        missed(result);
    }
}

/// A command ran while the module could not be used.
fn missed(result: &CommandResult) {
    let wrote = match main_thread::is_it() {
        true => {
            let is_called = result.is_called_by_module() || api::is_calling();
            assert!(is_called || !node::is_in_use(), "a client's command ran while the module was in use");
            &MISSED_A_WRITE
        }
        false => &THREAD_WROTE,
    };
    if result.changes() > 0 {
        wrote.store(true, Ordering::Release);
    }
}

/// Takes in what another module wrote meanwhile. Nobody knows which keys.
#[inline]
pub fn take_in_missed(module: &mut Module) {
    if MISSED_A_WRITE.load(Ordering::Relaxed) && MISSED_A_WRITE.swap(false, Ordering::Relaxed) {
        if let (true, Some(gate)) = (module.is_listening, &mut module.gate) {
            gate.write_all();
        }
    }
}

#[inline]
fn command_ran(module: &mut Module, ctx: &Context, result: &CommandResult, has_failed: bool) {
    let Module {
        gate,
        commands,
        is_listening,
        completes_stream,
        limits: ClientLimits { timeouts, .. },
        dependencies,
        ..
    } = module;
    let (true, Some(gate)) = (*is_listening || *completes_stream, gate) else { return };
    let client = result.client();
    if *is_listening && brings_messages(result) {
        gate.connections.receives_messages(client);
    }
    let before = dependencies.ran((client, result.name_address()));
    let wrote = result.changes() > 0 || !has_failed && propagation::wrote_unnoticed(result);
    let is_called_by_module = result.is_called_by_module();
    let has_others = commands.has_others();
    if *is_listening && has_others && !is_called_by_module {
        look_for_late_answers(gate, commands, timeouts, result);
    }
    let is_unseen = is_called_by_module && (!has_others || api::is_calling());
    if !wrote && (!*is_listening || gate.is_idle() || is_unseen) {
        return;
    }
    let properties = properties(commands, result);
    if wrote {
        complete_stream(module, ctx, result, properties);
    }
    let Module {
        gate: Some(gate),
        commands,
        dependencies,
        is_listening: true,
        limits: ClientLimits { timeouts, .. },
        ..
    } = module
    else {
        return;
    };
    let execution = Execution { client, wrote, has_failed, is_called_by_module, before };
    let may_be_multi = |command| commands.may_be_multi(command);
    let held = dependencies.apply(gate, &execution, &properties, &EventArguments { ctx, result }, may_be_multi);
    if let (Some(group), true) = (held, timeouts.is_kept()) {
        timeouts.held(client, group);
    }
}

fn properties(commands: &mut CommandTable, result: &CommandResult) -> Properties {
    commands.get_by_address(result.name_address(), || result.name().unwrap_or_default())
}

/// A command wrote: puts into the stream what the server leaves out. What cannot be put there is not in the log.
fn complete_stream(module: &mut Module, ctx: &Context, result: &CommandResult, properties: Properties) {
    let Module { gate, commands, created_consumers, silent_writes, .. } = module;
    let Some(gate) = gate else { return };
    let has_others = commands.has_others();
    let mut is_logged = true;
    if result.is_called_by_module() || silent_writes.is_waiting() {
        let internals = gate.connections.internals();
        // Before anything is added to it here.
        let (queued, offset) = (internals.queued(), internals.replication_offset());
        let changes = result.changes().max(1);
        if result.is_called_by_module() {
            silent_writes.called(queued, offset, changes, properties.is_foreign);
        } else {
            is_logged = !silent_writes.command_ended(queued, offset, changes, properties.is_foreign);
        }
    }
    if properties.logged != Logged::Yes && !properties.is_write && !properties.propagates_itself {
        is_logged &= propagation::keep_out(&gate.connections, result);
    } else if properties.omits != Omits::Nothing
        || propagation::takes_over(&gate.connections, result, properties, has_others)
    {
        let created = std::mem::take(created_consumers);
        is_logged &= propagation::complete(&gate.connections, ctx, result, properties, created, has_others);
    }
    if !is_logged {
        module.found_unlogged(&result.name().unwrap_or_default());
    }
}

/// A command of another module may block its client and answer it at any time, from a callback or from a thread, without an event. So
/// whatever is written to such a client is held for the newest write, until its next command.
fn look_for_late_answers(
    gate: &mut Gate<ServerConnections>,
    commands: &mut CommandTable,
    timeouts: &mut ReplyTimeouts,
    result: &CommandResult,
) {
    let client = result.client();
    if gate.connections.has_unseen_answer(client) {
        let newest = gate.read_all();
        if matches!(gate.hold(client, newest), Held::Now | Held::Longer) && timeouts.is_kept() {
            timeouts.held(client, newest);
        }
    }
    if properties(commands, result).is_foreign && gate.connections.is_blocked(client) {
        gate.connections.awaits_answer(client);
    }
}

/// Whether clients get messages because of this command. Most names differ from these in their first two bytes.
#[inline]
fn brings_messages(result: &CommandResult) -> bool {
    result.name_begins(*b"su") && result.is_named(c"subscribe")
        || result.name_begins(*b"ps") && result.is_named(c"psubscribe")
        || result.name_begins(*b"ss") && result.is_named(c"ssubscribe")
}
