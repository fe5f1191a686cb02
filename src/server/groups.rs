//! How far the groups of writes have come: the gate, on the main thread, tells every thread that writes to sockets.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::decide::valve::Group;

/// The gate of a module that is loaded again counts groups from the beginning, and so begins with [`Groups::reset`].
pub struct Groups {
    released: AtomicU64,
    newest: AtomicU64,
}

/// The one of this process.
pub static GROUPS: Groups = Groups::new();

impl Groups {
    const fn new() -> Self {
        Groups { released: AtomicU64::new(0), newest: AtomicU64::new(0) }
    }

    /// The newest group that may leave.
    #[inline]
    pub fn released(&self) -> Group {
        self.released.load(Ordering::Acquire)
    }

    /// The newest group that wrote anything. A message that is written now cannot depend on a newer one.
    #[inline]
    pub fn newest(&self) -> Group {
        self.newest.load(Ordering::Acquire)
    }

    /// Groups up to `group` may leave from now on. Main thread.
    pub fn set_released(&self, group: Group) {
        self.released.store(group, Ordering::Release);
    }

    /// `group` wrote, and is the newest. Main thread.
    pub fn set_newest(&self, group: Group) {
        self.newest.store(group, Ordering::Release);
    }

    /// No group has written, and none is released. Main thread, when no reply is held and none will be.
    pub fn reset(&self) {
        self.set_released(0);
        self.set_newest(0);
    }
}
