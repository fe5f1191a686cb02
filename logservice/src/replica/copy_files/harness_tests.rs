//! What the tests of copies have in common.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry};

use super::format::{RecordHeader, SegmentHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::CopyFiles;
use crate::encryption::KeyRing;
use crate::replica::copy::{Base, Checkpoint, CopyDisk, CopyDisks, CopyEvents, FoundCopy, Install, Persist, Position};
use crate::replica::entry::{AppendEntry, StateEntry};
use crate::store::file_store::{FileStoreOptions, Threads};
use crate::store::{Damage, OpenError, ReadError};

/// Small, so that a few entries fill several.
pub const SEGMENT_BYTES: u64 = 16 << 10;
const WAIT_AT_MOST: Duration = Duration::from_secs(20);

/// What a copy has reported.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub persisted: u64,
    pub failed: Option<String>,
    pub damaged: Option<Damage>,
}

#[derive(Default)]
pub struct Events {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Events {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().expect("lock"));
        self.changed.notify_all();
    }

    pub fn wait(&self, until: impl Fn(&Seen) -> bool) -> Seen {
        let seen = self.seen.lock().expect("lock");
        let (seen, timeout) = self.changed.wait_timeout_while(seen, WAIT_AT_MOST, |seen| !until(seen)).expect("lock");
        assert!(!timeout.timed_out(), "{seen:?}");
        seen.clone()
    }
}

impl CopyEvents for Events {
    fn persisted(&self, number: u64) {
        self.note(|seen| {
            assert!(number > seen.persisted, "{number} after {}", seen.persisted);
            seen.persisted = number;
        });
    }
    fn failed(&self, reason: &str) {
        self.note(|seen| seen.failed = Some(reason.to_owned()));
    }
    fn damaged(&self, damage: &Damage) {
        self.note(|seen| seen.damaged = Some(damage.clone()));
    }
}

/// An open copy.
pub struct Copy {
    pub disk: Arc<dyn CopyDisk>,
    pub found: FoundCopy,
    pub events: Arc<Events>,
    number: u64,
}

pub fn disks(directory: &Path, keys: &Arc<KeyRing>) -> CopyFiles {
    let threads = Threads::start().expect("threads");
    let (segment_bytes, keys) = (SEGMENT_BYTES, keys.clone());
    CopyFiles::new(directory, FileStoreOptions { segment_bytes, max_log_bytes: None, threads, keys })
}

impl Copy {
    pub fn open(disks: &CopyFiles) -> Result<Self, OpenError> {
        let events = Arc::new(Events::default());
        let opened = disks.open("s1", events.clone())?.expect("a copy");
        Ok(Copy { disk: opened.disk, found: opened.found, events, number: 0 })
    }

    pub fn persist(&mut self, persist: Persist) -> u64 {
        self.number += 1;
        self.disk.persist(Persist { number: self.number, ..persist });
        self.number
    }

    pub fn persisted(&mut self, persist: Persist) {
        let number = self.persist(persist);
        let seen = self.events.wait(|seen| seen.persisted >= number || seen.failed.is_some());
        assert_eq!(seen.failed, None);
    }

    pub fn write(&mut self, entries: &[Entry]) {
        self.persisted(Persist { entries: entries.to_vec(), ..Persist::default() });
    }

    pub fn entries(&self, low: u64, high: u64) -> Result<Vec<Entry>, ReadError> {
        self.disk.entries(low, high, u64::MAX)
    }
}

pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("tempdir")
}

pub fn members() -> ConfState {
    ConfState { voters: vec![1, 2, 3], ..ConfState::default() }
}

/// What a copy begins with: after index 1 of term 1, at offset 100.
pub fn install_at(index: u64, term: u64, end: u64) -> Install {
    let position = Position { index, term, end, checksum: index as u32 };
    let checkpoint = Checkpoint {
        position,
        state: Bytes::from_static(b"{}"),
        state_index: index,
        members: vec![(index, members())],
        ..Checkpoint::default()
    };
    Install { base: Base { position, members: members() }, checkpoint }
}

/// A copy in `directory` that was just made.
pub fn made(disks: &CopyFiles) -> Copy {
    disks.create("s1", &install_at(1, 1, 100)).expect("created");
    Copy::open(disks).expect("opened")
}

/// An entry with `bytes` bytes of log at `offset`.
pub fn append(index: u64, term: u64, offset: u64, bytes: usize) -> Entry {
    let payload: Vec<u8> = (offset..offset + bytes as u64).map(|at| (at * 7 + term * 31) as u8).collect();
    Entry { index, term, data: AppendEntry::encode(term, offset, 5, &[payload.into()]), ..Entry::default() }
}

/// Entries with 1000 bytes each.
pub fn appends(indexes: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
    indexes.map(|index| append(index, term, 100 + (index - 2) * 1000, 1000)).collect()
}

pub fn state(index: u64, term: u64, restart_at: Option<u64>) -> Entry {
    let state = StateEntry { revision: index, epoch: term, time_ms: 1, restart_at, bytes: Bytes::from_static(b"{ }") };
    Entry { index, term, data: state.encode(), ..Entry::default() }
}

pub fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("s1/log")).expect("listed");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

/// Where the records of a segment stand: position and header.
pub fn records(path: &Path) -> Vec<(usize, RecordHeader)> {
    let bytes = fs::read(path).expect("read");
    let salt = SegmentHeader::decode(&bytes).expect("sound").salt;
    let mut at = SEGMENT_HEADER_BYTES as usize;
    std::iter::from_fn(|| {
        let header = RecordHeader::decode(&bytes[at..(at + RECORD_HEADER_BYTES).min(bytes.len())], salt)?;
        let record = (at, header);
        at += header.file_bytes() as usize;
        Some(record)
    })
    .collect()
}

pub fn change(path: &Path, at: usize, change: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(path).expect("read");
    change(&mut bytes[at..]);
    fs::write(path, bytes).expect("written");
}
