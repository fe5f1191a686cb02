//! What a shard's store has on its medium, which outlives the store.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use durability_protocol::MAX_APPEND_BYTES;

use super::lock;
use crate::store::{Append, Damage, Manifest, ManifestError, MediumError, OpenError, ReadError};

/// The most bytes of a batch: those of the largest append. A log that is not full has room for them.
pub const LARGEST_APPEND_BYTES: usize = MAX_APPEND_BYTES;

/// What fails on a shard's medium until that is changed. By default nothing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// What becomes of writes.
    pub write: Option<WriteFault>,
    /// What becomes of replacements of the manifest.
    pub manifest: Option<ManifestFault>,
    /// What becomes of removing the store.
    pub remove: Option<RemoveFault>,
    /// Opening and reading fail.
    pub reads_fail: bool,
    /// Trimming fails.
    pub trims_fail: bool,
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// There is no space: the appends are refused.
    NoSpace,
    /// It fails after so many bytes of it.
    Write {
        /// How many; all, if there are fewer.
        written_bytes: u64,
    },
    /// It succeeds, but making it durable fails.
    Sync,
}

/// What becomes of a replacement of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestFault {
    /// There is no space. Determinate.
    NoSpace,
    /// It fails before anything has changed. Determinate.
    Refused,
    /// It fails, and the next opening finds the one manifest or the other. Indeterminate.
    Unknown {
        /// Whether that is the new one.
        is_stored: bool,
    },
}

/// What becomes of removing a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveFault {
    /// It fails before anything has changed. Determinate.
    Unchanged,
    /// It fails, and the store is there or gone. Indeterminate.
    Unknown {
        /// Whether it is gone.
        is_removed: bool,
    },
}

/// The medium of one shard.
pub struct Medium(Mutex<Content>);

struct Content {
    manifest: Manifest,
    /// The manifest that the next opening finds instead, after a replacement of unknown outcome.
    in_doubt: Option<Manifest>,
    /// What was written, in order and without gaps, up to `written_end`.
    records: VecDeque<Record>,
    /// The end of what was written (exclusive).
    written_end: u64,
    /// The end of what is durable (exclusive).
    durable_end: u64,
    /// Counts openings, crashes and closings. Only the store that was opened last may change anything.
    opening: u64,
    faults: Faults,
}

struct Record {
    offset: u64,
    payload: Bytes,
    crc32c: u32,
}

/// What became of a write.
pub enum Written {
    /// It is written up to there (exclusive).
    Up(u64),
    /// It does not continue the log.
    NotContiguous,
    /// Nothing was written, for want of space.
    NoSpace(String),
    /// It is not known how much of it was written.
    Failed(String),
}

impl Medium {
    /// A new one, with an empty log.
    pub fn new(manifest: Manifest) -> Self {
        let (records, end, opening) = (VecDeque::new(), manifest.base, 0);
        let (in_doubt, faults) = (None, Faults::default());
        let content = Content { manifest, in_doubt, records, written_end: end, durable_end: end, opening, faults };
        Medium(Mutex::new(content))
    }

    /// Opens it for another store. Answers the number of the opening and the end of the log (exclusive), all of which is durable then.
    pub fn open(&self) -> Result<(u64, u64), OpenError> {
        let mut content = self.lock();
        content.check_readable()?;
        content.settle_manifest();
        content.verify()?;
        content.durable_end = content.written_end;
        content.opening += 1;
        Ok((content.opening, content.written_end))
    }

    /// Whether that opening is the newest.
    pub fn is_open(&self, opening: u64) -> bool {
        self.lock().opening == opening
    }

    /// Ends that opening.
    pub fn close(&self, opening: u64) {
        let mut content = self.lock();
        if content.opening == opening {
            content.opening += 1;
        }
    }

    /// Ends any opening. Of the bytes that are not durable the first ones survive, as many as `survive` answers when given their number.
    pub fn crash(&self, survive: impl FnOnce(u64) -> u64) {
        let mut content = self.lock();
        content.opening += 1;
        let unsynced = content.written_end - content.durable_end;
        let end = content.durable_end + survive(unsynced).min(unsynced);
        content.cut(end);
        content.settle_manifest();
    }

    /// Writes appends that continue each other, for that opening.
    pub fn write(&self, opening: u64, batch: &[Append], max_log_bytes: Option<u64>) -> Written {
        let mut content = self.lock();
        let from = content.written_end;
        if content.opening != opening || batch.first().is_none_or(|first| first.offset != from) {
            return Written::NotContiguous;
        }
        if is_full(content.log_bytes(), max_log_bytes) {
            let most = max_log_bytes.unwrap_or_default();
            return Written::NoSpace(format!("the log takes as much memory as it may, {most} bytes"));
        }
        if content.faults.write == Some(WriteFault::NoSpace) {
            return Written::NoSpace("the medium was told to have no space".to_owned());
        }
        for append in batch {
            content.push(append.offset, append.payload.clone());
        }
        if let Some(WriteFault::Write { written_bytes }) = content.faults.write {
            let end = content.written_end.min(from.saturating_add(written_bytes));
            content.cut(end);
            return Written::Failed("the medium was told to fail writes".to_owned());
        }
        Written::Up(content.written_end)
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// The text says why it is not known what is durable.
    pub fn sync(&self, opening: u64) -> Result<(), String> {
        let mut content = self.lock();
        if content.faults.write == Some(WriteFault::Sync) {
            return Err("the medium was told to fail syncs".to_owned());
        }
        if content.opening == opening {
            content.durable_end = content.written_end;
        }
        Ok(())
    }

    /// The manifest that stands.
    pub fn manifest(&self) -> Manifest {
        self.lock().manifest.clone()
    }

    /// Replaces the manifest, for that opening; and the log by an empty one, if `restarts`.
    pub fn replace_manifest(&self, opening: u64, mut next: Manifest, restarts: bool) -> Result<(), ManifestError> {
        let mut content = self.lock();
        if content.opening != opening {
            return Err(ManifestError::Closed);
        }
        let (found, expected) = (content.manifest.revision, next.revision.saturating_sub(1));
        if found + 1 != next.revision {
            return Err(ManifestError::Conflict { expected, found });
        }
        next.generation = content.manifest.generation + u64::from(restarts);
        let told = |what: &str| MediumError::new(format!("the medium was told to {what}"));
        match content.faults.manifest {
            Some(ManifestFault::NoSpace) => return Err(ManifestError::NoSpace(told("have no space"))),
            Some(ManifestFault::Refused) => return Err(ManifestError::Refused(told("refuse manifests"))),
            Some(ManifestFault::Unknown { is_stored }) => {
                if is_stored {
                    content.in_doubt = Some(next);
                }
                return Err(ManifestError::Unknown(told("fail replacements of the manifest")));
            }
            None => {}
        }
        content.in_doubt = Some(next);
        content.settle_manifest();
        Ok(())
    }

    /// Drops log that lies wholly below `offset` (exclusive), for that opening.
    pub fn trim(&self, opening: u64, offset: u64) -> Result<(), MediumError> {
        let mut content = self.lock();
        debug_assert!(offset <= content.manifest.base, "log above the base is needed");
        if content.faults.trims_fail {
            return Err(MediumError::new("the medium was told to fail trims"));
        }
        if content.opening == opening {
            content.trim(offset);
        }
        Ok(())
    }

    /// How many records there are, and their bytes.
    pub fn usage(&self) -> (u64, u64) {
        let content = self.lock();
        (content.records.len() as u64, content.log_bytes())
    }

    /// The number by which readers tell whether it is still the log that they read.
    pub fn generation(&self) -> u64 {
        self.lock().manifest.generation
    }

    /// Bytes at `offset` of the log of that generation: at least one, and no more than `max_bytes`.
    pub fn read(&self, generation: u64, offset: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        let content = self.lock();
        content.check_readable()?;
        let record = content.record(offset).filter(|_| content.manifest.generation == generation);
        let record = record.ok_or(ReadError::Trimmed { offset })?;
        record.verify()?;
        let skipped = (offset - record.offset) as usize;
        Ok(record.payload.slice(skipped..record.payload.len().min(skipped.saturating_add(max_bytes))))
    }

    /// Whether the log can be read from `offset` on.
    pub fn check_holds(&self, offset: u64) -> Result<(), ReadError> {
        let content = self.lock();
        content.check_readable()?;
        let first = content.records.front().map_or(content.written_end, |record| record.offset);
        if offset < first {
            return Err(ReadError::Trimmed { offset });
        }
        Ok(())
    }

    /// Changes the byte at `offset` as a medium does that is failing. Nothing, if there is none.
    pub fn damage(&self, offset: u64) {
        let mut content = self.lock();
        let at = content.records.iter().position(|record| (record.offset..record.end()).contains(&offset));
        if let Some(record) = at.and_then(|at| content.records.get_mut(at)) {
            let mut payload = record.payload.to_vec();
            payload[(offset - record.offset) as usize] ^= 1;
            record.payload = payload.into();
        }
    }

    /// Drops the whole log, of a store that was removed.
    pub fn clear(&self) {
        let mut content = self.lock();
        content.opening += 1;
        content.records.clear();
    }

    /// What fails from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// What fails.
    pub fn faults(&self) -> Faults {
        self.lock().faults
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        lock(&self.0)
    }
}

impl Content {
    fn push(&mut self, offset: u64, payload: Bytes) {
        self.written_end = offset + payload.len() as u64;
        let crc32c = crc32c::crc32c(&payload);
        self.records.push_back(Record { offset, payload, crc32c });
    }

    /// Ends the log at `end`, which is not below what is durable.
    fn cut(&mut self, end: u64) {
        while self.records.back().is_some_and(|last| last.end() > end) {
            let last = self.records.pop_back();
            if let Some(Record { offset, payload, .. }) = last.filter(|last| last.offset < end) {
                self.push(offset, payload.slice(..(end - offset) as usize));
            }
        }
        self.written_end = end;
    }

    /// The manifest in doubt, if there is one, is the one that stands from now on.
    fn settle_manifest(&mut self) {
        let Some(manifest) = self.in_doubt.take() else { return };
        if manifest.generation != self.manifest.generation {
            self.records.clear();
            (self.written_end, self.durable_end) = (manifest.base, manifest.base);
        }
        self.manifest = manifest;
    }

    fn trim(&mut self, offset: u64) {
        while self.records.front().is_some_and(|first| first.end() <= offset) {
            self.records.pop_front();
        }
    }

    fn log_bytes(&self) -> u64 {
        self.records.iter().map(|record| record.payload.len() as u64).sum()
    }

    fn record(&self, offset: u64) -> Option<&Record> {
        let after = self.records.partition_point(|record| record.offset <= offset);
        self.records.get(after.checked_sub(1)?).filter(|record| offset < record.end())
    }

    fn check_readable(&self) -> Result<(), MediumError> {
        match self.faults.reads_fail {
            true => Err(MediumError::new("the medium was told to fail reads")),
            false => Ok(()),
        }
    }

    /// Drops what the log does not need, and verifies the rest.
    fn verify(&mut self) -> Result<(), OpenError> {
        self.trim(self.manifest.base);
        for record in &self.records {
            record.verify()?;
        }
        let (end, least_end) = (self.written_end, self.manifest.least_end());
        if end < least_end {
            let reason = format!("the log ends at offset {end}, but it was durable up to {least_end} at least");
            return Err(Damage { place: self.place(), reason }.into());
        }
        Ok(())
    }

    fn place(&self) -> String {
        format!("memory of shard {}", self.manifest.shard)
    }
}

impl Record {
    fn end(&self) -> u64 {
        self.offset + self.payload.len() as u64
    }

    fn verify(&self) -> Result<(), Damage> {
        match crc32c::crc32c(&self.payload) == self.crc32c {
            true => Ok(()),
            false => {
                let place = format!("memory at offset {}", self.offset);
                Err(Damage { place, reason: "the record does not match its checksum".to_owned() })
            }
        }
    }
}

/// Whether a log of that length may have no room for the largest append.
pub fn is_full(log_bytes: u64, max_log_bytes: Option<u64>) -> bool {
    max_log_bytes.is_some_and(|most| log_bytes + LARGEST_APPEND_BYTES as u64 > most)
}
