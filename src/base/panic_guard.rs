//! Keeps panics out of the server.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};

use valkey_module::logging::log_warning;

/// Set by the first panic in a callback. What the module knows may be wrong from then on.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Runs a callback of the server. A panic in it is logged and becomes `on_panic`; from then on [`has_failed`].
pub fn guard<R>(what: &str, on_panic: R, callback: impl FnOnce() -> R) -> R {
    // Whatever the callback left half done is not used again: the module fails as a whole.
    catch_unwind(AssertUnwindSafe(callback)).unwrap_or_else(|panic| {
        HAS_FAILED.store(true, Ordering::Release);
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        log_warning(format!(
            "durability: internal error while {what}: {message}. Held clients are closed and data commands are \
             refused until the server is restarted; please report this."
        ));
        on_panic
    })
}

/// Whether a callback has panicked.
pub fn has_failed() -> bool {
    HAS_FAILED.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_that_does_not_panic_returns_its_result() {
        assert_eq!(guard("testing", 0, || 7), 7);
        assert!(!has_failed());
    }
}
