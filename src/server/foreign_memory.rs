//! Reads memory whose layout is only guessed, for the searches of `server/client_layout.rs` and `server/stream_queue.rs`.

use std::os::fd::AsRawFd;

/// Reads a value from an address that may not be readable, by having the kernel look: a bad address fails the system
/// call instead of the process.
pub fn read_foreign<T: Copy + Default>(address: *const T) -> Option<T> {
    let (reader, writer) = rustix::pipe::pipe().ok()?;
    let mut value = T::default();
    let size = size_of::<T>();
    // SAFETY: `write` only reads `size` bytes at `address`, and answers EFAULT where it cannot; `read` fills `value`,
    // a plain number of that size.
    unsafe {
        let written = libc::write(writer.as_raw_fd(), address.cast(), size);
        (usize::try_from(written) == Ok(size)
            && libc::read(reader.as_raw_fd(), (&raw mut value).cast(), size) == written)
            .then_some(value)
    }
}
