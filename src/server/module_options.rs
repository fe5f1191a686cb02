//! What the module declares to the server about itself. Main thread only, while the module loads.

use std::ffi::c_int;

use valkey_module::{raw, Context};

/// What holds however the module uses the server.
const ALWAYS: c_int = (raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD
    | raw::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS
    | raw::VALKEYMODULE_OPTIONS_HANDLE_ATOMIC_SLOT_MIGRATION) as c_int;

/// `VALKEYMODULE_OPTIONS_HANDLE_FORKLESS` of Valkey 9.2, which `valkey-module` does not know yet: a key that is opened for writing may be null
/// while a fork-less save uses it.
const FORKLESS: c_int = 1 << 6;

/// Declares what always holds: with diskless loading, a replica keeps serving while it loads, and the module notices reads and writes that
/// fail. The server reads this before it calls the module's `load`.
pub fn declare(ctx: &Context) {
    set(ctx, ALWAYS);
}

/// Declares also what holds for a module that does not use the server's internals: fork-less saves are fine. With them, expired fields of a
/// hash are deleted past the module API, which a save in another thread does not see coming. A server whose modules do not all declare this
/// saves by a fork.
pub fn declare_without_internals(ctx: &Context) {
    // SAFETY: set while the module loads, before this is called; has no preconditions.
    let known = unsafe { raw::RedisModule_GetModuleOptionsAll.map_or(0, |all| all()) };
    if known & FORKLESS != 0 {
        set(ctx, ALWAYS | FORKLESS);
    }
}

fn set(ctx: &Context, options: c_int) {
    // SAFETY: set while the module loads, before this is called.
    if let Some(set_options) = unsafe { raw::RedisModule_SetModuleOptions } {
        // SAFETY: a valid context.
        unsafe { set_options(ctx.ctx, options) };
    }
}
