//! What the module asks of the server's process while it loads. Main thread.

use std::ffi::c_int;

use valkey_module::{raw, Context};

/// A context that is valid for as long as the module is loaded; `None` if the server has none.
pub fn lasting_context(ctx: &Context) -> Option<Context> {
    // SAFETY: set while the module loads, before this is called; the context is valid.
    let lasting = unsafe { raw::RedisModule_GetDetachedThreadSafeContext.map(|get| get(ctx.ctx)) };
    lasting.map(Context::new)
}

/// Has memory of large blocks given back to the system when it is freed: what waits for the log is large blocks. By default glibc stops doing
/// so once the first was freed, and the memory would stay with the process after an outage of the log.
pub fn give_large_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets a number of this process's allocator, which is not the server's own.
    unsafe {
        const LARGE_BYTES: c_int = 128 << 10;
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}
