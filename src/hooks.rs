//! The server's callbacks. Each is thin: it decodes what the server says and passes it on.

use std::ffi::{c_int, c_void, CStr};
use std::sync::atomic::{AtomicBool, Ordering};

use durability_protocol::Logged;
use valkey_module::logging::log_warning;
use valkey_module::{raw, Context};

use crate::base::panic_guard::guard;
use crate::decide::dirty_keys::Database;
use crate::decide::gate::{ClientId, Connections, Gate, Held};
use crate::decide::reply_timeouts::Timeouts;
use crate::decide::valve::Group;
use crate::decide::watched_keys::{Executed, Ran, Watching};
use crate::exchange::waker::Bell;
use crate::exchange::Task;
use crate::node::{self, command_filter, tasks, Module};
use crate::server::command_table::{debug_sees, range_positions, CommandTable, Keys, Properties, Sees};
use crate::server::connections::ServerConnections;
use crate::server::internals::{self, CommandResult};
use crate::server::propagation::{self, Omits};
use crate::server::{api, write_path};

/// Tasks came while the server could not run them.
static TASKS_WAIT: AtomicBool = AtomicBool::new(false);
/// A thread of another module's wrote, while the main thread slept.
static THREAD_WROTE: AtomicBool = AtomicBool::new(false);
/// Another module wrote while this one was in use, as it heard of something that this one did.
static WROTE_UNTOLD: AtomicBool = AtomicBool::new(false);

/// A command ran. Called for each command while replies are held, so every nanosecond counts.
pub unsafe extern "C" fn on_command(
    ctx: *mut raw::RedisModuleCtx,
    event: raw::RedisModuleEvent,
    _: u64,
    data: *mut c_void,
) {
    // SAFETY: the server passes this struct with these events, and it lives during the callback.
    let result = unsafe { &*data.cast::<CommandResult>() };
    let is_known = guard("looking at a command's result", false, || {
        debug_assert_eq!(result.version, internals::COMMAND_RESULT_VERSION);
        let has_failed = event.id == internals::EVENT_COMMAND_RESULT_FAILURE;
        let is_told = node::with(|module| {
            // Before this command is judged, and what it made other modules write.
            take_in_untold(module);
            command_ran(module, &Context::new(ctx), result, has_failed);
            take_in_untold(module);
        });
        if is_told.is_none() {
            ran_untold(result);
        }
        true
    });
    if !is_known {
        // What this reply depends on is not known, so it must not leave.
        guard("closing a client", (), || {
            node::with(|module| {
                if let Some(gate) = &mut module.gate {
                    gate.close(result.client_id);
                }
            });
        });
    }
}

/// Whether a thread of another module's has written since the last time.
pub fn has_thread_written() -> bool {
    THREAD_WROTE.swap(false, Ordering::AcqRel)
}

/// A command ran of which the gate cannot be told now.
fn ran_untold(result: &CommandResult) {
    let wrote = match write_path::is_main_thread() {
        true => {
            let is_called = result.is_module_client != 0 || api::is_calling();
            assert!(is_called || !node::is_in_use(), "a client's command ran while the module was in use");
            &WROTE_UNTOLD
        }
        false => &THREAD_WROTE,
    };
    if result.dirty > 0 {
        wrote.store(true, Ordering::Release);
    }
}

/// Nobody knows all the keys that another module wrote meanwhile.
#[inline]
fn take_in_untold(module: &mut Module) {
    if WROTE_UNTOLD.load(Ordering::Relaxed) && WROTE_UNTOLD.swap(false, Ordering::Relaxed) {
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
        created_consumers,
        silent_writes,
        timeouts,
        watching,
        ..
    } = module;
    let (true, Some(gate)) = (*is_listening || *completes_stream, gate) else { return };
    // SAFETY: the server's own name of the command, whatever it was renamed to.
    let name = unsafe { CStr::from_ptr(result.command_name) };
    if *is_listening && brings_messages(name) {
        gate.connections.receives_messages(result.client_id);
    }
    let before = watching.ran((result.client_id, result.command_name as usize));
    let wrote = result.dirty > 0 || !has_failed && propagation::wrote_unnoticed(name, result);
    let is_called_by_module = result.is_module_client != 0;
    let has_others = commands.has_others();
    if *is_listening && has_others && !is_called_by_module {
        look_for_late_answers(gate, commands, timeouts, result, name);
    }
    let is_unseen = is_called_by_module && (!has_others || api::is_calling());
    if !wrote && (!*is_listening || gate.is_idle() || is_unseen) {
        return;
    }
    let properties = commands.get_by_address(result.command_name as usize, || name.to_string_lossy().into_owned());
    if wrote {
        let mut is_logged = true;
        if is_called_by_module || silent_writes.is_waiting() {
            let internals = gate.connections.internals();
            // Before anything is added to it here.
            let (queued, offset) = (internals.queued(), internals.replication_offset());
            let changes = result.dirty.max(1);
            if is_called_by_module {
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
            module.found_unlogged(&name.to_string_lossy());
        }
    }
    let Module { gate: Some(gate), commands, script_dependency, is_listening: true, timeouts, watching, .. } = module
    else {
        return;
    };
    let mut dependency = if wrote {
        write_dependency(gate, ctx, result, properties)
    } else {
        read_dependency(gate, ctx, result, properties)
    };
    match properties.sees {
        Sees::Watched => {
            if !is_called_by_module {
                watching.watched(result.client_id, dependency, gate.released());
            }
            return;
        }
        Sees::Transaction => {
            dependency =
                dependency.max(outcome_dependency(gate, commands, watching, (result.client_id, before), has_failed));
        }
        _ => {}
    }
    if is_called_by_module {
        // The command that made another module call this one has its own event, with these writes counted in. What it saw is
        // collected for that, as for a script.
        if !wrote {
            *script_dependency = dependency.max(*script_dependency);
        }
        return;
    }
    if properties.is_foreign && properties.runs_while_busy {
        // What was collected is its own, or that of a script which is busy and still needs it.
        dependency = dependency.max(*script_dependency);
    } else if properties.is_foreign || properties.runs_others {
        dependency = dependency.max(std::mem::take(script_dependency));
    }
    if dependency == 0 {
        return;
    }
    match gate.hold(result.client_id, dependency) {
        // A command that a script called: the script's own event follows.
        Held::NoConnection => *script_dependency = dependency.max(*script_dependency),
        Held::Now | Held::Longer if timeouts.is_kept() => timeouts.held(result.client_id, dependency),
        Held::Now | Held::Longer | Held::Already => {}
    }
}

/// A command failed, or was refused before it ran, while this node follows its log or may.
pub unsafe extern "C" fn on_failed_while_following(
    _: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    _: u64,
    data: *mut c_void,
) {
    // SAFETY: the server passes this struct with these events, and it lives during the callback.
    let result = unsafe { &*data.cast::<CommandResult>() };
    guard("looking at a command that failed", (), || {
        node::with(|module| module.failed_while_following(result));
    });
}

/// What the outcome of a client's EXEC depends on, beyond its commands. An error says nothing of watched keys.
fn outcome_dependency(
    gate: &Gate<ServerConnections>,
    commands: &CommandTable,
    watching: &mut Watching,
    (client, before): (ClientId, Ran),
    has_failed: bool,
) -> Group {
    match watching.executed(client, before, |command| commands.may_be_multi(command)) {
        Executed::Commands(watched) => watched,
        Executed::Nothing if has_failed => 0,
        Executed::Nothing => gate.read_all(),
    }
}

/// A command of another module's may block its client and answer it at any time, from a callback or from a thread, of which
/// nothing is told. So whatever is written to such a client is held for the newest write, until its next command.
fn look_for_late_answers(
    gate: &mut Gate<ServerConnections>,
    commands: &mut CommandTable,
    timeouts: &mut Timeouts,
    result: &CommandResult,
    name: &CStr,
) {
    let client = result.client_id;
    if gate.connections.has_unseen_answer(client) {
        let newest = gate.read_all();
        if matches!(gate.hold(client, newest), Held::Now | Held::Longer) && timeouts.is_kept() {
            timeouts.held(client, newest);
        }
    }
    let properties = commands.get_by_address(result.command_name as usize, || name.to_string_lossy().into_owned());
    if properties.is_foreign && gate.connections.is_blocked(client) {
        gate.connections.awaits_answer(client);
    }
}

/// Whether clients get messages because of this command. Most names differ from these in their first two bytes.
#[inline]
fn brings_messages(name: &CStr) -> bool {
    const NAMES: [&CStr; 3] = [c"subscribe", c"psubscribe", c"ssubscribe"];
    let name = name.as_ptr();
    NAMES.iter().any(|one| {
        // SAFETY: both end with a zero, behind which nothing is read: the second byte is read only after an equal first.
        unsafe {
            let one = one.as_ptr();
            *name == *one && *name.add(1) == *one.add(1) && CStr::from_ptr(name) == CStr::from_ptr(one)
        }
    })
}

fn write_dependency(
    gate: &mut Gate<ServerConnections>,
    ctx: &Context,
    result: &CommandResult,
    properties: Properties,
) -> Group {
    if properties.runs_others {
        // What it ran has dirtied its own keys.
        return gate.write();
    }
    let mut database = None;
    for_each_key(ctx, result, properties.keys, |key| {
        let database = *database.get_or_insert_with(|| match properties.leaves_database {
            true => Database::ANY,
            false => gate.connections.database(result.client_id),
        });
        let hash = gate.hash(key);
        gate.write_key(hash, database);
    });
    if database.is_some() {
        gate.write()
    } else {
        gate.write_all()
    }
}

fn read_dependency(
    gate: &mut Gate<ServerConnections>,
    ctx: &Context,
    result: &CommandResult,
    properties: Properties,
) -> Group {
    let sees = match properties.sees {
        // SAFETY: the server's own argument, which lives during the callback.
        Sees::Debug if result.argc > 1 => debug_sees(unsafe { api::bytes(*result.argv.add(1)) }),
        sees => sees,
    };
    match sees {
        Sees::Nothing => return 0,
        Sees::Functions | Sees::Transaction => return gate.read_functions(),
        Sees::Everything | Sees::Debug => return gate.read_all(),
        Sees::Keys | Sees::Watched => {}
    }
    let mut dependency = None;
    for_each_key(ctx, result, properties.keys, |key| {
        let reader = (!properties.leaves_database).then_some(result.client_id);
        let group = gate.read_key(gate.hash(key), reader);
        dependency = dependency.max(Some(group));
    });
    dependency.unwrap_or_else(|| gate.read_all())
}

fn for_each_key(ctx: &Context, result: &CommandResult, keys: Keys, mut each: impl FnMut(&[u8])) {
    match keys {
        Keys::None => {}
        Keys::Range { first, last, step } => {
            for position in range_positions(result.argc, first, last, step) {
                // SAFETY: the position is within the server's arguments, which live during the callback.
                each(unsafe { api::bytes(*result.argv.add(position)) });
            }
        }
        Keys::Movable => api::for_each_key(ctx, result, each),
    }
}

/// A database was emptied. The command that did it may look like one that wrote nothing: where the server saves an empty
/// RDB at FLUSHALL, it starts to count changes anew.
pub unsafe extern "C" fn on_flush(
    _: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    _: *mut c_void,
) {
    if subevent == internals::SUBEVENT_FLUSHDB_END {
        guard("noting a flush", (), || {
            node::must(|module| {
                if let (true, Some(gate)) = (module.is_listening, &mut module.gate) {
                    // The command's own event follows, and waits for everything.
                    gate.write_all();
                }
            });
        });
    }
}

/// A key was evicted, which no command's event tells: it is dirty like one that was deleted.
pub unsafe extern "C" fn on_eviction(
    _: *mut raw::RedisModuleCtx,
    _: c_int,
    _: *const std::ffi::c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    guard("noting an eviction", (), || {
        node::must(|module| {
            if let (true, Some(gate)) = (module.is_listening, &mut module.gate) {
                // SAFETY: the server's own string, used only during this callback.
                let hash = gate.hash(unsafe { api::bytes(key) });
                gate.write_key(hash, Database::ANY);
            }
        });
    });
    raw::REDISMODULE_OK as c_int
}

/// A stream changed. Of interest is one change, which the command that makes it may keep to itself.
pub unsafe extern "C" fn on_stream(
    _: *mut raw::RedisModuleCtx,
    _: c_int,
    event: *const std::ffi::c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server's own name of the change.
    if unsafe { CStr::from_ptr(event) } == c"xgroup-createconsumer" {
        guard("noting a consumer", (), || {
            node::must(|module| {
                if module.completes_stream {
                    // SAFETY: the server's own string, used only during this callback.
                    module.created_consumers.push(unsafe { api::bytes(key) }.to_vec());
                }
            });
        });
    }
    raw::REDISMODULE_OK as c_int
}

/// The event loop goes round.
pub unsafe extern "C" fn on_event_loop(
    _: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    _: *mut c_void,
) {
    if subevent == internals::SUBEVENT_AFTER_SLEEP {
        guard("waking up", (), || {
            node::must(Module::woke);
        });
    } else if subevent == internals::SUBEVENT_BEFORE_SLEEP {
        guard("closing a group", (), || {
            node::must(|module| {
                take_in_untold(module);
                module.before_sleep();
                if TASKS_WAIT.swap(false, Ordering::Relaxed) {
                    module.shared.main_bell.ring();
                }
            });
        });
    }
}

/// A client connected or disconnected.
pub unsafe extern "C" fn on_client_change(
    _: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    data: *mut c_void,
) {
    // SAFETY: the server passes this struct with this event.
    let client = unsafe { (*data.cast::<raw::RedisModuleClientInfo>()).id };
    if subevent != internals::SUBEVENT_CLIENT_DISCONNECTED {
        guard("noting a client", (), || {
            node::must(|module| {
                module.newest_client = module.newest_client.max(client);
                if let Some(gate) = &module.gate {
                    gate.connections.connected(client);
                }
            });
        });
        return;
    }
    guard("forgetting a client", (), || {
        command_filter::disconnected(client);
        node::must(|module| {
            module.watching.disconnected(client);
            if let Some(gate) = &mut module.gate {
                gate.disconnected(client);
            }
        });
    });
}

/// The server became a replica, or a primary.
pub unsafe extern "C" fn on_role_change(
    _: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    _: *mut c_void,
) {
    if tasks::is_changing_role() {
        return;
    }
    guard("noting a change of role", (), || {
        node::must(|module| module.role_changed(subevent == internals::SUBEVENT_NOW_REPLICA));
    });
}

/// Data begins to be loaded, or was, or could not be.
pub unsafe extern "C" fn on_loading(
    _: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    _: *mut c_void,
) {
    if subevent != internals::SUBEVENT_LOADING_FAILED {
        return;
    }
    guard("noting that a full copy failed", (), || {
        node::with(Module::copy_failed);
    });
}

/// Data is being loaded, during which the event loop does not go round as ever.
pub unsafe extern "C" fn on_loading_progress(
    _: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    _: u64,
    _: *mut c_void,
) {
    guard("looking at the time", (), || {
        node::must(Module::end_settling_in_time);
    });
}

/// Another module was loaded or unloaded: commands may have come or gone.
pub unsafe extern "C" fn on_module_change(
    ctx: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    data: *mut c_void,
) {
    guard("looking at commands", (), || {
        // SAFETY: the server passes this struct with this event.
        let name = unsafe { CStr::from_ptr((*data.cast::<raw::RedisModuleModuleChange>()).module_name) };
        // The server still lists it.
        let leaving = name.to_str().ok().filter(|_| subevent == internals::SUBEVENT_MODULE_UNLOADED);
        // Not within `with`: the call makes the server call back.
        match CommandTable::of_server(&Context::new(ctx), leaving) {
            Ok(commands) => {
                node::must(|module| {
                    module.learn_commands(commands);
                    module.shared.send(Task::WatchModules);
                });
            }
            Err(why) => log_warning(format!("durability: commands of other modules are not known: {why}")),
        }
    });
}

/// The server shuts down.
pub unsafe extern "C" fn on_shutdown(_: *mut raw::RedisModuleCtx, _: raw::RedisModuleEvent, _: u64, _: *mut c_void) {
    guard("stopping", (), || {
        node::must(Module::stop_agent);
    });
}

/// The agent rang.
pub unsafe extern "C" fn on_bell(_: c_int, _: *mut c_void, _: c_int) {
    guard("running the agent's tasks", (), || {
        if node::is_in_use() {
            // Another module yields within a call of this one's. The bell stays rung, so the server calls again.
            return;
        }
        let Some(is_busy) = node::must(|module| {
            Bell::silence(&module.shared.main_bell);
            api::is_within_command(&module.ctx)
        }) else {
            return;
        };
        if is_busy {
            TASKS_WAIT.store(true, Ordering::Relaxed);
        } else {
            tasks::run();
        }
    });
}
