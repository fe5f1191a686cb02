//! Where things stand in the server's clients: found in the running server, as their struct differs between builds.

use std::ptr;

use crate::dirty::Database;
use crate::ffi::Client;

/// How far into a client a search goes, in bytes.
pub const SEARCH_BYTES: usize = 512;

/// How far into a database the search for its number goes, in words of four bytes.
type DatabaseWords = [[u32; 32]; 2];

/// Where the number of the selected database stands: in a client, the pointer to it; behind that, the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    pointer_offset: usize,
    word: usize,
}

/// Finds the database that a client has selected, once it has learned where to look.
#[derive(Default)]
pub struct DatabaseLayout {
    known: Option<Place>,
    /// Places that all facts so far allow.
    candidates: Vec<Place>,
    facts: u32,
}

impl DatabaseLayout {
    /// So many facts make a place certain.
    const ENOUGH_FACTS: u32 = 4;

    /// The client has selected the database with that number. Returns whether it is known now where clients say so: after
    /// four facts that leave one place.
    pub fn learn(&mut self, client: *mut Client, number: u32) -> bool {
        let words = |place: &Place| words_behind(client, place.pointer_offset);
        if self.facts == 0 {
            let offsets = (0..SEARCH_BYTES).step_by(size_of::<usize>());
            self.candidates = offsets.flat_map(places_behind(client, number)).collect();
        } else {
            self.candidates
                .retain(|place| words(place).is_some_and(|words| words.as_flattened()[place.word] == number));
        }
        self.facts += 1;
        if let ([place], true) = (&self.candidates[..], self.facts >= Self::ENOUGH_FACTS) {
            self.known = Some(*place);
        }
        self.known.is_some()
    }

    /// The database that the client has selected.
    pub fn database(&self, client: *mut Client) -> Database {
        let Some(place) = self.known else { return Database::ANY };
        // SAFETY: the place was found in clients of this server, of which each has a database at any time.
        let number = unsafe {
            let database = *client.byte_add(place.pointer_offset).cast::<*const u32>();
            *database.add(place.word)
        };
        Database::new(number)
    }
}

/// The places behind the pointer at an offset of the client at which `number` stands.
fn places_behind(client: *mut Client, number: u32) -> impl Fn(usize) -> Vec<Place> {
    move |pointer_offset| {
        let Some(words) = words_behind(client, pointer_offset) else { return Vec::new() };
        let found = words.as_flattened().iter().enumerate().filter(|(_, word)| **word == number);
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

/// Reads a value from an address that may not be readable, by having the kernel look: a bad address fails the system
/// call instead of the process.
pub fn read_foreign<T: Copy + Default>(address: *const T) -> Option<T> {
    let (reader, writer) = rustix::pipe::pipe().ok()?;
    let mut value = T::default();
    let size = std::mem::size_of::<T>();
    // SAFETY: `write` only reads `size` bytes at `address`, and answers EFAULT where it cannot; `read` fills `value`,
    // a plain number of that size.
    unsafe {
        use std::os::fd::AsRawFd;
        let written = libc::write(writer.as_raw_fd(), address.cast(), size);
        (usize::try_from(written) == Ok(size)
            && libc::read(reader.as_raw_fd(), (&raw mut value).cast(), size) == written)
            .then_some(value)
    }
}
