//! Durable Valkey through a remote transaction log: the server module. ARCHITECTURE.md says how it works.

mod agent;
mod attach;
mod auth;
mod backlog;
mod command_table;
mod commands;
mod config;
mod connections;
mod dirty;
mod docs;
mod ffi;
mod figures;
mod filter;
mod gate;
mod guard;
mod hooks;
mod lag;
mod log_connection;
mod module;
mod pipe;
mod seed;
mod self_test;
mod server;
mod shared;
mod shipper;
mod start;
mod tap;
mod tasks;
mod valve;

use std::ffi::c_int;

use valkey_module::configuration::ConfigurationFlags;
use valkey_module::{raw, valkey_module};

use config::Mode;

valkey_module! {
    name: "durability",
    version: 1,
    // Not the server's allocator: what waits for the log must not count as memory of the dataset, or the server would
    // evict keys, or answer OOM, because the log is slow.
    allocator: (std::alloc::System, std::alloc::System),
    data_types: [],
    preload: before_load,
    init: load,
    deinit: unload,
    commands: [
        ["durability.mode", commands::mode, "allow-loading allow-stale allow-busy no-mandatory-keys fast", 0, 0, 0],
        ["durability.lag", commands::lag, "allow-loading allow-stale allow-busy fast", 0, 0, 0],
        ["durability.status", commands::status, "allow-loading allow-stale allow-busy", 0, 0, 0],
        ["durability.help", commands::help, "allow-loading allow-stale allow-busy fast", 0, 0, 0],
        ["durability.refused", commands::refused, "allow-loading allow-stale allow-busy no-mandatory-keys fast", 0, 0, 0],
    ],
    configurations: [
        i64: [
            ["max-lag-ms", &config::MAX_LAG_MS, config::DEFAULT_MAX_LAG_MS, 100, 86_400_000, ConfigurationFlags::DEFAULT, None],
            ["max-pending-bytes", &config::MAX_PENDING_BYTES, config::DEFAULT_MAX_PENDING_BYTES, 1 << 20, i64::MAX, ConfigurationFlags::MEMORY, None],
        ],
        string: [
            ["log", &config::LOG, config::DEFAULT_LOG, ConfigurationFlags::IMMUTABLE, None],
            ["shard", &config::SHARD, config::DEFAULT_SHARD, ConfigurationFlags::IMMUTABLE, None],
            ["node-id", &config::NODE_ID, "", ConfigurationFlags::IMMUTABLE, None],
            ["auth", &config::AUTH, "", ConfigurationFlags::SENSITIVE, None],
        ],
        bool: [],
        enum: [
            ["mode", &config::MODE, Mode::Sync, ConfigurationFlags::DEFAULT, None],
        ],
        module_args_as_configuration: true,
    ]
}

use start::{before_load, load, unload};

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
