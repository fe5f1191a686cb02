//! What a group needs of the disk on which its service keeps a copy of the log: [`CopyDisk`].
//!
//! A group never waits for the disk. It hands over [`Persist`]s, one after the other, and is told when each is on the medium. The disk
//! does them in that order. What is handed over can be read at once from the group's own memory (`group/entries.rs`), and from the disk
//! once it is persisted.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry};

use crate::store::{
    Damage, LogReader, MediumError, OpenError, ReadError, RecordReader, RemovedStore, SubmitError, Usage,
};

/// Where a prefix of a group's log ends. Prefixes that end at the same index on two services are the same bytes, so all fields are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Index of its last entry.
    pub index: u64,
    /// The consensus term of that entry.
    pub term: u64,
    /// The end (exclusive) of the bytes of the log in it.
    pub end: u64,
    /// The running checksum: of the one before, the entry's index and term, and its data. See [`running_checksum`].
    pub checksum: u32,
}

impl Position {
    /// The position after an entry that follows this one. `end` is the end of the log after it.
    pub fn after(&self, entry: &Entry, end: u64) -> Self {
        let checksum = running_checksum(self.checksum, entry);
        Position { index: entry.index, term: entry.term, end, checksum }
    }
}

/// The running checksum after `entry` when it was `before`. CRC32C.
pub fn running_checksum(before: u32, entry: &Entry) -> u32 {
    let checksum = crc32c::crc32c_append(before, &entry.index.to_le_bytes());
    let checksum = crc32c::crc32c_append(checksum, &entry.term.to_le_bytes());
    crc32c::crc32c_append(checksum, &entry.data)
}

/// What a member has promised to the others: a vote, and to listen to no earlier term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vote {
    /// The newest term that it knows.
    pub term: u64,
    /// The member that got its vote in that term; 0 if none did.
    pub member: u64,
}

/// What a group is after a prefix of its log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    /// The prefix.
    pub position: Position,
    /// Revision of the state.
    pub revision: u64,
    /// The epoch whose appends may follow.
    pub epoch: u64,
    /// The state itself.
    pub state: Bytes,
    /// The index up to which the entries have to be known for the state to be that of the log's end: that of `position`, unless the state
    /// came with a base from another service, whose state is newer than its base.
    pub state_index: u64,
    /// Who the members are, from which index on. Ascending, never empty; the first is at or before the base.
    pub members: Vec<(u64, ConfState)>,
}

/// Where a copy begins: what another service needs, if the entries that it lacks are gone everywhere.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Base {
    /// The prefix that is not there as entries any more.
    pub position: Position,
    /// Who the members were after it.
    pub members: ConfState,
}

/// What is to be made durable, in this order.
#[derive(Debug, Clone, Default)]
pub struct Persist {
    /// Never less than that of the one before.
    pub number: u64,
    /// Replaces everything that the copy holds, if there: it begins anew after this prefix, and has no entries.
    pub install: Option<Install>,
    /// Replaces the vote.
    pub vote: Option<Vote>,
    /// Entries in order, without a gap. If the first is not the one after the last that is there, it replaces that one, and all after it
    /// are dropped. Those were never committed.
    pub entries: Vec<Entry>,
    /// Replaces the checkpoint. Need not be durable: an older one does, as long as its index is at or above the base.
    pub checkpoint: Option<Checkpoint>,
}

/// A copy begins anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Install {
    /// Where.
    pub base: Base,
    /// What the group is there.
    pub checkpoint: Checkpoint,
}

/// What was found on the disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FoundCopy {
    /// The vote.
    pub vote: Vote,
    /// Where its entries begin.
    pub base: Base,
    /// A checkpoint, at or above the base and at or below the last entry.
    pub checkpoint: Checkpoint,
    /// Index of the last entry, that of the base if there are none.
    pub last_index: u64,
    /// The terms of the entries: the index of the first entry of each term, and the term. Ascending. Does not tell that of the base.
    pub terms: Vec<(u64, u64)>,
    /// The copy has lost entries that it may have acknowledged in terms up to this one ([`CopyDisks::begin_anew`]).
    pub lost_in: Option<u64>,
}

/// A copy that was opened.
pub struct OpenedCopy {
    /// Its disk.
    pub disk: Arc<dyn CopyDisk>,
    /// What was found there.
    pub found: FoundCopy,
}

/// Receives outcomes, from threads of the disk, and never from within a call to the disk, which holds no lock meanwhile that such a call
/// takes: whoever is told may call the disk. Calls of [`CopyEvents::persisted`] are made one at a time.
pub trait CopyEvents: Send + Sync {
    /// Everything up to the [`Persist`] of this number survives a crash.
    fn persisted(&self, number: u64);
    /// A write has failed, and nothing more will be written: `reason` says where. The group goes on without its disk.
    fn failed(&self, reason: &str);
    /// As [`CopyEvents::failed`], for want of space: opened again, the copy goes on when there is some ([`CopyDisk::has_room`]).
    fn full(&self, reason: &str) {
        self.failed(reason);
    }
    /// The copy is damaged at a place that was not verified when it was opened.
    fn damaged(&self, damage: &Damage);
}

/// The disk of one copy. Any thread may call it; calls of [`CopyDisk::persist`] are made one at a time.
pub trait CopyDisk: Send + Sync {
    /// Queues what is to be made durable. Does not block.
    fn persist(&self, persist: Persist);

    /// The entries from `low` (inclusive) to `high` (exclusive), all of which are persisted: at least one, and as many more as `max_bytes` of
    /// data allow. If the first was trimmed, [`ReadError::Trimmed`]. Blocks on I/O.
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, ReadError>;

    /// Opens a reader of the log's bytes at `offset`. What it reads must be committed, and persisted here. Blocks on I/O.
    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError>;

    /// As [`CopyDisk::reader`], record by record. Blocks on I/O.
    fn records(&self, _offset: u64) -> Result<Box<dyn RecordReader>, ReadError> {
        Err(MediumError::new("this copy is not read record by record").into())
    }

    /// Drops entries of which all bytes of the log lie below `offset`, as far as they are at or below the index `upto`; may keep some.
    /// Returns the base afterwards: `members_at` tells who the members were after an index. The checkpoint on the medium is at or above it
    /// when this returns. Blocks on I/O.
    fn trim(&self, offset: u64, upto: u64, members_at: &dyn Fn(u64) -> ConfState) -> Result<Base, MediumError>;

    /// Whether there is space for more entries, of a copy that was opened again after it was full. Has space prepared if not. Does not block.
    fn has_room(&self) -> bool {
        true
    }

    /// Counters and sizes.
    fn usage(&self) -> Usage;

    /// Whether so many bytes may be appended here. Asked only where the log is decided over, so that one service's bound is every service's.
    /// Does not block.
    ///
    /// # Errors
    /// The log takes as much as it may.
    fn admit(&self, _bytes: usize) -> Result<(), SubmitError> {
        Ok(())
    }

    /// What [`FoundCopy::lost_in`] would be if the copy were opened after a crash now: until a checkpoint of a later term is on the medium, what
    /// was lost counts as lost again. Does not block.
    fn lost_in(&self) -> Option<u64> {
        None
    }

    /// The ids of the keys with which parts of the copy are encrypted. None are where nothing is.
    fn key_ids(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// Does what was queued, reports it, and accepts nothing any more. Blocks on I/O.
    fn close(&self);
}

/// The copy of a group in the making, of what a log holds that was kept otherwise. It is none before [`CopyDraft::finish`], and is removed
/// when it is dropped before.
pub trait CopyDraft: Send {
    /// Adds entries without a gap, the first of them after the base. They are durable when this returns. Blocks on I/O.
    ///
    /// # Errors
    /// It cannot be finished any more.
    fn append(&mut self, entries: &[Entry]) -> Result<(), MediumError>;

    /// It is the copy from now on. `checkpoint` is what the group is after the last entry. Durable when this returns. Blocks on I/O.
    ///
    /// # Errors
    /// It may be the copy or not: [`CopyDisks::list`] tells, and opening it makes that durable.
    fn finish(self: Box<Self>, checkpoint: Checkpoint) -> Result<(), MediumError>;
}

/// Opens and removes copies.
pub trait CopyDisks: Send + Sync {
    /// The groups of which there are copies.
    fn list(&self) -> Result<Vec<String>, MediumError>;

    /// Makes a copy that begins after `install`, unless there is one. Durable when this returns. Blocks on I/O.
    fn create(&self, group: &str, install: &Install) -> Result<(), MediumError>;

    /// Begins to make the copy of a group, of which there is none, with entries after `base`. What was begun before for the group is gone, or is
    /// not finished any more. Blocks on I/O.
    ///
    /// # Errors
    /// There is one, or nothing can be written.
    fn draft(&self, group: &str, _base: &Base) -> Result<Box<dyn CopyDraft>, MediumError> {
        Err(MediumError::new(format!("a copy of '{group}' cannot be made of what is kept otherwise")))
    }

    /// Opens the copy of a group; `None` if there is none. Blocks on I/O.
    fn open(&self, group: &str, events: Arc<dyn CopyEvents>) -> Result<Option<OpenedCopy>, OpenError>;

    /// Begins the copy of a group anew after `install`, without entries: what it holds is damaged, and nobody has it open. The member's vote
    /// stays. It may have acknowledged what is lost, in terms up to that of the vote, and the copy says so ([`FoundCopy::lost_in`]). Durable
    /// when this returns; a crash leaves the copy as it was, or this. Blocks on I/O.
    ///
    /// # Errors
    /// It is not known what the member has voted, or nothing can be written.
    fn begin_anew(&self, group: &str, install: &Install) -> Result<(), OpenError>;

    /// Removes the copy of a group. Blocks on I/O.
    fn remove(&self, group: &str) -> Result<(), MediumError>;

    /// Sets the copy of a group aside, which nobody has open: when this returns it is none any more, also after a crash, and its name is free.
    /// What it held is there until [`RemovedStore::finish`]. Blocks on I/O.
    fn set_aside(&self, group: &str) -> Result<Arc<dyn RemovedStore>, MediumError>;

    /// The copies that were set aside, and of which something is left. Blocks on I/O.
    fn left_over(&self) -> Result<Vec<Arc<dyn RemovedStore>>, MediumError> {
        Ok(Vec::new())
    }
}
