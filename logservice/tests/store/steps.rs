use std::fs;

use logservice::store::file_store::checksum_line;
use logservice::store::{ManifestError, OpenError, ReadError};

use crate::harness::{segments, Log};

#[test]
fn what_was_appended_is_read_from_any_offset_also_after_reopening() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    for bytes in [1, 7, 8, 4096, 300_000, 1 << 20, 1 << 20, 1 << 20, 5, 70_000] {
        log.append(bytes);
    }
    assert!(segments(directory.path()).len() >= 3, "several segments");
    let end = log.end;
    for from in [0, 1, 15, 16, 5000, 1_000_000, 2_000_001, end - 1] {
        log.assert_holds_pattern(from);
    }
    drop(log);
    let mut log = Log::open(directory.path()).expect("reopens");
    assert_eq!(log.end, end);
    log.append(12_345);
    log.assert_holds_pattern(0);
}

#[test]
fn the_manifest_is_replaced_only_by_the_next_revision() {
    let directory = tempfile::tempdir().expect("tempdir");
    let log = Log::open(directory.path()).expect("opens");
    let next = log.store.manifest().next();
    log.store.replace_manifest(next.clone()).expect("replaced");
    assert!(matches!(log.store.replace_manifest(next.clone()), Err(ManifestError::Conflict { .. })));
    drop(log);
    assert_eq!(Log::open(directory.path()).expect("reopens").store.manifest(), next);
    let manifest = directory.path().join("MANIFEST");
    let bytes = fs::read(&manifest).expect("read");
    let text = String::from_utf8(checksum_line::verify(&bytes).expect("sound").to_vec()).expect("text");
    let newer = text.replace("\"format\": ", "\"format\": 9");
    fs::write(&manifest, checksum_line::add(newer.as_bytes())).expect("written");
    match Log::open(directory.path()).map(|log| log.end) {
        Err(OpenError::Manifest { reason, .. }) => assert!(reason.contains("written by a newer version"), "{reason}"),
        other => panic!("{other:?}"),
    }
    // A digit that has changed on the medium.
    let other_base = text.replace("\"base\": 0", "\"base\": 1");
    fs::write(&manifest, [other_base.as_bytes(), &bytes[text.len()..]].concat()).expect("written");
    match Log::open(directory.path()).map(|log| log.end) {
        Err(OpenError::Manifest { reason, .. }) => assert!(reason.contains("does not match its checksum"), "{reason}"),
        other => panic!("{other:?}"),
    }
    fs::write(&manifest, text).expect("written");
    assert!(matches!(Log::open(directory.path()), Err(OpenError::Manifest { .. })), "without a checksum");
}

#[test]
fn left_overs_are_removed_when_a_shard_is_opened() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(10);
    drop(log);
    let left_overs = ["log/spare-7", "log/unnamed"];
    for name in left_overs {
        fs::write(directory.path().join(name), b"x").expect("written");
    }
    let log = Log::open(directory.path()).expect("opens");
    drop(log);
    for name in left_overs {
        assert!(!directory.path().join(name).exists(), "{name}");
    }
}

#[test]
fn trimming_drops_segments_below_the_base_and_reading_there_is_refused() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    for _ in 0..6 {
        log.append(1 << 20);
    }
    let base = (3 << 20) + 5;
    let mut behind = log.store.reader(10).expect("a reader from before");
    let mut manifest = log.store.manifest().next();
    manifest.base = base;
    log.store.replace_manifest(manifest).expect("replaced");
    log.store.trim(base).expect("trimmed");
    assert!(matches!(log.store.reader(10), Err(ReadError::Trimmed { .. })));
    log.assert_holds_pattern(base);
    assert!(!behind.read(log.end, 10).expect("its file is still open").is_empty());
    drop(behind);
    let kept = segments(directory.path()).len();
    assert_eq!(kept, 3);
    drop(log);
    let mut log = Log::open(directory.path()).expect("reopens");
    log.append(10);
    log.assert_holds_pattern(base);
}
