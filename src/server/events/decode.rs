//! The functions that the server calls. Each decodes what the server passes, and calls one of [`Hooks`]; no panic leaves it.

use std::ffi::{c_char, c_int, c_void, CStr};

use valkey_module::{raw, Context, InfoContext, AUTH_HANDLED, AUTH_NOT_HANDLED};

use crate::base::panic_guard::guard;
use crate::server::api;
use crate::server::cluster::loading;
use crate::server::command_result::CommandResult;
use crate::server::events::{Hooks, InfoSection, COMMAND_RESULT_FAILURE};

// Sub-events (`valkeymodule.h`).
/// Of `REPLICATION_ROLE_CHANGED`.
const NOW_REPLICA: u64 = 1;
/// Of `LOADING`: a full copy comes from the server that this one replicates from.
const LOADING_REPL_START: u64 = 2;
/// Of `LOADING`: all of it was loaded.
const LOADING_ENDED: u64 = 3;
/// Of `LOADING`.
const LOADING_FAILED: u64 = 4;
/// Of `CLIENT_CHANGE`.
const CLIENT_DISCONNECTED: u64 = 1;
/// Of `MODULE_CHANGE`.
const MODULE_UNLOADED: u64 = 1;
/// Of `FLUSHDB`.
const FLUSHDB_END: u64 = 1;
/// Of `EVENTLOOP`: replies are written to sockets right after it.
const BEFORE_SLEEP: u64 = 0;
/// Of `EVENTLOOP`: something is to be done.
const AFTER_SLEEP: u64 = 1;

type Ctx = *mut raw::RedisModuleCtx;
type Event = raw::RedisModuleEvent;

pub unsafe extern "C" fn on_command<H: Hooks>(ctx: Ctx, event: Event, _: u64, data: *mut c_void) {
    // SAFETY: the server passes this struct with these events, and it lives during the callback.
    let result = unsafe { &*data.cast::<CommandResult>() };
    let is_understood = guard("looking at a command's result", false, || {
        H::command_ran(&Context::new(ctx), result, event.id == COMMAND_RESULT_FAILURE);
        true
    });
    if !is_understood {
        guard("closing a client", (), || H::command_is_not_understood(result.client()));
    }
}

pub unsafe extern "C" fn on_failed_while_following<H: Hooks>(_: Ctx, _: Event, _: u64, data: *mut c_void) {
    // SAFETY: the server passes this struct with these events, and it lives during the callback.
    let result = unsafe { &*data.cast::<CommandResult>() };
    guard("looking at a command that failed", (), || H::command_failed_while_following(result));
}

pub unsafe extern "C" fn on_flush<H: Hooks>(_: Ctx, _: Event, subevent: u64, _: *mut c_void) {
    if subevent == FLUSHDB_END {
        guard("noting a flush", (), H::flushed);
    }
}

pub unsafe extern "C" fn on_eviction<H: Hooks>(
    _: Ctx,
    _: c_int,
    _: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server's own string, used only during this callback.
    guard("noting an eviction", (), || H::evicted(unsafe { api::bytes(key) }));
    raw::REDISMODULE_OK as c_int
}

pub unsafe extern "C" fn on_stream<H: Hooks>(
    _: Ctx,
    _: c_int,
    event: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server's own name of the change.
    if unsafe { CStr::from_ptr(event) } == c"xgroup-createconsumer" {
        // SAFETY: the server's own string, used only during this callback.
        guard("noting a consumer", (), || H::consumer_created(unsafe { api::bytes(key) }));
    }
    raw::REDISMODULE_OK as c_int
}

pub unsafe extern "C" fn on_event_loop<H: Hooks>(_: Ctx, _: Event, subevent: u64, _: *mut c_void) {
    if subevent == AFTER_SLEEP {
        guard("waking up", (), H::woke);
    } else if subevent == BEFORE_SLEEP {
        guard("closing a group", (), H::before_sleep);
    }
}

pub unsafe extern "C" fn on_client_change<H: Hooks>(_: Ctx, _: Event, subevent: u64, data: *mut c_void) {
    // SAFETY: the server passes this struct with this event.
    let client = unsafe { (*data.cast::<raw::RedisModuleClientInfo>()).id };
    if subevent == CLIENT_DISCONNECTED {
        guard("forgetting a client", (), || H::client_disconnected(client));
    } else {
        guard("noting a client", (), || H::client_connected(client));
    }
}

pub unsafe extern "C" fn on_role_change<H: Hooks>(_: Ctx, _: Event, subevent: u64, _: *mut c_void) {
    guard("noting a change of role", (), || H::role_changed(subevent == NOW_REPLICA));
}

pub unsafe extern "C" fn on_loading<H: Hooks>(_: Ctx, _: Event, subevent: u64, _: *mut c_void) {
    match subevent {
        LOADING_REPL_START => guard("beginning to load", (), loading::begins),
        LOADING_ENDED | LOADING_FAILED => guard("ending to load", (), loading::ends),
        _ => {}
    }
    if subevent == LOADING_FAILED {
        guard("noting that a full copy failed", (), H::loading_failed);
    }
}

pub unsafe extern "C" fn on_loading_progress<H: Hooks>(_: Ctx, _: Event, _: u64, _: *mut c_void) {
    guard("looking at the time", (), H::loading_goes_on);
}

pub unsafe extern "C" fn on_module_change<H: Hooks>(ctx: Ctx, _: Event, subevent: u64, data: *mut c_void) {
    guard("looking at commands", (), || {
        // SAFETY: the server passes this struct with this event.
        let name = unsafe { CStr::from_ptr((*data.cast::<raw::RedisModuleModuleChange>()).module_name) };
        H::modules_changed(&Context::new(ctx), name.to_str().ok().filter(|_| subevent == MODULE_UNLOADED));
    });
}

pub unsafe extern "C" fn on_config_change<H: Hooks>(_: Ctx, _: Event, _: u64, _: *mut c_void) {
    guard("noting changed configs", (), H::configs_changed);
}

pub unsafe extern "C" fn on_shutdown<H: Hooks>(_: Ctx, _: Event, _: u64, _: *mut c_void) {
    guard("stopping", (), H::shuts_down);
}

pub unsafe extern "C" fn on_bell<H: Hooks>(_: c_int, _: *mut c_void, _: c_int) {
    guard("running the agent's tasks", (), H::agent_rang);
}

/// Does without a guard: the filter has to refuse the command if it panics.
pub extern "C" fn on_filter<H: Hooks>(ctx: *mut raw::RedisModuleCommandFilterCtx) {
    H::filter(ctx);
}

pub unsafe extern "C" fn on_login<H: Hooks>(
    ctx: Ctx,
    user: *mut raw::RedisModuleString,
    password: *mut raw::RedisModuleString,
    _: *mut *mut raw::RedisModuleString,
) -> c_int {
    let is_own = guard("checking a login", false, || {
        // SAFETY: the server's own strings, used only during this callback.
        let (user, password) = unsafe { (api::bytes(user), api::bytes(password)) };
        H::log_in(&Context::new(ctx), user, password)
    });
    if is_own {
        AUTH_HANDLED
    } else {
        AUTH_NOT_HANDLED
    }
}

/// Crash reports show the section as well, and nothing may be borrowed for long there: they get none.
pub unsafe extern "C" fn on_info<S: InfoSection>(ctx: *mut raw::RedisModuleInfoCtx, for_crash_report: c_int) {
    if for_crash_report == 0 {
        guard("showing INFO", (), || S::show(&InfoContext::new(ctx)));
    }
}
