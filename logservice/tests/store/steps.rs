//! What opening makes of a manifest, left-overs and trimmed segments. What any store does is in `src/store/conformance`.

use std::fs;

use logservice::store::file_store::checksum_line;
use logservice::store::OpenError;

use crate::harness::{segments, trim, Log};

#[test]
fn a_manifest_of_a_newer_version_or_without_its_checksum_is_refused() {
    let directory = tempfile::tempdir().expect("tempdir");
    drop(Log::open(directory.path()).expect("opens"));
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
fn trimming_drops_segments_that_lie_wholly_below_the_base() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    for _ in 0..6 {
        log.append(1 << 20);
    }
    trim(&log, (3 << 20) + 5);
    assert_eq!(segments(directory.path()).len(), 3);
}
