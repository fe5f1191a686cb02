use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType};

use super::harness_tests::{
    append, appends, directory, disks, install_at, made, members, segments, state, Copy, Events,
};
use super::CopyFiles;
use crate::encryption::KeyRing;
use crate::replica::copy::{Checkpoint, CopyDisks, FoundCopy, Install, Persist, Position, Vote};
use crate::store::{OpenError, ReadError, StoreOptions};

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
        let mut records = copy.disk.records(120).expect("reader");
        let record = records.next(150).expect("read");
        assert_eq!((record.offset, record.payload.len(), records.offset()), (120, 30, 150));
        assert_eq!(record.payload, append(6, 3, 100, 50).data.slice(25 + 20..));
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
fn a_service_keeps_copies_in_a_directory_of_their_own() {
    let (directory, keys) = (directory(), Arc::default());
    let options = StoreOptions { directory: directory.path().to_owned(), segment_mb: 2, max_log_bytes: None, keys };
    let disks = CopyFiles::start(&options).expect("started");
    CopyDisks::create(&disks, "", &install_at(1, 1, 0)).expect("created");
    CopyDisks::create(&disks, "s1", &install_at(1, 1, 0)).expect("created");
    CopyDisks::create(&disks, "s1", &install_at(9, 1, 0)).expect("is there already");
    assert_eq!(CopyDisks::list(&disks).expect("listed"), ["", "s1"]);
    assert!(directory.path().join("replicas/_cluster/VOTE").is_file());
    assert_eq!(Copy::open(&disks).expect("opened").found.last_index, 1);
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
fn what_is_encrypted_is_read_only_with_its_key() {
    let directory = directory();
    let keys = KeyRing::of_text(&format!("k1 01{}\n", "23".repeat(31))).expect("keys");
    let disks_with = disks(directory.path(), &keys);
    let mut copy = made(&disks_with);
    let entries = [append(2, 1, 100, 500), state(3, 1, None), Entry { index: 4, term: 1, ..Entry::default() }];
    copy.write(&entries);
    assert_eq!(copy.entries(2, 5).expect("read"), entries);
    assert!(copy.disk.key_ids().iter().eq(["k1"]));
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

#[test]
fn what_is_left_over_may_hold_anything() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    copy.persisted(Persist { install: Some(install_at(50, 1, 100)), ..Persist::default() });
    let moved = |indexes: std::ops::Range<u64>, term| -> Vec<Entry> {
        appends(indexes.start - 49..indexes.end - 49, term)
            .into_iter()
            .zip(indexes)
            .map(|(e, index)| Entry { index, ..e })
            .collect()
    };
    let (old, new) = (moved(51..90, 1), moved(70..75, 2));
    copy.write(&old);
    let before = segments(directory.path());
    copy.write(&new);
    let position = old[..15]
        .iter()
        .fold(install_at(50, 1, 100).base.position, |position, entry| position.after(entry, position.end + 1000));
    let checkpoint = Checkpoint { position, ..install_at(50, 1, 100).checkpoint };
    copy.disk.persist(Persist { checkpoint: Some(checkpoint), ..Persist::default() });
    assert_eq!(copy.disk.trim(u64::MAX, u64::MAX, &|_| members()).expect("trimmed").position.index, 61);
    drop(copy);
    let kept = segments(directory.path());
    let gone: Vec<_> = before.iter().filter(|path| !kept.contains(path)).collect();
    assert_eq!(gone.len(), 3, "one was trimmed, and two replaced");
    // The file has become another segment, but of its new name a crash has left nothing.
    for path in gone {
        fs::copy(&kept[1], path).expect("copied");
    }
    fs::write(directory.path().join("s1/log/000000-00000000000000000002.log"), b"x").expect("written");
    let copy = Copy::open(&disks).expect("opened");
    assert_eq!(copy.entries(62, 75).expect("read"), [&old[11..19], &new[..]].concat());
    assert_eq!(segments(directory.path()), kept);
}
