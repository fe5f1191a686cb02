//! What the server finds when it loads the library.

// The macro makes functions that nobody can document from here.
#![allow(missing_docs)]

use std::ffi::c_int;

use valkey_module::{raw, valkey_module};

use crate::front::start::{before_load, load, unload};
use crate::front::{commands, failover_command, slots_command};
use crate::server::debug_command;

#[cfg(not(test))]
use std::alloc::System as Allocator;

#[cfg(test)]
use allocation::Counting as Allocator;

const ALLOCATOR: Allocator = Allocator;

valkey_module! {
    name: "durability",
    version: 1,
    // Not the server's allocator: what waits for the log must not count as memory of the dataset, or the server would
    // evict keys, or answer OOM, because the log is slow.
    allocator: (Allocator, ALLOCATOR),
    data_types: [],
    preload: before_load,
    init: load,
    deinit: unload,
    commands: [
        ["durability.mode", commands::mode, "allow-loading allow-stale allow-busy no-mandatory-keys fast", 0, 0, 0],
        ["durability.lag", commands::lag, "allow-loading allow-stale allow-busy fast", 0, 0, 0],
        ["durability.status", commands::status, "allow-loading allow-stale allow-busy", 0, 0, 0],
        ["durability.failover", failover_command::failover, "admin allow-stale no-mandatory-keys", 0, 0, 0],
        ["durability.addslots", slots_command::add_slots, "admin deny-script no-mandatory-keys", 0, 0, 0],
        ["durability.populate", debug_command::populate, "write deny-oom admin deny-script no-mandatory-keys", 0, 0, 0],
        ["durability.accept-log", commands::accept_log, "admin allow-loading allow-stale no-mandatory-keys", 0, 0, 0],
        ["durability.help", commands::help, "allow-loading allow-stale allow-busy fast", 0, 0, 0],
        // Any user may: what it answers is why the user's own command is refused.
        ["durability.refused", commands::refused, "allow-loading allow-stale allow-busy no-auth no-mandatory-keys fast", 0, 0, 0],
    ],
}

/// What the server calls to load the module. The macro above defines the same under the name that older servers look for.
///
/// # Safety
/// Called by the server, with a valid context and `argc` arguments.
#[no_mangle]
#[allow(non_snake_case)]
pub unsafe extern "C" fn ValkeyModule_OnLoad(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    // SAFETY: by contract of this function.
    unsafe { RedisModule_OnLoad(ctx, argv, argc) }
}

/// What the server calls to unload the module.
///
/// # Safety
/// Called by the server, with a valid context.
#[no_mangle]
#[allow(non_snake_case)]
pub unsafe extern "C" fn ValkeyModule_OnUnload(ctx: *mut raw::RedisModuleCtx) -> c_int {
    RedisModule_OnUnload(ctx)
}
