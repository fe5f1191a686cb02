//! Copies that begin anew as they were damaged, that are looked at, bounded, and set aside.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::harness_tests::{
    append, appends, change, directory, disks, install_at, made, segments, state, Copy, SEGMENT_BYTES,
};
use super::head::Head;
use super::look::CopyLook;
use super::CopyFiles;
use crate::encryption::KeyRing;
use crate::replica::copy::{Checkpoint, CopyDisks, Persist, Position, Vote};
use crate::store::file_store::{FileStoreOptions, Threads};
use crate::store::{Manifest, OpenError, SubmitError};

#[test]
fn a_damaged_copy_begins_anew_with_its_vote_and_says_what_it_may_have_acknowledged() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    let vote = Vote { term: 7, member: 3 };
    copy.persisted(Persist { vote: Some(vote), entries: appends(2..40, 6), ..Persist::default() });
    drop(copy);
    let damaged = directory.path().join("s1/COPY");
    change(&damaged, 30, |bytes| bytes[0] ^= 1);
    assert!(matches!(Copy::open(&disks), Err(OpenError::Manifest { .. })));
    let install = install_at(1, 1, 100);
    disks.begin_anew("s1", &install).expect("begun anew");
    let mut copy = Copy::open(&disks).expect("opened");
    assert_eq!((copy.found.vote, copy.found.lost_in, copy.found.last_index), (vote, Some(7), 1));
    assert!(segments(directory.path()).is_empty(), "what it held is gone");
    copy.write(&appends(2..30, 6));
    drop(copy);
    let mut copy = Copy::open(&disks).expect("opened");
    assert_eq!((copy.found.lost_in, copy.found.last_index), (Some(7), 29), "a restart forgets nothing of that");
    copy.write(&[append(30, 8, 28_100, 10)]);
    assert_eq!(copy.disk.lost_in(), Some(7), "a crash would find it so");
    let position = Position { index: 30, term: 8, end: 28_110, checksum: 0 };
    let checkpoint = Checkpoint { position, state_index: 30, ..install.checkpoint };
    copy.persist(Persist { checkpoint: Some(checkpoint), ..Persist::default() });
    let since = Instant::now();
    while copy.disk.lost_in().is_some() {
        assert!(since.elapsed() < Duration::from_secs(20), "it is written at once");
        std::thread::yield_now();
    }
    let written = Head::read(&directory.path().join("s1"), "s1").expect("read");
    assert_eq!(written.lost_in, None, "a crash would find it so");
    drop(copy);
    assert_eq!(Copy::open(&disks).expect("opened").found.lost_in, None, "it has entries of a later term");
}

#[test]
fn a_copy_whose_vote_is_not_known_does_not_begin_anew() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    copy.write(&appends(2..9, 1));
    drop(copy);
    fs::write(directory.path().join("s1/VOTE"), b"nothing").expect("written");
    let error = disks.begin_anew("s1", &install_at(1, 1, 100)).expect_err("refused").to_string();
    assert!(error.contains("must not vote"), "{error}");
    assert!(!segments(directory.path()).is_empty(), "nothing is changed");
}

#[test]
fn what_is_looked_at_is_what_is_there_and_does_not_change() {
    for text in [None, Some(format!("k1 01{}\n", "17".repeat(31)))] {
        let (directory, keys) =
            (directory(), text.map_or_else(Arc::default, |text| KeyRing::of_text(&text).expect("keys")));
        let disks = disks(directory.path(), &keys);
        let mut copy = made(&disks);
        copy.write(&appends(2..20, 1));
        copy.write(&[state(20, 2, Some(5000)), append(21, 2, 5000, 70), append(22, 2, 5070, 30)]);
        drop(copy);
        let before: Vec<_> = segments(directory.path()).iter().map(|path| fs::read(path).expect("read")).collect();
        let look = CopyLook::open(&directory.path().join("s1"), "s1", Some(&keys)).expect("sound");
        assert_eq!((look.last.index, look.last.end, look.committed.index), (22, 5100, 1));
        assert_eq!((&look.state[..], look.key_ids.len()), (&b"{ }"[..], usize::from(keys.has_keys())));
        let mut records = Vec::new();
        look.for_each_record(&mut |record| {
            records.push((record.epoch, record.offset, record.payload.len()));
            true
        })
        .expect("read");
        assert_eq!(records, [(2, 5000, 70), (2, 5070, 30)], "of the log as it is after it was restarted");
        assert_eq!(look.reader(5060).expect("reader").read(5100, 100).expect("read").len(), 10 + 30);
        // Without keys: checksums only.
        let without = CopyLook::open(&directory.path().join("s1"), "s1", None).expect("sound");
        assert_eq!(without.last, look.last);
        let after: Vec<_> = segments(directory.path()).iter().map(|path| fs::read(path).expect("read")).collect();
        assert!(before == after, "nothing is changed");
        let path = &segments(directory.path())[0];
        change(path, 6000, |bytes| bytes[0] ^= 1);
        for keys in [Some(&*keys), None] {
            assert!(matches!(CopyLook::open(&directory.path().join("s1"), "s1", keys), Err(OpenError::Damaged(_))));
        }
    }
}

#[test]
fn a_copy_takes_appends_up_to_its_bound_and_states_beyond() {
    let directory = directory();
    let (threads, keys) = (Threads::start().expect("threads"), Arc::default());
    let max_log_bytes = Some(3 * SEGMENT_BYTES);
    let disks = CopyFiles::new(
        directory.path(),
        FileStoreOptions { segment_bytes: SEGMENT_BYTES, max_log_bytes, threads, keys },
    );
    let mut copy = made(&disks);
    let mut index = 2;
    while copy.disk.admit(1000).is_ok() {
        copy.write(&appends(index..index + 1, 1));
        index += 1;
        assert!(index < 100, "there is no bound");
    }
    assert!(matches!(copy.disk.admit(1000), Err(SubmitError::NoSpace(reason)) if reason.contains("--max-log-mb")));
    assert_eq!((copy.disk.usage().parts, copy.disk.usage().is_full), (3, true));
    copy.write(&[state(index, 1, None)]);
    assert_eq!(copy.disk.usage().parts, 3, "there is room for that");
    let position = Position { index, term: 1, end: 100 + (index - 2) * 1000, checksum: 0 };
    let checkpoint = Checkpoint { position, state_index: index, ..install_at(1, 1, 100).checkpoint };
    copy.persist(Persist { checkpoint: Some(checkpoint), ..Persist::default() });
    copy.disk.trim(20_100, index, &|_| super::harness_tests::members()).expect("trimmed");
    copy.disk.admit(1000).expect("there is room again");
}

#[test]
fn a_copy_that_is_set_aside_names_its_snapshots_until_all_else_is_gone() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut install = install_at(1, 1, 100);
    let manifest = Manifest::new("s1", "a".repeat(40), "an-id".to_owned());
    install.checkpoint.state = serde_json::to_vec(&manifest).expect("json").into();
    disks.create("s1#4", &install).expect("created");
    assert!(disks.create("s1#04", &install).is_err() && disks.create("#1", &install).is_err());
    assert_eq!(CopyDisks::list(&disks).expect("listed"), ["s1#4"]);
    let removed = CopyDisks::set_aside(&disks, "s1#4").expect("set aside");
    assert!(CopyDisks::list(&disks).expect("listed").is_empty());
    let found = CopyDisks::left_over(&disks).expect("listed");
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [removed.to_string()]);
    removed.remove_log().expect("removed");
    assert_eq!(removed.manifest().expect("read").expect("there").expect("sound").id, "an-id");
    removed.finish().expect("finished");
    assert!(CopyDisks::left_over(&disks).expect("listed").is_empty());
    removed.finish().expect("again");
}
