//! Encryption that is turned on, changed and turned off for a log that is there.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use logservice::encryption::{KeyRing, KeyUse};
use logservice::store::file_store::check::check;
use logservice::store::file_store::format::{SegmentHeader, SEGMENT_HEADER_BYTES};
use logservice::store::file_store::{FileStoreOptions, Threads, MIN_SEGMENT_BYTES};
use logservice::store::OpenError;

use crate::common::pattern;
use crate::harness::{place, read_at, segments, trim, Log};
use crate::locked::{open_with, ring};

/// The ids of the keys of all segments.
fn key_ids(directory: &Path) -> Vec<Option<String>> {
    let header =
        |path: &Path| SegmentHeader::decode(&read_at(path, 0, SEGMENT_HEADER_BYTES as usize)).expect("a header");
    segments(directory).iter().map(|path| header(path).envelope.map(|envelope| envelope.key_id)).collect()
}

/// Appends a record with those keys, and reads all of the log.
fn append(directory: &Path, keys: &Arc<KeyRing>) {
    let mut log = open_with(directory, keys).expect("opens");
    log.append(1000);
    log.assert_holds_pattern(0);
    assert_eq!(log.verdict(), Ok(()));
}

#[test]
fn a_log_is_read_whatever_keys_its_segments_have() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (one, both) = (ring(&[("k1", 1)]), ring(&[("k2", 2), ("k1", 1)]));
    let off = KeyRing::of_text(&format!("plain\nk2 02{0}\nk1 01{0}\n", "6d".repeat(31))).expect("parses");
    append(directory.path(), &Arc::default());
    append(directory.path(), &one);
    append(directory.path(), &one);
    append(directory.path(), &both);
    append(directory.path(), &off);
    let ids = ["", "k1", "k2", ""].map(|id| (!id.is_empty()).then(|| id.to_owned()));
    assert_eq!(key_ids(directory.path()), ids);
    let found = check(directory.path(), "s1", &both).expect("sound").expect("not empty");
    assert_eq!((found.end, found.plain_segments), (5000, 2));
    assert_eq!(Vec::from_iter(found.key_ids), ["k1", "k2"]);
    let refused = |keys: &Arc<KeyRing>| {
        let error = open_with(directory.path(), keys).map(|log| log.end).expect_err("refused");
        assert!(matches!(error, OpenError::Locked { .. }) && error.to_string().contains("'k"), "{error}");
    };
    refused(&Arc::default());
    refused(&one);
    refused(&ring(&[("k2", 2)]));
    // What is needed no more needs no key.
    let log = open_with(directory.path(), &both).expect("opens");
    trim(&log, 4000);
    drop(log);
    let log = open_with(directory.path(), &Arc::default()).expect("opens");
    assert_eq!(log.end, 5000);
    log.assert_holds_pattern(4000);
}

#[test]
fn keys_that_are_read_again_are_used_from_the_next_record_on() {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("keys");
    let write = |lines: &[&str]| {
        fs::write(&file, lines.concat()).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&file, mode).expect("changed");
    };
    let line = |id: &str| format!("{id} 01{}\n", "6d".repeat(31));
    write(&[&line("k1")]);
    let keys = KeyRing::read(Some(&file)).expect("read");
    let shard = directory.path().join("s1");
    let mut log = open_with(&shard, &keys).expect("opens");
    log.append(10);
    write(&[&line("k2"), &line("k1")]);
    let uses = |log: &Log| -> Vec<KeyUse> {
        let ids = log.store.key_ids().into_iter();
        ids.map(|id| KeyUse { id, used_by: "log of shard s1".to_owned() }).collect()
    };
    keys.reload(&uses(&log)).expect("read again");
    log.append(10);
    log.append(10);
    assert_eq!(key_ids(&shard), [Some("k1".to_owned()), Some("k2".to_owned())]);
    // Segments that are open need no key any more, but a restart would.
    write(&[&line("k3"), &line("k2")]);
    let error = keys.reload(&uses(&log)).expect_err("refused").to_string();
    assert!(error.contains("'k1' is not in it any more, and log of shard s1 is encrypted with it"), "{error}");
    log.append(10);
    log.assert_holds_pattern(0);
    assert_eq!(key_ids(&shard).len(), 2);
    trim(&log, log.end - 10);
    keys.reload(&uses(&log)).expect("what is gone needs no key");
    log.append(10);
    let end = log.end;
    drop(log);
    assert_eq!(open_with(&shard, &keys).expect("opens").end, end);
}

/// A log that may take two segments.
fn open_bounded(directory: &Path, keys: &Arc<KeyRing>) -> Log {
    let (segment_bytes, max_log_bytes) = (MIN_SEGMENT_BYTES, Some(2 * MIN_SEGMENT_BYTES));
    let (threads, keys) = (Threads::start().expect("threads"), keys.clone());
    Log::open_bounded(directory, FileStoreOptions { segment_bytes, max_log_bytes, threads, keys }).expect("opens")
}

#[test]
fn a_key_that_changes_while_there_is_no_space_leaves_the_room_of_the_last_segment() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (one, both) = (ring(&[("k1", 1)]), ring(&[("k2", 2), ("k1", 1)]));
    let mut log = open_bounded(directory.path(), &one);
    log.append(1 << 20);
    log.append(1 << 20);
    assert!(log.store.usage().is_full);
    drop(log);
    let mut log = open_bounded(directory.path(), &both);
    log.append(1000);
    log.append(1000);
    let id = |id: &str| Some(id.to_owned());
    assert_eq!(key_ids(directory.path()), [id("k1"), id("k1")]);
    // The new key is used as soon as there is space for a segment.
    trim(&log, 1 << 20);
    log.append(1000);
    assert_eq!(key_ids(directory.path()), [id("k1"), id("k2")]);
    log.assert_holds_pattern(1 << 20);
    drop(log);
    open_bounded(directory.path(), &both).assert_holds_pattern(1 << 20);
}

#[test]
fn what_is_to_be_encrypted_is_not_written_in_the_clear_for_lack_of_space() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = open_bounded(directory.path(), &Arc::default());
    log.append(1 << 20);
    log.append(1 << 20);
    let end = log.end;
    drop(log);
    let mut log = open_bounded(directory.path(), &ring(&[("k1", 1)]));
    log.submit(1000);
    let seen = log.events.wait(|seen| seen.refused.is_some());
    assert_eq!((seen.refused, seen.durable), (Some(end), end));
}

/// A crash right after a segment was begun leaves this. The next one takes its name.
#[test]
fn an_empty_segment_of_another_kind_is_replaced() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (one, two) = (ring(&[("k1", 1)]), ring(&[("k2", 2), ("k1", 1)]));
    for (begun, goes_on) in [(Arc::default(), one.clone()), (one, two)] {
        let shard = directory.path().join(goes_on.id_for_new().expect("encrypts"));
        append(&shard, &begun);
        let path = segments(&shard).remove(0);
        let mut bytes = fs::read(&path).expect("read");
        bytes[SEGMENT_HEADER_BYTES as usize..].fill(0);
        fs::write(&path, bytes).expect("written");
        let mut log = open_with(&shard, &goes_on).expect("opens");
        assert_eq!(log.end, 0);
        log.append(1000);
        log.append(1 << 20);
        log.append(1 << 20);
        log.assert_holds_pattern(0);
        trim(&log, 1001);
        assert!(log.read_all(1001).expect("readable") == pattern(1001, 2 << 20)[..log.end as usize - 1001]);
        drop(log);
        let id = goes_on.id_for_new();
        assert!(key_ids(&shard).iter().all(|found| *found == id), "{:?}", key_ids(&shard));
        open_with(&shard, &goes_on).expect("reopens").assert_holds_pattern(1001);
    }
}

/// It is the last one then, and neither it nor any later one is verified while the shard is served.
#[test]
fn what_stands_before_an_empty_segment_that_is_left_out_is_verified() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = open_with(directory.path(), &Arc::default()).expect("opens");
    log.append(1 << 20);
    log.append(1 << 20);
    drop(log);
    let [first, second] = &segments(directory.path())[..] else { panic!("not two segments") };
    let mut bytes = fs::read(second).expect("read");
    bytes[SEGMENT_HEADER_BYTES as usize..].fill(0);
    fs::write(second, bytes).expect("written");
    let one = ring(&[("k1", 1)]);
    let sound = fs::read(first).expect("read");
    let mut damaged = sound.clone();
    damaged[SEGMENT_HEADER_BYTES as usize + 1000] ^= 1;
    fs::write(first, damaged).expect("written");
    match open_with(directory.path(), &one).map(|log| log.end) {
        Err(OpenError::Damaged(damage)) => assert_eq!(damage.place, place(first, SEGMENT_HEADER_BYTES)),
        other => panic!("{other:?}"),
    }
    fs::write(first, sound).expect("written");
    let log = open_with(directory.path(), &one).expect("opens");
    assert_eq!((log.end, log.verdict()), (1 << 20, Ok(())));
}

#[test]
fn spares_that_are_not_encrypted_go_when_encryption_is_turned_on() {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("keys");
    let write = |text: String| {
        fs::write(&file, text).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&file, mode).expect("changed");
    };
    let line = format!("k1 01{}\n", "6d".repeat(31));
    write(format!("plain\n{line}"));
    let keys = KeyRing::read(Some(&file)).expect("read");
    let shard = directory.path().join("s1");
    let mut log = open_with(&shard, &keys).expect("opens");
    for _ in 0..4 {
        log.append(1 << 20);
    }
    let holds = |offset: u64| {
        let plain = pattern(offset, 4096);
        let entries = fs::read_dir(shard.join("log")).expect("listed");
        let mut all = entries.map(|entry| fs::read(entry.expect("entry").path()).expect("read"));
        all.any(|bytes| bytes.windows(4096).step_by(8).any(|part| part == plain))
    };
    let dropped = [0, 1 << 20, 2 << 20];
    trim(&log, 3 << 20);
    assert!(dropped.iter().any(|offset| holds(*offset)), "there is no spare to be taken");
    write(line);
    keys.reload(&[]).expect("read again");
    // It lies behind the few bytes of a record.
    log.append(100);
    assert!(!dropped.iter().any(|offset| holds(*offset)), "what was dropped is still there");
    log.assert_holds_pattern(3 << 20);
}

#[test]
fn segments_that_are_not_encrypted_do_not_become_those_that_are() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = open_with(directory.path(), &Arc::default()).expect("opens");
    for _ in 0..4 {
        log.append(1 << 20);
    }
    drop(log);
    let plain = pattern(0, 4096);
    let holds_plain = || {
        let entries = fs::read_dir(directory.path().join("log")).expect("listed");
        let mut all = entries.map(|entry| fs::read(entry.expect("entry").path()).expect("read"));
        all.any(|bytes| bytes.windows(4096).step_by(8).any(|part| part == plain))
    };
    assert!(holds_plain());
    let mut log = open_with(directory.path(), &ring(&[("k1", 1)])).expect("opens");
    log.append(1 << 20);
    trim(&log, log.end);
    assert!(!holds_plain(), "what was dropped is still there");
    log.append(1 << 20);
    log.assert_holds_pattern(5 << 20);
}
