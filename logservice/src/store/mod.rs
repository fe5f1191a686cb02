//! What a shard needs from whatever keeps its bytes.
//!
//! The trait is small so that an engine other than files (a replicated stream, for instance) can stand behind it.
//! A store knows nothing of leases, fencing or duplicates: the shard above it hands over appends that are already
//! known to be contiguous, and asks again by offset when an outcome is unknown.

mod errors;
pub mod file_store;
mod manifest;

pub use errors::{FileError, InFile, ManifestError, OpenError, ReadError, SubmitError, TrimError};
pub use manifest::{Blocks, Contents, Leader, Manifest, SnapshotRecord, Term, MANIFEST_FORMAT};

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

/// Bytes on their way into the log.
#[derive(Debug, Clone)]
pub struct Append {
    /// The epoch of the leader that sent them.
    pub epoch: u64,
    /// Position of the first byte: the end of what was submitted before.
    pub offset: u64,
    /// The bytes themselves, never empty.
    pub payload: Bytes,
}

/// Where a store reports what became of the appends it was given. Called from the store's own threads, one at a time; must not block
/// for long and must not call back into the store.
pub trait StoreEvents: Send + Sync {
    /// Everything below `end` (exclusive) survives a crash. Never goes back.
    fn durable(&self, end: u64);
    /// There was no space for the append at `end`. Nothing of it or of anything submitted after it was written; the
    /// store drops those and takes an append at `end` again.
    fn refused(&self, end: u64, reason: &str);
    /// A write or sync failed, so what is on the medium is not known. The store takes nothing any more.
    fn failed(&self, reason: &str);
    /// The log is damaged at a place that was not verified when the store was opened; `reason` names it. The store takes nothing
    /// any more. Called once at most, perhaps while the store is still being opened.
    fn damaged(&self, reason: &str);
}

/// How much a store holds and has done since it was opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Files or streams that hold log bytes.
    pub segments: u64,
    /// Bytes of space they take, preallocated space included.
    pub log_bytes: u64,
    /// The most that they may be; none is no bound.
    pub max_log_bytes: Option<u64>,
    /// Whether there may be no further segment for that reason: appends are refused once the last one has no room.
    pub is_full: bool,
    /// How many of the bytes were there when it was opened and are not verified yet.
    pub unverified_bytes: u64,
    /// Appends made durable.
    pub appends: u64,
    /// Syncs that made them durable: fewer than appends when they are grouped.
    pub fsyncs: u64,
}

/// The storage of one shard.
///
/// Any number of appends may be in flight; they become durable in the order they were submitted.
pub trait Store: Send + Sync {
    /// Hands over an append without waiting for it. Its outcome comes through [`StoreEvents`]. An append that does
    /// not continue the one before it is dropped in silence: that happens only after [`StoreEvents::refused`].
    fn submit(&self, append: Append) -> Result<(), SubmitError>;

    /// Opens a reader at `offset`, which may lie below the base as long as that was not dropped. Blocks on I/O.
    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError>;

    /// The manifest as last replaced.
    fn manifest(&self) -> Manifest;

    /// Replaces the manifest if its revision is still `next.revision - 1`. Durable when this returns. Blocks on I/O.
    fn replace_manifest(&self, next: Manifest) -> Result<(), ManifestError>;

    /// Replaces the manifest as [`Store::replace_manifest`] does and with it the whole log: after it the log is empty
    /// and begins and ends at `next.base`. No append may be in flight. Blocks on I/O.
    fn restart(&self, next: Manifest) -> Result<(), ManifestError>;

    /// Drops log that lies wholly below `offset`, which is at most the manifest's base. May keep some of it. Blocks on I/O.
    fn trim(&self, offset: u64) -> Result<(), TrimError>;

    /// The ids of the keys with which parts of it are encrypted.
    fn key_ids(&self) -> BTreeSet<String>;

    /// Counters and sizes.
    fn usage(&self) -> Usage;

    /// Takes nothing any more, and writes what was submitted. Once this returns nothing of what is stored is touched by its name any
    /// more, which another store may take; who reads goes on reading. Blocks on I/O.
    fn close(&self);
}

/// A place in the log that moves forward as it is read.
pub trait LogReader: Send {
    /// The next bytes, at least one and at most `max_bytes`, none at or beyond `limit` (exclusive), which must be
    /// durable and beyond what was read so far. Checksums are verified before bytes are returned. Blocks on I/O.
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError>;

    /// Position of the next byte.
    fn offset(&self) -> u64;
}

/// A shard's store as found when it was opened.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The end of the log (exclusive): everything below is durable.
    pub end: u64,
}
