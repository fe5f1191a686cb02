//! A store in memory, for tests: the contract of `store/mod.rs` with faults on demand, and crashes that keep what a medium would.
//!
//! [`MemoryStores`] stands for the medium of one machine and outlives the stores that are opened on it. What an open store has written
//! survives [`MemoryStores::crash`] if it is durable; of what was written and not synced, the caller says how much survives. A store that
//! was open before a crash changes nothing any more and reports nothing.
//!
//! By hand ([`Writes::ByHand`]) a store has no thread: [`MemoryStore::step`] carries out one step of what was submitted, so whoever
//! drives it can put a crash between any two. Nothing here depends on the time or on chance; ids are drawn from a seed.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | the store |
//! | `medium.rs` | what survives a crash, and what fails on demand |
//! | `stores.rs` | the factory, crashes |
//! | `reader.rs` | readers |

#[cfg(test)]
pub(crate) mod conformance_tests;
mod medium;
mod reader;
mod stores;
#[cfg(test)]
mod tests;

pub use self::medium::{Faults, ManifestFault, RemoveFault, WriteFault};
pub use self::stores::{MemoryOptions, MemoryStores, Writes};

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use self::medium::{Medium, Written, LARGEST_APPEND_BYTES};
use self::reader::MemoryReader;
use super::{Append, LogReader, Manifest, ManifestError, ReadError, Store, StoreEvents, SubmitError, TrimError, Usage};

/// The open store of one shard.
pub struct MemoryStore {
    medium: Arc<Medium>,
    /// Which opening of the medium this is. The medium lets only the newest one change anything.
    opening: u64,
    options: Arc<MemoryOptions>,
    events: Arc<dyn StoreEvents>,
    queue: Mutex<Queue>,
    /// Wakes the thread, and callers that wait for its end.
    changed: Condvar,
    /// Held during a step, so that events are reported one at a time.
    stepping: Mutex<()>,
}

#[derive(Default)]
struct Queue {
    appends: VecDeque<Append>,
    bytes: usize,
    is_closed: bool,
    has_thread: bool,
    /// The batch that is on its way.
    under_way: Option<Batch>,
    made_durable: u64,
    commits: u64,
}

/// Appends that were written and are not reported yet.
#[derive(Clone, Copy)]
struct Batch {
    appends: u64,
    /// The end of the log with them (exclusive).
    end: u64,
    is_durable: bool,
}

/// How often a thread checks whether anybody still has its store.
const LOOK_AROUND_EVERY: Duration = Duration::from_millis(100);

/// What a call of [`MemoryStore::step`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// An append was dropped that did not continue the log, after a refusal.
    Dropped,
    /// Appends were written. A crash may lose them, wholly or in part.
    Written,
    /// They were made durable. Nobody knows yet.
    Synced,
    /// That was reported.
    Reported,
    /// They were refused for want of space, and that was reported.
    Refused,
    /// A write or sync failed, and that was reported.
    Failed,
}

impl MemoryStore {
    /// Carries out one step of what was submitted; none if there is nothing to do. Reports events from the calling thread.
    pub fn step(&self) -> Option<Step> {
        let _stepping = lock(&self.stepping);
        if !self.medium.is_open(self.opening) {
            self.shut();
        }
        let under_way = lock(&self.queue).under_way;
        match under_way {
            None => self.write_next(),
            Some(batch) if !batch.is_durable => Some(self.sync(batch)),
            Some(batch) => {
                lock(&self.queue).under_way = None;
                self.events.durable(batch.end);
                Some(Step::Reported)
            }
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        let queue = lock(&self.queue);
        queue.under_way.is_none() && queue.appends.is_empty()
    }

    fn write_next(&self) -> Option<Step> {
        let batch = self.next_batch()?;
        let (first, appends) = (batch.first()?.offset, batch.len() as u64);
        match self.medium.write(self.opening, &batch, self.options.max_log_bytes) {
            Written::NotContiguous => Some(Step::Dropped),
            Written::NoSpace(reason) => {
                self.events.refused(first, &reason);
                Some(Step::Refused)
            }
            Written::Failed(reason) => Some(self.fail(&reason)),
            Written::Up(end) => {
                lock(&self.queue).under_way = Some(Batch { appends, end, is_durable: false });
                Some(Step::Written)
            }
        }
    }

    /// The first appends that wait, as many as continue each other and may be written at once.
    fn next_batch(&self) -> Option<Vec<Append>> {
        let mut queue = lock(&self.queue);
        let mut batch = vec![queue.appends.pop_front()?];
        let mut bytes = batch[0].payload.len();
        while let Some(next) = queue.appends.front() {
            let end = batch[0].offset + bytes as u64;
            let whole = bytes + next.payload.len();
            if next.offset != end || whole > LARGEST_APPEND_BYTES || batch.len() >= self.options.max_batch_appends {
                break;
            }
            bytes = whole;
            batch.extend(queue.appends.pop_front());
        }
        queue.bytes -= bytes;
        Some(batch)
    }

    fn sync(&self, batch: Batch) -> Step {
        match self.medium.sync(self.opening) {
            Err(reason) => self.fail(&reason),
            Ok(()) => {
                let mut queue = lock(&self.queue);
                queue.under_way = Some(Batch { is_durable: true, ..batch });
                queue.made_durable += batch.appends;
                queue.commits += 1;
                Step::Synced
            }
        }
    }

    /// Closes the store before it reports the failure, so that whoever hears of it finds it closed.
    fn fail(&self, reason: &str) -> Step {
        self.shut();
        self.events.failed(reason);
        Step::Failed
    }

    /// Takes nothing any more and drops what waits.
    fn shut(&self) {
        let mut queue = lock(&self.queue);
        queue.is_closed = true;
        queue.appends.clear();
        queue.bytes = 0;
        queue.under_way = None;
        self.changed.notify_all();
    }

    /// Begins the thread that takes steps as soon as there are any. It ends when the store is closed, or nobody else has it any more.
    fn begin_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let store = self.clone();
        lock(&self.queue).has_thread = true;
        thread::Builder::new().name("memory-store".to_owned()).spawn(move || Self::take_steps(&store)).map(drop)
    }

    fn take_steps(store: &Arc<Self>) {
        loop {
            while store.step().is_some() {}
            let mut queue = lock(&store.queue);
            let is_over = queue.is_closed || Arc::strong_count(store) == 1;
            if queue.appends.is_empty() && is_over {
                queue.has_thread = false;
                store.changed.notify_all();
                return;
            }
            if queue.appends.is_empty() {
                drop(store.changed.wait_timeout(queue, LOOK_AROUND_EVERY));
            }
        }
    }
}

impl Store for MemoryStore {
    fn submit(&self, append: Append) -> Result<(), SubmitError> {
        let mut queue = lock(&self.queue);
        if queue.is_closed || !self.medium.is_open(self.opening) {
            return Err(SubmitError::Closed);
        }
        let waiting_bytes = queue.bytes;
        if waiting_bytes + append.payload.len() > self.options.max_waiting_bytes {
            return Err(SubmitError::Busy { waiting_bytes });
        }
        queue.bytes += append.payload.len();
        queue.appends.push_back(append);
        self.changed.notify_all();
        Ok(())
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        Ok(Box::new(MemoryReader::new(self.medium.clone(), offset)?))
    }

    fn manifest(&self) -> Manifest {
        self.medium.manifest()
    }

    fn replace_manifest(&self, next: Manifest) -> Result<(), ManifestError> {
        self.medium.replace_manifest(self.opening, next, false)
    }

    fn restart(&self, next: Manifest) -> Result<(), ManifestError> {
        let restarted = self.medium.replace_manifest(self.opening, next, true);
        if let Err(ManifestError::Unknown(error)) = &restarted {
            self.fail(&error.to_string());
        }
        restarted
    }

    fn trim(&self, offset: u64) -> Result<(), TrimError> {
        Ok(self.medium.trim(self.opening, offset)?)
    }

    fn key_ids(&self) -> BTreeSet<String> {
        let is_empty = self.medium.usage().0 == 0;
        self.options.key_id.iter().filter(|_| !is_empty).cloned().collect()
    }

    fn usage(&self) -> Usage {
        let (parts, log_bytes) = self.medium.usage();
        let queue = lock(&self.queue);
        Usage {
            parts,
            log_bytes,
            max_log_bytes: self.options.max_log_bytes,
            is_full: medium::is_full(log_bytes, self.options.max_log_bytes),
            unverified_bytes: 0,
            appends: queue.made_durable,
            commits: queue.commits,
            ..Usage::default()
        }
    }

    fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.is_closed = true;
        self.changed.notify_all();
        while queue.has_thread {
            queue = self.changed.wait(queue).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        drop(queue);
        while self.step().is_some() {}
        self.medium.close(self.opening);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
