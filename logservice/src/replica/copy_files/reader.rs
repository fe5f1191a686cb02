//! Reads a copy: entries for other members, and the bytes of the log in them.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::Entry;

use super::log::Log;
use super::records::{Record, Records, Unsound};
use super::segment::first_place;
use crate::replica::entry::Content;
use crate::store::file_store::errors::damage_at;
use crate::store::{LogReader, ReadError, Record as LogRecord, RecordReader};

/// Bytes of the log that are read ahead.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// Reads on from one segment into the next.
pub struct Walk {
    /// The segments.
    pub log: Arc<Log>,
    /// The segment that is read, and where.
    pub records: Records,
}

impl Walk {
    /// The next record, which has to be there. None if there is no segment for it. With `stays`, only segments of the same line are read.
    pub fn next(&mut self, stays: bool) -> Result<Option<Record>, ReadError> {
        let index = self.records.next.index();
        if index >= self.records.segment.end_index() {
            let Some(next) = self.log.after(&self.records.segment, index) else { return Ok(None) };
            if stays && next.line != self.records.segment.line {
                return Ok(None);
            }
            if next.header.before != self.records.next.before {
                return Err(
                    self.damaged(&format!("what lies before index {index} is not what the next segment begins with"))
                );
            }
            let place = first_place(&next.header);
            self.records = Records::new(next, place);
        }
        match self.records.next()? {
            Ok(record) => Ok(Some(record)),
            Err(Unsound::Wrong(reason)) => Err(self.damaged(&reason)),
            Err(Unsound::NoHeader) => Err(self.damaged("no record where the copy continues")),
            Err(Unsound::Data) => {
                Err(self.damaged(&format!("the record of index {index} does not match its checksum")))
            }
        }
    }

    fn damaged(&self, reason: &str) -> ReadError {
        damage_at(&self.records.segment.path, self.records.next.at, reason).into()
    }
}

/// The entries from `low` (inclusive) to `high` (exclusive): at least one, and as many more as `max_bytes` of data allow.
pub fn entries(log: &Arc<Log>, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, ReadError> {
    let trimmed = ReadError::Trimmed { offset: log.base().end };
    let Some(segment) = log.holding(low) else { return Err(trimmed) };
    let place = segment.place_before(low);
    let mut walk = Walk { log: log.clone(), records: Records::new(segment, place) };
    let (mut entries, mut bytes): (Vec<Entry>, u64) = (Vec::new(), 0);
    while walk.records.next.index() < high {
        let Some(Record { entry, .. }) = walk.next(false)? else { break };
        if entry.index < low {
            continue;
        }
        bytes = bytes.saturating_add(entry.data.len() as u64);
        if bytes > max_bytes && !entries.is_empty() {
            return Ok(entries);
        }
        entries.push(entry);
    }
    match entries.is_empty() {
        true => Err(trimmed),
        false => Ok(entries),
    }
}

/// A place in the log. Holds the segment it reads open, so that deleting that file does not disturb it.
pub struct CopyReader {
    walk: Walk,
    /// Bytes of the log at `offset`, not handed out yet.
    read: Bytes,
    offset: u64,
}

impl CopyReader {
    /// A reader whose next byte is the one at `offset`, in the log as it is after the entry of `index`.
    pub fn new(log: &Arc<Log>, offset: u64, index: u64) -> Result<Self, ReadError> {
        let segment = log.holding_offset(offset, index).ok_or(ReadError::Trimmed { offset })?;
        let place = segment.place_before_offset(offset);
        let walk = Walk { log: log.clone(), records: Records::new(segment, place) };
        Ok(CopyReader { walk, read: Bytes::new(), offset })
    }

    /// Reads whole records: those before `limit`, until there is something to hand out, and some more.
    fn fill(&mut self, limit: u64) -> Result<(), ReadError> {
        // What was read before may lie beyond the limit of that time.
        self.walk.records.forget_window();
        let mut parts: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        loop {
            let record = match self.walk.next(true) {
                // What is sound before that is handed out first. Reading on comes there again.
                Ok(None) | Err(_) if bytes > 0 => break,
                // The log was restarted.
                Ok(None) => return Err(ReadError::Trimmed { offset: self.offset }),
                Err(error) => return Err(error),
                Ok(Some(record)) => record,
            };
            if let Ok(Content::Append(append)) = Content::decode(&record.entry) {
                if append.offset > self.offset + bytes as u64 {
                    return Err(self.walk.damaged(&format!("bytes are missing before offset {}", append.offset)));
                }
                if append.end() > self.offset {
                    let skipped = self.offset.saturating_sub(append.offset) as usize;
                    parts.push(append.payload.slice(skipped..));
                    bytes += append.payload.len() - skipped;
                }
            }
            if bytes > 0 && (bytes >= READ_AHEAD_BYTES || record.header.after.end >= limit) {
                break;
            }
        }
        self.read = match &mut parts[..] {
            [part] => std::mem::take(part),
            _ => parts.concat().into(),
        };
        Ok(())
    }
}

impl LogReader for CopyReader {
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        debug_assert!(limit > self.offset && max_bytes > 0);
        if self.read.is_empty() {
            self.fill(limit)?;
        }
        let bytes = self.read.len().min(max_bytes).min((limit - self.offset) as usize);
        let chunk = self.read.split_to(bytes);
        self.offset += bytes as u64;
        Ok(chunk)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

/// The same, entry by entry.
pub struct CopyRecords {
    walk: Walk,
    offset: u64,
    /// Up to here, nothing that was read ahead has changed since.
    limit: u64,
}

impl CopyRecords {
    /// A reader whose next byte is the one at `offset`, in the log as it is after the entry of `index`.
    pub fn new(log: &Arc<Log>, offset: u64, index: u64) -> Result<Self, ReadError> {
        let CopyReader { walk, .. } = CopyReader::new(log, offset, index)?;
        Ok(CopyRecords { walk, offset, limit: 0 })
    }
}

impl RecordReader for CopyRecords {
    fn next(&mut self, limit: u64) -> Result<LogRecord, ReadError> {
        debug_assert!(limit > self.offset);
        if std::mem::replace(&mut self.limit, limit) != limit {
            // What was read before may lie beyond the limit of that time.
            self.walk.records.forget_window();
        }
        loop {
            // None: the log was restarted.
            let record = self.walk.next(true)?.ok_or(ReadError::Trimmed { offset: self.offset })?;
            let Ok(Content::Append(append)) = Content::decode(&record.entry) else { continue };
            if append.offset > self.offset {
                return Err(self.walk.damaged(&format!("bytes are missing before offset {}", append.offset)));
            }
            if append.end() > self.offset {
                let offset = std::mem::replace(&mut self.offset, append.end());
                let payload = append.payload.slice((offset - append.offset) as usize..);
                return Ok(LogRecord { epoch: append.epoch, offset, time_ms: append.time_ms, payload });
            }
        }
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
