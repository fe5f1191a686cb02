use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType};

use super::format::{RecordHeader, SegmentHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::CopyFiles;
use crate::encryption::KeyRing;
use crate::replica::copy::{
    Base, Checkpoint, CopyDisk, CopyDisks, CopyEvents, FoundCopy, Install, Persist, Position, Vote,
};
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
fn appends(indexes: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
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

fn change(path: &Path, at: usize, change: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(path).expect("read");
    change(&mut bytes[at..]);
    fs::write(path, bytes).expect("written");
}

#[test]
fn what_was_persisted_is_found_and_read() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    assert_eq!(copy.found, FoundCopy { last_index: 1, ..found_of(&install_at(1, 1, 100)) });
    let vote = Vote { term: 2, member: 3 };
    let members = Entry {
        index: 3,
        term: 2,
        data: Bytes::from_static(b"x"),
        entry_type: EntryType::EntryConfChangeV2,
        ..Entry::default()
    };
    let leave = Entry { data: Bytes::new(), index: 4, ..members.clone() };
    let entries =
        [Entry { index: 2, term: 2, ..Entry::default() }, members, leave, state(5, 3, None), append(6, 3, 100, 50)];
    copy.persisted(Persist { vote: Some(vote), entries: entries.to_vec(), ..Persist::default() });
    for reopened in [false, true] {
        if reopened {
            drop(copy);
            copy = Copy::open(&disks).expect("opened");
            assert_eq!((copy.found.vote, copy.found.last_index), (vote, 6));
            assert_eq!(copy.found.terms, [(2, 2), (5, 3)]);
        }
        assert_eq!(copy.entries(2, 7).expect("read"), entries);
        assert_eq!(copy.entries(3, 5).expect("read"), entries[1..3]);
        assert_eq!(copy.disk.entries(5, 7, 1).expect("read"), entries[3..4], "at least one");
        let mut reader = copy.disk.reader(120).expect("reader");
        assert_eq!(reader.read(150, 10).expect("read"), &append(6, 3, 100, 50).data[25 + 20..25 + 30]);
        assert_eq!((reader.offset(), reader.read(150, 1000).expect("read").len()), (130, 20));
    }
    assert_eq!(CopyDisks::list(&disks).expect("listed"), ["s1"]);
    drop(copy);
    CopyDisks::remove(&disks, "s1").expect("removed");
    assert!(CopyDisks::list(&disks).expect("listed").is_empty());
    assert!(disks.open("s1", Arc::new(Events::default())).expect("opened").is_none());
}

fn found_of(install: &Install) -> FoundCopy {
    FoundCopy { base: install.base.clone(), checkpoint: install.checkpoint.clone(), ..FoundCopy::default() }
}

#[test]
fn names_that_no_copy_can_have_are_refused() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    for name in ["_cluster", "../x", "a/b", ".new-s1"] {
        assert!(CopyDisks::create(&disks, name, &install_at(1, 1, 0)).is_err(), "{name}");
    }
    CopyDisks::create(&disks, "", &install_at(1, 1, 0)).expect("created");
    fs::create_dir(directory.path().join(".new-s1")).expect("created");
    assert_eq!(CopyDisks::list(&disks).expect("listed"), [""]);
    assert!(!directory.path().join(".new-s1").exists(), "what a crash has left is removed");
}

#[test]
fn entries_that_replace_others_are_read_in_their_place() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    let old = appends(2..40, 1);
    copy.write(&old[..20]);
    copy.write(&old[20..]);
    assert_eq!(segments(directory.path()).len(), 4);
    let new = appends(7..10, 2);
    // A reader that stands before them.
    let mut reader = copy.disk.reader(100).expect("reader");
    assert_eq!(reader.read(1100, usize::MAX).expect("read").len(), 1000);
    copy.write(&new);
    let expected = [&old[..5], &new[..]].concat();
    assert_eq!(segments(directory.path()).len(), 2, "those that were replaced are gone");
    let log: Vec<u8> = expected.iter().flat_map(|entry| entry.data[25..].to_vec()).collect();
    let mut read = Vec::new();
    while reader.offset() < 8100 {
        read.extend(reader.read(8100, usize::MAX).expect("read"));
    }
    assert_eq!(read, log[1000..]);
    for _ in 0..2 {
        assert_eq!(copy.entries(2, 10).expect("read"), expected);
        drop(copy);
        copy = Copy::open(&disks).expect("opened");
        assert_eq!((copy.found.last_index, &copy.found.terms[..]), (9, &[(2, 1), (7, 2)][..]));
    }
}

#[test]
fn what_cannot_follow_fails_the_copy() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    for entries in [appends(3..4, 1), vec![append(1, 1, 0, 5)], [appends(2..3, 1), appends(4..5, 1)].concat()] {
        let mut copy = made(&disks);
        copy.persist(Persist { entries, ..Persist::default() });
        let seen = copy.events.wait(|seen| seen.failed.is_some());
        assert!(seen.failed.expect("failed").contains("cannot follow a copy that begins after index 1 and ends at 1"));
        copy.persist(Persist { entries: appends(2..3, 1), ..Persist::default() });
        copy.disk.close();
        assert_eq!(copy.events.wait(|_| true).persisted, 0, "nothing is accepted any more");
        assert_eq!(Copy::open(&disks).expect("opened").found.last_index, 1);
    }
}

#[test]
fn trimming_drops_whole_segments_up_to_the_checkpoint() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    let entries = appends(2..60, 1);
    entries.iter().for_each(|entry| copy.write(std::slice::from_ref(entry)));
    let trim = |copy: &Copy, offset, upto| copy.disk.trim(offset, upto, &|_| members()).expect("trimmed").position;
    assert_eq!(trim(&copy, u64::MAX, u64::MAX).index, 1, "the checkpoint is at the base");
    let before = segments(directory.path());
    let position = entries[..40]
        .iter()
        .fold(install_at(1, 1, 100).base.position, |position, entry| position.after(entry, position.end + 1000));
    let checkpoint = Checkpoint { position, ..install_at(1, 1, 100).checkpoint };
    copy.disk.persist(Persist { checkpoint: Some(checkpoint), ..Persist::default() });
    assert_eq!(trim(&copy, 100 + 10_999, u64::MAX).index, 1, "a segment has 11 entries");
    assert_eq!(trim(&copy, 100 + 11_000, u64::MAX).index, 12);
    assert_eq!(trim(&copy, u64::MAX, 22).index, 12);
    let base = trim(&copy, u64::MAX, u64::MAX);
    assert_eq!((base.index, base.end), (34, 100 + 33_000), "a segment holds the checkpoint");
    assert!(matches!(copy.entries(34, 36), Err(ReadError::Trimmed { .. })));
    assert!(matches!(copy.disk.reader(33_099), Err(ReadError::Trimmed { .. })));
    assert_eq!(copy.entries(35, 60).expect("read"), entries[33..]);
    drop(copy);
    let copy = Copy::open(&disks).expect("opened");
    assert_eq!((copy.found.base.position, copy.found.checkpoint.position), (base, position));
    assert_eq!(copy.found.terms, [(35, 1)]);
    assert_eq!(copy.entries(35, 60).expect("read"), entries[33..]);
    assert_eq!(segments(directory.path()), before[3..]);
}

#[test]
fn a_copy_that_begins_anew_has_nothing_of_before() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    copy.write(&appends(2..40, 1));
    let install = install_at(90, 4, 5000);
    copy.persisted(Persist {
        install: Some(install.clone()),
        entries: vec![append(91, 4, 5000, 10)],
        ..Persist::default()
    });
    for _ in 0..2 {
        assert!(copy.entries(5, 6).is_err());
        assert!(copy.disk.reader(200).is_err());
        assert_eq!(copy.entries(91, 92).expect("read"), [append(91, 4, 5000, 10)]);
        assert_eq!(segments(directory.path()).len(), 1);
        drop(copy);
        copy = Copy::open(&disks).expect("opened");
        let terms = vec![(91, 4)];
        assert_eq!(copy.found, FoundCopy { last_index: 91, terms, ..found_of(&install) });
    }
}

#[test]
fn a_restart_of_the_log_counts_for_readers_when_it_is_committed() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    let restarted = [append(2, 1, 100, 50), state(3, 1, Some(90)), append(4, 2, 90, 40)];
    copy.write(&restarted);
    let first = |copy: &Copy, offset: u64| copy.disk.reader(offset).and_then(|mut reader| reader.read(offset + 1, 1));
    assert_eq!(first(&copy, 110).expect("read"), &restarted[0].data[35..36]);
    let position = Position { index: 3, ..install_at(1, 1, 100).base.position };
    let checkpoint = Checkpoint { position, ..install_at(1, 1, 100).checkpoint };
    let mut old = copy.disk.reader(100).expect("reader");
    copy.disk.persist(Persist { checkpoint: Some(checkpoint), ..Persist::default() });
    assert_eq!(first(&copy, 110).expect("read"), &restarted[2].data[45..46]);
    assert!(matches!(first(&copy, 89), Err(ReadError::Trimmed { offset: 89 })));
    assert_eq!(old.read(150, 100).expect("read").len(), 50);
    assert!(matches!(old.read(151, 100), Err(ReadError::Trimmed { offset: 150 })), "never other bytes");
    // Nothing of the log before is needed any more, whatever its offsets.
    assert_eq!(copy.disk.trim(0, u64::MAX, &|_| members()).expect("trimmed").position.index, 2);
    drop(copy);
    let copy = Copy::open(&disks).expect("opened");
    assert_eq!(copy.entries(3, 5).expect("read"), restarted[1..]);
    assert_eq!(first(&copy, 110).expect("read"), &restarted[2].data[45..46]);
}

#[test]
fn any_part_of_the_last_group_may_be_torn_and_nothing_before_it() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    let entries: Vec<Entry> = (2..8).map(|index| append(index, 1, 100 + (index - 2) * 90, 90)).collect();
    copy.write(&entries[..2]);
    // One after the other, so that what is one group is certain.
    copy.write(&entries[2..]);
    drop(copy);
    let path = segments(directory.path()).pop().expect("a segment");
    let written = fs::read(&path).expect("read");
    let records = records(&path);
    assert_eq!(records.iter().map(|(_, header)| header.unsynced).collect::<Vec<_>>(), [0, 1, 0, 1, 2, 3]);
    for (number, (at, header)) in records.iter().enumerate() {
        for byte in *at..at + RECORD_HEADER_BYTES + header.stored_bytes() {
            fs::write(&path, &written).expect("written");
            change(&path, byte, |bytes| bytes[0] ^= 1);
            match Copy::open(&disks) {
                // The group before is damaged, which only damage explains.
                Err(OpenError::Damaged(_)) => assert!(number < 2, "byte {byte} of record {number}"),
                Err(error) => panic!("byte {byte}: {error}"),
                Ok(mut copy) => {
                    assert!(number >= 2, "byte {byte} of record {number}");
                    assert_eq!(copy.found.last_index, number as u64 + 1, "byte {byte}");
                    assert_eq!(copy.entries(2, number as u64 + 2).expect("read"), entries[..number]);
                    // Of what was cut nothing comes back.
                    copy.write(&[append(number as u64 + 2, 2, 100 + number as u64 * 90, 90)]);
                    drop(copy);
                    assert_eq!(Copy::open(&disks).expect("opened").found.last_index, number as u64 + 2);
                }
            }
        }
    }
}

#[test]
fn damage_in_an_older_segment_is_found_in_the_background_and_by_who_reads_it() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    copy.write(&appends(2..40, 1));
    drop(copy);
    let path = &segments(directory.path())[1];
    let (at, header) = records(path)[3];
    change(path, at + RECORD_HEADER_BYTES + 100, |bytes| bytes[0] ^= 1);
    let copy = Copy::open(&disks).expect("opened");
    let damage = copy.events.wait(|seen| seen.damaged.is_some()).damaged.expect("damaged");
    assert_eq!(damage.place, format!("{} at byte {at}", path.display()));
    let index = header.after.index;
    assert!(copy.entries(2, index).is_ok());
    assert!(matches!(copy.entries(2, index + 1), Err(ReadError::Damaged(_))));
}

#[test]
fn a_copy_that_ends_before_its_checkpoint_is_damaged() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    copy.write(&appends(2..5, 1));
    let position = Position { index: 4, ..install_at(1, 1, 100).base.position };
    let checkpoint = Checkpoint { position, ..install_at(1, 1, 100).checkpoint };
    copy.disk.persist(Persist { checkpoint: Some(checkpoint.clone()), ..Persist::default() });
    drop(copy);
    assert_eq!(Copy::open(&disks).expect("opened").found.checkpoint, checkpoint, "closing writes it");
    let path = segments(directory.path()).pop().expect("a segment");
    let last = records(&path)[2].0;
    change(&path, last + RECORD_HEADER_BYTES, |bytes| bytes[0] ^= 1);
    let error = Copy::open(&disks).err().expect("refused").to_string();
    assert!(error.ends_with("the copy ends at index 3, but it was persisted up to 4 at least"), "{error}");
}

#[test]
fn what_is_encrypted_is_read_only_with_its_key() {
    let directory = directory();
    let keys = KeyRing::of_text(&format!("k1 01{}\n", "23".repeat(31))).expect("keys");
    let disks_with = disks(directory.path(), &keys);
    let mut copy = made(&disks_with);
    let entries = [append(2, 1, 100, 500), state(3, 1, None), Entry { index: 4, term: 1, ..Entry::default() }];
    copy.write(&entries);
    assert_eq!(copy.entries(2, 5).expect("read"), entries);
    drop(copy);
    let path = segments(directory.path()).pop().expect("a segment");
    let stored = fs::read(&path).expect("read");
    for entry in &entries[..2] {
        let part = &entry.data[20..];
        assert!(!stored.windows(part.len()).any(|window| window == part), "it is stored as it is");
    }
    let error = Copy::open(&disks(directory.path(), &Arc::default())).err().expect("refused");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    let copy = Copy::open(&disks_with).expect("opened");
    assert_eq!(copy.entries(2, 5).expect("read"), entries);
}

#[test]
fn an_entry_that_is_longer_than_a_segment_gets_a_longer_one() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    let entries = [append(2, 1, 100, 10), append(3, 1, 110, 100_000), append(4, 1, 100_110, 10)];
    copy.write(&entries);
    drop(copy);
    assert_eq!(Copy::open(&disks).expect("opened").entries(2, 5).expect("read"), entries);
}
