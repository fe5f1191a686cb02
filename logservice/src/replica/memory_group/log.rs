//! The bytes of a group in memory.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{lock, Inner};
use crate::store::{Damage, LogReader, ReadError, Usage};

/// The bytes of a log.
#[derive(Clone)]
pub struct Log {
    /// What was appended, with the offsets.
    parts: VecDeque<(u64, Bytes)>,
    end: u64,
    /// Goes up when it is begun anew.
    generation: u64,
    damaged: BTreeSet<u64>,
    appends: u64,
    pub max_log_bytes: Option<u64>,
}

impl Log {
    /// An empty one that begins at `base`.
    pub fn new(base: u64) -> Self {
        Log {
            parts: VecDeque::new(),
            end: base,
            generation: 0,
            damaged: BTreeSet::new(),
            appends: 0,
            max_log_bytes: None,
        }
    }

    /// Appends, and returns the end.
    pub fn append(&mut self, bytes: Bytes) -> u64 {
        let offset = self.end;
        self.end += bytes.len() as u64;
        self.parts.push_back((offset, bytes));
        self.end
    }

    /// One more append counts.
    pub fn count(&mut self) {
        self.appends += 1;
    }

    pub fn restart(&mut self, base: u64) {
        self.parts.clear();
        self.end = base;
        self.generation += 1;
    }

    /// Drops the parts that lie wholly below `offset`.
    pub fn trim(&mut self, offset: u64) {
        while self.parts.front().is_some_and(|(from, bytes)| from + bytes.len() as u64 <= offset) {
            self.parts.pop_front();
        }
    }

    pub fn damage(&mut self, offset: u64) {
        self.damaged.insert(offset);
    }

    pub fn check_holds(&self, offset: u64) -> Result<(), ReadError> {
        let begin = self.parts.front().map_or(self.end, |(from, _)| *from);
        if offset < begin || offset > self.end {
            return Err(ReadError::Trimmed { offset });
        }
        Ok(())
    }

    pub fn usage(&self) -> Usage {
        let log_bytes = self.parts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let (parts, appends) = (self.parts.len() as u64, self.appends);
        let max_log_bytes = self.max_log_bytes;
        Usage { parts, log_bytes, max_log_bytes, appends, commits: appends, ..Usage::default() }
    }

    fn read(&self, generation: u64, offset: u64, most: usize) -> Result<Bytes, ReadError> {
        let holds = self.parts.iter().find(|(from, bytes)| (*from..from + bytes.len() as u64).contains(&offset));
        let Some((from, bytes)) = holds.filter(|_| generation == self.generation) else {
            return Err(ReadError::Trimmed { offset });
        };
        // An append is verified as a whole.
        if let Some(at) = self.damaged.range(*from..from + bytes.len() as u64).next() {
            let (place, reason) = (format!("offset {at}"), "it was damaged on purpose".to_owned());
            return Err(Damage { place, reason }.into());
        }
        let begin = (offset - from) as usize;
        let end = bytes.len().min(begin.saturating_add(most));
        Ok(bytes.slice(begin..end))
    }
}

/// A place in a log.
pub struct Reader {
    inner: Arc<Mutex<Inner>>,
    generation: u64,
    offset: u64,
}

impl Reader {
    /// At `offset`.
    pub fn new(inner: Arc<Mutex<Inner>>, offset: u64) -> Self {
        let generation = lock(&inner).log.generation;
        Reader { inner, generation, offset }
    }
}

impl LogReader for Reader {
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        let most = usize::try_from(limit - self.offset).unwrap_or(usize::MAX).min(max_bytes);
        let bytes = lock(&self.inner).log.read(self.generation, self.offset, most)?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
