//! Writes that the server has handed to an I/O thread, and whose outcome it has not taken in yet. If the client is closed meanwhile, the
//! server frees it without taking the outcome in, and may offer again some of what the thread was told is written. How much is written only
//! the server's internals know, so this file notes at which place in the server's memory it has to go on.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::server::main_thread;
use crate::server::structs::{Connection, POSTPONE_READ, POSTPONE_WRITE};

/// Sockets with this number or a larger one are not tracked, and their connections cannot be held.
pub const MOST_SOCKETS: usize = 4 << 20;
const BITS: usize = u64::BITS as usize;
const WORDS: usize = MOST_SOCKETS / BITS;

/// A bit for each socket number: a read is handed over. Main thread only.
static READS: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// A bit for each socket number: a write is handed over. Main thread only.
static WRITES: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// A write was handed over since the module was loaded.
static IS_USED: AtomicBool = AtomicBool::new(false);

/// What I/O threads were told of writes to a connection that is held, or was.
#[derive(Debug, Default)]
pub struct Told {
    /// The address of the byte behind those that a write has reported as written; 0: it has reported none. Only compared, never followed.
    next: AtomicUsize,
    /// A write has reported some bytes.
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
    /// For a connection whose writes are looked at from now on. Main thread.
    pub fn new(fd: c_int) -> Self {
        Told { next: AtomicUsize::new(0), has_told: AtomicBool::new(false), is_part: AtomicBool::new(is_under_way(fd)) }
    }

    /// A write is handed to an I/O thread, and is looked at from its first byte on. Main thread.
    fn begin(&self) {
        self.next.store(0, Ordering::Relaxed);
        self.has_told.store(false, Ordering::Relaxed);
        self.is_part.store(false, Ordering::Relaxed);
    }

    /// An I/O thread that writes these vectors is told that their first `bytes` bytes are written. The server writes without vectors only
    /// from its first buffer.
    pub fn told(&self, vectors: &[libc::iovec], bytes: usize) {
        // The server hands over the next write, or frees the client, after it has heard that this one is done.
        let is_first = !self.has_told.swap(true, Ordering::Relaxed);
        // Within the first of its buffers the server goes on at the right place by itself.
        let is_within_first = is_first && vectors.first().is_some_and(|first| bytes <= first.iov_len);
        if !is_within_first {
            self.next.store(behind(vectors, bytes), Ordering::Relaxed);
        }
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

/// The server says which part of the connection's state has to wait for I/O threads: when it hands over a read or a write, and when it takes
/// in the outcome of one. Of a read it says so without regard to a write that is under way; of a write with regard to the read.
///
/// `held`: the connection's entry among those that are held, if it has one; asked for only when a write begins.
///
/// # Safety
/// A live connection.
#[inline]
pub unsafe fn postponed<'a>(connection: *const Connection, mask: c_int, held: impl FnOnce() -> Option<&'a Told>) {
    let (reads, writes) = (mask & POSTPONE_READ != 0, mask & POSTPONE_WRITE != 0);
    // An I/O thread that parses says nothing new.
    if (!writes && !is_used()) || !main_thread::is_it() {
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
        if let Some(told) = held() {
            told.begin();
        }
    }
}

/// Whether the server has handed over any write.
#[inline]
pub fn is_used() -> bool {
    IS_USED.load(Ordering::Relaxed)
}

/// Forgets which reads and writes are under way: a module that is unloaded is not told about them. Main thread.
pub fn forget_all() {
    if IS_USED.swap(false, Ordering::Relaxed) {
        READS.iter().chain(&WRITES).for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// The socket is closed, and another one may get its number. Main thread.
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
