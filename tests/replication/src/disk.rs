//! The disk of a copy: a medium, and what is on its way there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use durability_simulation::draw::Draw;
use logservice::replica::copy::{Base, CopyDisk, FoundCopy, Install, Persist};
use logservice::store::{LogReader, MediumError, ReadError, Usage};
use raft::eraftpb::{ConfState, Entry};

use crate::medium::{parts_of, Medium, Part};
use crate::rules::DiskRule;

/// A disk that many lives of a service use one after the other.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Contents>>);

/// What is on it, and on the way there.
pub struct Contents {
    pub(crate) draw: Draw,
    broken: Option<DiskRule>,
    /// What a crash leaves.
    pub medium: Medium,
    pub(crate) queue: VecDeque<Persist>,
    /// The number of what was handed over last, in this life.
    pub(crate) newest: u64,
    /// The copy knew entries up to this index to be committed when it was last asked.
    pub committed: u64,
    /// What was asked of it and must never be.
    pub violation: Option<String>,
    /// The real files under it, if it has any. Then `medium` is what they are known to hold.
    #[cfg(feature = "files")]
    pub files: Option<crate::files::Files>,
    /// A thousandth part of what is done to files to which something happens.
    #[cfg(feature = "files")]
    pub faults: u32,
    /// A trim has failed: a crash may show that it was done.
    #[cfg(feature = "files")]
    pub(crate) is_base_in_doubt: bool,
    /// The process has ended while the copy was to begin anew so.
    #[cfg(feature = "files")]
    pub(crate) anew_in_doubt: Option<Install>,
    /// How many writes were torn.
    pub torn: u64,
    /// How many whole ones were found of which nobody had heard.
    pub unawaited: u64,
    /// How many tails were replaced.
    pub truncations: u64,
    /// How many times entries were read.
    pub reads: u64,
}

impl Disk {
    /// A disk with a copy that was just made.
    pub fn new(install: &Install, broken: Option<DiskRule>, draw: Draw) -> Self {
        Disk(Arc::new(Mutex::new(Contents {
            draw,
            broken,
            medium: Medium::new(install),
            queue: VecDeque::new(),
            newest: 0,
            committed: install.base.position.index,
            violation: None,
            #[cfg(feature = "files")]
            files: None,
            #[cfg(feature = "files")]
            faults: 0,
            #[cfg(feature = "files")]
            is_base_in_doubt: false,
            #[cfg(feature = "files")]
            anew_in_doubt: None,
            torn: 0,
            unawaited: 0,
            truncations: 0,
            reads: 0,
        })))
    }

    /// The same over real files. `lie` is a step that their machine only pretends to do.
    #[cfg(feature = "files")]
    pub fn on_files(
        install: &Install,
        lie: Option<logservice::store::file_store::files::Step>,
        mut draw: Draw,
    ) -> Result<Self, String> {
        let files = crate::files::Files::new(install, lie, draw.fork())?;
        let disk = Disk::new(install, None, draw);
        disk.lock().files = Some(files);
        Ok(disk)
    }

    /// What is on it. Held for an instant.
    pub fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Contents {
    /// How much waits to be written.
    pub fn waiting(&self) -> usize {
        #[cfg(feature = "files")]
        if let Some(files) = &self.files {
            return usize::from(files.has_writes());
        }
        self.queue.len()
    }

    /// What a service finds when it starts; none if it ends before it knows.
    pub fn open(&mut self) -> Result<Option<FoundCopy>, String> {
        #[cfg(feature = "files")]
        if self.files.is_some() {
            return self.open_files();
        }
        Ok(Some(self.medium.found()))
    }

    /// The entry of that index that was handed over last, persisted or not.
    #[cfg(feature = "files")]
    pub fn newest_entry(&self, index: u64) -> Option<&Entry> {
        for persist in self.queue.iter().rev() {
            if let Some(entry) = persist.entries.iter().find(|entry| entry.index == index) {
                return Some(entry);
            }
            let is_dropped = persist.entries.first().is_some_and(|first| first.index < index);
            if is_dropped || persist.install.is_some() {
                return None;
            }
        }
        self.medium.entry(index)
    }

    /// Whether the service cannot go on.
    pub fn has_failed(&self) -> bool {
        #[cfg(feature = "files")]
        let has_failed = self.files.as_ref().is_some_and(crate::files::Files::has_failed);
        #[cfg(not(feature = "files"))]
        let has_failed = false;
        has_failed
    }

    /// Writes and syncs the oldest `count` of what waits. The number of the last of them.
    pub fn sync(&mut self, count: usize) -> Option<u64> {
        #[cfg(feature = "files")]
        if self.files.is_some() {
            return self.sync_files();
        }
        let mut number = None;
        for _ in 0..count {
            let Some(persist) = self.queue.pop_front() else { break };
            number = Some(persist.number);
            parts_of(persist).into_iter().for_each(|part| self.write(part));
        }
        number
    }

    /// The copy is damaged, and begins anew. Nothing is on its way.
    pub fn begin_anew(&mut self, install: &Install) {
        #[cfg(feature = "files")]
        if self.files.is_some() {
            return self.begin_files_anew(install);
        }
        self.medium.begin_anew(install);
        self.committed = install.base.position.index;
    }

    fn write(&mut self, part: Part) {
        if let Err(violation) = self.medium.write(part, self.broken) {
            self.violation.get_or_insert(violation);
        }
    }

    /// The machine stops. What was not synced may be there or not, from the oldest on, and the last of it in part. `applied` is the last
    /// entry that the copy has applied, ever.
    pub fn crash(&mut self, applied: u64) {
        #[cfg(feature = "files")]
        if self.files.is_some() {
            return self.crash_files(applied);
        }
        let whole = self.draw.below(self.queue.len() + 1);
        self.unawaited += whole as u64;
        self.sync(whole);
        let mut parts = self.queue.pop_front().map(parts_of).unwrap_or_default();
        parts.truncate(self.draw.below(parts.len() + 1));
        self.torn += u64::from(!parts.is_empty());
        parts.into_iter().for_each(|part| self.write(part));
        self.queue.clear();
        self.newest = 0;
        // Of what the copy knew beyond that, it may have had the entries in memory alone.
        self.committed = applied;
        if self.broken == Some(DiskRule::KeepsWhatIsSynced) && whole == 0 {
            self.medium.lose_last();
        }
    }

    /// What is asked of a disk by the contract.
    fn judge(&self, persist: &Persist) -> Option<String> {
        if persist.number < self.newest {
            return Some(format!("{} was handed over after {}", persist.number, self.newest));
        }
        let committed = self.committed;
        if let Some(first) = persist.entries.first().filter(|first| first.index <= committed) {
            return Some(format!("entry {} is replaced, and those up to {committed} are committed", first.index));
        }
        let base = persist.install.as_ref().map(|install| install.base.position.index);
        if let Some(base) = base.filter(|base| *base < committed) {
            return Some(format!("the copy begins anew after {base}, and entries up to {committed} are committed"));
        }
        None
    }
}

impl CopyDisk for Disk {
    fn persist(&self, persist: Persist) {
        let mut contents = self.lock();
        if let Some(violation) = contents.judge(&persist) {
            contents.violation.get_or_insert(violation);
        }
        contents.newest = persist.number;
        let last = contents.queue.iter().rev().find_map(|waiting| waiting.entries.last()).map(|entry| entry.index);
        let last = last.unwrap_or(contents.medium.last());
        contents.truncations += u64::from(persist.entries.first().is_some_and(|first| first.index <= last));
        #[cfg(feature = "files")]
        if let Some(files) = &contents.files {
            files.persist(persist.clone());
        }
        contents.queue.push_back(persist);
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, ReadError> {
        let mut contents = self.lock();
        contents.reads += 1;
        #[cfg(feature = "files")]
        if contents.files.is_some() {
            return contents.read_files(low, high, max_bytes);
        }
        let (mut read, mut bytes) = (Vec::new(), 0);
        for index in low..high {
            let Some(entry) = contents.medium.entry(index) else {
                if index > contents.medium.last() {
                    let violation = format!("entry {index} is read from the disk before it is persisted");
                    contents.violation.get_or_insert(violation);
                }
                // What was trimmed may be asked for until the copy is told.
                return Err(ReadError::Trimmed { offset: contents.medium.base.position.end });
            };
            bytes += entry.data.len() as u64;
            if bytes > max_bytes && !read.is_empty() {
                break;
            }
            read.push(entry.clone());
        }
        Ok(read)
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        #[cfg(feature = "files")]
        if let Some(files) = &self.lock().files {
            return files.reader(offset);
        }
        // Nobody follows a log here: what is committed is compared entry by entry.
        Err(ReadError::Trimmed { offset })
    }

    fn trim(&self, offset: u64, upto: u64, members_at: &dyn Fn(u64) -> ConfState) -> Result<Base, MediumError> {
        let mut contents = self.lock();
        #[cfg(feature = "files")]
        if contents.files.is_some() {
            return contents.trim_files(offset, upto, members_at);
        }
        let upto = match contents.broken {
            Some(DiskRule::TrimsBelowCheckpoint) => upto,
            _ => upto.min(contents.medium.checkpoint.position.index),
        };
        let trimmed = contents.medium.trim(offset, upto, members_at);
        trimmed.map_err(|error| MediumError::new(error.to_string()))?;
        Ok(contents.medium.base.clone())
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn lost_in(&self) -> Option<u64> {
        let contents = self.lock();
        #[cfg(feature = "files")]
        if let Some(files) = &contents.files {
            return files.lost_in();
        }
        let Medium { lost_in, checkpoint, .. } = &contents.medium;
        lost_in.filter(|lost_in| *lost_in >= checkpoint.position.term)
    }

    fn close(&self) {
        let mut contents = self.lock();
        let waiting = contents.waiting();
        contents.sync(waiting);
    }
}
