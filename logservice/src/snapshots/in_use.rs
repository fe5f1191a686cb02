//! Snapshots that are being stored or read, which nothing may remove.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The snapshots that are being stored or read, which must not be removed.
#[derive(Debug, Default)]
pub struct InUse(Mutex<BTreeMap<String, usize>>);

/// Keeps one snapshot from being removed, until it is dropped.
#[derive(Debug)]
pub struct Use {
    snapshots: Arc<InUse>,
    name: String,
}

impl InUse {
    /// Keeps the snapshot of that name until the result is dropped.
    pub fn begin(self: &Arc<Self>, name: &str) -> Use {
        *self.lock().entry(name.to_owned()).or_default() += 1;
        Use { snapshots: self.clone(), name: name.to_owned() }
    }

    /// Whether the snapshot of that name is in use.
    pub fn contains(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Use {
    /// Keeps the same snapshot.
    pub fn again(&self) -> Use {
        self.snapshots.begin(&self.name)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut snapshots = self.snapshots.lock();
        if let Some(count) = snapshots.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                snapshots.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_in_use_until_the_last_one_has_done() {
        let snapshots = Arc::new(InUse::default());
        let (first, second) = (snapshots.begin("a"), snapshots.begin("a"));
        drop(first);
        assert!(snapshots.contains("a") && !snapshots.contains("b"));
        drop(second);
        assert!(!snapshots.contains("a"));
    }
}
