//! Writes entries: all that wait at once, then one sync, so that a crash can tear only what was written since the last one.
//!
//! A segment is begun only when everything before it is synced. Entries that replace others begin a segment, too: from its first index on,
//! what older segments hold counts no more.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::Entry;

use super::format::{
    end_after, record_bytes, restart_of, segment_name, RecordHeader, SegmentHeader, MAX_ENTRY_BYTES,
    SEGMENT_HEADER_BYTES,
};
use super::log::Log;
use super::records::Records;
use super::segment::{Place, Segment};
use crate::base::file_error::{FileError, InFile};
use crate::encryption::{draw_nonce, KeyRing};
use crate::replica::copy::Position;
use crate::store::file_store::files::Step;
use crate::store::file_store::segment::create_allocated;
use crate::store::file_store::spare::{Spare, SpareFile};
use crate::store::file_store::writer::UNNAMED;

/// Data from this length on is not copied to be written with what is beside it.
const LARGE_BYTES: usize = 8 << 10;
/// Parts of one vectored write: what the system takes.
const MAX_PARTS: usize = 1024;

/// Why entries were not written. It is not known what reached the medium.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk has failed, or has no room.
    #[error(transparent)]
    File(#[from] FileError),
    /// They do not continue the copy, and replace nothing that may be replaced.
    #[error("the entry of index {index} cannot follow a copy that begins after index {base} and ends at {last}")]
    Gap {
        /// Which entry.
        index: u64,
        /// Where the copy begins.
        base: u64,
        /// Where it ends.
        last: u64,
    },
    /// An entry is too long.
    #[error("the entry of index {index} has {bytes} bytes, and at most {MAX_ENTRY_BYTES} can be stored")]
    TooLong {
        /// Which entry.
        index: u64,
        /// Its length.
        bytes: usize,
    },
    /// What stands before the entries cannot be read.
    #[error("the entry of index {index}, after which others are to be replaced, is not sound")]
    Unsound {
        /// Which entry.
        index: u64,
    },
}

impl WriteError {
    /// Whether there was no space. What was not reported as persisted may be there in part: opening the copy again finds out.
    pub fn is_no_space(&self) -> bool {
        matches!(self, WriteError::File(error) if error.is_no_space())
    }
}

/// Writes the entries of one copy.
pub struct Writer {
    /// The directory of the segments.
    pub directory: PathBuf,
    /// The group's name, for the headers of segments.
    pub group: String,
    /// Length of new segments.
    pub segment_bytes: u64,
    /// The last entry.
    pub last: Position,
    /// Where the next record goes; none if the copy has no segment.
    pub active: Option<Active>,
    /// The sequence of the next segment.
    pub next_sequence: u64,
    /// All segments, for readers.
    pub log: Arc<Log>,
    /// The next segment.
    pub spare: Arc<Spare>,
    /// The keys that encrypt new segments.
    pub keys: Arc<KeyRing>,
}

/// The segment that is written.
pub struct Active {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Where in the file the next record goes.
    pub at: u64,
}

impl Writer {
    /// Writes and syncs entries without a gap. If the first is not the one after the last, it takes that one's place, and all after it are
    /// gone. Returns segments that are not needed any more.
    pub fn write(&mut self, entries: &[Entry]) -> Result<Vec<Arc<Segment>>, WriteError> {
        let Some(first) = entries.first() else { return Ok(Vec::new()) };
        self.check(first.index, entries)?;
        let mut superseded = Vec::new();
        if first.index <= self.last.index {
            let before = self.position_at(first.index - 1)?;
            superseded = self.begin_segment(before, first)?;
        }
        let mut rest = entries;
        while let Some(first) = rest.first() {
            if !self.takes(first) {
                superseded.extend(self.begin_segment(self.last, first)?);
            }
            rest = &rest[self.write_run(rest)?..];
        }
        Ok(superseded)
    }

    /// Bytes that are free in the segment that is written.
    pub fn free_bytes(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.segment.header.file_bytes.saturating_sub(active.at))
    }

    fn check(&self, first: u64, entries: &[Entry]) -> Result<(), WriteError> {
        let (base, last) = (self.log.base().index, self.last.index);
        for (entry, expected) in entries.iter().zip(first..) {
            if entry.index != expected || entry.index <= base || first > last + 1 {
                return Err(WriteError::Gap { index: entry.index, base, last });
            }
            if entry.data.len() > MAX_ENTRY_BYTES {
                return Err(WriteError::TooLong { index: entry.index, bytes: entry.data.len() });
            }
        }
        Ok(())
    }

    /// The copy's position after the entry of `index`.
    fn position_at(&self, index: u64) -> Result<Position, WriteError> {
        let segment = match self.log.before(index) {
            Ok(segment) => segment,
            Err(base) if base.index == index => return Ok(base),
            Err(_) => return Err(WriteError::Unsound { index }),
        };
        let place = segment.place_before(index + 1);
        let mut records = Records::new(segment, place);
        while records.next.before.index < index {
            records.next()?.map_err(|_| WriteError::Unsound { index })?;
        }
        Ok(records.next.before)
    }

    /// Whether the entry goes into the segment that is written: there is room, it is encrypted as new data is to be, and the log does not
    /// restart with the entry, unless the segment was begun for that.
    fn takes(&self, entry: &Entry) -> bool {
        let Some(Active { segment, at }) = &self.active else { return false };
        let envelope = segment.header.envelope.as_ref();
        let is_empty = *at == SEGMENT_HEADER_BYTES;
        let (restarts_at, begun_for) = (restart_of(entry), segment.header.restart_at);
        at + record_bytes(entry.data.len(), envelope.is_some()) <= segment.header.file_bytes
            && self.keys.is_for_new(envelope.map(|envelope| envelope.key_id.as_str()))
            && if is_empty { restarts_at == begun_for } else { restarts_at.is_none() }
    }

    /// Writes and syncs as many of `entries` as go into the segment that is written, at least one. Returns how many.
    fn write_run(&mut self, entries: &[Entry]) -> Result<usize, WriteError> {
        let Some(active) = &mut self.active else { return Ok(entries.len()) };
        let segment = active.segment.clone();
        let mut parts = Parts::default();
        let (begin, mut place) = (active.at, Place { before: self.last, at: active.at });
        let mut count = 0;
        for entry in entries {
            let bytes = record_bytes(entry.data.len(), segment.header.envelope.is_some());
            let goes_elsewhere = place.at + bytes > segment.header.file_bytes || restart_of(entry).is_some();
            if count > 0 && goes_elsewhere {
                break;
            }
            let header = parts.add(&segment, place, entry, count as u32)?;
            segment.note_record(place);
            place = place.after(&header);
            count += 1;
        }
        parts.write(&segment, begin)?;
        Step::RecordSync.sync_data(&segment.file).in_file("cannot sync", &segment.path)?;
        (active.at, self.last) = (place.at, place.before);
        if active.at > segment.header.file_bytes / 4 {
            self.spare.prepare(false);
        }
        Ok(count)
    }

    /// Begins a segment after `before` that `first` will be written to. Returns the segments whose entries it replaces.
    fn begin_segment(&mut self, before: Position, first: &Entry) -> Result<Vec<Arc<Segment>>, WriteError> {
        let sequence = self.next_sequence;
        let path = self.directory.join(segment_name(sequence, before.index + 1));
        let needed = SEGMENT_HEADER_BYTES + record_bytes(first.data.len(), true);
        let header = SegmentHeader {
            group: self.group.clone(),
            sequence,
            file_bytes: self.segment_bytes.max(needed.next_multiple_of(SEGMENT_HEADER_BYTES)),
            before,
            restart_at: restart_of(first),
            salt: getrandom::u32().map_err(std::io::Error::from).in_file("cannot draw a random number for", &path)?,
            envelope: None,
        };
        let drawn = self.keys.draw(&header.context()).in_file("cannot draw a key for", &path)?;
        let (key, envelope) = drawn.unzip();
        let header = SegmentHeader { envelope, ..header };
        let spare = match header.file_bytes == self.segment_bytes {
            true => self.spare.take(false, header.envelope.is_some()),
            false => None,
        };
        let (file, unnamed) = match spare {
            Some(SpareFile { file, path, .. }) => (file, path),
            None => {
                let unnamed = self.directory.join(UNNAMED);
                (create_allocated(&unnamed, header.file_bytes)?, unnamed)
            }
        };
        let named = Step::SegmentHeaderWrite
            .write_all_at(&file, &header.encode(), 0)
            .and_then(|()| Step::SegmentHeaderSync.sync_all(&file))
            .in_file("cannot write the header of", &unnamed)
            .and_then(|()| Step::SegmentRename.rename(&unnamed, &path).in_file("cannot rename a segment to", &path));
        if let Err(error) = named {
            let _ = Step::UnnamedRemove.remove_file(&unnamed);
            return Err(error.into());
        }
        Step::SegmentDirectorySync.sync_directory(&self.directory)?;
        let line = self.log.line_for(&header);
        let segment = Arc::new(Segment::new(path, file, header, key, line));
        let superseded = self.log.push(segment.clone());
        (self.active, self.last) = (Some(Active { segment, at: SEGMENT_HEADER_BYTES }), before);
        self.next_sequence += 1;
        Ok(superseded)
    }
}

#[cfg(test)]
impl Writer {
    /// The segment that is written is open for reading only from now on.
    pub fn fail_writes(&mut self) {
        let Active { segment, .. } = self.active.as_mut().expect("a segment");
        let mut read_only = Segment::open(&segment.path, false).expect("readable").expect("a segment");
        read_only.unlock(&self.keys).expect("unlocked");
        *segment = Arc::new(read_only);
    }
}

/// Records that are written together: small ones are joined.
#[derive(Default)]
struct Parts {
    joined: Vec<u8>,
    parts: Vec<Part>,
}

enum Part {
    /// So many of the joined bytes.
    Joined(usize),
    /// Data that is not copied.
    Large(Bytes),
}

impl Parts {
    /// Adds an entry as the record that stands at `place`. Returns its header.
    fn add(
        &mut self,
        segment: &Segment,
        place: Place,
        entry: &Entry,
        unsynced: u32,
    ) -> Result<RecordHeader, FileError> {
        let mut header = RecordHeader {
            data_bytes: entry.data.len() as u32,
            after: place.before.after(entry, end_after(place.before.end, entry)),
            entry_type: entry.get_entry_type(),
            unsynced,
            data_crc32c: 0,
            nonce: None,
        };
        let data = match segment.key() {
            None => entry.data.clone(),
            Some(key) => {
                let mut sealed = entry.data.to_vec();
                let nonce = draw_nonce().and_then(|nonce| {
                    key.seal(nonce, &header.context(), &mut sealed)?;
                    Ok(nonce)
                });
                header.nonce = Some(nonce.in_file("cannot encrypt what is to be written to", &segment.path)?);
                sealed.into()
            }
        };
        header.data_crc32c = crc32c::crc32c(&data);
        self.join(&header.encode(segment.header.salt));
        let padding = [0; 8];
        let padding = &padding[..data.len().next_multiple_of(8) - data.len()];
        if data.len() < LARGE_BYTES {
            self.join(&data);
        } else {
            self.parts.push(Part::Large(data));
        }
        self.join(padding);
        Ok(header)
    }

    fn join(&mut self, bytes: &[u8]) {
        self.joined.extend_from_slice(bytes);
        match self.parts.last_mut() {
            Some(Part::Joined(count)) => *count += bytes.len(),
            _ => self.parts.push(Part::Joined(bytes.len())),
        }
    }

    /// Writes all of it from `at` on.
    fn write(&self, segment: &Segment, mut at: u64) -> Result<(), FileError> {
        let mut joined = &self.joined[..];
        let mut slices = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            slices.push(IoSlice::new(match part {
                Part::Joined(count) => {
                    let (these, rest) = joined.split_at(*count);
                    joined = rest;
                    these
                }
                Part::Large(data) => data,
            }));
        }
        for slices in slices.chunks_mut(MAX_PARTS) {
            let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
            let written = Step::RecordWrite.write_all_vectored_at(&segment.file, slices, at);
            written.in_file("cannot write to", &segment.path)?;
            at += bytes as u64;
        }
        Ok(())
    }
}
