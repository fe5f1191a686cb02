use std::sync::Arc;

use bytes::Bytes;

use super::medium::Medium;
use crate::store::{LogReader, ReadError};

/// A place in a log in memory.
pub struct MemoryReader {
    medium: Arc<Medium>,
    generation: u64,
    offset: u64,
}

impl MemoryReader {
    /// A reader whose next byte is the one at `offset`.
    pub fn new(medium: Arc<Medium>, offset: u64) -> Result<Self, ReadError> {
        let generation = medium.generation();
        medium.check_holds(offset)?;
        Ok(MemoryReader { medium, generation, offset })
    }
}

impl LogReader for MemoryReader {
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        debug_assert!(limit > self.offset && max_bytes > 0);
        let most = usize::try_from(limit - self.offset).unwrap_or(usize::MAX).min(max_bytes);
        let bytes = self.medium.read(self.generation, self.offset, most)?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
