//! Puts into the replication stream, and so into the log, what the server would leave out: at the command's event, which comes right before
//! the server puts the command itself into the stream.
//!
//! - What a script writes, whatever it says with `server.set_repl`.
//! - What any command writes while other modules are loaded, because what they do in response may come next ([`takes_over`]).
//! - Effects that the server forgets. `docs/upstream.md` lists them.

use std::sync::atomic::{AtomicBool, Ordering};

use valkey_module::{raw, Context, ValkeyString};

use crate::decide::command_arguments::{copied_to, group_position, may_name_expired_fields, PendingRead};
use crate::decide::command_properties::Properties;
use crate::decide::omitted_effects::{is_of_interest, loads_module, Omits};
use crate::server::command_result::CommandResult;
use crate::server::connections::ServerConnections;
use crate::server::keys::{self, Unserialized};
use crate::server::replaced_commands::Instead;
use crate::server::structs::Client;
use crate::server::{api, running_client};

/// Whether the command wrote although it may count as one that did not: BITFIELD that fails; FLUSHALL on a server that saves an empty RDB
/// then, after which it counts changes anew; FLUSHALL and FLUSHDB where there is nothing, which go into the stream all the same. Most names
/// differ from these in their first two bytes.
#[inline]
pub fn wrote_unnoticed(result: &CommandResult) -> bool {
    if result.name_begins(*b"fl") {
        return result.is_named(c"flushall") || result.is_named(c"flushdb");
    }
    result.name_begins(*b"bi")
        && result.is_named(c"bitfield")
        && result.texts().any(|argument| argument.eq_ignore_ascii_case(b"FAIL"))
}

/// Whether the module puts a command that wrote into the stream, in place of the server, which would do so after the command's event.
///
/// - What a script calls: the script may have told the server with `server.set_repl` not to do so.
/// - Where other modules are loaded (`has_others`): what they do in jobs after notifications goes into the stream as the event ends.
pub fn takes_over(
    connections: &ServerConnections,
    result: &CommandResult,
    properties: Properties,
    has_others: bool,
) -> bool {
    !result.is_called_by_module() && !properties.propagates_itself && (has_others || connections.is_script_running())
}

/// Set in async mode until a command comes for which [`has_cause`] holds.
static WAITS_FOR_CAUSE: AtomicBool = AtomicBool::new(false);

/// See [`has_cause`].
pub fn wait_for_cause(waits: bool) {
    WAITS_FOR_CAUSE.store(waits, Ordering::Relaxed);
}

/// Whether the module needs an event for each command from now on, because of this command with that first argument.
#[inline]
pub fn has_cause<'a>(name: &[u8], first: impl FnOnce() -> &'a [u8]) -> bool {
    WAITS_FOR_CAUSE.load(Ordering::Relaxed) && (is_of_interest(name) || loads_module(name, first))
}

/// A command wrote: puts into the stream what the server forgets of it and, if the module [`takes_over`], the command itself. Returns
/// whether it could. Called at the command's event.
pub fn complete(
    connections: &ServerConnections,
    ctx: &Context,
    result: &CommandResult,
    properties: Properties,
    created: Vec<Vec<u8>>,
    has_others: bool,
) -> bool {
    let Some(client) = running_client::get(connections, result.client()) else { return false };
    let Some(database) = connections.layout.database(client).number() else { return false };
    let arguments = result.arguments();
    let stream = Stream { connections, ctx, database };
    match properties.omits {
        Omits::Nothing => {}
        // The count includes what other modules changed within the command.
        Omits::ExpiredFields => stream.delete_expired_fields(arguments, if has_others { 0 } else { result.changes() }),
        Omits::Consumers => {
            stream.create_consumers(arguments, &created);
            stream.deliver_again(arguments);
        }
        Omits::FailedBitfield if result.changes() == 0 => {
            stream.put(&[], arguments);
            return true;
        }
        Omits::FailedBitfield => {}
        Omits::SortPatterns | Omits::KeyExpiry | Omits::MetCondition | Omits::Order | Omits::Version => {
            let texts: Vec<&[u8]> = result.texts().collect();
            match Instead::of(ctx, database, properties.omits, arguments, &texts) {
                Ok(Some(instead)) => return stream.put_instead(instead, arguments, client),
                Ok(None) => {}
                Err(Unserialized) => return false,
            }
        }
    }
    !takes_over(connections, result, properties, has_others) || stream.take_over(result, properties, client)
}

/// Keeps a command that changes no data out of the stream. It counts as one that wrote if another module wrote in response to it
/// (`CONFIG SET`), or while it was loaded (`MODULE LOAD`); then the server would put the command into the stream, from where no node may apply
/// it. What the module wrote is there if the module replicates it. Returns whether this could be done. Called at the command's event.
pub fn keep_out(connections: &ServerConnections, result: &CommandResult) -> bool {
    let Some(client) = running_client::get(connections, result.client()) else { return false };
    // SAFETY: the client is running the command, and this is the command's event.
    unsafe { connections.internals().prevent_propagation(client) };
    true
}

/// How many elements of a stored list go into the stream in one command.
const ELEMENTS_AT_ONCE: usize = 1000;

struct Stream<'a> {
    connections: &'a ServerConnections,
    ctx: &'a Context,
    database: u16,
}

impl Stream<'_> {
    /// Puts the command that `client` runs into the stream, as the server would do after the command's event. Returns whether it could.
    fn take_over(&self, result: &CommandResult, properties: Properties, client: *mut Client) -> bool {
        // SAFETY: the client is running the command.
        let Some((arguments, count)) = (unsafe { self.connections.arguments.arguments(client) }) else { return false };
        // SAFETY: the arguments of a client that is running a command live.
        let arguments = unsafe { std::slice::from_raw_parts(arguments, count) };
        // SAFETY: as above.
        let name = arguments.first().map(|name| unsafe { api::bytes(*name) }).unwrap_or_default();
        if properties.propagates_pieces_of_many && result.arguments().len() > 2 && name.eq_ignore_ascii_case(b"SPOP") {
            // With a count the server puts SREM there for each piece. Without a count, or if it takes everything, the server rewrites it.
            return true;
        }
        // SAFETY: as above, and this is the command's event.
        unsafe {
            self.connections.internals().propagate(self.database, arguments);
            self.connections.internals().prevent_propagation(client);
        }
        true
    }

    /// A string of any bytes, zeros among them.
    fn string(&self, bytes: impl AsRef<[u8]>) -> ValkeyString {
        ValkeyString::create_from_slice(self.ctx.ctx, bytes.as_ref())
    }

    fn put(&self, words: &[&str], arguments: &[*mut raw::RedisModuleString]) {
        let words: Vec<_> = words.iter().map(|word| self.string(word)).collect();
        let all: Vec<_> = words.iter().map(|word| word.inner).chain(arguments.iter().copied()).collect();
        // SAFETY: all are live strings, and this is a command's event.
        unsafe { self.connections.internals().propagate(self.database, &all) }
    }

    /// The command that `client` runs does not go into the stream as it is. Returns whether something else did.
    fn put_instead(&self, instead: Instead, arguments: &[*mut raw::RedisModuleString], client: *mut Client) -> bool {
        // SAFETY: the client is running the command, whose arguments live until it is done.
        let own = unsafe {
            let own = self.connections.arguments.arguments(client);
            own.map(|(arguments, count)| std::slice::from_raw_parts(arguments, count))
        };
        match (instead, own) {
            (Instead::List(at), _) => {
                self.put(&["DEL"], &arguments[at..=at]);
                keys::for_each_elements(self.ctx, self.database, arguments[at], ELEMENTS_AT_ONCE, |elements| {
                    self.put(&["RPUSH"], &[&arguments[at..=at], elements].concat());
                });
            }
            (Instead::WithExpiry(expires_at_ms), Some(own)) => {
                self.put(&[], own);
                let time = self.string(expires_at_ms.to_string());
                self.put(&["PEXPIREAT"], &[arguments[1], time.inner]);
            }
            // The server has rewritten arguments, but has neither added nor removed any.
            (Instead::Without(at), Some(own)) if own.len() == arguments.len() => {
                self.put(&[], &[&own[..at], &own[at + 1..]].concat());
            }
            (Instead::Value(at, Some(payload)), _) => {
                let [ttl, payload, replace] = [b"0".as_slice(), &payload, b"REPLACE"].map(|word| self.string(word));
                self.put(&["RESTORE"], &[arguments[at], ttl.inner, payload.inner, replace.inner]);
            }
            (Instead::Value(at, None), _) => self.put(&["DEL"], &arguments[at..=at]),
            (Instead::With(at, argument), Some(own)) if at < own.len() => {
                let argument = self.string(argument);
                self.put(&[], &[&own[..at], &[argument.inner], &own[at + 1..]].concat());
            }
            _ => return false,
        }
        // SAFETY: as above, and this is the command's event.
        unsafe { self.connections.internals().prevent_propagation(client) };
        true
    }

    /// Before the command meets fields on a replica that have expired, as they have here, they are deleted on both.
    fn delete_expired_fields(&self, arguments: &[*mut raw::RedisModuleString], changes: i64) {
        // SAFETY: the server's own arguments, used only during the callback.
        let texts: Vec<&[u8]> = arguments.iter().map(|argument| unsafe { api::bytes(*argument) }).collect();
        let may_expire = may_name_expired_fields(&texts, changes)
            && keys::delete_expired_fields(self.ctx, self.database, arguments[1]);
        if let (true, Some((database, replaces))) = (may_expire, copied_to(&texts, self.database)) {
            // The copy holds such fields as well. If all are, the replica finds nothing to copy.
            if replaces {
                Stream { database, ..*self }.put(&["DEL"], &arguments[2..3]);
            }
            keys::delete_expired_fields(self.ctx, database, arguments[2]);
            keys::delete_empty_hash(self.ctx, database, arguments[2]);
        }
    }

    fn create_consumers(&self, arguments: &[*mut raw::RedisModuleString], keys: &[Vec<u8>]) {
        // SAFETY: as above.
        let texts: Vec<&[u8]> = arguments.iter().map(|argument| unsafe { api::bytes(*argument) }).collect();
        let Some(group) = group_position(&texts) else { return };
        for key in keys {
            let key = self.string(key);
            self.put(&["XGROUP", "CREATECONSUMER"], &[key.inner, arguments[group], arguments[group + 1]]);
        }
    }

    /// Pending entries that a consumer reads again: each delivery counts.
    fn deliver_again(&self, arguments: &[*mut raw::RedisModuleString]) {
        // SAFETY: as above.
        let texts: Vec<&[u8]> = arguments.iter().map(|argument| unsafe { api::bytes(*argument) }).collect();
        let Some(read) = PendingRead::of(&texts) else { return };
        let (group, consumer) = (arguments[read.group], arguments[read.group + 1]);
        // Before any command is called, which has a time of its own.
        let time_ms = api::cached_time_ms().to_string();
        for (key, id) in read.streams {
            // A look at a key that has expired meanwhile would delete it, in the stream as well.
            if !keys::exists(self.ctx, self.database, arguments[key]) {
                continue;
            }
            let from = [b"(", texts[id]].concat();
            let pending = keys::pending_entries(
                self.ctx,
                self.database,
                [texts[key], texts[read.group], &from, read.count, texts[read.group + 1]],
            );
            for (id, deliveries) in pending {
                let words = [&*id, "TIME", &time_ms, "RETRYCOUNT", &deliveries.to_string(), "FORCE", "JUSTID"];
                let words: Vec<_> = words.iter().map(|word| self.string(word)).collect();
                let idle = self.string("0");
                let head = [arguments[key], group, consumer, idle.inner];
                let all: Vec<_> = head.into_iter().chain(words.iter().map(|word| word.inner)).collect();
                self.put(&["XCLAIM"], &all);
            }
        }
    }
}
