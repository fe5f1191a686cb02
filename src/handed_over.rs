//! Writes that the server has handed to an I/O thread, and of which it has not taken in what became of them. It frees a client that was
//! closed meanwhile without doing so: what it still has for that client begins with what the thread was told is written.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::decorate::is_main_thread;
use crate::ffi::{Connection, POSTPONE_READ, POSTPONE_WRITE};
use crate::held_table::{held, MOST_SOCKETS};

const BITS: usize = u64::BITS as usize;
const WORDS: usize = MOST_SOCKETS / BITS;

/// A bit for each socket number: a read is handed over. Main thread only, as the next.
static READS: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// A bit for each socket number: a write is handed over.
static WRITES: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// There was such a write since the module was loaded.
static IS_USED: AtomicBool = AtomicBool::new(false);

/// What I/O threads were told of a connection. It is one that is held, or was.
#[derive(Debug, Default)]
pub struct Told {
    bytes: AtomicU64,
    /// The connection was not looked at when the write began.
    is_part: AtomicBool,
}

impl Told {
    /// Of a connection that is looked at from now on. Main thread.
    pub fn new(fd: c_int) -> Self {
        Told { bytes: AtomicU64::new(0), is_part: AtomicBool::new(is_under_way(fd)) }
    }

    /// How many bytes are written, by what an I/O thread was told and the server has not taken in. `None` if that is not known. Main
    /// thread, when no I/O thread works for the client.
    pub fn not_taken_in(&self, fd: c_int) -> Option<usize> {
        if !is_under_way(fd) {
            return Some(0);
        }
        let is_known = !self.is_part.load(Ordering::Relaxed);
        is_known.then_some(self.bytes.load(Ordering::Relaxed) as usize)
    }
}

fn place(fd: c_int) -> Option<(usize, u64)> {
    let fd = usize::try_from(fd).ok()?;
    (fd < MOST_SOCKETS).then_some((fd / BITS, 1 << (fd % BITS)))
}

/// Returns how the bit was.
fn set(word: &AtomicU64, bit: u64, is_set: bool) -> bool {
    let before = word.load(Ordering::Relaxed);
    word.store(if is_set { before | bit } else { before & !bit }, Ordering::Relaxed);
    before & bit != 0
}

fn is_under_way(fd: c_int) -> bool {
    place(fd).is_some_and(|(index, bit)| WRITES[index].load(Ordering::Relaxed) & bit != 0)
}

/// The server says what of the connection's state is to wait for I/O threads: as it hands over a read or a write, and as it takes in what
/// became of one. Of a read it says so without heed to a write that is under way; of a write with heed to the read.
///
/// # Safety
/// A live connection.
#[inline]
pub unsafe fn postponed(connection: *const Connection, mask: c_int) {
    let (reads, writes) = (mask & POSTPONE_READ != 0, mask & POSTPONE_WRITE != 0);
    // An I/O thread that parses says nothing new.
    if (!writes && !IS_USED.load(Ordering::Relaxed)) || !is_main_thread() {
        return;
    }
    // SAFETY: by contract.
    let fd = unsafe { (*connection).fd };
    let Some((index, bit)) = place(fd) else { return };
    let did_read = set(&READS[index], bit, reads);
    if !writes {
        if did_read == reads {
            set(&WRITES[index], bit, false);
        }
    } else if !set(&WRITES[index], bit, true) {
        IS_USED.store(true, Ordering::Relaxed);
        // SAFETY: on the main thread, and the reference ends here.
        if let Some(held) = unsafe { held(connection) } {
            held.told.bytes.store(0, Ordering::Relaxed);
            held.told.is_part.store(false, Ordering::Relaxed);
        }
    }
}

/// The socket is closed: its number is another one's next. Main thread.
///
/// # Safety
/// A live connection.
pub unsafe fn closed(connection: *const Connection) {
    // SAFETY: by contract.
    if let Some((index, bit)) = place(unsafe { (*connection).fd }) {
        set(&READS[index], bit, false);
        set(&WRITES[index], bit, false);
    }
}

/// Whoever writes to the connection is told that so many bytes are written, or that none are.
///
/// # Safety
/// As [`held`].
#[inline]
pub unsafe fn answered(connection: *const Connection, answer: c_int) -> c_int {
    if IS_USED.load(Ordering::Relaxed) && answer > 0 && !is_main_thread() {
        // SAFETY: by contract.
        if let Some(held) = unsafe { held(connection) } {
            // The server hands over the next write, or frees the client, after it has heard that this one is done.
            held.told.bytes.fetch_add(u64::from(answer.unsigned_abs()), Ordering::Relaxed);
        }
    }
    answer
}
