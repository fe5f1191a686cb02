//! Reads records of a segment one after the other, and verifies each: its checksums, and that it follows the one before it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::Entry;
use rustix::buffer::spare_capacity;

use super::format::{end_after, RecordHeader, RECORD_HEADER_BYTES};
use super::segment::{Place, Segment};
use crate::base::file_error::{FileError, InFile};
use crate::replica::copy::running_checksum;

/// What is read at a time, unless a record is longer: many small records.
const WINDOW_BYTES: usize = 256 << 10;

/// A sound record.
#[derive(Debug)]
pub struct Record {
    /// Where it stands.
    pub place: Place,
    /// Its header.
    pub header: RecordHeader,
    /// What it holds.
    pub entry: Entry,
}

/// Why there is no sound record.
#[derive(Debug)]
pub enum Unsound {
    /// No header that is sound.
    NoHeader,
    /// The header is sound, and the data does not match its checksum.
    Data,
    /// It was written whole, and does not belong there. No crash explains that.
    Wrong(String),
}

/// Reads on from a place in a segment.
pub struct Records {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Where the next record stands, and what is before it.
    pub next: Place,
    window_at: u64,
    window: Bytes,
}

impl Records {
    /// Begins at `next`, a place of `segment`.
    pub fn new(segment: Arc<Segment>, next: Place) -> Self {
        Records { segment, next, window_at: 0, window: Bytes::new() }
    }

    /// What was read and not used is read again: it may have been in the middle of being written.
    pub fn forget_window(&mut self) {
        self.window = Bytes::new();
    }

    /// The next record, which is noted in the segment's index. Stays where it is if that is not sound. Blocks on I/O.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next(&mut self) -> Result<Result<Record, Unsound>, FileError> {
        let read =
            self.read().map_err(|error| io::Error::new(error.kind(), format!("at byte {}: {error}", self.next.at)));
        let read = read.in_file("cannot read", &self.segment.path)?;
        if let Ok(record) = &read {
            self.segment.note_record(self.next);
            self.next = self.next.after(&record.header);
        }
        Ok(read)
    }

    fn read(&mut self) -> io::Result<Result<Record, Unsound>> {
        let place = self.next;
        let header = self.get(place.at, RECORD_HEADER_BYTES)?;
        let Some(header) = self.segment.decode_record(&header) else { return Ok(Err(Unsound::NoHeader)) };
        let wrong = |reason: String| Ok(Err(Unsound::Wrong(reason)));
        let index = header.after.index;
        if index != place.index() || header.after.term < place.before.term {
            return wrong(format!("a record of index {index} stands where index {} follows", place.index()));
        }
        let stored = self.get(place.at + RECORD_HEADER_BYTES as u64, header.stored_bytes())?;
        if stored.len() < header.stored_bytes() || crc32c::crc32c(&stored) != header.data_crc32c {
            return Ok(Err(Unsound::Data));
        }
        if header.nonce.is_some() && self.segment.key().is_none() {
            // Only `logservice check` opens segments whose key it has not been given.
            let entry = Entry { index, term: header.after.term, ..Entry::default() };
            return Ok(Ok(Record { place, header, entry }));
        }
        let data = match self.open(&header, stored) {
            Some(data) => data,
            None => {
                let reason = "matches its checksum, but was not encrypted so: somebody has changed it";
                return wrong(format!("the record of index {index} {reason}"));
            }
        };
        let mut entry = Entry { index, term: header.after.term, data, ..Entry::default() };
        entry.set_entry_type(header.entry_type);
        if header.after.checksum != running_checksum(place.before.checksum, &entry)
            || header.after.end != end_after(place.before.end, &entry)
        {
            return wrong(format!("the record of index {index} does not follow the one before it"));
        }
        Ok(Ok(Record { place, header, entry }))
    }

    /// The data of a record out of what is stored; none if it is not what was encrypted.
    fn open(&self, header: &RecordHeader, stored: Bytes) -> Option<Bytes> {
        let Some(nonce) = header.nonce else { return Some(stored) };
        let mut opened = stored.to_vec();
        self.segment.key()?.open(nonce, &header.context(), &mut opened)?;
        opened.truncate(header.data_bytes as usize);
        Some(opened.into())
    }

    /// Up to `wanted` bytes at `position`; fewer only at the end of the file.
    fn get(&mut self, position: u64, wanted: usize) -> io::Result<Bytes> {
        let left = self.segment.header.file_bytes.saturating_sub(position);
        let wanted = (wanted as u64).min(left) as usize;
        let held = position.checked_sub(self.window_at).filter(|skip| skip + wanted as u64 <= self.window.len() as u64);
        let skip = match held {
            Some(skip) => skip as usize,
            None => {
                let bytes = (wanted.max(WINDOW_BYTES) as u64).min(left) as usize;
                self.window = Bytes::new();
                (self.window, self.window_at) = (read_at(&self.segment, position, bytes)?.into(), position);
                0
            }
        };
        Ok(self.window.slice(skip..skip + wanted))
    }
}

/// `bytes` bytes of a segment's file at `position`.
pub fn read_at(segment: &Segment, position: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut read = Vec::with_capacity(bytes);
    while read.len() < bytes {
        let at = position + read.len() as u64;
        match rustix::io::pread(&segment.file, spare_capacity(&mut read), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have given more.
    read.truncate(bytes);
    Ok(read)
}
