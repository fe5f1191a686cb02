//! Reads a copy without serving it, for `logservice check`, `dump` and `restore`. Changes nothing.
//!
//! A copy ends with entries of which it does not know whether they are committed: whoever decided knew, and that may have been another
//! service. They are taken for written, as the last record of a log that one service keeps: what was acknowledged is among them, and the last
//! of them may be writes that were never acknowledged.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use raft::eraftpb::Entry;

use super::head::Head;
use super::log::Log;
use super::open::{list, needed, open_segment, Listed, LOG};
use super::reader::{CopyReader, Walk};
use super::records::Records;
use super::segment::first_place;
use super::tail::find_end;
use super::verify::verify_followed;
use super::vote::VoteFile;
use crate::encryption::KeyRing;
use crate::replica::copy::{Position, Vote};
use crate::replica::entry::Content;
use crate::store::file_store::errors::damage_at;
use crate::store::{LogReader, OpenError, ReadError, Record};

/// A copy as it was when it was opened. If it is served meanwhile, parts of it may be dropped or overwritten: reading those is an error, as what
/// is read is verified.
pub struct CopyLook {
    /// The newest state in it: of a shard, its manifest.
    pub state: Vec<u8>,
    /// The last entry.
    pub last: Position,
    /// The last entry that the copy's file says to be committed. Later ones may be, too.
    pub committed: Position,
    /// What the member has promised to the others.
    pub vote: Vote,
    /// How many segments there are.
    pub segments: u64,
    /// How many of them are not encrypted.
    pub plain_segments: usize,
    /// The ids of the keys of the others.
    pub key_ids: BTreeSet<String>,
    /// Whether entries were torn behind the last one. They were never acknowledged.
    pub is_torn: bool,
    /// The entries up to this one have led to `state`, which came from another service; beyond `last` if some have not come yet.
    pub state_index: u64,
    log: Arc<Log>,
}

impl CopyLook {
    /// Verifies all of the copy of `group` in `directory`. Without keys nothing is decrypted, and there are no records to be read of what is
    /// encrypted. Blocks on I/O.
    ///
    /// # Errors
    /// It is damaged, cannot be read, or lacks a key.
    pub fn open(directory: &Path, group: &str, keys: Option<&KeyRing>) -> Result<Self, OpenError> {
        let head = Head::read(directory, group)?;
        let vote = VoteFile::look(directory, group)?;
        let Listed { segments, .. } = list(&directory.join(LOG))?;
        let (segments, _) = needed(segments, &head);
        let log = Log::new(head.base.position);
        for (sequence, first_index, path) in segments {
            let mut segment = open_segment(&path, sequence, first_index, group, false)?;
            if let Some(keys) = keys {
                let locked = |source| OpenError::Locked { place: path.display().to_string(), source };
                segment.unlock(keys).map_err(locked)?;
            }
            segment.line = log.line_for(&segment.header);
            log.push(Arc::new(segment));
        }
        let checkpoint = head.checkpoint;
        let mut look = CopyLook {
            state: checkpoint.state.to_vec(),
            last: head.base.position,
            committed: checkpoint.position,
            vote,
            segments: log.usage().0,
            plain_segments: log.plain_segments(),
            key_ids: log.key_ids(),
            is_torn: false,
            state_index: checkpoint.state_index,
            log: Arc::new(log),
        };
        look.verify(checkpoint.revision)?;
        if look.last.index < look.committed.index {
            let (last, least) = (look.last.index, look.committed.index);
            let reason = format!("the copy ends at index {last}, but it was persisted up to {least} at least");
            return Err(damage_at(&directory.join(LOG), 0, reason).into());
        }
        Ok(look)
    }

    /// Verifies all segments. Finds the end, and the newest state after that of `revision`.
    fn verify(&mut self, mut revision: u64) -> Result<(), OpenError> {
        let log = self.log.clone();
        let mut newest = None;
        let mut note = |entry: &Entry| {
            if let Ok(Content::State(state)) = Content::decode(entry) {
                if state.revision > revision {
                    (revision, newest) = (state.revision, Some(state.bytes));
                }
            }
        };
        let mut at = log.first();
        if let Some(first) = at.as_ref().filter(|first| first.header.before != log.base()) {
            let (before, base) = (first.header.before, log.base());
            let reason = format!("it begins after {before:?}, but the copy begins after {base:?}");
            return Err(damage_at(&first.path, 0, reason).into());
        }
        while let Some(segment) = at {
            at = log.after(&segment, segment.end_index());
            match &at {
                Some(next) => verify_followed(&segment, &next.header, &mut note, &mut || Ok(()))?,
                None => {
                    let end = find_end(&segment, &mut note)?;
                    (self.last, self.is_torn) = (end.place.before, end.torn_to.is_some());
                }
            }
        }
        if let Some(newest) = newest {
            self.state = newest.to_vec();
        }
        Ok(())
    }

    /// Reads the bytes of the log from `offset` on. Blocks on I/O.
    ///
    /// # Errors
    /// They are not there, or cannot be read.
    pub fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        Ok(Box::new(CopyReader::new(&self.log, offset, self.last.index)?))
    }

    /// Hands every record of bytes of the log to `each`, in order, until that returns false: those of the log as it is now, if it was restarted.
    /// Blocks on I/O.
    ///
    /// # Errors
    /// They cannot be read, or have changed meanwhile.
    pub fn for_each_record(&self, each: &mut dyn FnMut(Record) -> bool) -> Result<(), ReadError> {
        let Some(first) = self.log.first_of_line(self.last.index) else { return Ok(()) };
        let place = first_place(&first.header);
        let mut walk = Walk { log: self.log.clone(), records: Records::new(first, place) };
        while walk.records.next.before.index < self.last.index {
            let Some(record) = walk.next(true)? else { break };
            let Ok(Content::Append(append)) = Content::decode(&record.entry) else { continue };
            let (epoch, offset, time_ms, payload) = (append.epoch, append.offset, append.time_ms, append.payload);
            if !each(Record { epoch, offset, time_ms, payload }) {
                break;
            }
        }
        Ok(())
    }
}
