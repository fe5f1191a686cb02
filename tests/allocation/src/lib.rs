//! How much memory a piece of work takes at most, for tests that give parsers hostile input.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread has allocated and not freed, and the most that these were.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, which counts for each thread.
pub struct Counting;

fn count(bytes: isize) {
    // Fails while a thread ends, when nothing is measured any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: everything is done by the system's allocator, with the caller's own arguments; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both exist for a moment.
        count(new_size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Does `work` and fails if this thread held more than `most_bytes` more than before at any moment of it. Only where
/// [`Counting`] is the global allocator.
///
/// # Panics
/// It held more.
pub fn within<T>(most_bytes: usize, work: impl FnOnce() -> T) -> T {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    let done = work();
    let (_, most) = HELD.with(Cell::get);
    let taken = usize::try_from(most - before).unwrap_or(0);
    assert!(taken <= most_bytes, "{taken} bytes were held, and {most_bytes} are allowed");
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    #[test]
    fn what_is_held_for_a_moment_counts() {
        within(2000, || drop(Vec::<u8>::with_capacity(1000)));
        assert!(std::panic::catch_unwind(|| within(500, || drop(vec![0_u8; 1000]))).is_err());
        let held = within(1500, || vec![0_u8; 1000]);
        within(100, || drop(held));
    }
}
