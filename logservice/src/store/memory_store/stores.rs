//! The memory stores of a service: what stands for a machine and its medium.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};

use super::medium::{Faults, Medium, RemoveFault};
use super::{lock, MemoryStore, Queue};
use crate::store::{
    Listed, Manifest, MediumError, OpenError, Opened, RemoveError, RemovedStore, StoreEvents, StoreFactory,
};

/// How memory stores behave.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// Who carries out what was submitted.
    pub writes: Writes,
    /// From this the ids of shards are drawn. Two services in one test need two.
    pub seed: u64,
    /// The most bytes that a shard's log takes, at least twice the largest append; none is no bound.
    pub max_log_bytes: Option<u64>,
    /// The most bytes of appends that may wait.
    pub max_waiting_bytes: usize,
    /// The most appends that are made durable at once.
    pub max_batch_appends: usize,
    /// The key that logs are reported to be encrypted with. They are not.
    pub key_id: Option<String>,
}

/// Who carries out what was submitted to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Whoever calls [`MemoryStore::step`], and [`crate::store::Store::close`].
    ByHand,
    /// A thread of each open store, at once.
    ByThread,
}

impl Default for MemoryOptions {
    /// By hand, without bounds that a test meets unawares.
    fn default() -> Self {
        MemoryOptions {
            writes: Writes::ByHand,
            seed: 0,
            max_log_bytes: None,
            max_waiting_bytes: 128 << 20,
            max_batch_appends: usize::MAX,
            key_id: None,
        }
    }
}

/// The stores of a service, and the medium below them. A clone is the same one.
#[derive(Clone)]
pub struct MemoryStores {
    options: Arc<MemoryOptions>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    shards: BTreeMap<String, Shelf>,
    /// Stores that were removed, by their places.
    removed: BTreeMap<String, Arc<Medium>>,
    /// How many numbers were drawn, of stores and places.
    drawn: u64,
}

/// A shard's medium and the store that is open on it.
struct Shelf {
    medium: Arc<Medium>,
    open: Weak<MemoryStore>,
}

impl MemoryStores {
    /// An empty medium.
    pub fn new(options: MemoryOptions) -> Self {
        MemoryStores { options: Arc::new(options), kept: Arc::default() }
    }

    /// An empty medium on which stores write at once, by threads of their own.
    pub fn threaded() -> Self {
        Self::new(MemoryOptions { writes: Writes::ByThread, ..MemoryOptions::default() })
    }

    /// The store of a shard that was opened last; none if nobody has it any more.
    pub fn store(&self, shard: &str) -> Option<Arc<MemoryStore>> {
        self.lock().shards.get(shard)?.open.upgrade()
    }

    /// The machine stops: every store that is open reports nothing and changes nothing from now on. Of the bytes of a shard that were
    /// written and are not durable the first ones survive, as many as `survive` answers for the shard and their number. What is opened
    /// afterwards is opened by the next process.
    pub fn crash(&self, mut survive: impl FnMut(&str, u64) -> u64) {
        let kept = self.lock();
        for (shard, shelf) in &kept.shards {
            let store = shelf.open.upgrade();
            // A step under way comes to its end first.
            let _stepping = store.as_ref().map(|store| lock(&store.stepping));
            shelf.medium.crash(|unsynced| survive(shard, unsynced));
        }
    }

    /// What fails on the medium of a shard from now on. Nothing happens if there is no such shard.
    pub fn set_faults(&self, shard: &str, faults: Faults) {
        if let Some(shelf) = self.lock().shards.get(shard) {
            shelf.medium.set_faults(faults);
        }
    }

    /// Changes the byte at `offset` of a shard's log, as a medium does that is failing.
    pub fn damage(&self, shard: &str, offset: u64) {
        if let Some(shelf) = self.lock().shards.get(shard) {
            shelf.medium.damage(offset);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    fn medium(&self, shard: &str) -> Arc<Medium> {
        let mut kept = self.lock();
        if let Some(shelf) = kept.shards.get(shard) {
            return shelf.medium.clone();
        }
        let drawn = kept.draw();
        let id = mixed(self.options.seed, drawn);
        let manifest = Manifest::new(shard, format!("{:08x}{id:016x}{id:016x}", drawn as u32), format!("{id:016x}"));
        let medium = Arc::new(Medium::new(manifest));
        kept.shards.insert(shard.to_owned(), Shelf { medium: medium.clone(), open: Weak::new() });
        medium
    }
}

impl Kept {
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    /// Takes a shard's medium away. Answers its place.
    fn set_aside(&mut self, shard: &str) -> String {
        let place = format!("removed-{shard}-{}", self.draw());
        if let Some(shelf) = self.shards.remove(shard) {
            self.removed.insert(place.clone(), shelf.medium);
        }
        place
    }
}

impl StoreFactory for MemoryStores {
    fn list(&self) -> Result<Listed, MediumError> {
        let kept = self.lock();
        let removed = kept.removed.keys().map(|place| {
            Arc::new(RemovedMemory { kept: self.kept.clone(), place: place.clone() }) as Arc<dyn RemovedStore>
        });
        Ok(Listed { shards: kept.shards.keys().cloned().collect(), removed: removed.collect() })
    }

    fn open(&self, shard: &str, events: Arc<dyn StoreEvents>) -> Result<Opened, OpenError> {
        let medium = self.medium(shard);
        let (opening, end) = medium.open()?;
        let store = Arc::new(MemoryStore {
            medium,
            opening,
            options: self.options.clone(),
            events,
            queue: Mutex::new(Queue::default()),
            changed: Condvar::new(),
            stepping: Mutex::default(),
        });
        if self.options.writes == Writes::ByThread {
            store.begin_thread().map_err(MediumError::new)?;
        }
        if let Some(shelf) = self.lock().shards.get_mut(shard) {
            shelf.open = Arc::downgrade(&store);
        }
        Ok(Opened { store, end })
    }

    fn exists(&self, shard: &str) -> bool {
        self.lock().shards.contains_key(shard)
    }

    fn manifest(&self, shard: &str) -> Option<Manifest> {
        Some(self.lock().shards.get(shard)?.medium.manifest())
    }

    fn remove(&self, shard: &str) -> Result<Arc<dyn RemovedStore>, RemoveError> {
        let mut kept = self.lock();
        let fault = kept.shards.get(shard).and_then(|shelf| shelf.medium.faults().remove);
        let told = || MediumError::new("the medium was told to fail removals");
        match fault {
            Some(RemoveFault::Unchanged) => return Err(RemoveError::Unchanged(told())),
            Some(RemoveFault::Unknown { is_removed }) => {
                if is_removed {
                    kept.set_aside(shard);
                }
                return Err(RemoveError::Unknown(told()));
            }
            None => {}
        }
        let place = kept.set_aside(shard);
        Ok(Arc::new(RemovedMemory { kept: self.kept.clone(), place }))
    }
}

/// A medium that was taken away.
struct RemovedMemory {
    kept: Arc<Mutex<Kept>>,
    place: String,
}

impl Display for RemovedMemory {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.place)
    }
}

impl RemovedStore for RemovedMemory {
    fn remove_log(&self) -> Result<(), MediumError> {
        if let Some(medium) = lock(&self.kept).removed.get(&self.place) {
            medium.clear();
        }
        Ok(())
    }

    fn manifest(&self) -> Result<Option<Result<Manifest, String>>, MediumError> {
        Ok(lock(&self.kept).removed.get(&self.place).map(|medium| Ok(medium.manifest())))
    }

    fn finish(&self) -> Result<(), MediumError> {
        lock(&self.kept).removed.remove(&self.place);
        Ok(())
    }
}

/// A number that looks random, always the same for the same two (SplitMix64).
fn mixed(seed: u64, number: u64) -> u64 {
    let mut mixed = seed.wrapping_mul(0xA24B_AED4_963E_E407) ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
