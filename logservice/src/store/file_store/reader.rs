//! Reads log bytes out of segment files, verified record by record, as strictly as opening and `verify.rs` do: so it does not matter
//! whether those have verified them already.
//!
//! A segment's index leads to a record near the one that is wanted. It covers what was verified so far; the reader reads from its end.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;

use super::errors::damage_at;
use super::format::{RecordHeader, RECORD_HEADER_BYTES};
use super::segment::{first_place, Place, Segment};
use super::segments::Segments;
use super::verify::ends_otherwise;
use crate::base::file_error::{FileError, InFile};
use crate::store::{LogReader, ReadError, Record, RecordReader};

/// What one system call reads: many small records.
const READ_AHEAD_BYTES: usize = 256 << 10;
/// Records from this length on are read one by one, as another of that length most likely follows: so nothing is read twice, and
/// nothing is copied to join them.
const LARGE_RECORD_BYTES: usize = 32 << 10;

/// A place in the log. Holds the segment it reads open, so deleting that file does not disturb it.
pub struct FileReader {
    segments: Arc<Segments>,
    segment: Arc<Segment>,
    /// Where the next record stands, and what it must be.
    next: Place,
    /// Length of the record that was read last.
    last_record_bytes: usize,
    /// Bytes of the log at `offset`, verified and not handed out yet.
    verified: Bytes,
    /// The headers of the records that those bytes are of, if somebody wants to know.
    headers: Option<VecDeque<RecordHeader>>,
    offset: u64,
}

impl FileReader {
    /// A reader whose next byte is the one at `offset`.
    pub fn new(segments: Arc<Segments>, offset: u64) -> Result<Self, ReadError> {
        let segment = segments.holding(offset).ok_or(ReadError::Trimmed { offset })?;
        let next = segment.record_before(offset);
        Ok(FileReader { segments, segment, next, last_record_bytes: 0, verified: Bytes::new(), headers: None, offset })
    }

    fn damaged(&self, reason: impl Into<String>) -> ReadError {
        damage_at(&self.segment.path, self.next.position, reason).into()
    }

    fn advance_segment(&mut self) -> Result<(), ReadError> {
        let following = self.segments.after(&self.segment);
        let Some(following) = following.filter(|next| next.header.first_offset == self.next.offset) else {
            return Ok(());
        };
        if following.header.running_checksum != self.next.running_checksum {
            return Err(self.damaged(ends_otherwise(self.next.offset)));
        }
        self.next = first_place(&following.header);
        self.segment = following;
        Ok(())
    }

    /// Reads whole records at the current place: one at least, then as many as came with the same system call.
    fn fill(&mut self, limit: u64) -> Result<(), ReadError> {
        self.advance_segment()?;
        let is_large = self.last_record_bytes >= LARGE_RECORD_BYTES;
        let expected = if is_large { self.last_record_bytes } else { READ_AHEAD_BYTES };
        let mut bytes = self.read_file(self.next.position, expected)?;
        let first =
            self.segment.decode_record(&bytes).ok_or_else(|| self.damaged("no record where the log continues"))?;
        let whole = first.file_bytes();
        if whole > bytes.len() {
            bytes = self.read_file(self.next.position, whole)?;
        }
        let mut payloads: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        while let Some(header) = self.segment.decode_record(&bytes[at..]) {
            let stored = at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + header.stored_bytes();
            // What lies at or beyond the limit may be in the middle of being written.
            if header.offset >= limit || stored.end > bytes.len() {
                break;
            }
            let wrong = if header.offset != self.next.offset {
                Some(format!("a record of offset {} instead of {}", header.offset, self.next.offset))
            } else if header.running_checksum != header.checksum_after(self.next.running_checksum) {
                Some(format!("the record of offset {} does not follow the one before it", header.offset))
            } else if crc32c::crc32c(&bytes[stored.clone()]) != header.payload_crc32c {
                Some(format!("the record of offset {} does not match its checksum", header.offset))
            } else {
                self.segment.open_payload(&header, &mut bytes[stored.clone()]).err()
            };
            match wrong {
                Some(reason) if at == 0 => return Err(self.damaged(reason)),
                // What came with the same system call before it is sound.
                Some(_) => break,
                None => {}
            }
            if header.end() > self.offset {
                payloads.push(stored.start..stored.start + header.payload_bytes as usize);
                self.headers.iter_mut().for_each(|headers| headers.push_back(header));
            }
            self.next = self.next.after(&header);
            self.last_record_bytes = header.file_bytes();
            at += self.last_record_bytes;
            if at >= bytes.len() {
                break;
            }
        }
        if at == 0 {
            return Err(self.damaged("a record beyond the end of the log"));
        }
        self.verified = match &payloads[..] {
            [] => Bytes::new(),
            [payload] => Bytes::from(bytes).slice(payload.clone()),
            _ => payloads.iter().map(|payload| &bytes[payload.clone()]).collect::<Vec<_>>().concat().into(),
        };
        let wanted = self.next.offset.saturating_sub(self.offset).min(self.verified.len() as u64) as usize;
        let _ = self.verified.split_to(self.verified.len() - wanted);
        Ok(())
    }

    /// Up to `wanted` bytes at `position`; fewer only at the end of the file.
    fn read_file(&self, position: u64, wanted: usize) -> Result<Vec<u8>, FileError> {
        let wanted = wanted.min(self.segment.file_bytes.saturating_sub(position) as usize);
        let mut bytes = Vec::with_capacity(wanted);
        let mut read = || -> io::Result<()> {
            while bytes.len() < wanted {
                let at = position + bytes.len() as u64;
                match rustix::io::pread(&self.segment.file, spare_capacity(&mut bytes), at) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        };
        read().in_file("cannot read", &self.segment.path)?;
        Ok(bytes)
    }
}

impl LogReader for FileReader {
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        debug_assert!(limit > self.offset && max_bytes > 0);
        while self.verified.is_empty() {
            self.fill(limit)?;
        }
        let bytes = self.verified.len().min(max_bytes).min((limit - self.offset) as usize);
        let chunk = self.verified.split_to(bytes);
        self.offset += bytes as u64;
        Ok(chunk)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

/// The same, record by record.
pub struct FileRecords(FileReader);

impl FileRecords {
    /// A reader whose next byte is the one at `offset`.
    pub fn new(segments: Arc<Segments>, offset: u64) -> Result<Self, ReadError> {
        let reader = FileReader::new(segments, offset)?;
        Ok(FileRecords(FileReader { headers: Some(VecDeque::new()), ..reader }))
    }
}

impl RecordReader for FileRecords {
    fn next(&mut self, limit: u64) -> Result<Record, ReadError> {
        debug_assert!(limit > self.0.offset);
        while self.0.verified.is_empty() {
            self.0.fill(limit)?;
        }
        let reader = &mut self.0;
        let header = reader.headers.as_mut().and_then(VecDeque::pop_front);
        // What is verified is of records that were noted.
        let header = header.ok_or(ReadError::Trimmed { offset: reader.offset })?;
        let offset = reader.offset;
        let payload = reader.verified.split_to(header.end().saturating_sub(offset) as usize);
        reader.offset = header.end();
        Ok(Record { epoch: header.epoch, offset, time_ms: header.time_ms, payload })
    }

    fn offset(&self) -> u64 {
        self.0.offset
    }
}
