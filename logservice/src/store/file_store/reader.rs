//! Reads log bytes out of segment files, verified record by record.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::format::{record_bytes, RecordHeader, RECORD_HEADER_BYTES};
use super::segment::Segment;
use super::segments::Segments;
use crate::store::{FileError, InFile, LogReader, ReadError};

/// What one system call reads at least: many small records, or the beginning of a large one.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// A place in the log. Holds the segment it reads open, so deleting that file does not disturb it.
pub struct FileReader {
    segments: Arc<Segments>,
    segment: Arc<Segment>,
    /// Where the next record starts in the file, and which position of the log it must have.
    position: u64,
    record_offset: u64,
    /// Bytes of the log at `offset`, verified and not handed out yet.
    verified: Bytes,
    offset: u64,
}

impl FileReader {
    /// A reader whose next byte is the one at `offset`.
    pub fn new(segments: Arc<Segments>, offset: u64) -> Result<Self, ReadError> {
        let segment = segments.holding(offset).ok_or(ReadError::Trimmed { offset })?;
        let (record_offset, position) = segment.record_before(offset);
        Ok(FileReader { segments, segment, position, record_offset, verified: Bytes::new(), offset })
    }

    fn damaged(&self, reason: impl Into<String>) -> ReadError {
        ReadError::Damaged { path: self.segment.path.clone(), position: self.position, reason: reason.into() }
    }

    fn advance_segment(&mut self) {
        if let Some(next) = self.segments.after(&self.segment) {
            if next.header.first_offset == self.record_offset {
                (self.record_offset, self.position) = next.record_before(self.record_offset);
                self.segment = next;
            }
        }
    }

    /// Reads whole records at the current place: one at least, then as many as came with the same system call.
    fn fill(&mut self, limit: u64) -> Result<(), ReadError> {
        self.advance_segment();
        let mut bytes = self.read_file(self.position, READ_AHEAD_BYTES)?;
        let first = RecordHeader::decode(&bytes, self.segment.header.salt)
            .ok_or_else(|| self.damaged("no record where the log continues"))?;
        let whole = record_bytes(first.payload_bytes as usize);
        if whole > bytes.len() {
            bytes = self.read_file(self.position, whole)?;
        }
        let bytes = bytes.freeze();
        let mut payloads: Vec<Bytes> = Vec::new();
        let mut at = 0;
        while let Some(header) = RecordHeader::decode(&bytes[at..], self.segment.header.salt) {
            let payload = at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + header.payload_bytes as usize;
            // What lies at or beyond the limit may be in the middle of being written.
            if header.offset >= limit || payload.end > bytes.len() {
                break;
            }
            let wrong = if header.offset != self.record_offset {
                Some(format!("a record of offset {} instead of {}", header.offset, self.record_offset))
            } else if crc32c::crc32c(&bytes[payload.clone()]) != header.payload_crc32c {
                Some(format!("the record of offset {} does not match its checksum", header.offset))
            } else {
                None
            };
            match wrong {
                Some(reason) if at == 0 => return Err(self.damaged(reason)),
                // What came with the same system call before it is sound.
                Some(_) => break,
                None => {}
            }
            if header.end() > self.offset {
                payloads.push(bytes.slice(payload));
            }
            self.record_offset = header.end();
            self.position += record_bytes(header.payload_bytes as usize) as u64;
            at += record_bytes(header.payload_bytes as usize);
            if at >= bytes.len() {
                break;
            }
        }
        if at == 0 {
            return Err(self.damaged("a record beyond the end of the log"));
        }
        self.verified = match payloads.len() {
            0 => Bytes::new(),
            1 => payloads.remove(0),
            _ => payloads.concat().into(),
        };
        let wanted = self.record_offset.saturating_sub(self.offset).min(self.verified.len() as u64) as usize;
        let _ = self.verified.split_to(self.verified.len() - wanted);
        Ok(())
    }

    fn read_file(&self, position: u64, wanted: usize) -> Result<BytesMut, FileError> {
        let bytes = wanted.min(self.segment.file_bytes.saturating_sub(position) as usize);
        let mut buffer = BytesMut::zeroed(bytes);
        self.segment.file.read_exact_at(&mut buffer, position).in_file("cannot read", &self.segment.path)?;
        Ok(buffer)
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
