//! Keys, as the server's module API opens them to read. Nothing of a key's access time or of the server's statistics changes. Main
//! thread only.

use std::ffi::{c_int, c_long};

use valkey_module::{raw, CallOptionsBuilder, CallReply, CallResult, Context};

use crate::server::{self, api};

/// What `read` makes of the key. `None` if there is no such key.
fn read<T>(
    ctx: &Context,
    database: u16,
    key: *mut raw::RedisModuleString,
    read: impl FnOnce(*mut raw::RedisModuleKey) -> T,
) -> Option<T> {
    let mode = raw::REDISMODULE_READ as c_int
        | raw::REDISMODULE_OPEN_KEY_NOTOUCH as c_int
        | raw::REDISMODULE_OPEN_KEY_NOSTATS as c_int;
    // SAFETY: the context is that of an event, with a client of its own; the key is a live string; what was opened is closed.
    unsafe {
        if api!(RedisModule_SelectDb)(ctx.ctx, c_int::from(database)) != raw::REDISMODULE_OK as c_int {
            return None;
        }
        let opened = api!(RedisModule_OpenKey)(ctx.ctx, key, mode);
        if opened.is_null() {
            return None;
        }
        let result = read(opened);
        api!(RedisModule_CloseKey)(opened);
        Some(result)
    }
}

/// When the key expires, in milliseconds since 1970, and how many elements its value has, with those that have expired. `None` if it
/// never expires, or is not there.
pub fn expiry_and_length(ctx: &Context, database: u16, key: *mut raw::RedisModuleString) -> Option<(i64, usize)> {
    // SAFETY: the key is open.
    let (expires_at_ms, length) = read(ctx, database, key, |opened| unsafe {
        (api!(RedisModule_GetAbsExpire)(opened), api!(RedisModule_ValueLength)(opened))
    })?;
    (expires_at_ms >= 0).then_some((expires_at_ms, length))
}

/// Whether the key holds a sorted set of which the scores are not all the same.
pub fn has_different_scores(ctx: &Context, database: u16, key: *mut raw::RedisModuleString) -> bool {
    // SAFETY: the key is open; the element that stands there is a string of its own, freed once.
    let score = |opened, seek: unsafe extern "C" fn(*mut raw::RedisModuleKey, f64, f64, c_int, c_int) -> c_int| unsafe {
        seek(opened, f64::NEG_INFINITY, f64::INFINITY, 0, 0);
        let mut score = 0.0;
        let element = api!(RedisModule_ZsetRangeCurrentElement)(opened, &mut score);
        if !element.is_null() {
            api!(RedisModule_FreeString)(ctx.ctx, element);
        }
        api!(RedisModule_ZsetRangeStop)(opened);
        score
    };
    let differ = read(ctx, database, key, |opened| {
        // SAFETY: the key is open.
        let kind = unsafe { api!(RedisModule_KeyType)(opened) };
        kind == raw::REDISMODULE_KEYTYPE_ZSET as c_int && {
            // SAFETY: as above; the functions are the server's own.
            let (first, last) =
                unsafe { (api!(RedisModule_ZsetFirstInScoreRange), api!(RedisModule_ZsetLastInScoreRange)) };
            score(opened, first) != score(opened, last)
        }
    });
    differ == Some(true)
}

/// The key's value as DUMP tells it. `None` if it is not there.
pub fn serialized(ctx: &Context, database: u16, key: &[u8]) -> Option<Vec<u8>> {
    if !server::select_database(ctx, u32::from(database)) {
        return None;
    }
    let options = CallOptionsBuilder::new().errors_as_replies().build();
    let reply: CallResult<'static> = ctx.call_ext("DUMP", &options, &[key]);
    match reply {
        Ok(CallReply::String(payload)) => Some(payload.as_bytes().to_vec()),
        _ => None,
    }
}

/// Calls `each` with the elements of a list, from its head to its tail, so many at once at most. They live until it returns. Not at
/// all if the key holds no list.
pub fn for_each_elements(
    ctx: &Context,
    database: u16,
    key: *mut raw::RedisModuleString,
    at_once: usize,
    mut each: impl FnMut(&[*mut raw::RedisModuleString]),
) {
    // SAFETY: the key is open, and nothing writes to it meanwhile; each element is a string of its own, freed once.
    read(ctx, database, key, |opened| unsafe {
        if api!(RedisModule_KeyType)(opened) != raw::REDISMODULE_KEYTYPE_LIST as c_int {
            return;
        }
        let length = api!(RedisModule_ValueLength)(opened);
        for first in (0..length).step_by(at_once) {
            let positions = first..length.min(first + at_once);
            // The server goes on from the element that it was asked for last.
            let elements: Vec<_> =
                positions.map(|position| api!(RedisModule_ListGet)(opened, position as c_long)).collect();
            debug_assert!(elements.iter().all(|element| !element.is_null()), "positions are within the list");
            each(&elements);
            for element in elements {
                api!(RedisModule_FreeString)(ctx.ctx, element);
            }
        }
    });
}
