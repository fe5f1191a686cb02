//! A store whose every step is chosen: an append is written, then it is durable, and anything may happen between.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use logservice::store::{
    Append, LogReader, Manifest, ManifestError, MediumError, OpenError, ReadError, Store, StoreEvents, SubmitError,
    TrimError, Usage,
};

use crate::disk::Disk;

/// The log's id.
pub const LOG_ID: &str = "log";
/// The most appends of one record.
const MAX_BATCH: u64 = 4;

/// One life of the store.
pub struct SimulatedStore {
    disk: Disk,
    events: Arc<dyn StoreEvents>,
    state: Mutex<State>,
}

struct State {
    manifest: Manifest,
    queue: VecDeque<Append>,
    is_writing: bool,
    /// Where the next append has to be.
    next_offset: u64,
    is_closed: bool,
    /// A restart may find another manifest than this one.
    is_in_doubt: bool,
    usage: Usage,
}

enum Outcome {
    Written,
    Durable(u64),
    Refused(u64),
    Failed(&'static str),
}

impl SimulatedStore {
    /// Opens what is on the disk, or makes the shard `name`.
    pub fn open(disk: &Disk, name: &str, events: Arc<dyn StoreEvents>) -> Result<(Arc<Self>, u64), OpenError> {
        let mut contents = disk.lock();
        let manifest = contents.manifest().cloned().unwrap_or_else(|| {
            let manifest = Manifest::new(name, contents.draw.replid(), LOG_ID.to_owned());
            contents.put_manifest(&manifest, false);
            manifest
        });
        contents.drop_below(manifest.base);
        let end = contents.end();
        if end < manifest.least_end() {
            contents.violation(format!(
                "the log ends at {end}, and an epoch began at {}: what was acknowledged is lost",
                manifest.least_end()
            ));
        }
        drop(contents);
        let state = State {
            manifest,
            queue: VecDeque::new(),
            is_writing: false,
            next_offset: end,
            is_closed: false,
            is_in_doubt: false,
            usage: Usage::default(),
        };
        Ok((Arc::new(SimulatedStore { disk: disk.clone(), events, state: Mutex::new(state) }), end))
    }

    /// Whether there is a step to take.
    pub fn has_work(&self) -> bool {
        let state = self.state();
        state.is_writing || !state.queue.is_empty()
    }

    /// Takes the next step: the appends that wait are written, or those that are written become durable.
    pub fn step(&self) -> String {
        match self.next_outcome() {
            Outcome::Written => "a record is written".to_owned(),
            Outcome::Durable(end) => {
                self.events.durable(end);
                format!("durable up to {end}")
            }
            Outcome::Refused(end) => {
                self.events.refused(end, "no space");
                format!("no space at {end}")
            }
            Outcome::Failed(reason) => {
                self.events.failed(reason);
                reason.to_owned()
            }
        }
    }

    fn next_outcome(&self) -> Outcome {
        let (mut state, mut disk) = (self.state(), self.disk.lock());
        let failing = disk.faults.failing;
        if disk.draw.chance(failing) {
            if !state.is_writing {
                disk.write(state.queue.make_contiguous());
            }
            (state.is_closed, state.is_writing) = (true, false);
            state.queue.clear();
            return Outcome::Failed("a write failed");
        }
        if state.is_writing {
            state.is_writing = false;
            disk.sync();
            state.usage.commits += 1;
            return Outcome::Durable(disk.end());
        }
        if disk.faults.is_full {
            state.queue.clear();
            state.next_offset = disk.end();
            return Outcome::Refused(disk.end());
        }
        let epoch = state.queue.front().map(|append| append.epoch);
        let most = disk.draw.within(1..MAX_BATCH + 1) as usize;
        let is_next = |append: &&Append| Some(append.epoch) == epoch;
        let count = state.queue.iter().take(most).take_while(is_next).count();
        let batch: Vec<Append> = state.queue.drain(..count).collect();
        disk.write(&batch);
        state.is_writing = true;
        state.usage.appends += count as u64;
        Outcome::Written
    }

    fn replace(&self, state: &mut State, next: Manifest, restarts: bool) -> Result<(), ManifestError> {
        if state.is_closed {
            return Err(ManifestError::Closed);
        }
        let found = state.manifest.revision;
        if found + 1 != next.revision {
            return Err(ManifestError::Conflict { expected: next.revision.saturating_sub(1), found });
        }
        let mut disk = self.disk.lock();
        let faults = disk.faults;
        if faults.is_full && disk.draw.chance(500) || disk.draw.chance(faults.manifest_no_space) {
            return Err(ManifestError::NoSpace(MediumError::new("no space for the manifest")));
        }
        if disk.draw.chance(faults.manifest_unknown) {
            match disk.draw.chance(500) {
                // Until then the old log can be read.
                true if restarts => disk.restarts_with = Some(next),
                true => disk.put_manifest(&next, false),
                false => {}
            }
            state.is_in_doubt = true;
            return Err(ManifestError::Unknown(MediumError::new("the manifest may or may not be replaced")));
        }
        disk.put_manifest(&next, restarts);
        state.manifest = next;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Store for SimulatedStore {
    fn submit(&self, append: Append) -> Result<(), SubmitError> {
        let (mut state, mut disk) = (self.state(), self.disk.lock());
        if state.is_closed {
            return Err(SubmitError::Closed);
        }
        let busy = disk.faults.busy;
        if disk.draw.chance(busy) {
            return Err(SubmitError::Busy { waiting_bytes: 1 });
        }
        let newest = disk.newest_epoch();
        if newest > append.epoch && !state.is_in_doubt {
            disk.violation(format!("epoch {} appends at {} after {newest} was stored", append.epoch, append.offset));
        }
        if append.offset != state.next_offset {
            disk.violation(format!("an append at {} is not at the end, {}", append.offset, state.next_offset));
        }
        state.next_offset = append.offset + append.payload.len() as u64;
        state.queue.push_back(append);
        Ok(())
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        let disk = self.disk.lock();
        if offset < disk.base {
            return Err(ReadError::Trimmed { offset });
        }
        Ok(Box::new(SimulatedReader { disk: self.disk.clone(), offset }))
    }

    fn manifest(&self) -> Manifest {
        self.state().manifest.clone()
    }

    fn replace_manifest(&self, next: Manifest) -> Result<(), ManifestError> {
        self.replace(&mut self.state(), next, false)
    }

    fn restart(&self, mut next: Manifest) -> Result<(), ManifestError> {
        let mut state = self.state();
        if state.is_writing || !state.queue.is_empty() {
            self.disk.lock().violation("the log was begun anew while appends were in flight".to_owned());
        }
        next.generation = state.manifest.generation + 1;
        let base = next.base;
        let replaced = self.replace(&mut state, next, true);
        match &replaced {
            Ok(()) => (state.next_offset, state.is_writing) = (base, false),
            Err(ManifestError::Unknown(error)) => {
                state.is_closed = true;
                let reason = error.to_string();
                drop(state);
                self.events.failed(&reason);
            }
            Err(_) => {}
        }
        replaced
    }

    fn trim(&self, offset: u64) -> Result<(), TrimError> {
        let base = self.state().manifest.base;
        let mut disk = self.disk.lock();
        if offset > base {
            disk.violation(format!("log is dropped below {offset}, and the base is {base}"));
        }
        disk.drop_below(offset);
        Ok(())
    }

    fn key_ids(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn usage(&self) -> Usage {
        self.state().usage
    }

    fn close(&self) {
        self.state().is_closed = true;
    }
}

struct SimulatedReader {
    disk: Disk,
    offset: u64,
}

impl LogReader for SimulatedReader {
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        let disk = self.disk.lock();
        let Some(from) = self.offset.checked_sub(disk.base) else {
            return Err(ReadError::Trimmed { offset: self.offset });
        };
        let until = (limit - disk.base).min(from + max_bytes as u64);
        let Some(bytes) = disk.log.get(from as usize..until as usize) else {
            // Other log than was to be read.
            return Err(ReadError::Trimmed { offset: self.offset });
        };
        self.offset += bytes.len() as u64;
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
