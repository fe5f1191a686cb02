//! Clients that announced `CLIENT CAPA redirect`: on a node that follows, they are sent to the leader. The server would send them to the log
//! service, which it replicates from. Main thread only.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::decide::command_properties::{Properties, Sees};
use crate::decide::gate::ClientId;

thread_local! {
    /// Those clients, and whether each has sent `READONLY` and so reads here.
    static CLIENTS: RefCell<HashMap<ClientId, bool>> = RefCell::default();
}

/// A command by which a client says what it can do, or wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// `CLIENT`.
    Client,
    /// `READONLY`.
    ReadOnly,
    /// `READWRITE`.
    ReadWrite,
}

/// The [`Word`] that a command's name is, if it is one. Called before every command, so it compares lengths first.
#[inline]
pub fn word(name: &[u8]) -> Option<Word> {
    match name.len() {
        6 if name.eq_ignore_ascii_case(b"CLIENT") => Some(Word::Client),
        8 if name.eq_ignore_ascii_case(b"READONLY") => Some(Word::ReadOnly),
        9 if name.eq_ignore_ascii_case(b"READWRITE") => Some(Word::ReadWrite),
        _ => None,
    }
}

/// Notes what a client says it can do, or wants.
pub fn note<'a>(client: ClientId, word: Word, arguments: impl Iterator<Item = &'a [u8]>) {
    match word {
        Word::Client => note_capabilities(client, arguments),
        Word::ReadOnly => reads_here(client, true),
        Word::ReadWrite => reads_here(client, false),
    }
}

fn note_capabilities<'a>(client: ClientId, mut arguments: impl Iterator<Item = &'a [u8]>) {
    let announces = arguments.next().is_some_and(|word| word.eq_ignore_ascii_case(b"CAPA"));
    if announces && arguments.any(|word| word.eq_ignore_ascii_case(b"redirect")) {
        CLIENTS.with_borrow_mut(|clients| {
            clients.entry(client).or_insert(false);
        });
    }
}

fn reads_here(client: ClientId, is_so: bool) {
    CLIENTS.with_borrow_mut(|clients| {
        if let Some(reads_here) = clients.get_mut(&client) {
            *reads_here = is_so;
        }
    });
}

/// Whether a client of a node that follows is sent to the leader with that command.
pub fn applies(client: ClientId, properties: Properties) -> bool {
    let Some(reads_here) = CLIENTS.with_borrow(|clients| clients.get(&client).copied()) else { return false };
    let reads = properties.sees != Sees::Nothing || properties.runs_others;
    // EXEC runs what was queued, and nothing is queued that would be sent away.
    properties.is_write || (reads && !reads_here)
}

/// The client is gone.
pub fn disconnected(client: ClientId) {
    CLIENTS.with_borrow_mut(|clients| clients.remove(&client));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(client: ClientId, words: &[&str]) {
        if let Some(word) = word(words[0].as_bytes()) {
            note(client, word, words[1..].iter().map(|word| word.as_bytes()));
        }
    }

    fn read() -> Properties {
        Properties { is_write: false, sees: Sees::Keys, ..Properties::UNKNOWN }
    }

    fn write() -> Properties {
        Properties { is_write: true, sees: Sees::Keys, ..Properties::UNKNOWN }
    }

    #[test]
    fn only_clients_that_announced_it_are_redirected() {
        say(1, &["client", "capa", "Redirect"]);
        say(2, &["CLIENT", "SETNAME", "redirect"]);
        say(3, &["CLIENT", "CAPA"]);
        assert!(applies(1, read()) && applies(1, write()));
        assert!(!applies(2, write()) && !applies(3, write()));
        disconnected(1);
        assert!(!applies(1, write()));
    }

    #[test]
    fn after_readonly_a_client_reads_here_and_writes_at_the_leader() {
        say(4, &["CLIENT", "CAPA", "redirect"]);
        say(4, &["READONLY"]);
        assert!(!applies(4, read()) && applies(4, write()));
        say(4, &["readwrite"]);
        assert!(applies(4, read()));
    }
}
