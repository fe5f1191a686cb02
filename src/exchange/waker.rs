//! Wakes a thread that sleeps in `poll`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// Wakes one thread. Two calls of [`Waker::wake`] before that thread runs count as one.
pub struct Waker {
    event: OwnedFd,
    /// Whether the thread was woken and has not run yet. Saves the system call of a second wake.
    is_set: AtomicBool,
}

impl Waker {
    /// A waker that is not set.
    ///
    /// # Errors
    /// The process has no more file descriptors.
    pub fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { event, is_set: AtomicBool::new(false) })
    }

    /// Wakes the sleeping thread. Any thread.
    pub fn wake(&self) {
        if !self.is_set.swap(true, Ordering::AcqRel) {
            // A write to an eventfd fails only after 2^64 - 2 wakes, and at most one is outstanding.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Sleeps until the waker is set, at most `time`, and clears it. The thread that the waker belongs to.
    ///
    /// # Errors
    /// The system cannot wait.
    pub fn wait(&self, time: Duration) -> std::io::Result<()> {
        let time = Timespec::try_from(time).map_err(std::io::Error::other)?;
        match poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.clear();
        Ok(())
    }

    /// The thread is awake. It reads its mailbox after this call, so that no message is missed. The thread that the waker belongs to.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // Nothing to read means that the waker was not set.
        let _ = rustix::io::read(&self.event, &mut count);
        // A plain store would not do. A thread that finds the waker set writes nothing, and what it put into the mailbox before must be
        // visible to the read that follows.
        self.is_set.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
