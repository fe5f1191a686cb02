use std::sync::Arc;

use bytes::Bytes;

use super::Machine;
use crate::store::{LogReader, MediumError, ReadError};

/// A place in the log of a copy in memory.
pub(super) struct MemoryCopyReader {
    machine: Arc<Machine>,
    group: Arc<str>,
    offset: u64,
}

impl MemoryCopyReader {
    pub(super) fn new(machine: Arc<Machine>, group: Arc<str>, offset: u64) -> Self {
        MemoryCopyReader { machine, group, offset }
    }
}

impl LogReader for MemoryCopyReader {
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        let most = usize::try_from(limit - self.offset).unwrap_or(usize::MAX).min(max_bytes);
        let state = self.machine.lock();
        let gone = || MediumError::new(format!("the copy of '{}' is gone", self.group));
        let bytes = state.copies.get(&*self.group).ok_or_else(gone)?.read_log(self.offset, most)?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
