//! Reads a log on through the pieces of an archive.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{Archive, PieceName};
use crate::store::{LogReader, MediumError, ReadError, Record};

/// A place in the log of an archive. It is read on threads that may block, within the runtime in which it was made.
pub struct PieceReader {
    archive: Archive,
    runtime: Handle,
    /// Pieces that were not read, in order.
    pieces: VecDeque<PieceName>,
    /// Records that were read.
    records: VecDeque<Record>,
    offset: u64,
    /// The epoch of the record that was read last.
    epoch: Option<u64>,
    /// Where records of another epoch than the one before begin.
    epoch_starts: Vec<u64>,
}

impl PieceReader {
    /// A reader whose next byte is the one at `offset`. `pieces` are those of one generation, sorted, that hold it and what follows without a
    /// gap; they may overlap. Must be called within a runtime.
    pub fn new(archive: Archive, pieces: impl IntoIterator<Item = PieceName>, offset: u64) -> Self {
        let pieces = pieces.into_iter().collect();
        let (records, runtime) = (VecDeque::new(), Handle::current());
        PieceReader { archive, runtime, pieces, records, offset, epoch: None, epoch_starts: Vec::new() }
    }
}

impl LogReader for PieceReader {
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        loop {
            while let Some(mut record) = self.records.pop_front() {
                let end = record.offset + record.payload.len() as u64;
                if end <= self.offset {
                    continue;
                }
                if record.offset > self.offset {
                    return Err(ReadError::Trimmed { offset: self.offset });
                }
                if self.epoch.replace(record.epoch).is_some_and(|before| before != record.epoch) {
                    self.epoch_starts.push(record.offset);
                }
                let mut payload = record.payload.slice((self.offset - record.offset) as usize..);
                let bytes = payload.len().min(max_bytes).min((limit - self.offset) as usize);
                let chunk = payload.split_to(bytes);
                if !payload.is_empty() {
                    (record.offset, record.payload) = (self.offset + bytes as u64, payload);
                    self.records.push_front(record);
                }
                self.offset += bytes as u64;
                return Ok(chunk);
            }
            let Some(name) = self.pieces.pop_front() else { return Err(ReadError::Trimmed { offset: self.offset }) };
            if name.end > self.offset {
                let piece = self.runtime.block_on(self.archive.piece(&name)).map_err(MediumError::new)?;
                self.records = piece.records.into();
            }
        }
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn take_epoch_starts(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.epoch_starts)
    }
}
