//! What comes out of the log runs only if a leader can have put it there: whoever has a token of the shard can append to the log,
//! and the server obeys its primary in everything, `CONFIG`, `ACL` and `REPLICAOF` included.

use std::cell::{Cell, RefCell};

use durability_protocol::{judge, Judged};
use valkey_module::CommandFilterCtx;

use crate::exchange::passed_over::{PassedOver, Why};
use crate::node::{self, command_filter};
use crate::server::api;

/// Longer names are looked up each time.
const REMEMBERED_BYTES: usize = 15;
/// As many names are remembered at most; a power of two.
const REMEMBERED: usize = 64;
/// As many clients are remembered at most; a power of two.
const REMEMBERED_CLIENTS: usize = 256;

thread_local! {
    static OTHERS: Others = const { Others::new() };
    static TAKEN: RefCell<Names> = const { RefCell::new(Names::new()) };
}

/// Names, as they were written, of commands that a leader may have logged whatever their arguments are. A stream consists of a few of
/// them, so that the table of all commands is seldom asked.
struct Names([(u8, [u8; REMEMBERED_BYTES]); REMEMBERED]);

impl Names {
    const fn new() -> Self {
        Names([(0, [0; REMEMBERED_BYTES]); REMEMBERED])
    }

    /// Names that share a place take turns in it.
    fn place(name: &[u8]) -> usize {
        let at = |index: usize| usize::from(name.get(index).copied().unwrap_or(0));
        (name.len() * 7 + at(0) + at(1) * 3 + at(name.len().wrapping_sub(1)) * 5) % REMEMBERED
    }

    fn has(&self, name: &[u8]) -> bool {
        let (length, bytes) = &self.0[Names::place(name)];
        !name.is_empty() && bytes.get(..usize::from(*length)) == Some(name)
    }

    fn add(&mut self, name: &[u8]) {
        let mut bytes = [0; REMEMBERED_BYTES];
        if let Some(start) = bytes.get_mut(..name.len()) {
            start.copy_from_slice(name);
            self.0[Names::place(name)] = (name.len() as u8, bytes);
        }
    }
}

/// Clients that are not the server's primary, nor become it: that one is made as such, and no id is given twice. Asking the server costs
/// a system call.
struct Others([Cell<u64>; REMEMBERED_CLIENTS]);

impl Others {
    const fn new() -> Self {
        // No client has the id 0.
        Others([const { Cell::new(0) }; REMEMBERED_CLIENTS])
    }

    /// Clients that share a place take turns in it.
    fn place(&self, client: u64) -> &Cell<u64> {
        &self.0[client as usize % REMEMBERED_CLIENTS]
    }

    fn has(&self, client: u64) -> bool {
        client != 0 && self.place(client).get() == client
    }

    fn add(&self, client: u64) {
        self.place(client).set(client);
    }
}

/// The server's commands are others from now on. Main thread.
pub fn forget_all() {
    TAKEN.with_borrow_mut(|taken| *taken = Names::new());
}

/// Before a command runs, or is queued, while this node follows its log: refuses it if it comes out of the log and no leader can have
/// put it there, and takes the node out of the log's history. Returns whether it was refused. Main thread.
///
/// For a command that a leader may log it is the same who sends it, so that others' cost no more than a comparison of their names.
pub fn refuses<'a>(command: &CommandFilterCtx, name: &[u8], first: impl FnOnce() -> &'a [u8]) -> bool {
    if TAKEN.with_borrow(|taken| taken.has(name)) {
        return false;
    }
    let client = command.get_client_id();
    if OTHERS.with(|others| others.has(client)) {
        return false;
    }
    let mut lowercase = [0; command_filter::MAX_NAME_BYTES];
    // A longer one is no command.
    let Some(lowercase) = lowercase.get_mut(..name.len()) else { return false };
    lowercase.copy_from_slice(name);
    lowercase.make_ascii_lowercase();
    let Ok(lowercase) = std::str::from_utf8(lowercase) else { return false };
    let first = first();
    let judged = node::with(|module| {
        match judge(lowercase, first, |name| module.commands.get(name).map(|properties| properties.logged)) {
            // By whatever name it tells of it: what the server does not have it refuses itself, and says so better.
            Judged::Unknown(name) if module.tap_user.knows(&module.ctx, [lowercase.as_bytes(), first].into_iter()) => {
                Judged::NotLogged(name)
            }
            judged => judged,
        }
    });
    match judged {
        Some(Judged::Always) => TAKEN.with_borrow_mut(|taken| taken.add(name)),
        Some(Judged::NotLogged(full_name)) => return refuse_if_logged(command, client, full_name),
        // While the module is in use another module calls, who is not the stream.
        Some(Judged::Taken | Judged::Unknown(_)) | None => {}
    }
    false
}

fn refuse_if_logged(command: &CommandFilterCtx, client: u64, full_name: String) -> bool {
    let flags = api::client_flags(client);
    if !flags.is_primary && !command_filter::is_last_primary(client) {
        OTHERS.with(|others| others.add(client));
        return false;
    }
    command_filter::refuse_of_stream(
        command,
        flags.is_in_transaction,
        format!("ERR durability: no leader logs '{full_name}'"),
    );
    node::with(|module| {
        let offset = api::replication_offset(&module.ctx);
        module.pass_over(PassedOver { offset, command: full_name, why: Why::NotALeaders });
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_remembered_as_they_were_written() {
        let mut names = Names::new();
        assert!(!names.has(b"") && !names.has(b"SET"));
        names.add(b"SET");
        assert!(names.has(b"SET") && !names.has(b"set") && !names.has(b"SETX") && !names.has(b"SE"));
        let longest = [b'x'; REMEMBERED_BYTES];
        names.add(&longest);
        assert!(names.has(&longest));
        names.add(b"a-name-that-is-longer");
        assert!(!names.has(b"a-name-that-is-longer"));
        names.add(b"");
        assert!(!names.has(b""));
    }

    #[test]
    fn names_that_share_a_place_take_turns() {
        let mut names = Names::new();
        let all: Vec<String> = (0..200).map(|number| format!("command{number}")).collect();
        for name in &all {
            names.add(name.as_bytes());
            assert!(names.has(name.as_bytes()));
        }
        assert!(all.iter().filter(|name| names.has(name.as_bytes())).count() <= REMEMBERED);
    }

    #[test]
    fn other_clients_are_remembered_until_another_takes_the_place() {
        let others = Others::new();
        assert!(!others.has(0) && !others.has(7));
        others.add(7);
        assert!(others.has(7) && !others.has(7 + REMEMBERED_CLIENTS as u64));
        others.add(7 + REMEMBERED_CLIENTS as u64);
        assert!(others.has(7 + REMEMBERED_CLIENTS as u64) && !others.has(7));
    }

    #[test]
    fn common_names_have_places_of_their_own() {
        let common = [
            "SET",
            "set",
            "DEL",
            "UNLINK",
            "INCR",
            "HSET",
            "HDEL",
            "SADD",
            "SREM",
            "ZADD",
            "ZREM",
            "LPUSH",
            "RPUSH",
            "LPOP",
            "RPOP",
            "PEXPIREAT",
            "MULTI",
            "EXEC",
            "SELECT",
            "PING",
            "XADD",
            "GET",
        ];
        let mut places: Vec<_> = common.iter().map(|name| Names::place(name.as_bytes())).collect();
        places.sort_unstable();
        places.dedup();
        assert!(places.len() >= common.len() - 4, "{} of {}", places.len(), common.len());
    }
}
