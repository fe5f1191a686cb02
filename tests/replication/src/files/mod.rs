//! A copy in real files (`copy_files` of the log service), on a machine that may stop between any two steps on a file.
//!
//! Its threads are the simulation's: what is to be written is written when the simulation says so. A crash leaves what the model of the
//! files says ([`model`]): all that was synced, and any part of what was not.

mod machine;
mod model;

use std::cell::Cell;
use std::path::Path;
use std::sync::{Arc, Mutex};

use durability_simulation::draw::Draw;
use logservice::encryption::KeyRing;
use logservice::replica::copy::{Base, CopyDisk, CopyDisks, CopyEvents, FoundCopy, Install, Persist};
use logservice::replica::copy_files::CopyFiles;
use logservice::store::file_store::files::Step;
use logservice::store::file_store::watch::{watched, Watcher};
use logservice::store::file_store::workers::as_worker;
use logservice::store::file_store::{FileStoreOptions, Threads};
use logservice::store::{Damage, LogReader, MediumError, ReadError};
use raft::eraftpb::{ConfState, Entry};
use tempfile::TempDir;

pub use self::machine::Fault;
use self::machine::Machine;

/// The shortest that a segment can be: some dozen entries fill one.
const SEGMENT_BYTES: u64 = 8 << 10;
/// The group's name.
const GROUP: &str = "s1";
/// Keys for copies that are encrypted.
const KEYS: &str = "k1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";

/// The files of a copy, through many lives of a service.
pub struct Files {
    // Before the directory, which is removed at the end.
    life: Option<Life>,
    machine: Arc<Machine>,
    keys: Arc<KeyRing>,
    /// The copy has reported that it has failed, as was drawn.
    has_failed: Cell<bool>,
    directory: TempDir,
}

/// What of it is open.
struct Life {
    disk: Arc<dyn CopyDisk>,
    threads: Arc<Threads>,
    told: Arc<Told>,
}

/// What the copy has reported.
#[derive(Default)]
struct Told(Mutex<(Option<u64>, Option<String>)>);

impl Told {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Option<u64>, Option<String>)> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl CopyEvents for Told {
    fn persisted(&self, number: u64) {
        self.lock().0 = Some(number);
    }
    fn failed(&self, reason: &str) {
        self.lock().1 = Some(reason.to_owned());
    }
    fn damaged(&self, damage: &Damage) {
        self.lock().1 = Some(format!("damaged: {damage}"));
    }
}

/// What a turn of the threads has come to.
pub enum Turn {
    /// All up to that number is persisted; nothing is new if there is none.
    Persisted(Option<u64>),
    /// The disk has failed, or the process has ended, as was drawn.
    Failed,
}

impl Files {
    /// A copy that was just made, durably. `lie` is a step that its machine only pretends to do.
    pub fn new(install: &Install, lie: Option<Step>, mut draw: Draw) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        // Not the disk under /tmp, which is slow, and of which nothing is asked.
        let directory =
            tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).map_err(|error| text(&error))?;
        let keys = match draw.chance(250) {
            true => KeyRing::of_text(KEYS).map_err(|(_, reason)| reason.to_owned())?,
            false => Arc::default(),
        };
        let made = CopyDisks::create(&copies(directory.path(), &keys, &Threads::by_hand()), GROUP, install);
        made.map_err(|error| text(&error))?;
        let machine = Arc::new(Machine::new(directory.path(), lie, draw));
        Ok(Files { directory, machine, keys, has_failed: Cell::new(false), life: None })
    }

    fn watched<T>(&self, run: impl FnOnce() -> T) -> T {
        self.machine.begin();
        watched(self.machine.clone() as Arc<dyn Watcher>, || as_worker(run))
    }

    /// Opens the copy: what is found, and its entries. None if the process ended meanwhile, as was drawn.
    ///
    /// # Errors
    /// It cannot be opened, and nothing was drawn.
    pub fn open(&mut self) -> Result<Option<(FoundCopy, Vec<Entry>)>, String> {
        let (threads, told) = (Threads::by_hand(), Arc::new(Told::default()));
        let copies = copies(self.directory.path(), &self.keys, &threads);
        let opened = self.watched(|| copies.open(GROUP, told.clone()));
        let opened = match opened {
            Ok(opened) => opened.ok_or("the copy is gone")?,
            Err(_) if self.machine.has_failed() => {
                self.watched(|| threads.forget_jobs());
                return Ok(None);
            }
            Err(error) => return Err(format!("the copy cannot be opened: {error}")),
        };
        let (disk, found) = (opened.disk, opened.found);
        let (first, last) = (found.base.position.index + 1, found.last_index);
        let mut entries = Vec::new();
        while first + (entries.len() as u64) <= last {
            let from = first + entries.len() as u64;
            entries.extend(disk.entries(from, last + 1, u64::MAX).map_err(|error| format!("entry {from}: {error}"))?);
        }
        self.life = Some(Life { disk, threads, told });
        Ok(Some((found, entries)))
    }

    /// The copy, which is not open, begins anew as it is damaged. False if the process ended meanwhile, as was drawn.
    ///
    /// # Errors
    /// It cannot, and nothing was drawn.
    pub fn begin_anew(&self, install: &Install) -> Result<bool, String> {
        let copies = copies(self.directory.path(), &self.keys, &Threads::by_hand());
        match self.watched(|| CopyDisks::begin_anew(&copies, GROUP, install)) {
            Ok(()) => Ok(true),
            Err(_) if self.machine.has_failed() => Ok(false),
            Err(error) => Err(format!("the copy cannot begin anew: {error}")),
        }
    }

    /// Something is to happen after so many steps on files.
    pub fn arm(&self, steps: u64, fault: Fault) {
        self.machine.arm(steps, fault);
    }

    /// Nothing is to happen.
    pub fn disarm(&self) {
        self.machine.disarm();
    }

    /// Whether something has happened, so that the process has to end.
    pub fn has_failed(&self) -> bool {
        self.has_failed.get() || self.machine.has_stopped()
    }

    /// Whether there is something to write.
    pub fn has_writes(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.threads.has_writes())
    }

    /// Queues what is to be made durable.
    pub fn persist(&self, persist: Persist) {
        if let Some(life) = &self.life {
            self.watched(|| life.disk.persist(persist));
        }
    }

    /// Writes the next of what waits, or does something in the background.
    pub fn turn(&self, is_background: bool) -> Result<Turn, String> {
        let Some(life) = &self.life else { return Ok(Turn::Persisted(None)) };
        self.watched(|| match is_background {
            true => life.threads.background_turn(),
            false => life.threads.write_turn(),
        });
        let mut told = life.told.lock();
        match told.1.take() {
            Some(_) if self.machine.has_failed() => {
                self.has_failed.set(true);
                Ok(Turn::Failed)
            }
            Some(reason) => Err(format!("the copy has failed: {reason}")),
            None if self.machine.has_stopped() => Ok(Turn::Failed),
            None => Ok(Turn::Persisted(told.0.take())),
        }
    }

    /// As the disk of a copy is asked; none if it is not open.
    pub fn lost_in(&self) -> Option<u64> {
        self.life.as_ref().and_then(|life| life.disk.lost_in())
    }

    /// As the disk of a copy is asked.
    pub fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, ReadError> {
        match &self.life {
            Some(life) => life.disk.entries(low, high, max_bytes),
            None => Err(ReadError::Trimmed { offset: 0 }),
        }
    }

    /// As the disk of a copy is asked.
    pub fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        match &self.life {
            Some(life) => life.disk.reader(offset),
            None => Err(ReadError::Trimmed { offset }),
        }
    }

    /// As the disk of a copy is asked.
    pub fn trim(&self, offset: u64, upto: u64, members_at: &dyn Fn(u64) -> ConfState) -> Result<Base, MediumError> {
        match &self.life {
            Some(life) => self.watched(|| life.disk.trim(offset, upto, members_at)),
            None => Err(MediumError::new("it is not open")),
        }
    }

    /// Nothing of this process is done any more. What waits would wait for ever.
    fn end(&mut self) {
        self.machine.stop();
        if let Some(life) = self.life.take() {
            self.watched(|| {
                life.threads.forget_jobs();
                drop(life);
            });
        }
    }

    /// The process ends, and so does the machine if `is_machine`: then what was not synced may be lost.
    ///
    /// # Errors
    /// What is left cannot be put where the next life finds it.
    pub fn crash(&mut self, is_machine: bool) -> Result<(), String> {
        self.end();
        self.has_failed.set(false);
        self.machine.restart(self.directory.path(), is_machine).map_err(|error| error.to_string())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.end();
    }
}

fn copies(directory: &Path, keys: &Arc<KeyRing>, threads: &Arc<Threads>) -> CopyFiles {
    let (threads, keys) = (threads.clone(), keys.clone());
    let options = FileStoreOptions { segment_bytes: SEGMENT_BYTES, max_log_bytes: None, threads, keys };
    CopyFiles::new(&directory.join("replicas"), options)
}
