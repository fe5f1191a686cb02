//! The embedded store: preallocated segment files, threads that all shards share, group commit.
//!
//! While one record is written and synced, appends queue; then all that have queued become the next record. One thread at a time writes
//! a shard, and only while there is something to write.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | the store: how its parts work together |
//! | `factory.rs` | the directory with all shards |
//! | `format.rs`, `form.rs` | the bytes of segments and records, and how payloads are stored |
//! | `segment.rs`, `segments.rs` | one segment file, and those of a log |
//! | `queue.rs`, `writer.rs`, `record_writer.rs` | appends on their way into records |
//! | `reader.rs` | log bytes out of records |
//! | `open.rs`, `scan.rs`, `verify.rs` | recovery, and what is verified when |
//! | `spare.rs` | segments prepared ahead of time |
//! | `quota.rs` | the bound of a log |
//! | `remove.rs` | the end of a shard's directory |
//! | `threads.rs`, `workers.rs` | threads that all shards share |
//! | `files.rs`, `steps.rs` | operations on files, each with a failpoint |
//! | `watch.rs` | for tests: somebody who watches those operations |
//! | `check.rs`, `look.rs` | a directory that is inspected without being served |
//! | `checksum_line.rs` | the checksum of a manifest |
//! | `errors.rs` | the store's errors in the words of files |

pub mod check;
pub mod checksum_line;
#[cfg(test)]
mod conformance_tests;
pub(crate) mod errors;
mod factory;
#[cfg(feature = "failpoints")]
mod failpoint_file;
pub mod files;
pub mod form;
pub mod format;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod handing_on_tests;
pub mod look;
mod open;
mod queue;
pub(crate) mod quota;
mod reader;
mod record_writer;
pub mod remove;
mod scan;
pub(crate) mod segment;
mod segments;
pub(crate) mod spare;
mod steps;
mod threads;
pub(crate) mod verify;
#[cfg(feature = "failpoints")]
pub mod watch;
pub mod workers;
pub(crate) mod writer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

pub use self::factory::FileStores;
use self::queue::Queue;
use self::reader::{FileReader, FileRecords};
use self::segment::Segment;
use self::segments::Segments;
use self::spare::Spare;
pub use self::threads::Threads;
use self::verify::{Verification, Verifying};
use self::workers::{is_worker, Job, OnPanic, WRITER_PANICKED};
use self::writer::{WriteError, Writer};
use super::{
    Append, LogReader, Manifest, ManifestError, OpenError, Opened, ReadError, RecordReader, Store, StoreEvents,
    SubmitError, TrimError, Usage,
};
use crate::base::file_error::FileError;
use crate::encryption::{KeyRing, TAG_BYTES};

/// Smallest length of a segment in bytes: one append of the largest size and its headers.
pub const MIN_SEGMENT_BYTES: u64 = 2 << 20;

/// How a file store behaves.
#[derive(Clone)]
pub struct FileStoreOptions {
    /// Length of new segments in bytes, at least [`MIN_SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// The most bytes of disk that its segments take, at least two segments; none is no bound. A single segment may be longer than that.
    pub max_log_bytes: Option<u64>,
    /// The threads that do its work.
    pub threads: Arc<Threads>,
    /// The keys for new segments and for those that are there.
    pub keys: Arc<KeyRing>,
}

/// One shard in one directory.
pub struct FileStore {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
}

struct Shared {
    directory: PathBuf,
    queue: Queue,
    segments: Arc<Segments>,
    segment_bytes: u64,
    max_log_bytes: Option<u64>,
    spare: Arc<Spare>,
    writer: Mutex<Writer>,
    /// Never locked across I/O.
    manifest: Mutex<Manifest>,
    /// Held while the manifest is replaced, which takes as long as the disk does.
    replacing: Mutex<()>,
    events: Arc<dyn StoreEvents>,
    appends: AtomicU64,
    commits: AtomicU64,
    /// The store is being closed: nothing that takes long may begin.
    is_closing: AtomicBool,
    /// Whether files may be touched by their names. Held for reading meanwhile.
    is_open: RwLock<bool>,
    /// Whether a thread verifies the older segments.
    verifying: Verifying,
}

/// Opens the shard in `directory`, creating it if it is missing. Blocks while the last segment is verified. A thread verifies the older
/// ones, and reports damage by [`StoreEvents::damaged`], possibly before this returns.
pub fn open(
    directory: &Path,
    shard: &str,
    options: &FileStoreOptions,
    events: Arc<dyn StoreEvents>,
) -> Result<Opened, OpenError> {
    let (store, end) = FileStore::open(directory, shard, options, events)?;
    Ok(Opened { store: Arc::new(store), end })
}

impl FileStore {
    /// As [`open`]. Returns the end of the log (exclusive) as well.
    fn open(
        directory: &Path,
        shard: &str,
        options: &FileStoreOptions,
        events: Arc<dyn StoreEvents>,
    ) -> Result<(Self, u64), OpenError> {
        let found = open::open(directory, shard, &options.keys)?;
        let log = directory.join("log");
        let segment_bytes = options.segment_bytes.max(MIN_SEGMENT_BYTES);
        let segments = Arc::new(Segments::new(found.segments));
        let makers = options.threads.spare_makers.clone();
        let spare = Arc::new(Spare::new(&log, segment_bytes, makers, options.keys.clone()));
        if found.active.is_none() && found.manifest.leader.is_some() {
            spare.prepare(true);
        }
        let writer = Writer {
            shard: shard.to_owned(),
            generation: found.manifest.generation,
            segment_bytes,
            end: found.end,
            running_checksum: found.running_checksum,
            active: found.active,
            segments: segments.clone(),
            spare: spare.clone(),
            keys: options.keys.clone(),
            directory: log,
            max_log_bytes: options.max_log_bytes,
        };
        let record_bytes = (segment_bytes - format::SEGMENT_HEADER_BYTES) as usize;
        let batch_bytes = record_bytes - format::RECORD_HEADER_BYTES - TAG_BYTES - 8;
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            queue: Queue::new(batch_bytes.min(format::MAX_RECORD_PAYLOAD_BYTES)),
            segments,
            segment_bytes,
            max_log_bytes: options.max_log_bytes,
            spare,
            writer: Mutex::new(writer),
            manifest: Mutex::new(found.manifest),
            replacing: Mutex::default(),
            events,
            appends: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            is_closing: AtomicBool::new(false),
            is_open: RwLock::new(true),
            verifying: Verifying::default(),
        });
        if shared.segments.unverified().0 > 0 {
            let verification = Verification::new(shared.clone(), shard);
            options.threads.verifiers.run(Arc::new(verification));
        }
        Ok((FileStore { shared, threads: options.threads.clone() }, found.end))
    }
}

impl Job for Shared {
    fn run(&self, others_wait: &dyn Fn() -> bool) -> bool {
        // A panic is a failure like any other.
        let _unwinding = OnPanic(|| {
            self.queue.fail();
            self.events.failed(WRITER_PANICKED);
        });
        let mut batch = Vec::new();
        while self.queue.next_batch(&mut batch) {
            if !self.write(&batch) {
                self.queue.fail();
                return false;
            }
            if others_wait() {
                return true;
            }
        }
        false
    }
}

impl Shared {
    /// Writes a batch and reports its outcome. False if the store has failed.
    fn write(&self, batch: &[Append]) -> bool {
        let mut writer = lock(&self.writer);
        if batch.first().is_none_or(|append| append.offset != writer.end) {
            return true;
        }
        let written = writer.write(batch);
        let end = writer.end;
        drop(writer);
        match written {
            Ok(()) => {
                self.appends.fetch_add(batch.len() as u64, Ordering::Relaxed);
                self.commits.fetch_add(1, Ordering::Relaxed);
                self.events.durable(end);
            }
            Err(WriteError::NoSpace(error)) => self.events.refused(end, &error.to_string()),
            Err(WriteError::Quota(error)) => self.events.refused(end, &error.to_string()),
            Err(WriteError::Failed(error)) => {
                // First, so that the failure is reported of a closed store.
                self.queue.close();
                self.events.failed(&error.to_string());
                return false;
            }
        }
        true
    }

    /// The caller holds `replacing`.
    fn replace_manifest(&self, next: Manifest) -> Result<(), ManifestError> {
        let is_open = self.is_open.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !*is_open {
            return Err(ManifestError::Closed);
        }
        let found = lock(&self.manifest).revision;
        if found + 1 != next.revision {
            return Err(ManifestError::Conflict { expected: next.revision.saturating_sub(1), found });
        }
        open::write_manifest(&self.directory, &next)?;
        *lock(&self.manifest) = next;
        Ok(())
    }

    /// Removes the files of segments that have left the log. Those that nobody reads may become spares instead. Continues after an error,
    /// and returns the first.
    fn release(&self, segments: Vec<Arc<Segment>>) -> Result<(), FileError> {
        let is_open = self.is_open.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !*is_open {
            // Another log may have these names by now.
            return Ok(());
        }
        let file_of =
            |segment: Arc<Segment>| (segment.path.clone(), Arc::try_unwrap(segment).ok().map(Segment::into_file));
        self.spare.recycle_or_remove(segments.into_iter().map(file_of))
    }
}

impl Store for FileStore {
    fn submit(&self, append: Append) -> Result<(), SubmitError> {
        if self.shared.queue.push(append)? {
            self.threads.writers.run(self.shared.clone());
        }
        Ok(())
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        Ok(Box::new(FileReader::new(self.shared.segments.clone(), offset)?))
    }

    fn records(&self, offset: u64) -> Result<Box<dyn RecordReader>, ReadError> {
        Ok(Box::new(FileRecords::new(self.shared.segments.clone(), offset)?))
    }

    fn manifest(&self) -> Manifest {
        lock(&self.shared.manifest).clone()
    }

    fn replace_manifest(&self, next: Manifest) -> Result<(), ManifestError> {
        let led = next.leader.is_some();
        {
            let _replacing = lock(&self.shared.replacing);
            self.shared.replace_manifest(next)?;
        }
        // A shard takes space when it gets a leader, not when somebody asks for its status.
        if led && self.shared.segments.usage().0 == 0 {
            self.shared.spare.prepare(true);
        }
        Ok(())
    }

    fn restart(&self, mut next: Manifest) -> Result<(), ManifestError> {
        let mut writer = lock(&self.shared.writer);
        let replacing = lock(&self.shared.replacing);
        next.generation = lock(&self.shared.manifest).generation + 1;
        let (generation, base) = (next.generation, next.base);
        if let Err(error) = self.shared.replace_manifest(next) {
            if let ManifestError::Unknown(error) = &error {
                // The next opening may find the new log, so nothing that is appended to the old one may be acknowledged.
                self.shared.queue.close();
                self.shared.events.failed(&error.to_string());
            }
            return Err(error);
        }
        (writer.generation, writer.end, writer.running_checksum, writer.active) = (generation, base, 0, None);
        let old = self.shared.segments.take_all();
        drop(writer);
        drop(replacing);
        // The new log stands in any case; what stays of the old one is removed when the shard is next opened.
        if let Err(error) = self.shared.release(old) {
            tracing::warn!("old log not deleted yet: {error}");
        }
        self.shared.spare.prepare(true);
        Ok(())
    }

    fn trim(&self, offset: u64) -> Result<(), TrimError> {
        debug_assert!(offset <= lock(&self.shared.manifest).base, "log above the base is needed");
        let old = self.shared.segments.take_below(offset);
        Ok(self.shared.release(old)?)
    }

    fn key_ids(&self) -> BTreeSet<String> {
        self.shared.segments.key_ids()
    }

    fn usage(&self) -> Usage {
        let taken @ (parts, log_bytes) = self.shared.segments.usage();
        let (appends, commits) = (&self.shared.appends, &self.shared.commits);
        let (appends, commits) = (appends.load(Ordering::Relaxed), commits.load(Ordering::Relaxed));
        let (_, unverified_bytes) = self.shared.segments.unverified();
        let max_log_bytes = self.shared.max_log_bytes;
        let is_full = quota::check(max_log_bytes, taken, self.shared.segment_bytes, "").is_err();
        Usage { parts, log_bytes, max_log_bytes, is_full, unverified_bytes, appends, commits, ..Usage::default() }
    }

    fn close(&self) {
        self.shared.is_closing.store(true, Ordering::Relaxed);
        self.shared.queue.close();
        self.shared.spare.close();
        // What waits for its turn may wait for this thread.
        if !is_worker() {
            self.shared.queue.wait_until_left();
            self.shared.verifying.wait_until_over();
        }
        *self.shared.is_open.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = false;
    }
}

impl Drop for FileStore {
    /// Writes what is queued. What is not verified yet stays so.
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
