//! Children that the server forks, to write a file or to send a full copy to a replica.

use std::sync::Once;

use crate::exchange::lease_clock;

extern "C" fn in_child() {
    lease_clock::child_needs_none();
}

/// Children need no lease from now on. Once in a process, as that cannot be taken back.
pub fn watch() {
    static ONCE: Once = Once::new();
    // SAFETY: the function only stores to an atomic, which a forked child may, and stays mapped when the module is unloaded.
    ONCE.call_once(|| unsafe {
        // It fails for want of memory alone; then a full copy that takes longer than a lease fails.
        libc::pthread_atfork(None, None, Some(in_child));
    });
}
