//! Wakes a thread that sleeps in `poll`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// Rings another thread out of its sleep. Ringing twice before the other wakes is ringing once.
pub struct Bell {
    event: OwnedFd,
    is_rung: AtomicBool,
}

impl Bell {
    /// Silent.
    ///
    /// # Errors
    /// The process has no more file descriptors.
    pub fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Bell { event, is_rung: AtomicBool::new(false) })
    }

    /// Wakes the sleeper. Any thread.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // The counter of an eventfd takes 2^64 - 2 rings before a write could fail; this makes at most one.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Sleeps until it is rung, at most `time`; then it is silent.
    ///
    /// # Errors
    /// The system cannot wait.
    pub fn wait(&self, time: Duration) -> std::io::Result<()> {
        let time = Timespec::try_from(time).map_err(std::io::Error::other)?;
        match poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.silence();
        Ok(())
    }

    /// The sleeper is awake, and looks at its mailbox after this.
    pub fn silence(&self) {
        let mut count = [0; 8];
        // Nothing to read means that it was not rung.
        let _ = rustix::io::read(&self.event, &mut count);
        // Not a plain store: what the mailbox held before a ring that found this set must be seen by who looks next.
        self.is_rung.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
