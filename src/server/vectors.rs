//! The buffers that the server writes to a connection, and what a write answers.

use std::ffi::c_int;
use std::mem::MaybeUninit;

/// What stands in the server's vectors.
pub fn buffers(vectors: &[libc::iovec]) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
    // SAFETY: the server passes readable buffers of that length, which live as long as its call.
    vectors.iter().map(|vector| unsafe { std::slice::from_raw_parts(vector.iov_base.cast(), vector.iov_len) })
}

/// The byte at that position of the buffers together; the first is 0.
pub fn byte_at(vectors: &[libc::iovec], position: u64) -> Option<u8> {
    let mut position = usize::try_from(position).ok()?;
    for buffer in buffers(vectors) {
        match buffer.get(position) {
            Some(byte) => return Some(*byte),
            None => position -= buffer.len(),
        }
    }
    None
}

/// Fills `part` with the first `bytes` bytes of `vectors`, or fewer if it is too small. Returns how many entries it filled.
pub fn cut(vectors: &[libc::iovec], mut bytes: u64, part: &mut [MaybeUninit<libc::iovec>]) -> usize {
    let mut count = 0;
    for (from, to) in vectors.iter().zip(part) {
        if bytes == 0 {
            break;
        }
        let iov_len = from.iov_len.min(usize::try_from(bytes).unwrap_or(usize::MAX));
        to.write(libc::iovec { iov_base: from.iov_base, iov_len });
        bytes -= iov_len as u64;
        count += 1;
    }
    count
}

/// Sets what a socket reports that cannot go on now.
pub fn set_errno_again() {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() = libc::EAGAIN };
}

/// The answer of a socket that takes nothing now: the server tries again when the socket takes more, or when it is asked to.
pub fn write_again_later() -> c_int {
    set_errno_again();
    -1
}
