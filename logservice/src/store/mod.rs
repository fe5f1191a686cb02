//! What a shard needs from whatever keeps its bytes: [`Store`] for one shard, [`StoreFactory`] for those of a service.
//!
//! The trait is small so that something other than files (a replicated log, for instance) can implement it. A store knows nothing of
//! leases, fencing or duplicates: the shard above it submits appends that are already known to be contiguous, and asks again by offset
//! when an outcome is unknown. Nothing outside this folder names a kind of store, except for the tools that read the file store's files
//! without serving them.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | the contract of a store |
//! | `factory.rs` | the contract of what opens, lists and removes stores |
//! | `errors.rs` | what can go wrong, and whether it is determinate |
//! | `manifest.rs` | what a shard must remember besides its bytes |
//! | `options.rs` | the kind of store that is configured |
//! | `file_store/` | segment files of this machine: what a service uses |
//! | `memory_store/` | for tests: memory, with faults on demand and crashes |
//! | `conformance/` | for tests: the contract as test functions that every store passes |
//!
//! # How to add a store
//!
//! 1. A folder beside `file_store/` with a type that implements [`Store`] and one that implements [`StoreFactory`]. Errors carry text
//!    (`MediumError`, `Damage`); whatever the store is made of stays inside. [`Manifest`] is stored whole, in any encoding that its
//!    `serde` implementation allows.
//! 2. A test module that implements `conformance::Subject` for it, with the test of each case made by `conformance_tests!`. The suite
//!    needs a way to crash the store, to damage what it holds and to make its writes fail. `memory_store/conformance_tests.rs` is the
//!    shortest example.
//! 3. A variant in `options.rs` that builds the factory from the service's configuration.
//! 4. Tests of what is the store's own, beside it: its format, its recovery, each of its steps failing.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod errors;
mod factory;
pub mod file_store;
mod manifest;
#[cfg(any(test, feature = "testing"))]
pub mod memory_store;
mod migrations;
mod options;

pub use errors::{Damage, ManifestError, MediumError, OpenError, ReadError, RemoveError, SubmitError, TrimError};
pub use factory::{Listed, RemovedStore, StoreFactory};
pub use file_store::files::RECORD_SYNCS;
pub use manifest::{Blocks, ClusterSlots, Contents, Epoch, Leader, Manifest, SnapshotRecord, MANIFEST_FORMAT};
pub use migrations::{Migrations, SlotGrant, SlotMove};
pub use options::{StoreOptions, MIN_SEGMENT_MB};

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

/// A part of the log as it was written: what one leader appended at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The epoch of the leader that wrote it.
    pub epoch: u64,
    /// Position of its first byte of log.
    pub offset: u64,
    /// When it was written, in milliseconds since 1970.
    pub time_ms: u64,
    /// The bytes.
    pub payload: Bytes,
}

/// Receives the outcome of appends. A store calls it from its own threads, or from the one that is in [`Store::close`],
/// [`Store::restart`] or [`Store::go_on`], one call at a time, and never from within [`Store::submit`]. An implementation must return soon and must not call the store.
pub trait StoreEvents: Send + Sync {
    /// Everything below `end` (exclusive) survives a crash. `end` never goes back.
    fn durable(&self, end: u64);
    /// There was no space for the append at `end`. Determinate: nothing of it or of anything submitted after it was written. The
    /// store drops those and accepts an append at `end` again.
    fn refused(&self, end: u64, reason: &str);
    /// A write failed. Indeterminate: what was not reported as durable may survive, or any beginning of it. The store accepts no
    /// append until it is opened again, which finds out.
    fn failed(&self, reason: &str);
    /// The log is damaged at a place that was not verified when the store was opened; `reason` names it. The store accepts no append
    /// any more. Called at most once, possibly before the call that opens the store returns.
    fn damaged(&self, reason: &str);
    /// From now on another service decides over the log, or this one has begun to. The store accepts no append any more, and reports nothing
    /// of those in flight: whether they are in the log is found out where the log is decided over. Only of stores that several services
    /// share. Called at most once, possibly before the call that opens the store returns.
    fn superseded(&self) {}
    /// The service that decides over the log has replaced the manifest by `manifest`; with `begins_at`, the log is another one, which begins
    /// there. Only of stores that follow, and possibly before the call that opens the store returns.
    fn replaced(&self, _manifest: &Manifest, _begins_at: Option<u64>) {}
}

/// Whether this service decides over a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It always does: nobody else has the log.
    Alone,
    /// It does until another service does. It may not know yet that one does: see [`Store::confirm`].
    Decides,
    /// Another service does: this one takes nothing, and is told what that one does.
    Follows {
        /// Where clients reach that one, if it is known.
        address: Option<String>,
    },
}

/// Is told once whether this service was certainly the only one that decided over the log, at some moment since it was asked.
pub type OnConfirmed = Box<dyn FnOnce(bool) + Send>;

/// How much a store holds, and what it has done since it was opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Parts of the log that [`Store::trim`] drops as a whole, such as segment files.
    pub parts: u64,
    /// Bytes of space that the log takes, including space that is reserved.
    pub log_bytes: u64,
    /// The most that it may take; none is no bound.
    pub max_log_bytes: Option<u64>,
    /// Whether the log has reached that bound: appends are refused as soon as the space that is reserved is used.
    pub is_full: bool,
    /// Bytes of space whose contents were there when the store was opened and are not verified yet.
    pub unverified_bytes: u64,
    /// Appends made durable.
    pub appends: u64,
    /// Times that appends were made durable: fewer than appends when several are made durable at once.
    pub commits: u64,
    /// Times that this service's copy was fetched anew from other services, as it was damaged, since the service started. 0 where no other
    /// service has the log.
    pub repairs: u64,
    /// Whether this service's copy takes nothing for want of space, while other services' go on.
    pub awaits_room: bool,
}

/// The storage of one shard.
///
/// Any number of appends may be in flight; they become durable in the order in which they were submitted. Any thread may call any
/// function; calls that replace the manifest are made one at a time, and [`Store::restart`] with no append in flight.
pub trait Store: Send + Sync {
    /// Submits an append without waiting for it. Its outcome comes through [`StoreEvents`]. An append that does not continue the one
    /// before it is dropped in silence, which happens only after [`StoreEvents::refused`] or [`SubmitError::NoSpace`].
    fn submit(&self, append: Append) -> Result<(), SubmitError>;

    /// As [`Store::submit`], for who calls [`Store::go_on`] next: until then, what was submitted may wait for some ticks of a clock.
    fn submit_and_go_on(&self, append: Append) -> Result<(), SubmitError> {
        self.submit(append)
    }

    /// Goes on with what was submitted on this thread, if that saves waking another one. May call [`StoreEvents`], so the caller holds no
    /// lock that is taken there. Returns soon.
    fn go_on(&self) {}

    /// Opens a reader at `offset`, which lies below the durable end. It may lie below the base as long as log there has not been
    /// dropped. Blocks on I/O.
    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError>;

    /// Opens a reader of records, as [`Store::reader`] opens one of bytes. Blocks on I/O.
    ///
    /// # Errors
    /// As of [`Store::reader`]; or this store does not know who wrote what, and when.
    fn records(&self, _offset: u64) -> Result<Box<dyn RecordReader>, ReadError> {
        Err(MediumError::new("this log is not read record by record").into())
    }

    /// The manifest as last replaced. After an indeterminate replacement it is the one before.
    fn manifest(&self) -> Manifest;

    /// Replaces the manifest if its revision is still `next.revision - 1`. Durable when this returns. Blocks on I/O.
    fn replace_manifest(&self, next: Manifest) -> Result<(), ManifestError>;

    /// Replaces the manifest as [`Store::replace_manifest`] does, and with it the whole log: afterwards the log is empty and begins and
    /// ends at `next.base`. The store sets `next.generation`. If the outcome is indeterminate the store also fails
    /// ([`StoreEvents::failed`]), as the next opening may find either log. Blocks on I/O.
    fn restart(&self, next: Manifest) -> Result<(), ManifestError>;

    /// Drops log that lies wholly below `offset` (exclusive), which is at most the manifest's base. May keep some of it. A reader that
    /// still stands below `offset` may get [`ReadError`] from then on, and never wrong bytes. Blocks on I/O.
    fn trim(&self, offset: u64) -> Result<(), TrimError>;

    /// The ids of the keys with which parts of the log are encrypted.
    fn key_ids(&self) -> BTreeSet<String>;

    /// Counters and sizes.
    fn usage(&self) -> Usage;

    /// Whether this service decides over the log, as far as it knows. Does not block.
    fn standing(&self) -> Standing {
        Standing::Alone
    }

    /// Finds out whether this service is the only one that decides over the log, at some moment after this call. Does not block.
    fn confirm(&self, done: OnConfirmed) {
        done(true);
    }

    /// Writes what was submitted, reports its outcome, and accepts nothing any more. When this returns, the store changes nothing on the
    /// medium, where another store may take its name. Open readers go on reading. Blocks on I/O.
    fn close(&self);
}

/// A place in the log that moves forward as it is read.
pub trait LogReader: Send {
    /// The next bytes: at least one, at most `max_bytes`, and none at or beyond `limit` (exclusive), which must be durable and beyond
    /// what was read so far. Checksums are verified before bytes are returned. Blocks on I/O.
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError>;

    /// Position of the next byte.
    fn offset(&self) -> u64;

    /// Where leaders begin to write in what was read since this was last asked, if the medium tells that and nothing else does.
    fn take_epoch_starts(&mut self) -> Vec<u64> {
        Vec::new()
    }
}

/// A place in the log that moves forward by records. It stays usable when its store is closed.
pub trait RecordReader: Send {
    /// The next record, of the first one only what lies at or beyond where the reader was opened. It begins below `limit` (exclusive), which
    /// must be durable and beyond what was read so far. Checksums are verified before it is returned. Blocks on I/O.
    ///
    /// # Errors
    /// It was dropped, or is damaged.
    fn next(&mut self, limit: u64) -> Result<Record, ReadError>;

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
