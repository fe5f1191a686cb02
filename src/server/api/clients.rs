//! What the server says of its clients.

use std::ffi::c_int;
use std::net::{IpAddr, SocketAddr};

use valkey_module::{raw, CallReply, Context, ContextFlags};

use crate::exchange::own_logins::Origin;
use crate::server::api::calls::call;
use crate::server::api::functions::api;
use crate::server::internals::Internals;

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
    /// It is one of the network's, and no module's or script's.
    pub is_connected: bool,
    /// It has sent `READONLY`: a replica in a cluster may answer it.
    pub reads_from_replicas: bool,
    /// It has to log in and has not. Not set where the server's internals are not known.
    pub is_stranger: bool,
}

/// The flags of the client with that id; none is set for the clients of scripts.
pub fn client_flags(id: u64) -> ClientFlags {
    const PUBSUB: u64 = 1 << 1;
    const BLOCKED: u64 = 1 << 2;
    const MULTI: u64 = 1 << 5;
    const READONLY: u64 = 1 << 6;
    const PRIMARY: u64 = 1 << 7;
    const MODULE: u64 = 1 << 10;
    const AUTHENTICATED: u64 = 1 << 11;
    const FAKE: u64 = 1 << 13;
    let Some(info) = client_info(id) else { return ClientFlags::default() };
    let has = |flag| info.flags & flag != 0;
    ClientFlags {
        is_in_transaction: has(MULTI),
        is_primary: has(PRIMARY),
        is_blocked: has(BLOCKED),
        is_subscriber: has(PUBSUB),
        is_connected: !has(MODULE) && !has(FAKE),
        reads_from_replicas: has(READONLY),
        is_stranger: Internals::get().is_ok() && !has(AUTHENTICATED),
    }
}

/// Whether the client with that id is connected, and is this server's primary. May be called from a command's event. The server cannot be
/// asked there about a client that executes and has no connection, such as a script's, as it looks into that connection.
pub fn is_connected_primary(id: u64) -> bool {
    Internals::get().is_ok_and(|internals| internals.lookup_client(id).is_some()) && client_flags(id).is_primary
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

/// Whether `client` is a module's, which calls a command while the server loads its own data. Modules do so for what stands in the AOF: no
/// client that is connected is answered meanwhile, and no timer runs.
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
