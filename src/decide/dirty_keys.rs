//! Which keys are dirty: written, and not yet acknowledged by the log.

use std::collections::hash_map::Entry;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use crate::decide::valve::Group;

/// Stands for a key's name. Two names may share one; the effect is that a read of one waits for the other.
pub type KeyHash = u64;

/// A database of the server, by the number that `SELECT` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Database(u16);

impl Database {
    /// More than one, or not known which.
    pub const ANY: Database = Database(u16::MAX);

    /// The database with that number; [`Database::ANY`] for one that cannot be told apart.
    pub fn new(number: u32) -> Self {
        u16::try_from(number).map_or(Database::ANY, Database)
    }

    /// The number; `None` if it is not known which.
    pub fn number(self) -> Option<u16> {
        (self != Database::ANY).then_some(self.0)
    }

    fn may_be(self, other: Database) -> bool {
        self == other || self == Database::ANY || other == Database::ANY
    }
}

/// When and where a key was written last, in eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written(u64);

impl Written {
    const DATABASE_BITS: u32 = u16::BITS;

    fn new(group: Group, database: Database) -> Self {
        // At a million groups a second this lasts nine years.
        assert!(group >> (u64::BITS - Self::DATABASE_BITS) == 0, "a server has no room for so many groups");
        Written(group << Self::DATABASE_BITS | u64::from(database.0))
    }

    fn group(self) -> Group {
        self.0 >> Self::DATABASE_BITS
    }

    fn database(self) -> Database {
        Database(self.0 as u16)
    }
}

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
    /// A key that is dirty in two databases counts as dirty in any.
    newest: HashMap<KeyHash, Written, BuildHasherDefault<Identity>>,
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
    pub fn mark(&mut self, key: KeyHash, database: Database, group: Group) -> bool {
        self.any = group;
        match self.newest.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(Written::new(group, database));
                true
            }
            Entry::Occupied(mut occupied) => {
                let before = *occupied.get();
                let database = if before.database() == database { database } else { Database::ANY };
                occupied.insert(Written::new(group, database));
                before.group() != group
            }
        }
    }

    /// Everything was written in `group`.
    pub fn mark_all(&mut self, group: Group) {
        self.any = group;
        self.barrier = group;
    }

    /// The newest group that a read of `key` depends on; not newer than what is released if none. `database` is asked for
    /// only if it matters.
    pub fn dependency(&self, key: KeyHash, database: impl FnOnce() -> Database) -> Group {
        match self.newest.get(&key) {
            Some(written) if written.group() > self.barrier && written.database().may_be(database()) => written.group(),
            _ => self.barrier,
        }
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
            if self.newest.get(key).is_some_and(|written| written.group() == group) {
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

    const FIRST: Database = Database(0);
    const SECOND: Database = Database(1);

    fn first() -> Database {
        FIRST
    }

    #[test]
    fn a_key_is_dirty_in_the_database_that_it_was_written_in() {
        let mut dirty = DirtyKeys::default();
        let key = dirty.hash(b"k");
        dirty.mark(key, FIRST, 1);
        assert_eq!(dirty.dependency(key, first), 1);
        assert_eq!(dirty.dependency(key, || SECOND), 0);
        assert_eq!(dirty.dependency(key, || Database::ANY), 1);
        // In two databases it cannot be told which is durable first.
        dirty.mark(key, SECOND, 2);
        assert_eq!(dirty.dependency(key, first), 2);
        dirty.clean(&[key], 1);
        assert_eq!(dirty.dependency(key, first), 2);
        dirty.clean(&[key], 2);
        assert_eq!(dirty.dependency(key, || SECOND), 0);
        dirty.mark(key, Database::ANY, 3);
        assert_eq!(dirty.dependency(key, first), 3);
    }

    #[test]
    fn databases_beyond_those_that_can_be_told_apart_are_any() {
        assert_eq!(Database::new(70_000), Database::ANY);
        assert_eq!(Database::new(0), FIRST);
    }

    #[test]
    fn a_key_is_clean_when_the_newest_group_that_wrote_it_is_durable() {
        let mut dirty = DirtyKeys::default();
        let (a, b) = (dirty.hash(b"a"), dirty.hash(b"b"));
        assert!(dirty.mark(a, FIRST, 1));
        assert!(!dirty.mark(a, FIRST, 1));
        assert!(dirty.mark(b, FIRST, 1));
        assert!(dirty.mark(a, FIRST, 2));
        dirty.clean(&[a, b], 1);
        assert_eq!(dirty.dependency(a, first), 2, "dirtied again");
        assert_eq!(dirty.dependency(b, first), 0);
        dirty.clean(&[a], 2);
        assert_eq!((dirty.dependency(a, first), dirty.len()), (0, 0));
    }

    #[test]
    fn a_barrier_dirties_keys_that_nobody_named() {
        let mut dirty = DirtyKeys::default();
        let key = dirty.hash(b"k");
        dirty.mark(key, FIRST, 1);
        dirty.mark_all(2);
        assert_eq!(dirty.dependency(key, first), 2);
        assert_eq!(dirty.dependency(dirty.hash(b"other"), first), 2);
        assert_eq!(dirty.newest_write(), 2);
    }

    #[test]
    fn memory_is_given_back_after_a_burst() {
        let mut dirty = DirtyKeys::default();
        let keys: Vec<KeyHash> = (0..100_000u32).map(|n| dirty.hash(&n.to_le_bytes())).collect();
        for key in &keys {
            dirty.mark(*key, FIRST, 1);
        }
        let full = dirty.newest.capacity();
        for some in keys.chunks(1000) {
            dirty.clean(some, 1);
        }
        assert!(dirty.newest.capacity() < full / 8);
    }
}
