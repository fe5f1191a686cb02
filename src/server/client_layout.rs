//! Where a client of the server keeps its connection, its database and its arguments: found in the running server, because the struct
//! differs between builds.

use std::ffi::c_int;
use std::ptr;

use valkey_module::raw::RedisModuleString;

use crate::decide::dirty_keys::Database;
use crate::server::foreign_memory::read_foreign;
use crate::server::structs::{Client, Connection, ConnectionType};

/// How far into a client a search goes, in bytes.
const SEARCH_BYTES: usize = 512;

/// What a database of Valkey 9.1 consists of (`serverDb`), as the words that are searched for its number. What stands behind it is other
/// memory: some word there may be 0 behind one database and 1 behind the other, in one run of the server and not in the next.
type DatabaseWords = [u32; 24];

/// Where the number of the selected database stands: the client holds a pointer, and behind that stands the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    pointer_offset: usize,
    word: usize,
}

/// Finds the database that a client has selected, once it has learned where to look.
#[derive(Default)]
pub struct DatabaseLayout {
    known: Option<Place>,
    /// The places that all facts so far allow.
    candidates: Vec<Place>,
    facts: u32,
    /// The server has one database.
    is_only_one: bool,
}

impl DatabaseLayout {
    /// How many facts make a place certain.
    const ENOUGH_FACTS: u32 = 4;

    /// The client has selected the database with that number. Returns whether the place is known now: after four facts that leave one.
    pub fn learn(&mut self, client: *mut Client, number: u32) -> bool {
        let words = |place: &Place| words_behind(client, place.pointer_offset);
        if self.facts == 0 {
            let offsets = (0..SEARCH_BYTES).step_by(size_of::<usize>());
            self.candidates = offsets.flat_map(places_behind(client, number)).collect();
        } else {
            self.candidates.retain(|place| words(place).is_some_and(|words| words[place.word] == number));
        }
        self.facts += 1;
        if let ([place], true) = (&self.candidates[..], self.facts >= Self::ENOUGH_FACTS) {
            self.known = Some(*place);
        }
        self.known.is_some()
    }

    /// The server has no database but the first.
    pub fn there_is_one(&mut self) {
        self.is_only_one = true;
    }

    /// The database that the client has selected.
    pub fn database(&self, client: *mut Client) -> Database {
        if self.is_only_one {
            return Database::new(0);
        }
        let Some(place) = self.known else { return Database::ANY };
        // SAFETY: the place was found in clients of this server, and each of them has a database at any time.
        let number = unsafe {
            let database = *client.byte_add(place.pointer_offset).cast::<*const u32>();
            *database.add(place.word)
        };
        Database::new(number)
    }
}

/// The arguments of a command, as a client keeps them.
pub type Arguments = *mut *mut RedisModuleString;

/// Finds the arguments of the command that a client runs, as the server will put them into the stream. Where the server has rewritten a
/// command (SET with a relative time, say), the event still shows what the client sent.
#[derive(Default)]
pub struct ArgumentLayout {
    /// The offset of the pointer to the arguments, in bytes; their number stands behind it.
    known: Option<usize>,
    candidates: Vec<usize>,
    facts: u32,
    /// The numbers of arguments that were seen, a bit each.
    counts: u64,
}

impl ArgumentLayout {
    const ENOUGH_FACTS: u32 = 3;

    /// The client is about to run a command with these arguments. Returns whether the place is known now: after three facts, with different
    /// numbers of arguments, that leave one.
    pub fn learn(&mut self, client: *mut Client, arguments: Arguments, count: c_int) -> bool {
        let is_there = |offset: &usize| {
            let place = client.wrapping_byte_add(*offset);
            read_foreign::<usize>(place.cast()) == Some(arguments.expose_provenance())
                && read_foreign::<c_int>(place.wrapping_byte_add(size_of::<usize>()).cast()) == Some(count)
        };
        if self.facts == 0 {
            self.candidates = (0..SEARCH_BYTES).step_by(size_of::<usize>()).filter(is_there).collect();
        } else {
            self.candidates.retain(is_there);
        }
        self.facts += 1;
        self.counts |= 1 << (count.clamp(0, 63));
        if let ([offset], true, true) =
            (&self.candidates[..], self.facts >= Self::ENOUGH_FACTS, self.counts.count_ones() > 1)
        {
            self.known = Some(*offset);
        }
        self.known.is_some()
    }

    /// The arguments of the command that the client runs, and their number.
    ///
    /// # Safety
    /// The client lives.
    pub unsafe fn arguments(&self, client: *mut Client) -> Option<(Arguments, usize)> {
        let offset = self.known?;
        // SAFETY: the place was found in clients of this server, which all have the same struct; this one lives, by contract.
        unsafe {
            let place = client.byte_add(offset);
            let count = *place.byte_add(size_of::<usize>()).cast::<c_int>();
            Some((*place.cast::<Arguments>(), usize::try_from(count).ok()?))
        }
    }
}

/// The places behind the pointer at an offset of the client at which `number` stands.
fn places_behind(client: *mut Client, number: u32) -> impl Fn(usize) -> Vec<Place> {
    move |pointer_offset| {
        let Some(words) = words_behind(client, pointer_offset) else { return Vec::new() };
        let found = words.iter().enumerate().filter(|(_, word)| **word == number);
        found.map(|(word, _)| Place { pointer_offset, word }).collect()
    }
}

/// What the pointer at that offset of the client points to, if it is one.
fn words_behind(client: *mut Client, pointer_offset: usize) -> Option<DatabaseWords> {
    let address = read_foreign::<usize>(client.wrapping_byte_add(pointer_offset).cast())?;
    if address == 0 || address % align_of::<usize>() != 0 {
        return None;
    }
    read_foreign(ptr::with_exposed_provenance(address))
}

/// Finds where a client keeps the pointer to its connection: the word that points to something whose type is one of the
/// server's and which points back to the client.
pub fn find_connection(types: &[*mut ConnectionType], client: *mut Client) -> Option<usize> {
    let word = std::mem::size_of::<usize>();
    (word..SEARCH_BYTES).step_by(word).find(|offset| {
        let Some(candidate) = read_foreign::<usize>(client.wrapping_byte_add(*offset).cast()) else { return false };
        if candidate == 0 || candidate % std::mem::align_of::<Connection>() != 0 {
            return false;
        }
        let candidate = ptr::with_exposed_provenance::<Connection>(candidate);
        let kind = candidate.wrapping_byte_add(std::mem::offset_of!(Connection, kind));
        let owner = candidate.wrapping_byte_add(std::mem::offset_of!(Connection, private_data));
        read_foreign::<usize>(kind.cast())
            .is_some_and(|kind| kind != 0 && types.iter().any(|known| known.expose_provenance() == kind))
            && read_foreign::<usize>(owner.cast()) == Some(client.expose_provenance())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    struct Fake {
        before: [usize; 3],
        /// Holds the arguments as well, but is no pointer and count.
        decoy: usize,
        decoy_count: c_int,
        arguments: usize,
        count: c_int,
        rest: [usize; 64],
    }

    /// A database, and what happens to stand behind it.
    #[repr(C)]
    struct FakeDatabase {
        tables: [usize; 7],
        number: u32,
        padding: u32,
        expiry: [u64; 4],
        behind: [u32; 40],
    }

    #[test]
    fn what_stands_behind_a_database_is_not_taken_for_its_number() {
        let databases = [0, 1].map(|number| {
            // The size of some table, say.
            let mut behind = [7; 40];
            behind[14] = number;
            FakeDatabase { tables: [0x1000; 7], number, padding: 7, expiry: [0; 4], behind }
        });
        let client_of = |number: u32| {
            let mut client = [0_usize; SEARCH_BYTES / size_of::<usize>()];
            client[17] = (&raw const databases[number as usize]).expose_provenance();
            client
        };
        let mut layout = DatabaseLayout::default();
        let learned = [0, 1, 0, 1].map(|number| layout.learn(client_of(number).as_mut_ptr().cast(), number));
        assert_eq!(learned, [false, false, false, true]);
        for number in [0, 1] {
            assert_eq!(layout.database(client_of(number).as_mut_ptr().cast()), Database::new(number));
        }
    }

    #[test]
    fn where_a_client_keeps_its_arguments_is_known_when_one_place_is_left() {
        let mut layout = ArgumentLayout::default();
        let learn = |layout: &mut ArgumentLayout, arguments: usize, count: c_int, decoy_count: c_int| {
            let mut fake = Fake { before: [7; 3], decoy: arguments, decoy_count, arguments, count, rest: [0; 64] };
            let client = (&raw mut fake).cast::<Client>();
            let is_known = layout.learn(client, ptr::with_exposed_provenance_mut(arguments), count);
            // SAFETY: `fake` lives.
            (is_known, unsafe { layout.arguments(client) }.map(|(at, count)| (at.expose_provenance(), count)))
        };
        assert_eq!(learn(&mut layout, 0x1000, 3, 3), (false, None), "one fact");
        assert_eq!(learn(&mut layout, 0x2000, 3, 3), (false, None), "two places are left");
        assert_eq!(learn(&mut layout, 0x3000, 3, 9), (false, None), "always as many arguments");
        assert_eq!(learn(&mut layout, 0x5000, 2, 9), (true, Some((0x5000, 2))));
    }
}
