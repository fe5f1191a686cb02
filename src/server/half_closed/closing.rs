//! Which of the connections that are kept the server is about to close.
//!
//! The server reports the end of a client, and closes its connection later, in the same round of the event loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::server::structs::Connection;

/// Their addresses. There is more than one where another module has a client killed while the server frees one.
static CLOSING: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static HAS_CLOSING: AtomicBool = AtomicBool::new(false);

fn closing() -> MutexGuard<'static, Vec<usize>> {
    CLOSING.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The server closes the connection now, or must not find it kept any more. Returns whether the server was about to close it. Main thread.
pub fn remove(connection: *const Connection) -> bool {
    if !HAS_CLOSING.load(Ordering::Relaxed) {
        return false;
    }
    let mut closing = closing();
    let found = closing.iter().position(|address| *address == connection.addr());
    if let Some(at) = found {
        closing.swap_remove(at);
    }
    HAS_CLOSING.store(!closing.is_empty(), Ordering::Relaxed);
    found.is_some()
}

/// Whether the connection is kept, so that the server must not close it. Main thread.
#[inline]
pub fn is_kept(connection: *const Connection) -> bool {
    HAS_CLOSING.load(Ordering::Relaxed) && closing().contains(&connection.addr())
}

/// The connection is kept, and the server is about to close it. Main thread.
pub fn add(connection: *const Connection) {
    closing().push(connection.addr());
    HAS_CLOSING.store(true, Ordering::Relaxed);
}

/// Forgets all of them. Main thread, when none is kept.
pub fn forget_all() {
    closing().clear();
    HAS_CLOSING.store(false, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn each_that_the_server_is_about_to_close_is_known_whatever_it_closes_first() {
        let address = |number: usize| ptr::without_provenance::<Connection>(number);
        add(address(8));
        add(address(16));
        assert!(is_kept(address(8)) && is_kept(address(16)) && !is_kept(address(24)));
        assert!(remove(address(8)) && !remove(address(8)));
        assert!(!is_kept(address(8)) && is_kept(address(16)));
        assert!(remove(address(16)) && !is_kept(address(16)) && !remove(address(16)));
    }
}
