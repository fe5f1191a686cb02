//! Writes that the server has handed to an I/O thread, and of which it has not taken in what became of them. It frees a client that was
//! closed meanwhile without doing so: then it may offer again some of what the thread was told is written. How much is in the server's
//! internals; so it is noted at which place in its memory it has to go on.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::server::held_table::{held, MOST_SOCKETS};
use crate::server::internals::{Connection, POSTPONE_READ, POSTPONE_WRITE};
use crate::server::write_path::is_main_thread;

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
    /// The address of the byte behind those of which a write has told that they are written; 0: it has told of none. Only compared, never
    /// followed.
    next: AtomicUsize,
    /// A write has told of some bytes.
    has_told: AtomicBool,
    /// The connection was not looked at when the write began.
    is_part: AtomicBool,
}

/// Where the server has to go on to write to a client that it frees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Where it does.
    First,
    /// At the byte that has this address in its memory.
    At(usize),
    /// That is not known.
    Unknown,
}

impl Told {
    /// Of a connection that is looked at from now on. Main thread.
    pub fn new(fd: c_int) -> Self {
        Told { next: AtomicUsize::new(0), has_told: AtomicBool::new(false), is_part: AtomicBool::new(is_under_way(fd)) }
    }

    /// Where the server has to go on. Main thread, when no I/O thread works for the client.
    pub fn next(&self, fd: c_int) -> Next {
        if !is_under_way(fd) {
            return Next::First;
        }
        match (self.is_part.load(Ordering::Relaxed), self.next.load(Ordering::Relaxed)) {
            (true, _) => Next::Unknown,
            (false, 0) => Next::First,
            (false, address) => Next::At(address),
        }
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
            held.told.next.store(0, Ordering::Relaxed);
            held.told.has_told.store(false, Ordering::Relaxed);
            held.told.is_part.store(false, Ordering::Relaxed);
        }
    }
}

/// The module is unloaded, and does not hear of sockets any more. Main thread.
pub fn forget_all() {
    if IS_USED.swap(false, Ordering::Relaxed) {
        READS.iter().chain(&WRITES).for_each(|word| word.store(0, Ordering::Relaxed));
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

/// Who writes these vectors to the connection is told `answer`: how many bytes of them are written, or that none are. The server writes
/// without vectors only from its first buffer.
///
/// # Safety
/// As [`held`].
#[inline]
pub unsafe fn answered(connection: *const Connection, vectors: &[libc::iovec], answer: c_int) {
    if IS_USED.load(Ordering::Relaxed) && answer > 0 && !is_main_thread() {
        // SAFETY: by contract.
        if let Some(held) = unsafe { held(connection) } {
            // The server hands over the next write, or frees the client, after it has heard that this one is done.
            let bytes = answer.unsigned_abs() as usize;
            let is_first = !held.told.has_told.swap(true, Ordering::Relaxed);
            // Within the first of the server's buffers it goes on at the right place by itself.
            if !(is_first && vectors.first().is_some_and(|first| bytes <= first.iov_len)) {
                held.told.next.store(behind(vectors, bytes), Ordering::Relaxed);
            }
        }
    }
}

/// The address of the byte behind the first `bytes` bytes of the vectors.
fn behind(vectors: &[libc::iovec], mut bytes: usize) -> usize {
    for vector in vectors {
        if bytes < vector.iov_len {
            return vector.iov_base.addr() + bytes;
        }
        bytes -= vector.iov_len;
    }
    vectors.last().map_or(0, |last| last.iov_base.addr() + last.iov_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_behind_what_is_written_is_the_first_of_the_next_vector_if_one_is_written_whole() {
        let buffers = [vec![0_u8; 15], vec![0_u8; 100]];
        let vectors = [0, 1].map(|at: usize| libc::iovec {
            iov_base: buffers[at].as_ptr().cast_mut().cast(),
            iov_len: buffers[at].len(),
        });
        let [first, second] = vectors.map(|vector| vector.iov_base.addr());
        let expected = [(1, first + 1), (14, first + 14), (15, second), (16, second + 1), (115, second + 100)];
        for (bytes, address) in expected {
            assert_eq!(behind(&vectors, bytes), address, "{bytes} bytes");
        }
    }
}
