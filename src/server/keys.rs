//! Keys, as the server's module API opens them to read. Nothing of a key's access time or of the server's statistics changes. Main
//! thread only.
//!
//! The server's clock goes on between a command and its event. A key whose time to live has passed meanwhile counts as not there, but is
//! not deleted: that would go into the stream before the command.

use std::ffi::{c_int, c_long};

use valkey_module::{raw, CallOptionsBuilder, CallReply, CallResult, Context};

use crate::server::api::{self, api};
use crate::server::internals::Internals;
use crate::server::structs::OpenedKey;

/// How a key is opened to look at it at a command's event.
pub const LOOK: c_int = (raw::REDISMODULE_READ
    | raw::REDISMODULE_OPEN_KEY_NOTOUCH
    | raw::REDISMODULE_OPEN_KEY_NOSTATS
    | raw::REDISMODULE_OPEN_KEY_NOEXPIRE) as c_int;

/// What `read` makes of the key. `None` if there is no such key.
fn read<T>(
    ctx: &Context,
    database: u16,
    key: *mut raw::RedisModuleString,
    read: impl FnOnce(*mut raw::RedisModuleKey) -> T,
) -> Option<T> {
    // SAFETY: the context is that of an event, with a client of its own; the key is a live string; what was opened is closed.
    unsafe {
        if api!(RedisModule_SelectDb)(ctx.ctx, c_int::from(database)) != raw::REDISMODULE_OK as c_int {
            return None;
        }
        let opened = api!(RedisModule_OpenKey)(ctx.ctx, key, LOOK);
        if opened.is_null() {
            return None;
        }
        let result = read(opened);
        api!(RedisModule_CloseKey)(opened);
        Some(result)
    }
}

/// Whether the key is there.
pub fn exists(ctx: &Context, database: u16, key: *mut raw::RedisModuleString) -> bool {
    read(ctx, database, key, |_| ()).is_some()
}

/// When the key expires, in milliseconds since 1970, if ever, and how many elements its value has, with those that have expired. `None`
/// if it is not there.
pub fn expiry_and_length(
    ctx: &Context,
    database: u16,
    key: *mut raw::RedisModuleString,
) -> Option<(Option<i64>, usize)> {
    // SAFETY: the key is open.
    let (expires_at_ms, length) = read(ctx, database, key, |opened| unsafe {
        (api!(RedisModule_GetAbsExpire)(opened), api!(RedisModule_ValueLength)(opened))
    })?;
    Some(((expires_at_ms >= 0).then_some(expires_at_ms), length))
}

/// Whether the key holds a sorted set whose scores are not all the same. `None` if it is not there.
pub fn has_different_scores(ctx: &Context, database: u16, key: *mut raw::RedisModuleString) -> Option<bool> {
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
    read(ctx, database, key, |opened| {
        // SAFETY: the key is open.
        let kind = unsafe { api!(RedisModule_KeyType)(opened) };
        kind == raw::REDISMODULE_KEYTYPE_ZSET as c_int && {
            // SAFETY: as above; the functions are the server's own.
            let (first, last) =
                unsafe { (api!(RedisModule_ZsetFirstInScoreRange), api!(RedisModule_ZsetLastInScoreRange)) };
            score(opened, first) != score(opened, last)
        }
    })
}

/// The key's value as DUMP tells it. `None` if it is not there.
///
/// # Errors
/// The server does not tell it.
pub fn serialized(
    ctx: &Context,
    database: u16,
    key: *mut raw::RedisModuleString,
) -> Result<Option<Vec<u8>>, Unserialized> {
    // DUMP would delete a key that has expired. Its clock is that of this look: the event's.
    if !exists(ctx, database, key) {
        return Ok(None);
    }
    let options = CallOptionsBuilder::new().errors_as_replies().build();
    // SAFETY: the key is a live string.
    let reply: CallResult<'static> = ctx.call_ext("DUMP", &options, &[unsafe { api::bytes(key) }]);
    match reply {
        Ok(CallReply::String(payload)) => Ok(Some(payload.as_bytes().to_vec())),
        Ok(CallReply::Null(_)) => Ok(None),
        _ => Err(Unserialized),
    }
}

/// The server does not tell a key's value: DUMP answered with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unserialized;

/// Calls `each` with the elements of a list, from its head to its tail, at most `at_once` at a time. They live until it returns. Calls it not
/// at all if the key holds no list.
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

/// Deletes the fields of a hash that have expired, if the key holds one, and has not expired itself. Returns whether it holds one with
/// fields that expire.
pub fn delete_expired_fields(ctx: &Context, database: u16, key: *mut raw::RedisModuleString) -> bool {
    let Ok(internals) = Internals::get() else { return false };
    // SAFETY: the context is that of an event, with a client of its own; the key is a live string; what was opened is closed, and
    // the hash is looked at before anything writes.
    unsafe {
        if api!(RedisModule_SelectDb)(ctx.ctx, c_int::from(database)) != raw::REDISMODULE_OK as c_int {
            return false;
        }
        let opened = api!(RedisModule_OpenKey)(ctx.ctx, key, LOOK);
        if opened.is_null() {
            return false;
        }
        let is_hash = api!(RedisModule_KeyType)(opened) == raw::REDISMODULE_KEYTYPE_HASH as c_int;
        let hash = is_hash.then(|| OpenedKey::value(opened.cast(), ctx.ctx, key)).flatten();
        api!(RedisModule_CloseKey)(opened);
        hash.is_some_and(|hash| internals.delete_expired_fields(api::bytes(key), hash, api::cached_time_ms()))
    }
}

/// Deletes a hash that has no field, and so should not be there, past the stream.
pub fn delete_empty_hash(ctx: &Context, database: u16, key: *mut raw::RedisModuleString) {
    let mode = LOOK | raw::REDISMODULE_WRITE as c_int;
    // SAFETY: the context is that of an event, with a client of its own; the key is a live string; what was opened is closed.
    unsafe {
        if api!(RedisModule_SelectDb)(ctx.ctx, c_int::from(database)) != raw::REDISMODULE_OK as c_int {
            return;
        }
        let opened = api!(RedisModule_OpenKey)(ctx.ctx, key, mode);
        let is_hash = api!(RedisModule_KeyType)(opened) == raw::REDISMODULE_KEYTYPE_HASH as c_int;
        if is_hash && api!(RedisModule_ValueLength)(opened) == 0 {
            api!(RedisModule_DeleteKey)(opened);
        }
        api!(RedisModule_CloseKey)(opened);
    }
}

/// Pending entries of a consumer group: ids, and how often each was delivered. `range` is the stream, the group, an id to begin
/// with, how many at most, and the consumer. Entries that the stream has no more are left out.
pub fn pending_entries(ctx: &Context, database: u16, range: [&[u8]; 5]) -> Vec<(String, i64)> {
    let [stream, group, from, count, consumer] = range;
    let options = CallOptionsBuilder::new().errors_as_replies().build();
    let call =
        |command: &str, arguments: &[&[u8]]| -> CallResult<'static> { ctx.call_ext(command, &options, arguments) };
    // SAFETY: the context has a client of its own.
    if unsafe { api!(RedisModule_SelectDb)(ctx.ctx, c_int::from(database)) } != raw::REDISMODULE_OK as c_int {
        return Vec::new();
    }
    let Ok(CallReply::Array(entries)) = call("XPENDING", &[stream, group, from, b"+", count, consumer]) else {
        return Vec::new();
    };
    let entries = entries.iter().flatten().filter_map(|entry| match entry {
        CallReply::Array(fields) => match (fields.get(0), fields.get(3)) {
            (Some(Ok(CallReply::String(id))), Some(Ok(CallReply::I64(deliveries)))) => {
                Some((id.to_string()?, deliveries.to_i64()))
            }
            _ => None,
        },
        _ => None,
    });
    let exists = |id: &str| {
        let found = call("XRANGE", &[stream, id.as_bytes(), id.as_bytes()]);
        matches!(found, Ok(CallReply::Array(found)) if found.len() > 0)
    };
    entries.filter(|(id, _)| exists(id)).collect()
}
