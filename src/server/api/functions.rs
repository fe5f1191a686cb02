//! Single functions of the module API, and how they are called.

use std::ffi::{c_int, c_longlong, CStr};

use valkey_module::{raw, CommandFilterCtx, Context};

/// A function of the module API, which is set once while the module loads, before anything here is called. To be used in
/// an unsafe block. Each function below exists in every server that has command-result events, which is checked first.
macro_rules! api {
    ($name:ident) => {
        raw::$name.expect(concat!(stringify!($name), " is in every server that this module loads into"))
    };
}
pub(crate) use api;

/// The server's version: major, minor, patch.
pub fn version() -> (u32, u32, u32) {
    // SAFETY: has no preconditions.
    let version = unsafe { api!(RedisModule_GetServerVersion)() } as u32;
    (version >> 16 & 0xff, version >> 8 & 0xff, version & 0xff)
}

/// The bytes of a string of the server, for as long as the callback runs that it was passed to.
///
/// # Safety
/// `string` is valid, and what is returned is not kept beyond the callback.
pub unsafe fn bytes<'a>(string: *mut raw::RedisModuleString) -> &'a [u8] {
    let mut length = 0;
    // SAFETY: by contract; the server returns `length` bytes that live as long as the string.
    unsafe {
        let start = api!(RedisModule_StringPtrLen)(string, &raw mut length);
        std::slice::from_raw_parts(start.cast(), length)
    }
}

/// An argument of a command that is about to run, for the time of the filter's callback; empty if there is no such argument.
pub fn filtered_argument<'a>(command: &CommandFilterCtx, position: i32) -> &'a [u8] {
    if position >= command.args_count() {
        return &[];
    }
    // SAFETY: the argument exists, and is used only during the callback.
    unsafe { bytes(command.arg_get(position)) }
}

/// The server's time for the command that runs, in milliseconds since 1970.
pub fn cached_time_ms() -> i64 {
    // SAFETY: reads a variable of the server.
    let us: i64 = unsafe { api!(RedisModule_CachedMicroseconds)() };
    us / 1000
}

/// Tells the server's latency monitor that something of that name took so many milliseconds. It keeps what reaches
/// `latency-monitor-threshold`.
pub fn add_latency(event: &CStr, ms: i64) {
    // SAFETY: the server copies the name.
    unsafe { api!(RedisModule_LatencyAddSample)(event.as_ptr(), c_longlong::from(ms)) }
}

/// Commands that are run in the context see the database of that number from now on. Answers whether there is one.
pub fn select_database(ctx: &Context, number: u32) -> bool {
    let Ok(number) = c_int::try_from(number) else { return false };
    // SAFETY: the context is valid; a number that is none of a database changes nothing.
    unsafe { api!(RedisModule_SelectDb)(ctx.ctx, number) == raw::REDISMODULE_OK as c_int }
}
