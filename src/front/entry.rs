//! What the server finds when it loads the library.

// The macro makes functions that nobody can document from here.
#![allow(missing_docs)]

use std::ffi::c_int;

use valkey_module::configuration::ConfigurationFlags;
use valkey_module::{raw, valkey_module};

use crate::front::start::{before_load, load, unload};
use crate::front::{commands, failover_command};
use crate::server::debug_command;
use crate::settings::{self, Mode};

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
        ["durability.populate", debug_command::populate, "write deny-oom admin deny-script no-mandatory-keys", 0, 0, 0],
        ["durability.accept-log", commands::accept_log, "admin allow-loading allow-stale no-mandatory-keys", 0, 0, 0],
        ["durability.help", commands::help, "allow-loading allow-stale allow-busy fast", 0, 0, 0],
        // Any user may: what it answers is why the user's own command is refused.
        ["durability.refused", commands::refused, "allow-loading allow-stale allow-busy no-auth no-mandatory-keys fast", 0, 0, 0],
    ],
    configurations: [
        i64: [
            ["max-lag-ms", &settings::MAX_LAG_MS, settings::DEFAULT_MAX_LAG_MS, settings::LEAST_MAX_LAG_MS, settings::MOST_MAX_LAG_MS, ConfigurationFlags::DEFAULT, None],
            ["max-pending-bytes", &settings::MAX_PENDING_BYTES, settings::DEFAULT_MAX_PENDING_BYTES, settings::LEAST_MAX_PENDING_BYTES, i64::MAX, ConfigurationFlags::MEMORY, None],
            ["max-held-bytes", &settings::MAX_HELD_BYTES, settings::DEFAULT_MAX_HELD_BYTES, settings::LEAST_MAX_HELD_BYTES, i64::MAX, ConfigurationFlags::MEMORY, None],
            ["lease-ms", &settings::LEASE_MS, settings::DEFAULT_LEASE_MS, settings::LEAST_LEASE_MS, settings::MOST_LEASE_MS, ConfigurationFlags::DEFAULT, None],
            ["priority", &settings::PRIORITY, settings::DEFAULT_PRIORITY, 0, settings::MOST_PRIORITY, ConfigurationFlags::DEFAULT, None],
            ["sync-timeout-ms", &settings::SYNC_TIMEOUT_MS, 0, 0, settings::MOST_SYNC_TIMEOUT_MS, ConfigurationFlags::DEFAULT, None],
        ],
        string: [
            ["log", &settings::LOG, settings::DEFAULT_LOG, ConfigurationFlags::DEFAULT, None],
            ["shard", &settings::SHARD, settings::DEFAULT_SHARD, ConfigurationFlags::DEFAULT, None],
            ["node-id", &settings::NODE_ID, "", ConfigurationFlags::DEFAULT, None],
            ["announce", &settings::ANNOUNCE, "", ConfigurationFlags::DEFAULT, None],
            ["auth", &settings::AUTH, "", ConfigurationFlags::SENSITIVE, None],
            ["auth-file", &settings::AUTH_FILE, "", ConfigurationFlags::DEFAULT, None],
            ["tls-ca", &settings::TLS_CA, "", ConfigurationFlags::DEFAULT, None],
            ["tls-crl", &settings::TLS_CRL, "", ConfigurationFlags::DEFAULT, None],
            ["tls-cert", &settings::TLS_CERT, "", ConfigurationFlags::DEFAULT, None],
            ["tls-key", &settings::TLS_KEY, "", ConfigurationFlags::DEFAULT, None],
        ],
        bool: [
            ["tls", &settings::TLS, false, ConfigurationFlags::DEFAULT, None],
            ["failover", &settings::FAILOVER, false, ConfigurationFlags::DEFAULT, None],
            ["allow-replicaof", &settings::ALLOW_REPLICAOF, false, ConfigurationFlags::DEFAULT, None],
            ["count-in-waitaof", &settings::COUNT_IN_WAITAOF, false, ConfigurationFlags::DEFAULT, None],
        ],
        enum: [
            ["mode", &settings::MODE, Mode::Sync, ConfigurationFlags::DEFAULT, None],
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
