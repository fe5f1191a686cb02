//! Reads a log whose end may be acknowledged before it can be read: this service's own disk may be the last one to have it.

use std::sync::Arc;

use bytes::Bytes;

use super::handle::GroupHandle;
use crate::store::{LogReader, ReadError, Record, RecordReader};

/// Waits until the log can be read beyond an offset, and says up to where (exclusive). Blocks.
pub type ReadableEnd = Box<dyn Fn(u64) -> Result<u64, ReadError> + Send>;

/// A reader that waits for what its group has not persisted.
pub struct PersistedReader {
    group: Arc<dyn GroupHandle>,
    /// None until there is something to read: before that nobody knows which part of the copy will hold it.
    reader: Option<Box<dyn LogReader>>,
    offset: u64,
    /// Up to here nothing is waited for.
    known_end: u64,
    readable_end: ReadableEnd,
}

impl PersistedReader {
    /// A reader whose next byte is the one at `offset`.
    ///
    /// # Errors
    /// It was trimmed, or the copy cannot be read.
    pub fn new(group: Arc<dyn GroupHandle>, offset: u64, readable_end: ReadableEnd) -> Result<Self, ReadError> {
        let known_end = group.view().end;
        let reader = if offset < known_end { Some(group.reader(offset)?) } else { None };
        Ok(PersistedReader { group, reader, offset, known_end, readable_end })
    }
}

impl LogReader for PersistedReader {
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        if self.known_end < limit {
            self.known_end = (self.readable_end)(self.offset)?;
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(self.group.reader(self.offset)?),
        };
        let bytes = reader.read(limit.min(self.known_end), max_bytes)?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

/// The same, record by record.
pub struct PersistedRecords {
    group: Arc<dyn GroupHandle>,
    /// None until there is something to read.
    reader: Option<Box<dyn RecordReader>>,
    offset: u64,
    /// Up to here nothing is waited for.
    known_end: u64,
    readable_end: ReadableEnd,
}

impl PersistedRecords {
    /// A reader whose next byte is the one at `offset`.
    ///
    /// # Errors
    /// It was trimmed, or the copy cannot be read.
    pub fn new(group: Arc<dyn GroupHandle>, offset: u64, readable_end: ReadableEnd) -> Result<Self, ReadError> {
        let known_end = group.view().end;
        let reader = if offset < known_end { Some(group.records(offset)?) } else { None };
        Ok(PersistedRecords { group, reader, offset, known_end, readable_end })
    }
}

impl RecordReader for PersistedRecords {
    fn next(&mut self, limit: u64) -> Result<Record, ReadError> {
        if self.known_end <= self.offset {
            self.known_end = (self.readable_end)(self.offset)?;
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(self.group.records(self.offset)?),
        };
        // An entry is persisted as a whole.
        let record = reader.next(limit.min(self.known_end))?;
        self.offset = reader.offset();
        Ok(record)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
