//! Log that is still needed although a newer snapshot stands above it: somebody is being sent an older one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The offsets from which somebody still has to read.
#[derive(Debug, Default)]
pub struct Pins(Mutex<BTreeMap<u64, usize>>);

/// Keeps the log from an offset on, until it is dropped.
#[derive(Debug)]
pub struct Pin {
    pins: Arc<Pins>,
    offset: u64,
}

impl Pins {
    /// Keeps the log from an offset on that `find` tells, with what else it tells. Log is not dropped while it looks.
    pub fn pin<T>(self: &Arc<Self>, find: impl FnOnce() -> (u64, T)) -> (Pin, T) {
        let mut pins = self.lock();
        let (offset, found) = find();
        *pins.entry(offset).or_default() += 1;
        (Pin { pins: self.clone(), offset }, found)
    }

    /// Where dropping has to end that would go up to `offset`. Whoever is pinned later sees a manifest that was there before.
    pub fn limit(&self, offset: u64) -> u64 {
        self.lock().keys().next().map_or(offset, |&lowest| lowest.min(offset))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Pin {
    /// What lies below `offset` is not needed any more.
    pub fn advance(&mut self, offset: u64) {
        debug_assert!(offset >= self.offset);
        let mut pins = self.pins.lock();
        leave(&mut pins, self.offset);
        *pins.entry(offset).or_default() += 1;
        self.offset = offset;
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        leave(&mut self.pins.lock(), self.offset);
    }
}

fn leave(pins: &mut BTreeMap<u64, usize>, offset: u64) {
    if let Some(count) = pins.get_mut(&offset) {
        *count -= 1;
        if *count == 0 {
            pins.remove(&offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_dropped_that_the_slowest_still_needs() {
        let pins = Arc::new(Pins::default());
        assert_eq!(pins.limit(100), 100);
        let (mut slow, ()) = pins.pin(|| (10, ()));
        let (also, ()) = pins.pin(|| (10, ()));
        let (_fast, ()) = pins.pin(|| (90, ()));
        assert_eq!(pins.limit(100), 10);
        slow.advance(50);
        assert_eq!(pins.limit(100), 10);
        drop(also);
        assert_eq!((pins.limit(100), pins.limit(20)), (50, 20));
        drop(slow);
        assert_eq!(pins.limit(100), 90);
    }
}
