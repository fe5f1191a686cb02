//! The disk of one copy: how its parts work together.
//!
//! One thread at a time does what waits, and only while something does. Three kinds of locks, taken in this order: the writer, the head
//! (held while `COPY` is replaced), and those that are never held across I/O.

mod checkpoints;
mod dropping;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry};

use self::checkpoints::{Checkpointing, Noted};
use super::head::Head;
use super::log::Log;
use super::open::{self, Found, LOG};
use super::queue::{Batch, Queue};
use super::reader::{self, CopyReader, CopyRecords};
use super::verify::Verification;
use super::vote::VoteFile;
use super::writer::{WriteError, Writer};
use crate::replica::copy::{Base, CopyDisk, CopyEvents, FoundCopy, Install, Persist};
use crate::store::file_store::files::ReplaceError;
use crate::store::file_store::spare::Spare;
use crate::store::file_store::verify::Verifying;
use crate::store::file_store::workers::{is_worker, Job, OnPanic, WRITER_PANICKED};
use crate::store::file_store::{quota, FileStoreOptions, Threads};
use crate::store::{Damage, LogReader, MediumError, OpenError, ReadError, RecordReader, SubmitError, Usage};

/// The shortest time from one checkpoint that is written, and need not be, to the next.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// One part in so many of a segment is kept free of appends when the log may have no further one: states go on being replaced, and what is
/// on its way when the bound is reached has room.
const RESERVED_PART: u64 = 8;

/// One copy in one directory.
pub struct CopyFilesDisk {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
}

/// What the threads of one copy share.
pub struct Shared {
    /// The group's name.
    pub group: String,
    /// The segments.
    pub log: Arc<Log>,
    /// The copy is being closed: nothing that takes long may begin.
    pub is_closing: AtomicBool,
    /// Whether a thread verifies the older segments.
    pub verifying: Verifying,
    directory: PathBuf,
    segment_bytes: u64,
    max_log_bytes: Option<u64>,
    queue: Queue,
    writer: Mutex<Writing>,
    /// What `COPY` says. Held while that is replaced, which takes as long as the disk does.
    head: Mutex<Head>,
    /// What `COPY` says to be lost, in terms up to this one; 0 if nothing is.
    lost_in: AtomicU64,
    /// The last checkpoint that was handed over.
    checkpoint: Mutex<Noted>,
    /// Whether a thread writes a checkpoint.
    checkpointing: Verifying,
    /// Index of the last entry that is persisted, or a lower one.
    persisted: AtomicU64,
    /// Bytes that are free in the segment that is written.
    free_bytes: AtomicU64,
    /// Whether the log may have no further segment.
    is_full: AtomicBool,
    spare: Arc<Spare>,
    events: Mutex<Arc<dyn CopyEvents>>,
    appends: AtomicU64,
    commits: AtomicU64,
    /// Whether files may be touched by their names. Held for reading meanwhile.
    is_open: RwLock<bool>,
}

struct Writing {
    writer: Writer,
    vote: VoteFile,
}

impl CopyFilesDisk {
    /// Opens the copy in `directory`. A thread verifies its older segments from then on.
    pub fn open(
        directory: PathBuf,
        group: &str,
        options: &FileStoreOptions,
        events: Arc<dyn CopyEvents>,
    ) -> Result<(Self, FoundCopy), OpenError> {
        let Found { copy, vote, head, log, last, active, next_sequence } =
            open::open(&directory, group, &options.keys)?;
        let (log, log_directory, segment_bytes) = (Arc::new(log), directory.join(LOG), options.segment_bytes);
        let makers = options.threads.spare_makers.clone();
        let spare = Arc::new(Spare::new(&log_directory, segment_bytes, makers, options.keys.clone()));
        if active.is_none() {
            spare.prepare(true);
        }
        let writer = Writer {
            directory: log_directory,
            group: group.to_owned(),
            segment_bytes,
            last,
            active,
            next_sequence,
            log: log.clone(),
            spare: spare.clone(),
            keys: options.keys.clone(),
        };
        let checkpoint = head.checkpoint.clone();
        let shared = Arc::new(Shared {
            group: group.to_owned(),
            log,
            is_closing: AtomicBool::new(false),
            verifying: Verifying::default(),
            directory,
            segment_bytes,
            max_log_bytes: options.max_log_bytes,
            queue: Queue::default(),
            writer: Mutex::new(Writing { writer, vote }),
            lost_in: AtomicU64::new(head.lost_in.unwrap_or(0)),
            head: Mutex::new(head),
            checkpoint: Mutex::new(Noted::written(checkpoint)),
            checkpointing: Verifying::default(),
            persisted: AtomicU64::new(last.index),
            free_bytes: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            spare,
            events: Mutex::new(events),
            appends: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            is_open: RwLock::new(true),
        });
        shared.note_room(&lock(&shared.writer).writer);
        if shared.log.unverified_from(0).is_some() {
            options.threads.verifiers.run(Arc::new(Verification(shared.clone())));
        }
        Ok((CopyFilesDisk { shared, threads: options.threads.clone() }, copy))
    }
}

#[cfg(test)]
impl CopyFilesDisk {
    /// Nothing is written while the result is held.
    pub fn hold_still(&self) -> impl Sized + '_ {
        (lock(&self.shared.writer), lock(&self.shared.head))
    }

    /// From now on nothing can be written to the segment that is written.
    pub fn fail_writes(&self) {
        lock(&self.shared.writer).writer.fail_writes();
    }
}

impl Job for Shared {
    fn run(&self, others_wait: &dyn Fn() -> bool) -> bool {
        // A panic is a failure like any other.
        let _unwinding = OnPanic(|| {
            self.queue.fail();
            lock(&self.events).failed(WRITER_PANICKED);
        });
        while let Some(batch) = self.queue.next_batch() {
            let (number, entries) = (batch.number, batch.entries.len() as u64);
            if let Err(error) = self.do_batch(batch) {
                self.queue.fail();
                let events = lock(&self.events);
                match error.is_no_space() {
                    true => events.full(&error.to_string()),
                    false => events.failed(&error.to_string()),
                }
                return false;
            }
            self.appends.fetch_add(entries, Ordering::Relaxed);
            self.commits.fetch_add(1, Ordering::Relaxed);
            // Not under the lock: whoever hears it goes on with the group on this thread.
            let events = lock(&self.events).clone();
            events.persisted(number);
            if others_wait() {
                return true;
            }
        }
        false
    }
}

impl Shared {
    fn do_batch(&self, batch: Batch) -> Result<(), WriteError> {
        let mut writing = lock(&self.writer);
        if let Some(vote) = batch.vote {
            writing.vote.replace(vote)?;
        }
        if let Some(install) = batch.install {
            self.install(&mut writing.writer, install)?;
        }
        let superseded = writing.writer.write(&batch.entries)?;
        self.persisted.store(writing.writer.last.index, Ordering::Release);
        self.note_room(&writing.writer);
        drop(writing);
        if let Err(error) = self.release(superseded) {
            tracing::warn!("entries that were replaced are not deleted yet: {error}");
        }
        self.write_members()
    }

    /// Notes how much may be appended.
    fn note_room(&self, writer: &Writer) {
        self.free_bytes.store(writer.free_bytes(), Ordering::Relaxed);
        self.note_bound();
    }

    /// Notes whether the log may have another segment.
    fn note_bound(&self) {
        let checked = quota::check(self.max_log_bytes, self.log.usage(), self.segment_bytes, &self.group);
        self.is_full.store(checked.is_err(), Ordering::Relaxed);
    }

    /// The copy begins anew: `COPY` says so first, after which the segments that are there are left-overs.
    fn install(&self, writer: &mut Writer, Install { base, checkpoint }: Install) -> Result<(), WriteError> {
        let mut head = lock(&self.head);
        let next = Head { base, checkpoint, first_sequence: writer.next_sequence, lost_in: head.lost_in };
        next.replace(&self.directory, &self.group).map_err(ReplaceError::into_error)?;
        self.persisted.store(next.base.position.index, Ordering::Release);
        let old = self.log.install(next.base.position);
        (writer.last, writer.active) = (next.base.position, None);
        let checkpoint = next.checkpoint.clone();
        *lock(&self.checkpoint) = Noted::written(checkpoint);
        *head = next;
        drop(head);
        if let Err(error) = self.release(old) {
            tracing::warn!("what the copy held before is not deleted yet: {error}");
        }
        self.spare.prepare(true);
        Ok(())
    }

    /// Accepts nothing from here on and reports damage in a segment of which the last entry has that index. False if that segment is not
    /// needed any more.
    pub fn stop_damaged(&self, damage: &Damage, last_index: u64) -> bool {
        let head = lock(&self.head);
        if last_index <= head.base.position.index {
            return false;
        }
        self.queue.close();
        lock(&self.events).damaged(damage);
        true
    }
}

impl CopyDisk for CopyFilesDisk {
    fn persist(&self, mut persist: Persist) {
        if let Some(checkpoint) = persist.checkpoint.take() {
            // Others may rely on what was lost when this has it again, also after a crash.
            let lost_in = self.shared.lost_in.load(Ordering::Relaxed);
            let is_regained = lost_in > 0 && checkpoint.position.term > lost_in;
            let is_at_once = self.threads.are_by_hand() || is_regained;
            let every = if is_at_once { Duration::ZERO } else { CHECKPOINT_EVERY };
            if self.shared.note_checkpoint(checkpoint, every) {
                self.threads.spare_makers.run(Arc::new(Checkpointing(self.shared.clone())));
            }
        }
        let is_empty = persist.install.is_none() && persist.vote.is_none() && persist.entries.is_empty();
        if is_empty && persist.number == 0 {
            return;
        }
        if self.shared.queue.push(persist) {
            self.threads.writers.run(self.shared.clone());
        }
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, ReadError> {
        reader::entries(&self.shared.log, low, high, max_bytes)
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        let committed = lock(&self.shared.checkpoint).checkpoint.position.index;
        Ok(Box::new(CopyReader::new(&self.shared.log, offset, committed)?))
    }

    fn records(&self, offset: u64) -> Result<Box<dyn RecordReader>, ReadError> {
        let committed = lock(&self.shared.checkpoint).checkpoint.position.index;
        Ok(Box::new(CopyRecords::new(&self.shared.log, offset, committed)?))
    }

    fn trim(&self, offset: u64, upto: u64, members_at: &dyn Fn(u64) -> ConfState) -> Result<Base, MediumError> {
        self.shared.trim(offset, upto, members_at)
    }

    fn admit(&self, bytes: usize) -> Result<(), SubmitError> {
        let shared = &self.shared;
        let reserve = shared.segment_bytes / RESERVED_PART;
        let needed = (bytes as u64).saturating_add(reserve);
        if !shared.is_full.load(Ordering::Relaxed) || shared.free_bytes.load(Ordering::Relaxed) >= needed {
            return Ok(());
        }
        match quota::check(shared.max_log_bytes, shared.log.usage(), shared.segment_bytes, &shared.group) {
            Ok(()) => Ok(()),
            Err(over) => Err(SubmitError::NoSpace(over.to_string())),
        }
    }

    fn has_room(&self) -> bool {
        self.shared.spare.prepare(true);
        self.shared.spare.is_ready()
    }

    fn usage(&self) -> Usage {
        let shared = &self.shared;
        let (parts, log_bytes) = shared.log.usage();
        let (appends, commits) = (shared.appends.load(Ordering::Relaxed), shared.commits.load(Ordering::Relaxed));
        let (_, unverified_bytes) = shared.log.unverified();
        let max_log_bytes = shared.max_log_bytes;
        let is_full = shared.is_full.load(Ordering::Relaxed);
        Usage { parts, log_bytes, max_log_bytes, is_full, unverified_bytes, appends, commits, ..Usage::default() }
    }

    fn lost_in(&self) -> Option<u64> {
        Some(self.shared.lost_in.load(Ordering::Acquire)).filter(|lost_in| *lost_in > 0)
    }

    fn key_ids(&self) -> BTreeSet<String> {
        self.shared.log.key_ids()
    }

    fn close(&self) {
        let shared = &self.shared;
        shared.is_closing.store(true, Ordering::Relaxed);
        shared.queue.close();
        shared.spare.close();
        // What waits for its turn may wait for this thread.
        if !is_worker() {
            shared.queue.wait_until_left();
            shared.verifying.wait_until_over();
            shared.checkpointing.wait_until_over();
        }
        shared.try_to_write_checkpoint();
        *shared.is_open.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = false;
    }
}

impl Drop for CopyFilesDisk {
    /// Does what is queued.
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
