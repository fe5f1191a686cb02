//! Which thread is the server's main thread.

use std::sync::atomic::{AtomicUsize, Ordering};

/// As `pthread_self` names it; 0 until it is noted.
static MAIN_THREAD: AtomicUsize = AtomicUsize::new(0);

fn this_thread() -> usize {
    // SAFETY: has no preconditions.
    unsafe { libc::pthread_self() as usize }
}

/// The calling thread is the main thread.
pub fn note() {
    MAIN_THREAD.store(this_thread(), Ordering::Relaxed);
}

/// Whether the calling thread is the main thread. Any thread.
pub fn is_it() -> bool {
    MAIN_THREAD.load(Ordering::Relaxed) == this_thread()
}
