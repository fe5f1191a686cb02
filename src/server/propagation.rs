//! What the server would leave out of the replication stream, and so out of the log, is put there by the module: at the
//! command's event, which comes right before the server puts the command itself into the stream.
//!
//! - What a script writes, whatever it says with `server.set_repl`.
//! - What any command writes while other modules are loaded, as what they do because of it may come next ([`takes_over`]).
//! - Effects that the server forgets. `docs/upstream.md` lists them.

use std::ffi::{c_char, CStr};
use std::sync::atomic::{AtomicBool, Ordering};

use valkey_module::{raw, Context, ValkeyString};

use crate::server::command_table::Properties;
use crate::server::connections::ServerConnections;
use crate::server::internals::{Client, CommandResult};
use crate::server::keys::{self, Unserialized};
use crate::server::replaced_commands::Instead;
use crate::server::{api, running_client};

/// What the server forgets of a command's effect when it puts the command into the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omits {
    /// Nothing.
    Nothing,
    /// That fields which the command names, or copies, have expired: a replica, which lets nothing expire by itself, still has them.
    ExpiredFields,
    /// That the command made a consumer, if it gave that consumer no entry; and that XREADGROUP delivered pending entries again.
    Consumers,
    /// That a string was made or became longer before everything failed: OVERFLOW FAIL. The command counts as one that wrote nothing.
    FailedBitfield,
    /// How SORT found what it stores by looking at other keys: their fields may have expired, which a replica would sort by, or fail on.
    SortPatterns,
    /// That HSETEX KEEPTTL was given all fields of a hash, and they had expired: it deletes them one by one at a replica, with the last
    /// one the key, and so its time to live.
    KeyExpiry,
    /// That the condition of MSETEX XX was met, although keys that it names are deleted before.
    MetCondition,
    /// In which order members of different scores are searched, which is by chance where a range is given by members.
    Order,
    /// That this server takes values that are serialized in versions which others may refuse.
    Version,
}

impl Omits {
    /// Of the command with that full name, in lower case.
    pub fn of(name: &str) -> Omits {
        match name {
            "hpersist" | "hexpire" | "hpexpire" | "hexpireat" | "hpexpireat" | "hdel" | "hgetdel" | "copy" => {
                Omits::ExpiredFields
            }
            "xreadgroup" | "xclaim" | "xautoclaim" | "xgroup|createconsumer" => Omits::Consumers,
            "bitfield" => Omits::FailedBitfield,
            "sort" => Omits::SortPatterns,
            "hsetex" => Omits::KeyExpiry,
            "msetex" => Omits::MetCondition,
            "zrangestore" => Omits::Order,
            "restore" | "restore-asking" => Omits::Version,
            _ => Omits::Nothing,
        }
    }
}

/// Whether the command wrote although it may count as one that did not: BITFIELD that fails, FLUSHALL on a server that saves an empty
/// RDB then, after which it counts changes anew, and both FLUSHALL and FLUSHDB where there is nothing, which go into the stream all the
/// same. Most names differ from these in their first two bytes.
#[inline]
pub fn wrote_unnoticed(name: &CStr, result: &CommandResult) -> bool {
    let text = name.as_ptr();
    let begins = |first: u8, second: u8| {
        // SAFETY: it ends with a zero, behind which nothing is read.
        unsafe { *text == first as c_char && *text.add(1) == second as c_char }
    };
    if begins(b'f', b'l') {
        return name == c"flushall" || name == c"flushdb";
    }
    begins(b'b', b'i') && name == c"bitfield" && {
        // SAFETY: the server's own arguments, used only during the callback.
        let arguments = unsafe { std::slice::from_raw_parts(result.argv, result.argc as usize) };
        // SAFETY: as above.
        arguments.iter().any(|argument| unsafe { api::bytes(*argument) }.eq_ignore_ascii_case(b"FAIL"))
    }
}

/// Whether the module puts a command that wrote into the stream, in place of the server, which would do so after the command's event.
///
/// - What a script calls: it may have said with `server.set_repl` that the server is not to.
/// - Where other modules are loaded (`has_others`): what they do in jobs after notifications goes into the stream as the event ends.
pub fn takes_over(
    connections: &ServerConnections,
    result: &CommandResult,
    properties: Properties,
    has_others: bool,
) -> bool {
    result.is_module_client == 0 && !properties.propagates_itself && (has_others || connections.is_script_running())
}

/// Commands of whose effects this module has to take care run in scripts, or are one of [`Omits`]: in async mode nothing else
/// needs an event for each command. Compares lengths first: this runs before every command.
pub fn is_of_interest(name: &[u8]) -> bool {
    let names: &[&[u8]] = match (name.len(), name.first().map(u8::to_ascii_lowercase)) {
        (4, Some(b'e')) => &[b"eval"],
        (4, Some(b'h')) => &[b"hdel"],
        (4, Some(b'c')) => &[b"copy"],
        (4, Some(b's')) => &[b"sort"],
        (5, Some(b'f')) => &[b"fcall"],
        (6, Some(b'x')) => &[b"xclaim"],
        (6, Some(b'h')) => &[b"hsetex"],
        (6, Some(b'm')) => &[b"msetex"],
        (7, Some(b'e')) => &[b"evalsha"],
        (7, Some(b'h')) => &[b"hexpire", b"hgetdel"],
        (7, Some(b'r')) => &[b"restore"],
        (8, Some(b'h')) => &[b"hpersist", b"hpexpire"],
        (8, Some(b'b')) => &[b"bitfield"],
        (9, Some(b'h')) => &[b"hexpireat"],
        (10, Some(b'h')) => &[b"hpexpireat"],
        (10, Some(b'x')) => &[b"xreadgroup", b"xautoclaim"],
        (11, Some(b'z')) => &[b"zrangestore"],
        (14, Some(b'r')) => &[b"restore-asking"],
        _ => return false,
    };
    names.iter().any(|one| name.eq_ignore_ascii_case(one))
}

/// In async mode, while nothing of interest has come: see [`is_of_interest`].
static WAITS_FOR_CAUSE: AtomicBool = AtomicBool::new(false);

/// See [`has_cause`].
pub fn wait_for_cause(waits: bool) {
    WAITS_FOR_CAUSE.store(waits, Ordering::Relaxed);
}

/// Whether it is because of this command, with that first argument, that the module must hear of each command from now on.
#[inline]
pub fn has_cause<'a>(name: &[u8], first: impl FnOnce() -> &'a [u8]) -> bool {
    WAITS_FOR_CAUSE.load(Ordering::Relaxed) && (is_of_interest(name) || loads_module(name, first))
}

/// Another module may write while it is loaded: see [`keep_out`].
fn loads_module<'a>(name: &[u8], first: impl FnOnce() -> &'a [u8]) -> bool {
    name.len() == 6 && name.eq_ignore_ascii_case(b"MODULE") && {
        let first = first();
        first.eq_ignore_ascii_case(b"LOAD") || first.eq_ignore_ascii_case(b"LOADEX")
    }
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
    let Some(client) = running_client::get(connections, result.client_id) else { return false };
    let Some(database) = connections.layout.database(client).number() else { return false };
    // SAFETY: the server's own arguments, which live during the callback.
    let arguments = unsafe { std::slice::from_raw_parts(result.argv, result.argc as usize) };
    let stream = Stream { connections, ctx, database };
    match properties.omits {
        Omits::Nothing => {}
        // What other modules changed within the command is counted as well.
        Omits::ExpiredFields => stream.delete_expired_fields(arguments, if has_others { 0 } else { result.dirty }),
        Omits::Consumers => {
            stream.create_consumers(arguments, &created);
            stream.deliver_again(arguments);
        }
        Omits::FailedBitfield if result.dirty == 0 => {
            stream.put(&[], arguments);
            return true;
        }
        Omits::FailedBitfield => {}
        Omits::SortPatterns | Omits::KeyExpiry | Omits::MetCondition | Omits::Order | Omits::Version => {
            // SAFETY: the server's own arguments, used only during the callback.
            let texts: Vec<&[u8]> = arguments.iter().map(|argument| unsafe { api::bytes(*argument) }).collect();
            match Instead::of(ctx, database, properties.omits, arguments, &texts) {
                Ok(Some(instead)) => return stream.put_instead(instead, arguments, client),
                Ok(None) => {}
                Err(Unserialized) => return false,
            }
        }
    }
    if !takes_over(connections, result, properties, has_others) {
        return true;
    }
    // SAFETY: the client is running the command.
    let Some((arguments, count)) = (unsafe { connections.arguments.arguments(client) }) else { return false };
    // SAFETY: the arguments of a client that is running a command live.
    let arguments = unsafe { std::slice::from_raw_parts(arguments, count) };
    // SAFETY: as above.
    let name = arguments.first().map(|name| unsafe { api::bytes(*name) }).unwrap_or_default();
    if properties.propagates_pieces_of_many && result.argc > 2 && name.eq_ignore_ascii_case(b"SPOP") {
        // With a count it is SREM for each piece. It is rewritten if it has no count, or takes all there is.
        return true;
    }
    // What the server does next.
    // SAFETY: as above, and this is the command's event.
    unsafe {
        connections.internals().propagate(database, arguments);
        connections.internals().prevent_propagation(client);
    }
    true
}

/// A command that changes no data counts as one that wrote if another module wrote as it heard of it (`CONFIG SET`), or as it was loaded
/// (`MODULE LOAD`). The server would put the command into the stream; this keeps it from that, as no node may apply it from there. What the
/// module wrote is there if the module replicates it. Returns whether it could. Called at the command's event.
pub fn keep_out(connections: &ServerConnections, result: &CommandResult) -> bool {
    let Some(client) = running_client::get(connections, result.client_id) else { return false };
    // SAFETY: the client is running the command, and this is the command's event.
    unsafe { connections.internals().prevent_propagation(client) };
    true
}

/// A stored list goes into the stream with so many elements in one command.
const ELEMENTS_AT_ONCE: usize = 1000;

struct Stream<'a> {
    connections: &'a ServerConnections,
    ctx: &'a Context,
    database: u16,
}

impl Stream<'_> {
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
            && api::delete_expired_fields(self.ctx, self.database, arguments[1]);
        if let (true, Some((database, replaces))) = (may_expire, copied_to(&texts, self.database)) {
            // The copy holds such fields as well. If all are, the replica finds nothing to copy.
            if replaces {
                Stream { database, ..*self }.put(&["DEL"], &arguments[2..3]);
            }
            api::delete_expired_fields(self.ctx, database, arguments[2]);
            api::delete_empty_hash(self.ctx, database, arguments[2]);
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
        let Some(read) = History::of(&texts) else { return };
        let (group, consumer) = (arguments[read.group], arguments[read.group + 1]);
        // Before any command is called, which has a time of its own.
        let time_ms = api::cached_time_ms().to_string();
        for (key, id) in read.streams {
            // To look at one that has expired meanwhile would delete it, in the stream as well.
            if !keys::exists(self.ctx, self.database, arguments[key]) {
                continue;
            }
            let from = [b"(", texts[id]].concat();
            let pending = api::pending_entries(
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

/// An XREADGROUP that reads pending entries.
struct History<'a> {
    /// Position of the group, with the consumer behind it.
    group: usize,
    /// As many as that of each stream.
    count: &'a [u8],
    /// Positions of the streams of which it does, and of the ids behind which it begins.
    streams: Vec<(usize, usize)>,
}

impl<'a> History<'a> {
    /// `None` if it reads none, or is another command.
    fn of(arguments: &[&'a [u8]]) -> Option<History<'a>> {
        if !arguments.first()?.eq_ignore_ascii_case(b"XREADGROUP") {
            return None;
        }
        let (mut group, mut count, mut at) = (0, b"9223372036854775807".as_slice(), 1);
        loop {
            let word = *arguments.get(at)?;
            let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            match () {
                () if is("GROUP") => (group, at) = (at + 1, at + 3),
                () if is("COUNT") => {
                    let given = *arguments.get(at + 1)?;
                    if !given.starts_with(b"-") && given.iter().any(|digit| *digit != b'0') {
                        count = given;
                    }
                    at += 2;
                }
                () if is("BLOCK") => at += 2,
                () if is("NOACK") => at += 1,
                () if is("STREAMS") => break,
                () => return None,
            }
        }
        let half = (arguments.len() - at - 1) / 2;
        let streams = (at + 1..=at + half).map(|key| (key, key + half));
        let streams: Vec<_> = streams.filter(|(_, id)| arguments[*id] != b">").collect();
        (group > 0 && !streams.is_empty()).then_some(History { group, count, streams })
    }
}

/// Whether a command that made so many changes may have met fields that have expired: each field that it names and that is there is
/// one change. COPY names none, and takes all.
fn may_name_expired_fields(arguments: &[&[u8]], changes: i64) -> bool {
    let Some(name) = arguments.first() else { return false };
    let named = if name.eq_ignore_ascii_case(b"HDEL") {
        arguments.len().saturating_sub(2)
    } else {
        let word = arguments.iter().skip(2).position(|argument| argument.eq_ignore_ascii_case(b"FIELDS"));
        word.map_or(usize::MAX, |word| arguments.len().saturating_sub(word + 4))
    };
    usize::try_from(changes).is_ok_and(|changes| changes < named)
}

/// The database to which COPY copies, and whether it may replace what is there. `None` if this is another command.
fn copied_to(arguments: &[&[u8]], selected: u16) -> Option<(u16, bool)> {
    if !arguments.first()?.eq_ignore_ascii_case(b"COPY") {
        return None;
    }
    let options = arguments.get(3..)?;
    let find = |name: &[u8]| options.iter().position(|option| option.eq_ignore_ascii_case(name));
    let database = match find(b"DB") {
        Some(at) => std::str::from_utf8(options.get(at + 1)?).ok()?.parse().ok()?,
        None => selected,
    };
    Some((database, find(b"REPLACE").is_some()))
}

/// Where the consumer group stands, with the consumer behind it, in a command that makes a consumer and does not say so to replicas.
fn group_position(arguments: &[&[u8]]) -> Option<usize> {
    let name = arguments.first()?;
    let position = match name.len() {
        10 if name.eq_ignore_ascii_case(b"XREADGROUP") => {
            let mut at = 1;
            loop {
                match *arguments.get(at)? {
                    word if word.eq_ignore_ascii_case(b"GROUP") => break at + 1,
                    word if word.eq_ignore_ascii_case(b"COUNT") || word.eq_ignore_ascii_case(b"BLOCK") => at += 2,
                    word if word.eq_ignore_ascii_case(b"NOACK") => at += 1,
                    _ => return None,
                }
            }
        }
        6 | 10 if name.eq_ignore_ascii_case(b"XCLAIM") || name.eq_ignore_ascii_case(b"XAUTOCLAIM") => 2,
        _ => return None,
    };
    (position + 1 < arguments.len()).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&[u8]> {
        text.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn fields_may_have_expired_where_fewer_were_changed_than_named() {
        let may = |command: &str, changes| may_name_expired_fields(&words(command), changes);
        assert!(may("HPERSIST h FIELDS 2 a b", 1) && !may("HPERSIST h FIELDS 2 a b", 2));
        assert!(may("HEXPIRE fields 10 NX fields 1 fields", 0) && !may("HEXPIRE fields 10 NX fields 1 fields", 1));
        assert!(may("hdel h a b", 1) && !may("hdel h a b", 2));
        assert!(may("HGETDEL h FIELDS 3 a b c", 2) && !may("HGETDEL h FIELDS 3 a b c", 3));
        assert!(may("COPY h x REPLACE", 1));
        assert!(!may("HDEL", 0));
    }

    #[test]
    fn copy_says_to_which_database() {
        assert_eq!(copied_to(&words("COPY db replace"), 9), Some((9, false)));
        assert_eq!(copied_to(&words("copy a b replace db 3"), 9), Some((3, true)));
        assert_eq!(copied_to(&words("COPY a b DB 3"), 9), Some((3, false)));
        assert_eq!(copied_to(&words("HDEL a b c"), 9), None);
    }

    #[test]
    fn group_and_consumer_stand_where_the_command_says() {
        let group = |text| group_position(&words(text)).map(|at| words(text)[at].to_vec());
        assert_eq!(group("xreadgroup GROUP g c STREAMS x >"), Some(b"g".to_vec()));
        assert_eq!(group("XREADGROUP COUNT 1 BLOCK 0 NOACK group g c STREAMS GROUP >"), Some(b"g".to_vec()));
        assert_eq!(group("XCLAIM x g c 0 1-1"), Some(b"g".to_vec()));
        assert_eq!(group("XAUTOCLAIM x g c 0 0"), Some(b"g".to_vec()));
        assert_eq!(group("XGROUP CREATECONSUMER x g c"), None);
        assert_eq!(group("XREADGROUP STREAMS GROUP g c"), None);
    }

    #[test]
    fn pending_entries_are_read_where_an_id_is_given() {
        let read = |text: &'static str| {
            History::of(&words(text))
                .map(|read| (read.group, String::from_utf8_lossy(read.count).into_owned(), read.streams))
        };
        assert_eq!(read("XREADGROUP GROUP g c STREAMS x >"), None);
        assert_eq!(read("XREAD STREAMS x 0"), None);
        assert_eq!(read("xreadgroup COUNT 5 GROUP g c NOACK STREAMS x y > 7-1"), Some((4, "5".into(), vec![(9, 11)])));
        assert_eq!(
            read("XREADGROUP GROUP g c COUNT 0 STREAMS x 0"),
            Some((2, "9223372036854775807".into(), vec![(7, 8)]))
        );
        assert_eq!(
            read("XREADGROUP GROUP g c BLOCK 0 COUNT -1 STREAMS x 0").map(|read| read.1),
            Some("9223372036854775807".into())
        );
    }

    #[test]
    fn loading_a_module_is_a_cause_and_listing_them_is_none() {
        let loads = |name: &'static str, first: &'static str| loads_module(name.as_bytes(), || first.as_bytes());
        assert!(loads("module", "LOAD") && loads("MODULE", "loadex"));
        assert!(!loads("MODULE", "LIST") && !loads("MODULE", "") && !loads("msetex", "LOAD"));
    }

    #[test]
    fn what_is_of_interest_is_known_by_any_case_and_nothing_else_is() {
        for name in [
            "eval",
            "FCALL",
            "EvalSha",
            "Sort",
            "hsetex",
            "MSETEX",
            "hexpire",
            "HPERSIST",
            "hpexpire",
            "hexpireat",
            "hpexpireat",
            "Restore",
            "zrangestore",
        ] {
            assert!(is_of_interest(name.as_bytes()), "{name}");
        }
        for name in ["xreadgroup", "XAUTOCLAIM", "xclaim"] {
            assert!(is_of_interest(name.as_bytes()) && Omits::of(&name.to_ascii_lowercase()) == Omits::Consumers);
        }
        for name in ["set", "exec", "hget", "evict", "hgetall", "", "eval_ro"] {
            assert!(!is_of_interest(name.as_bytes()), "{name}");
        }
    }
}
