//! Which keys are dirty: written, and not yet acknowledged by the log.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use crate::valve::Group;

/// Stands for a key. Two keys may share one, and keys of the same name in two databases do; the effect is that a read
/// of one waits for the other.
pub type KeyHash = u64;

/// Passes a [`KeyHash`] through: it is a hash already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only key hashes are hashed")
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// The map shrinks when a burst has passed and it holds less than an eighth of its capacity.
const SHRINK_ABOVE_KEYS: usize = 4096;

/// The dirty keys of the server, by the newest group that wrote them. Main thread only.
///
/// Keys are kept as seeded 64-bit hashes: 16 bytes a key whatever its length, and nothing is allocated for one key.
#[derive(Default)]
pub struct DirtyKeys {
    seed: RandomState,
    newest: HashMap<KeyHash, Group, BuildHasherDefault<Identity>>,
    /// The newest group that dirtied everything at once (FLUSHALL and its like).
    barrier: Group,
    /// The newest group that wrote anything.
    any: Group,
}

impl DirtyKeys {
    /// The hash that stands for `key`.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let mut hasher = self.seed.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    /// `key` was written in `group`, which is the newest there is. Returns whether this is its first write in it:
    /// then the caller keeps the key with the group, for [`DirtyKeys::clean`].
    pub fn mark(&mut self, key: KeyHash, group: Group) -> bool {
        self.any = group;
        self.newest.insert(key, group) != Some(group)
    }

    /// Everything was written in `group`.
    pub fn mark_all(&mut self, group: Group) {
        self.any = group;
        self.barrier = group;
    }

    /// The newest group that a read of `key` depends on; not newer than `released` if none.
    pub fn dependency(&self, key: KeyHash) -> Group {
        self.newest.get(&key).map_or(self.barrier, |group| self.barrier.max(*group))
    }

    /// The newest group that a read of the whole keyspace depends on.
    pub fn newest_write(&self) -> Group {
        self.any
    }

    /// The newest group that everything depends on.
    pub fn barrier(&self) -> Group {
        self.barrier
    }

    /// `group` is durable: those of its `keys` that no later group wrote are clean.
    pub fn clean(&mut self, keys: &[KeyHash], group: Group) {
        for key in keys {
            if self.newest.get(key) == Some(&group) {
                self.newest.remove(key);
            }
        }
        let capacity = self.newest.capacity();
        if capacity > SHRINK_ABOVE_KEYS && self.newest.len() < capacity / 8 {
            self.newest.shrink_to(capacity / 4);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = DirtyKeys::default();
    }

    /// How many keys are dirty.
    pub fn len(&self) -> usize {
        self.newest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_clean_when_the_newest_group_that_wrote_it_is_durable() {
        let mut dirty = DirtyKeys::default();
        let (a, b) = (dirty.hash(b"a"), dirty.hash(b"b"));
        assert!(dirty.mark(a, 1));
        assert!(!dirty.mark(a, 1));
        assert!(dirty.mark(b, 1));
        assert!(dirty.mark(a, 2));
        dirty.clean(&[a, b], 1);
        assert_eq!(dirty.dependency(a), 2, "dirtied again");
        assert_eq!(dirty.dependency(b), 0);
        dirty.clean(&[a], 2);
        assert_eq!((dirty.dependency(a), dirty.len()), (0, 0));
    }

    #[test]
    fn a_barrier_dirties_keys_that_nobody_named() {
        let mut dirty = DirtyKeys::default();
        let key = dirty.hash(b"k");
        dirty.mark(key, 1);
        dirty.mark_all(2);
        assert_eq!(dirty.dependency(key), 2);
        assert_eq!(dirty.dependency(dirty.hash(b"other")), 2);
        assert_eq!(dirty.newest_write(), 2);
    }

    #[test]
    fn memory_is_given_back_after_a_burst() {
        let mut dirty = DirtyKeys::default();
        let keys: Vec<KeyHash> = (0..100_000u32).map(|n| dirty.hash(&n.to_le_bytes())).collect();
        for key in &keys {
            dirty.mark(*key, 1);
        }
        let full = dirty.newest.capacity();
        for some in keys.chunks(1000) {
            dirty.clean(some, 1);
        }
        assert!(dirty.newest.capacity() < full / 8);
    }
}
