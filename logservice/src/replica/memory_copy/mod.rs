//! Copies in memory, for tests: the contract of `replica/copy.rs` with a disk that can hang, be slow, fail, and lose what was not synced.
//!
//! [`MemoryDisks`] stands for the disk of one machine and outlives the copies that are opened on it. One thread does what is queued.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | the disk, and what goes wrong with it |
//! | `kept.rs` | what is on the medium |
//! | `reader.rs` | readers |

mod kept;
mod reader;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry};

use self::kept::Kept;
use self::reader::MemoryCopyReader;
use super::copy::{Base, Checkpoint, CopyDisk, CopyDisks, CopyDraft, CopyEvents, Install, OpenedCopy, Persist};
use crate::store::{Damage, LogReader, Manifest, MediumError, OpenError, ReadError, RemovedStore, Usage};

/// The disk of one machine.
pub struct MemoryDisks {
    machine: Arc<Machine>,
}

/// What the disk, its copies and its thread share.
struct Machine {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    copies: BTreeMap<String, Kept>,
    queue: VecDeque<Job>,
    /// Goes up with each crash: copies that were opened before change nothing any more.
    life: u64,
    is_frozen: bool,
    /// Groups of which reads of entries wait.
    held_reads: BTreeSet<String>,
    is_gone: bool,
    delay: Duration,
    /// A group whose next write fails, and why.
    failing: Option<(String, String)>,
    /// There is no space for entries.
    is_full: bool,
    /// Groups whose copies are found damaged when they are opened.
    damaged: BTreeSet<String>,
    persists: u64,
    votes: u64,
}

/// What came of a job.
enum Done {
    Persisted(u64),
    Failed(String),
    Full,
}

struct Job {
    group: Arc<str>,
    life: u64,
    persist: Persist,
    events: Arc<dyn CopyEvents>,
}

impl Machine {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Does what is queued, until the disk is gone.
    fn run(&self) {
        loop {
            let mut state = self.lock();
            while !state.is_gone && (state.queue.is_empty() || state.is_frozen) {
                state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            if state.is_gone {
                return;
            }
            let delay = state.delay;
            if !delay.is_zero() {
                drop(state);
                // What a slow disk takes.
                std::thread::sleep(delay);
                state = self.lock();
            }
            let mut done: Vec<(Arc<dyn CopyEvents>, Done)> = Vec::new();
            for job in std::mem::take(&mut state.queue) {
                done.extend(state.carry_out(job));
            }
            drop(state);
            self.changed.notify_all();
            for (events, outcome) in done {
                match outcome {
                    Done::Persisted(number) => events.persisted(number),
                    Done::Failed(reason) => events.failed(&reason),
                    Done::Full => events.full("the disk is full"),
                }
            }
        }
    }
}

impl State {
    fn carry_out(&mut self, job: Job) -> Option<(Arc<dyn CopyEvents>, Done)> {
        let kept = self.copies.get_mut(&*job.group).filter(|kept| job.life == self.life && !kept.has_failed)?;
        if let Some((_, reason)) = self.failing.take_if(|(group, _)| **group == *job.group) {
            kept.has_failed = true;
            return Some((job.events, Done::Failed(reason)));
        }
        if self.is_full && !job.persist.entries.is_empty() {
            kept.has_failed = true;
            return Some((job.events, Done::Full));
        }
        let number = job.persist.number;
        self.votes += u64::from(job.persist.vote.is_some());
        kept.persist(job.persist);
        self.persists += 1;
        (number > 0).then_some((job.events, Done::Persisted(number)))
    }
}

impl MemoryDisks {
    /// An empty disk.
    pub fn new() -> Arc<Self> {
        let machine = Arc::new(Machine { state: Mutex::default(), changed: Condvar::new() });
        let runs = machine.clone();
        let thread = std::thread::Builder::new().name("memory-copies".to_owned());
        thread.spawn(move || runs.run()).expect("a test can have a thread");
        Arc::new(MemoryDisks { machine })
    }

    /// From now on nothing becomes durable, until [`MemoryDisks::thaw`].
    pub fn freeze(&self) {
        self.machine.lock().is_frozen = true;
    }

    /// What waits, and all that comes, becomes durable again.
    pub fn thaw(&self) {
        self.machine.lock().is_frozen = false;
        self.machine.changed.notify_all();
    }

    /// From now on reads of the entries of a group wait, until [`MemoryDisks::release_reads`].
    pub fn hold_reads(&self, group: &str) {
        self.machine.lock().held_reads.insert(group.to_owned());
    }

    /// Reads wait no more.
    pub fn release_reads(&self) {
        self.machine.lock().held_reads.clear();
        self.machine.changed.notify_all();
    }

    /// From now on each sync takes so long.
    pub fn set_delay(&self, delay: Duration) {
        self.machine.lock().delay = delay;
    }

    /// The next write to the copy of `group` fails.
    pub fn fail_next(&self, group: &str, reason: &str) {
        self.machine.lock().failing = Some((group.to_owned(), reason.to_owned()));
    }

    /// From now on there is no space for entries, or there is again.
    pub fn fill(&self, is_full: bool) {
        self.machine.lock().is_full = is_full;
    }

    /// The copy of a group is found damaged when it is opened, until it begins anew.
    pub fn damage(&self, group: &str) {
        self.machine.lock().damaged.insert(group.to_owned());
    }

    /// The machine stops: what is not durable is lost, and copies that are open change and report nothing any more.
    pub fn crash(&self) {
        let mut state = self.machine.lock();
        state.life += 1;
        state.queue.clear();
        state.is_frozen = false;
        state.held_reads.clear();
        state.copies.values_mut().for_each(|kept| kept.has_failed = false);
        drop(state);
        self.machine.changed.notify_all();
    }

    /// How often something became durable.
    pub fn persists(&self) -> u64 {
        self.machine.lock().persists
    }

    /// How often a vote became durable.
    pub fn votes(&self) -> u64 {
        self.machine.lock().votes
    }

    /// The entries of a group that are on the medium.
    pub fn entries_of(&self, group: &str) -> Vec<Entry> {
        self.machine.lock().copies.get(group).map(|kept| kept.entries().cloned().collect()).unwrap_or_default()
    }
}

impl Drop for MemoryDisks {
    fn drop(&mut self) {
        self.machine.lock().is_gone = true;
        self.machine.changed.notify_all();
    }
}

impl CopyDisks for MemoryDisks {
    fn list(&self) -> Result<Vec<String>, MediumError> {
        Ok(self.machine.lock().copies.keys().cloned().collect())
    }

    fn create(&self, group: &str, install: &Install) -> Result<(), MediumError> {
        self.machine.lock().copies.entry(group.to_owned()).or_insert_with(|| Kept::new(install.clone()));
        Ok(())
    }

    fn draft(&self, group: &str, base: &Base) -> Result<Box<dyn CopyDraft>, MediumError> {
        let life = self.machine.lock().life;
        let (machine, group) = (self.machine.clone(), group.to_owned());
        Ok(Box::new(MemoryDraft { machine, group, life, base: base.clone(), entries: Vec::new() }))
    }

    fn open(&self, group: &str, events: Arc<dyn CopyEvents>) -> Result<Option<OpenedCopy>, OpenError> {
        let mut state = self.machine.lock();
        if state.damaged.contains(group) {
            return Err(OpenError::Damaged(Damage { place: "memory".to_owned(), reason: "for a test".to_owned() }));
        }
        let life = state.life;
        let Some(kept) = state.copies.get_mut(group) else { return Ok(None) };
        kept.has_failed = false;
        let disk = Arc::new(MemoryCopy { machine: self.machine.clone(), group: group.into(), life, events });
        Ok(Some(OpenedCopy { disk, found: kept.found() }))
    }

    fn begin_anew(&self, group: &str, install: &Install) -> Result<(), OpenError> {
        let mut state = self.machine.lock();
        if let Some(kept) = state.copies.get_mut(group) {
            *kept = kept.begun_anew(install.clone());
        }
        state.damaged.remove(group);
        Ok(())
    }

    fn remove(&self, group: &str) -> Result<(), MediumError> {
        self.machine.lock().copies.remove(group);
        Ok(())
    }

    fn set_aside(&self, group: &str) -> Result<Arc<dyn RemovedStore>, MediumError> {
        self.machine.lock().copies.remove(group);
        Ok(Arc::new(Nothing("memory")))
    }
}

/// A copy in the making. Until it is finished, nothing of it is on the medium.
struct MemoryDraft {
    machine: Arc<Machine>,
    group: String,
    life: u64,
    base: Base,
    entries: Vec<Entry>,
}

impl CopyDraft for MemoryDraft {
    fn append(&mut self, entries: &[Entry]) -> Result<(), MediumError> {
        self.entries.extend_from_slice(entries);
        Ok(())
    }

    fn finish(self: Box<Self>, checkpoint: Checkpoint) -> Result<(), MediumError> {
        let mut state = self.machine.lock();
        if state.life != self.life || state.copies.contains_key(&self.group) {
            return Err(MediumError::new(format!("the copy of '{}' cannot be made", self.group)));
        }
        let position = self.base.position;
        let install = Install { base: self.base, checkpoint: Checkpoint { position, ..checkpoint.clone() } };
        let mut kept = Kept::new(install);
        kept.persist(Persist { entries: self.entries, checkpoint: Some(checkpoint), ..Persist::default() });
        state.copies.insert(self.group, kept);
        Ok(())
    }
}

/// What is left of a copy that was set aside, or of a shard that was never there: nothing. Holds where it is.
pub struct Nothing(pub &'static str);

impl std::fmt::Display for Nothing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0)
    }
}

impl RemovedStore for Nothing {
    fn remove_log(&self) -> Result<(), MediumError> {
        Ok(())
    }

    fn manifest(&self) -> Result<Option<Result<Manifest, String>>, MediumError> {
        Ok(None)
    }

    fn finish(&self) -> Result<(), MediumError> {
        Ok(())
    }
}

/// An open copy.
struct MemoryCopy {
    machine: Arc<Machine>,
    group: Arc<str>,
    life: u64,
    events: Arc<dyn CopyEvents>,
}

impl MemoryCopy {
    fn on_medium<T>(&self, read: impl FnOnce(&mut Kept) -> T) -> Result<T, MediumError> {
        let mut state = self.machine.lock();
        let life = state.life;
        let kept = state.copies.get_mut(&*self.group).filter(|_| life == self.life);
        kept.map(read).ok_or_else(|| MediumError::new(format!("the copy of '{}' is gone", self.group)))
    }
}

impl CopyDisk for MemoryCopy {
    fn persist(&self, persist: Persist) {
        let mut state = self.machine.lock();
        let job = Job { group: self.group.clone(), life: self.life, persist, events: self.events.clone() };
        state.queue.push_back(job);
        drop(state);
        self.machine.changed.notify_all();
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, ReadError> {
        let is_held =
            |state: &mut State| state.held_reads.contains(&*self.group) && !state.is_gone && state.life == self.life;
        drop(self.machine.changed.wait_while(self.machine.lock(), is_held));
        Ok(self.on_medium(|kept| kept.read_entries(low, high, max_bytes))?)
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        self.on_medium(|kept| kept.read_log(offset, 1))??;
        Ok(Box::new(MemoryCopyReader::new(self.machine.clone(), self.group.clone(), offset)))
    }

    fn trim(&self, offset: u64, upto: u64, members_at: &dyn Fn(u64) -> ConfState) -> Result<Base, MediumError> {
        self.on_medium(|kept| kept.trim(offset, upto, members_at))
    }

    fn has_room(&self) -> bool {
        !self.machine.lock().is_full
    }

    fn usage(&self) -> Usage {
        let log_bytes = self.on_medium(|kept| kept.entries().map(|entry| entry.data.len() as u64).sum());
        Usage { parts: 1, log_bytes: log_bytes.unwrap_or(0), ..Usage::default() }
    }

    fn close(&self) {
        let mut state = self.machine.lock();
        let waits = |state: &State| {
            let is_own = |job: &Job| job.group == self.group && job.life == self.life;
            !state.is_frozen && !state.is_gone && state.queue.iter().any(is_own)
        };
        while waits(&state) {
            state = self.machine.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}
