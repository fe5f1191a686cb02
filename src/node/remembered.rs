//! What [`super::stream_commands`] remembers, so that it asks the server seldom. Main thread only.

use std::cell::{Cell, RefCell};

/// Longer names are looked up each time.
const REMEMBERED_BYTES: usize = 15;
/// Names that are remembered at most; a power of two.
const REMEMBERED: usize = 64;
/// Clients that are remembered at most; a power of two.
const REMEMBERED_CLIENTS: usize = 256;

thread_local! {
    static OTHERS: Others = const { Others::new() };
    static TAKEN: RefCell<Names> = const { RefCell::new(Names::new()) };
}

/// Whether a leader may log the command of that name, whatever its arguments are. False if that is not remembered.
#[inline]
pub fn is_taken(name: &[u8]) -> bool {
    TAKEN.with_borrow(|taken| taken.has(name))
}

/// Remembers a command for [`is_taken`].
pub fn add_taken(name: &[u8]) {
    TAKEN.with_borrow_mut(|taken| taken.add(name));
}

/// Forgets all commands: the server's commands have changed.
pub fn forget_taken() {
    TAKEN.with_borrow_mut(|taken| *taken = Names::new());
}

/// Whether that client is not the server's primary. False if that is not remembered.
#[inline]
pub fn is_other(client: u64) -> bool {
    OTHERS.with(|others| others.has(client))
}

/// Remembers a client for [`is_other`].
pub fn add_other(client: u64) {
    OTHERS.with(|others| others.add(client));
}

/// Names, as they were written, of commands that a leader may have logged whatever their arguments are. A stream consists of few different
/// ones, so that the table of all commands is seldom needed.
struct Names([(u8, [u8; REMEMBERED_BYTES]); REMEMBERED]);

impl Names {
    const fn new() -> Self {
        Names([(0, [0; REMEMBERED_BYTES]); REMEMBERED])
    }

    /// Names that share a place replace each other.
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

/// Clients that are not the server's primary. They never become it: a primary is made as such, and no id is given twice. To ask the server
/// costs a system call.
struct Others([Cell<u64>; REMEMBERED_CLIENTS]);

impl Others {
    const fn new() -> Self {
        // No client has the id 0.
        Others([const { Cell::new(0) }; REMEMBERED_CLIENTS])
    }

    /// Clients that share a place replace each other.
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
