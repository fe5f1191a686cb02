//! How the module's threads take a lock.

use std::sync::{Mutex, MutexGuard};

/// Takes the lock. A thread that panicked while it held the lock keeps no other thread out: the module's panic guard decides what a
/// panic means.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
