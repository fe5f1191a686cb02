//! Writes that the server has handed to an I/O thread, and of which it has not taken in what became of them. It frees a client that was
//! closed meanwhile without doing so: what it still has for that client begins with what the thread was told is written.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::decorate::is_main_thread;
use crate::ffi::{Connection, POSTPONE_WRITE};
use crate::held_table::{held, MOST_SOCKETS};

const BITS: usize = u64::BITS as usize;

/// A bit for each socket number: such a write is under way. Main thread only.
static UNDER_WAY: [AtomicU64; MOST_SOCKETS / BITS] = [const { AtomicU64::new(0) }; MOST_SOCKETS / BITS];

/// There was such a write.
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

fn place(fd: c_int) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((UNDER_WAY.get(fd / BITS)?, 1 << (fd % BITS)))
}

fn is_under_way(fd: c_int) -> bool {
    place(fd).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
}

/// The server says what of the connection's state is to wait for I/O threads: it does so as it hands over a write, and when it has taken in
/// what became of it. Main thread.
///
/// # Safety
/// A live connection.
pub unsafe fn postponed(connection: *const Connection, mask: c_int) {
    // SAFETY: by contract.
    let fd = unsafe { (*connection).fd };
    let Some((word, bit)) = place(fd) else { return };
    let before = word.load(Ordering::Relaxed);
    if mask & POSTPONE_WRITE == 0 {
        word.store(before & !bit, Ordering::Relaxed);
    } else if before & bit == 0 {
        IS_USED.store(true, Ordering::Relaxed);
        // SAFETY: on the main thread, and the reference ends here.
        if let Some(held) = unsafe { held(connection) } {
            held.told.bytes.store(0, Ordering::Relaxed);
            held.told.is_part.store(false, Ordering::Relaxed);
        }
        word.store(before | bit, Ordering::Relaxed);
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
