//! What the server finds when it loads the library.

// The macro makes functions that nobody can document from here.
#![allow(missing_docs)]

use std::ffi::c_int;

use valkey_module::configuration::ConfigurationFlags;
use valkey_module::{raw, valkey_module};

use crate::config::{self, Mode};
use crate::start::{before_load, load, unload};
use crate::{commands, debug_command, failover};

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
        ["durability.failover", failover::failover, "admin allow-stale no-mandatory-keys", 0, 0, 0],
        ["durability.populate", debug_command::populate, "write deny-oom admin deny-script no-mandatory-keys", 0, 0, 0],
        ["durability.accept-log", commands::accept_log, "admin allow-loading allow-stale no-mandatory-keys", 0, 0, 0],
        ["durability.help", commands::help, "allow-loading allow-stale allow-busy fast", 0, 0, 0],
        // Any user may: what it answers is why the user's own command is refused.
        ["durability.refused", commands::refused, "allow-loading allow-stale allow-busy no-auth no-mandatory-keys fast", 0, 0, 0],
    ],
    configurations: [
        i64: [
            ["max-lag-ms", &config::MAX_LAG_MS, config::DEFAULT_MAX_LAG_MS, config::LEAST_MAX_LAG_MS, config::MOST_MAX_LAG_MS, ConfigurationFlags::DEFAULT, None],
            ["max-pending-bytes", &config::MAX_PENDING_BYTES, config::DEFAULT_MAX_PENDING_BYTES, config::LEAST_MAX_PENDING_BYTES, i64::MAX, ConfigurationFlags::MEMORY, None],
            ["max-held-bytes", &config::MAX_HELD_BYTES, config::DEFAULT_MAX_HELD_BYTES, config::LEAST_MAX_HELD_BYTES, i64::MAX, ConfigurationFlags::MEMORY, None],
            ["lease-ms", &config::LEASE_MS, config::DEFAULT_LEASE_MS, config::LEAST_LEASE_MS, config::MOST_LEASE_MS, ConfigurationFlags::DEFAULT, None],
            ["priority", &config::PRIORITY, config::DEFAULT_PRIORITY, 0, config::MOST_PRIORITY, ConfigurationFlags::DEFAULT, None],
            ["sync-timeout-ms", &config::SYNC_TIMEOUT_MS, 0, 0, config::MOST_SYNC_TIMEOUT_MS, ConfigurationFlags::DEFAULT, None],
        ],
        string: [
            ["log", &config::LOG, config::DEFAULT_LOG, ConfigurationFlags::DEFAULT, None],
            ["shard", &config::SHARD, config::DEFAULT_SHARD, ConfigurationFlags::DEFAULT, None],
            ["node-id", &config::NODE_ID, "", ConfigurationFlags::DEFAULT, None],
            ["announce", &config::ANNOUNCE, "", ConfigurationFlags::DEFAULT, None],
            ["auth", &config::AUTH, "", ConfigurationFlags::SENSITIVE, None],
            ["auth-file", &config::AUTH_FILE, "", ConfigurationFlags::DEFAULT, None],
            ["tls-ca", &config::TLS_CA, "", ConfigurationFlags::DEFAULT, None],
            ["tls-crl", &config::TLS_CRL, "", ConfigurationFlags::DEFAULT, None],
            ["tls-cert", &config::TLS_CERT, "", ConfigurationFlags::DEFAULT, None],
            ["tls-key", &config::TLS_KEY, "", ConfigurationFlags::DEFAULT, None],
        ],
        bool: [
            ["tls", &config::TLS, false, ConfigurationFlags::DEFAULT, None],
            ["failover", &config::FAILOVER, false, ConfigurationFlags::DEFAULT, None],
            ["allow-replicaof", &config::ALLOW_REPLICAOF, false, ConfigurationFlags::DEFAULT, None],
            ["count-in-waitaof", &config::COUNT_IN_WAITAOF, false, ConfigurationFlags::DEFAULT, None],
        ],
        enum: [
            ["mode", &config::MODE, Mode::Sync, ConfigurationFlags::DEFAULT, None],
        ],
        module_args_as_configuration: true,
    ]
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
