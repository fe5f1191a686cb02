//! The server's module API, as far as the `valkey-module` crate does not wrap it. Main thread only.

use std::cell::Cell;
use std::ffi::{c_int, c_void, CString};
use std::net::{IpAddr, SocketAddr};
use std::ptr;

use valkey_module::{raw, CallOptionsBuilder, CallReply, CallResult, Context, ContextFlags};

use crate::exchange::own_logins::Origin;
use crate::server::internals::{CommandResult, Internals, OpenedKey};
use crate::server::keys;

/// A callback for a server event.
pub type EventCallback = unsafe extern "C" fn(*mut raw::RedisModuleCtx, raw::RedisModuleEvent, u64, *mut c_void);

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

/// Calls `callback` at each event of that id from now on; `None` ends it.
///
/// Not to be called while the server goes through its listeners, that is from another event's callback.
pub fn subscribe(ctx: &Context, event: u64, callback: Option<EventCallback>) -> Result<(), String> {
    let event_and_version = raw::RedisModuleEvent { id: event, dataver: 1 };
    // SAFETY: the context is valid, and the callback has the signature that the event wants.
    let status = unsafe { api!(RedisModule_SubscribeToServerEvent)(ctx.ctx, event_and_version, callback) };
    if status == raw::REDISMODULE_OK as c_int {
        Ok(())
    } else {
        Err(format!("the server has no event {event}; Valkey 9.1 or newer is needed"))
    }
}

/// Calls `callback` on the main thread whenever `fd` is readable.
pub fn watch(fd: c_int, callback: unsafe extern "C" fn(c_int, *mut c_void, c_int)) -> Result<(), String> {
    let readable = raw::REDISMODULE_EVENTLOOP_READABLE as c_int;
    // SAFETY: the callback has the right signature and uses no user data.
    let status = unsafe { api!(RedisModule_EventLoopAdd)(fd, readable, Some(callback), ptr::null_mut()) };
    if status == raw::REDISMODULE_OK as c_int {
        Ok(())
    } else {
        Err(format!("the server cannot watch descriptor {fd}: raise maxclients"))
    }
}

/// Ends [`watch`].
pub fn unwatch(fd: c_int) {
    // SAFETY: has no preconditions; the result only says whether the descriptor was watched.
    unsafe { api!(RedisModule_EventLoopDel)(fd, raw::REDISMODULE_EVENTLOOP_READABLE as c_int) };
}

/// Has every command pass `filter` first, but for those that the module itself runs.
pub fn add_filter(ctx: &Context, filter: extern "C" fn(*mut raw::RedisModuleCommandFilterCtx)) -> Result<(), String> {
    // SAFETY: the context is valid and the filter has the right signature.
    let added = unsafe {
        api!(RedisModule_RegisterCommandFilter)(ctx.ctx, Some(filter), raw::REDISMODULE_CMDFILTER_NOSELF as c_int)
    };
    if added.is_null() {
        Err("the server takes no command filter".to_owned())
    } else {
        Ok(())
    }
}

/// What hears of changes to keys: type and name of the change, and the key.
pub type KeyspaceCallback = unsafe extern "C" fn(
    *mut raw::RedisModuleCtx,
    c_int,
    *const std::ffi::c_char,
    *mut raw::RedisModuleString,
) -> c_int;

/// Calls `callback` for each key that the server evicts.
pub fn watch_evictions(ctx: &Context, callback: KeyspaceCallback) -> Result<(), String> {
    subscribe_to_keyspace(ctx, raw::REDISMODULE_NOTIFY_EVICTED as c_int, callback)
        .map_err(|()| "the server does not tell of evictions".to_owned())
}

/// Calls `callback` for each change of a stream.
pub fn watch_streams(ctx: &Context, callback: KeyspaceCallback) -> Result<(), String> {
    subscribe_to_keyspace(ctx, raw::REDISMODULE_NOTIFY_STREAM as c_int, callback)
        .map_err(|()| "the server does not tell of changes of streams".to_owned())
}

fn subscribe_to_keyspace(ctx: &Context, kinds: c_int, callback: KeyspaceCallback) -> Result<(), ()> {
    // SAFETY: the context is valid and the callback has the right signature.
    let status = unsafe { api!(RedisModule_SubscribeToKeyspaceEvents)(ctx.ctx, kinds, Some(callback)) };
    (status == raw::REDISMODULE_OK as c_int).then_some(()).ok_or(())
}

/// What decides over a login: user, password, and where an error message would go.
pub type LoginCallback = unsafe extern "C" fn(
    *mut raw::RedisModuleCtx,
    *mut raw::RedisModuleString,
    *mut raw::RedisModuleString,
    *mut *mut raw::RedisModuleString,
) -> c_int;

/// Asks `callback` at every login, before the server's own users are looked at.
pub fn add_login(ctx: &Context, callback: LoginCallback) {
    // SAFETY: the context is valid and the callback has the right signature.
    unsafe { api!(RedisModule_RegisterAuthCallback)(ctx.ctx, Some(callback)) };
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

/// Calls `each` with every key of the command that ran, as the server finds them.
pub fn for_each_key(ctx: &Context, result: &CommandResult, mut each: impl FnMut(&[u8])) {
    let mut count = 0;
    // SAFETY: the server's own arguments, as they were passed to the event's callback.
    let positions = unsafe { api!(RedisModule_GetCommandKeys)(ctx.ctx, result.argv, result.argc, &raw mut count) };
    if positions.is_null() {
        return;
    }
    // SAFETY: the server returns `count` positions within argv, in memory that the module frees.
    unsafe {
        for position in std::slice::from_raw_parts(positions, count as usize) {
            each(bytes(*result.argv.add(*position as usize)));
        }
        api!(RedisModule_Free)(positions.cast());
    }
}

/// The server's time for the command that runs, in milliseconds since 1970.
pub fn cached_time_ms() -> i64 {
    // SAFETY: reads a variable of the server.
    let us: i64 = unsafe { api!(RedisModule_CachedMicroseconds)() };
    us / 1000
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
        let opened = api!(RedisModule_OpenKey)(ctx.ctx, key, keys::LOOK);
        if opened.is_null() {
            return false;
        }
        let is_hash = api!(RedisModule_KeyType)(opened) == raw::REDISMODULE_KEYTYPE_HASH as c_int;
        let hash = is_hash.then(|| OpenedKey::value(opened.cast(), ctx.ctx, key)).flatten();
        api!(RedisModule_CloseKey)(opened);
        hash.is_some_and(|hash| internals.delete_expired_fields(hash, cached_time_ms()))
    }
}

/// Deletes a hash that has no field, and so should not be there, past the stream.
pub fn delete_empty_hash(ctx: &Context, database: u16, key: *mut raw::RedisModuleString) {
    let mode = keys::LOOK | raw::REDISMODULE_WRITE as c_int;
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

/// The end of the replication stream, in bytes.
pub fn replication_offset(ctx: &Context) -> u64 {
    match Internals::get() {
        Ok(internals) => internals.replication_offset(),
        Err(_) => role(ctx).map_or(0, |role| role.offset),
    }
}

/// Commands that are run in the context see the database of that number from now on. Answers whether there is one.
pub fn select_database(ctx: &Context, number: u32) -> bool {
    let Ok(number) = c_int::try_from(number) else { return false };
    // SAFETY: the context is valid; a number that is none of a database changes nothing.
    unsafe { api!(RedisModule_SelectDb)(ctx.ctx, number) == raw::REDISMODULE_OK as c_int }
}

/// Whether the server takes in events in the middle of something: it loads data, a script is slow, or another module's command lets it go
/// on meanwhile (`RM_Yield`). Then nothing may change that a command can see. The last is not known where the server's internals are not.
pub fn is_within_command(ctx: &Context) -> bool {
    ctx.get_flags().intersects(ContextFlags::LOADING | ContextFlags::LUA)
        || Internals::get().is_ok_and(Internals::is_within_command)
}

/// Whether the server is a replica, whatever the state of its link.
pub fn is_replica(ctx: &Context) -> bool {
    ctx.get_flags().contains(ContextFlags::SLAVE)
}

/// The reply to `ROLE`.
pub struct Role {
    /// As primary: end of the stream. As replica: what was applied.
    pub offset: u64,
    /// Whether this is a replica whose link to its primary is up.
    pub is_connected_replica: bool,
}

/// Asks `ROLE`. `None` if the reply has no form that is known.
pub fn role(ctx: &Context) -> Option<Role> {
    let reply = call(ctx, "ROLE", &[]).ok()?;
    let CallReply::Array(fields) = reply else { return None };
    let offset_index = if fields.len() == 5 { 4 } else { 1 };
    let offset = match fields.get(offset_index) {
        Some(Ok(CallReply::I64(offset))) => u64::try_from(offset.to_i64()).ok()?,
        _ => return None,
    };
    let state = match fields.get(3) {
        Some(Ok(CallReply::String(state))) => state.to_string(),
        _ => None,
    };
    Some(Role { offset, is_connected_replica: state.as_deref() == Some("connected") })
}

thread_local! {
    static IS_CALLING: Cell<bool> = const { Cell::new(false) };
}

/// Whether the command that runs is one of this module's own.
pub fn is_calling() -> bool {
    IS_CALLING.get()
}

/// Runs a command.
///
/// # Errors
/// The error reply.
pub fn call(ctx: &Context, command: &str, arguments: &[&str]) -> Result<CallReply<'static>, String> {
    let options = CallOptionsBuilder::new().errors_as_replies().build();
    let was_calling = IS_CALLING.replace(true);
    let result: CallResult<'static> = ctx.call_ext(command, &options, arguments);
    IS_CALLING.set(was_calling);
    result.map_err(|error| error.to_utf8_string().unwrap_or_else(|| "an error that is no text".to_owned()))
}

/// The names of the modules that are loaded. `None` if the server does not say: its MODULE LIST is renamed.
pub fn modules(ctx: &Context) -> Option<Vec<String>> {
    let CallReply::Array(modules) = call(ctx, "MODULE", &["LIST"]).ok()? else { return None };
    let text = |reply: Option<CallResult>| match reply {
        Some(Ok(CallReply::String(text))) => text.to_string(),
        _ => None,
    };
    let name = |module| match module {
        // Names and values in turn.
        CallReply::Array(fields) => {
            let at = (0..fields.len()).step_by(2).find(|at| text(fields.get(*at)).as_deref() == Some("name"))?;
            text(fields.get(at + 1))
        }
        CallReply::Map(fields) => fields
            .iter()
            .find_map(|(key, value)| (text(Some(key)).as_deref() == Some("name")).then(|| text(Some(value)))?),
        _ => None,
    };
    modules.iter().map(|module| name(module.ok()?)).collect()
}

/// The value of a config of the server; empty if it has none.
pub fn config(ctx: &Context, name: &str) -> String {
    match call(ctx, "CONFIG", &["GET", name]) {
        Ok(CallReply::Array(pair)) => match pair.get(1) {
            Some(Ok(CallReply::String(value))) => value.to_string().unwrap_or_default(),
            _ => String::new(),
        },
        Ok(CallReply::Map(map)) => match map.get(0) {
            Some((_, Ok(CallReply::String(value)))) => value.to_string().unwrap_or_default(),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

/// Whether the user of the context's client may run that command.
pub fn may_run(ctx: &Context, command: &[&str]) -> bool {
    let name = ctx.get_current_user();
    // SAFETY: the name is a string that lives through the call; the user is not null, and freed after its use.
    unsafe {
        let user = api!(RedisModule_GetModuleUserFromUserName)(name.inner);
        if user.is_null() {
            // A user that no ACL rule names: one of a module's own.
            return false;
        }
        let checked = check_permissions(ctx, user, command.iter().map(|argument| argument.as_bytes()));
        api!(RedisModule_FreeModuleUser)(user);
        checked.is_ok()
    }
}

/// Whether the user may run that command, which may be given in part.
///
/// # Errors
/// `ENOENT` if there is no such command, `EACCES` if the user may not run it.
///
/// # Safety
/// The user is one of the server's that lives through the call.
unsafe fn check_permissions<'a>(
    ctx: &Context,
    user: *mut raw::RedisModuleUser,
    command: impl Iterator<Item = &'a [u8]>,
) -> std::io::Result<()> {
    let arguments: Vec<_> = command.map(|argument| ctx.create_string(argument)).collect();
    let mut pointers: Vec<_> = arguments.iter().map(|argument| argument.inner).collect();
    // SAFETY: by contract; the arguments are strings that live through the call.
    let status =
        unsafe { api!(RedisModule_ACLCheckCommandPermissions)(user, pointers.as_mut_ptr(), pointers.len() as c_int) };
    if status == raw::REDISMODULE_OK as c_int {
        return Ok(());
    }
    Err(std::io::Error::last_os_error())
}

/// A client to which something may be written that it did not just ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct Receiver {
    /// As `CLIENT ID` shows it.
    pub id: u64,
    /// It has subscribed.
    pub is_subscriber: bool,
    /// It waits in a blocking command.
    pub is_blocked: bool,
}

/// The clients that have subscribed or are blocked.
///
/// # Errors
/// The server does not list its clients.
pub fn receivers(ctx: &Context) -> Result<Vec<Receiver>, String> {
    Ok(lines(&call(ctx, "CLIENT", &["LIST"])?)?.iter().filter_map(|line| receiver(line)).collect())
}

/// The lines of `CLIENT LIST` for clients of that type.
///
/// # Errors
/// The server does not list its clients.
pub fn client_list(ctx: &Context, kind: &str) -> Result<Vec<String>, String> {
    lines(&call(ctx, "CLIENT", &["LIST", "TYPE", kind])?)
}

fn lines(reply: &CallReply) -> Result<Vec<String>, String> {
    let list = match reply {
        CallReply::String(text) => text.to_string().unwrap_or_default(),
        CallReply::VerbatimString(text) => {
            text.as_parts().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
        }
        _ => return Err("the server's answer to CLIENT LIST has an unknown form".to_owned()),
    };
    Ok(list.lines().map(str::to_owned).collect())
}

/// What a line of `CLIENT LIST` says.
fn receiver(line: &str) -> Option<Receiver> {
    let value = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let flags = value("flags")?;
    let (is_subscriber, is_blocked) = (flags.contains('P'), flags.contains('b'));
    (is_subscriber || is_blocked).then_some(Receiver { id: value("id")?.parse().ok()?, is_subscriber, is_blocked })
}

/// The user that the tap logs in as. It may do everything, needs no password, and exists only for the module.
pub struct TapUser(*mut raw::RedisModuleUser);

impl TapUser {
    /// Makes the user.
    ///
    /// # Errors
    /// The server does not take the permissions.
    pub fn new() -> Result<Self, String> {
        let name = CString::new("durability-tap").map_err(|error| error.to_string())?;
        // SAFETY: the name is a C string.
        let user = unsafe { api!(RedisModule_CreateModuleUser)(name.as_ptr()) };
        for rule in ["on", "allcommands", "allkeys", "allchannels"] {
            let rule_text = CString::new(rule).map_err(|error| error.to_string())?;
            // SAFETY: the user was just made; the rule is a C string.
            if unsafe { api!(RedisModule_SetModuleUserACL)(user, rule_text.as_ptr()) } != raw::REDISMODULE_OK as c_int {
                return Err(format!("the server does not take the ACL rule '{rule}'"));
            }
        }
        Ok(TapUser(user))
    }

    /// Whether the server has a command of that name, or container and subcommand. May be asked anywhere.
    pub fn knows<'a>(&self, ctx: &Context, name: impl Iterator<Item = &'a [u8]>) -> bool {
        // SAFETY: the user lives as long as the module.
        let checked = unsafe { check_permissions(ctx, self.0, name) };
        checked.map_or_else(|error| error.raw_os_error() != Some(libc::ENOENT), |()| true)
    }

    /// Logs the context's client in as this user. Returns the client's id, or `None` if it could not.
    pub fn log_in(&self, ctx: &Context) -> Option<u64> {
        let mut client = 0;
        // SAFETY: the context is that of an auth callback, and the user lives as long as the module.
        let status = unsafe {
            api!(RedisModule_AuthenticateClientWithUser)(ctx.ctx, self.0, None, ptr::null_mut(), &raw mut client)
        };
        (status == raw::REDISMODULE_OK as c_int).then_some(client)
    }
}

impl Drop for TapUser {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and the module is done with it. Clients that are logged in with it are disconnected.
        unsafe { api!(RedisModule_FreeModuleUser)(self.0) };
    }
}

/// Whether a module calls a command, with `client`, while the server loads its own data. It does so for what stands in the AOF: no client
/// that is connected is answered meanwhile, and no timer runs.
pub fn loads_for_module(ctx: &Context, client: u64) -> bool {
    let flags = ctx.get_flags();
    flags.contains(ContextFlags::LOADING)
        && !flags.contains(ContextFlags::ASYNC_LOADING)
        && Internals::get().is_ok_and(|internals| internals.lookup_client(client).is_none())
}

/// Whether what runs now comes from the stream of the server's primary: a command of that, or what it calls.
pub fn executes_for_primary(ctx: &Context) -> bool {
    let flags = ctx.get_flags();
    flags.contains(ContextFlags::SLAVE)
        && !flags.contains(ContextFlags::LOADING)
        && Internals::get().is_ok_and(Internals::executes_for_primary)
}

/// Properties of a client, as flags.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientFlags {
    /// It is between MULTI and EXEC.
    pub is_in_transaction: bool,
    /// It is this server's primary, sending the stream.
    pub is_primary: bool,
    /// It waits in a blocking command.
    pub is_blocked: bool,
    /// It has subscribed to channels.
    pub is_subscriber: bool,
    /// It has to log in and has not. Servers before 9.1 do not tell.
    pub is_stranger: bool,
}

/// Whether the client with that id is connected, and is this server's primary. May be asked from a command's event: of a client that
/// executes and has no connection, such as a script's, the server cannot be asked there, as it looks into that connection.
pub fn is_connected_primary(id: u64) -> bool {
    Internals::get().is_ok_and(|internals| internals.lookup_client(id).is_some()) && client_flags(id).is_primary
}

/// Of the client with that id; nothing is set for the clients of scripts.
pub fn client_flags(id: u64) -> ClientFlags {
    const PUBSUB: u64 = 1 << 1;
    const BLOCKED: u64 = 1 << 2;
    const MULTI: u64 = 1 << 5;
    const PRIMARY: u64 = 1 << 7;
    const AUTHENTICATED: u64 = 1 << 11;
    let Some(info) = client_info(id) else { return ClientFlags::default() };
    let has = |flag| info.flags & flag != 0;
    ClientFlags {
        is_in_transaction: has(MULTI),
        is_primary: has(PRIMARY),
        is_blocked: has(BLOCKED),
        is_subscriber: has(PUBSUB),
        is_stranger: Internals::get().is_ok() && !has(AUTHENTICATED),
    }
}

/// Where the client with that id is connected from, if the server says so. Main thread only.
pub fn client_place(id: u64) -> Option<Origin> {
    const UNIX_SOCKET: u64 = 1 << 4;
    let info = client_info(id)?;
    if info.flags & UNIX_SOCKET != 0 {
        return Some(Origin::Unix);
    }
    let address: Vec<u8> = info.addr.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
    let ip: IpAddr = std::str::from_utf8(&address).ok()?.parse().ok()?;
    Some(Origin::Tcp(SocketAddr::new(ip, info.port)))
}

fn client_info(id: u64) -> Option<raw::RedisModuleClientInfo> {
    let mut info: raw::RedisModuleClientInfo = raw::RedisModuleClientInfo {
        version: raw::REDISMODULE_CLIENTINFO_VERSION as u64,
        // SAFETY: a struct of integers and character arrays, for which zero is a value.
        ..unsafe { std::mem::zeroed() }
    };
    // SAFETY: `info` says its version.
    let status = unsafe { api!(RedisModule_GetClientInfoById)((&raw mut info).cast(), id) };
    (status == raw::REDISMODULE_OK as c_int).then_some(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_subscribed_or_is_blocked_is_told_by_flags() {
        let told = |line| receiver(line).map(|client| (client.id, client.is_subscriber, client.is_blocked));
        assert_eq!(told("id=7 addr=127.0.0.1:1 fd=8 name= flags=P db=0"), Some((7, true, false)));
        assert_eq!(told("id=8 addr=127.0.0.1:1 fd=8 name= flags=b db=0"), Some((8, false, true)));
        assert_eq!(told("id=9 addr=127.0.0.1:1 fd=8 name=P flags=N db=0"), None);
        assert_eq!(told(""), None);
    }
}
