use std::fs;

use logservice::store::file_store::check::check;
use logservice::store::file_store::format::{RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use logservice::store::OpenError;

use crate::common::memory_directory;
use crate::harness::{overwrite, place, read_at, record_bytes, segments, shrink, stored_bytes, Log};

/// Cuts the last record at each of its bytes, in three ways, and expects exactly the records before it.
#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_log_goes_on() {
    const LAST_BYTES: usize = 40;
    let directory = memory_directory();
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(1000);
    log.append(33);
    let kept = log.end;
    log.append(LAST_BYTES);
    drop(log);
    let path = segments(directory.path()).remove(0);
    let position = SEGMENT_HEADER_BYTES + (record_bytes(1000) + record_bytes(33)) as u64;
    let record = read_at(&path, position, record_bytes(LAST_BYTES));
    shrink(&path, position + 1000);
    let written = RECORD_HEADER_BYTES + stored_bytes(LAST_BYTES);
    for torn_at in 0..written {
        let head_only = [&record[..torn_at], &vec![0; record.len() - torn_at]].concat();
        let tail_only = [&vec![0; torn_at + 1], &record[torn_at + 1..]].concat();
        let mut flipped = record.clone();
        flipped[torn_at] ^= 0x10;
        for (how, torn) in [("head", head_only), ("tail", tail_only), ("flipped", flipped)] {
            overwrite(&path, position, &torn);
            let log = Log::open(directory.path()).unwrap_or_else(|error| panic!("{how} {torn_at}: {error}"));
            assert_eq!(log.end, kept, "{how} at byte {torn_at}");
            drop(log);
            let found = check(directory.path(), "s1", &crate::keys()).expect("sound").expect("not empty");
            assert_eq!((found.end, found.torn_bytes), (kept, 0), "{how} {torn_at}: not cut");
        }
    }
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(LAST_BYTES);
    log.append(20);
    log.assert_holds_pattern(0);
    drop(log);
    assert_eq!(Log::open(directory.path()).expect("reopens").end, kept + 60);
}

#[test]
fn damage_before_the_tail_is_refused_with_its_place() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    for bytes in [100, 50, 60] {
        log.append(bytes);
    }
    drop(log);
    let path = segments(directory.path()).remove(0);
    let second = SEGMENT_HEADER_BYTES + record_bytes(100) as u64;
    let bytes = record_bytes(100) + record_bytes(50);
    let sound = read_at(&path, SEGMENT_HEADER_BYTES, bytes);
    for at in 0..bytes - (record_bytes(50) - RECORD_HEADER_BYTES - stored_bytes(50)) {
        if (RECORD_HEADER_BYTES + stored_bytes(100)..record_bytes(100)).contains(&at) {
            continue; // padding
        }
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        overwrite(&path, SEGMENT_HEADER_BYTES, &damaged);
        match Log::open(directory.path()).map(|log| log.end) {
            Err(OpenError::Damaged(damage)) => {
                let expected = if at < record_bytes(100) { SEGMENT_HEADER_BYTES } else { second };
                assert_eq!(damage.place, place(&path, expected), "byte {at}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
    // Zeros in place of a record are damage too.
    let mut zeroed = sound.clone();
    zeroed[record_bytes(100)..].fill(0);
    overwrite(&path, SEGMENT_HEADER_BYTES, &zeroed);
    assert!(matches!(Log::open(directory.path()), Err(OpenError::Damaged(_))));
    overwrite(&path, SEGMENT_HEADER_BYTES, &sound);
    assert_eq!(Log::open(directory.path()).expect("sound again").end, 210);
}

#[test]
fn a_missing_or_swapped_segment_is_refused() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    for _ in 0..6 {
        log.append(1 << 20);
    }
    drop(log);
    let paths = segments(directory.path());
    assert!(paths.len() >= 3);
    let refused = |why: &str| {
        assert!(matches!(Log::open(directory.path()), Err(OpenError::Damaged(_))), "{why}");
    };
    for hidden in &paths[..paths.len() - 1] {
        let aside = directory.path().join("aside");
        fs::rename(hidden, &aside).expect("renamed");
        refused("missing");
        fs::rename(&aside, hidden).expect("renamed");
    }
    let swapped = fs::read(&paths[1]).expect("read");
    let original = fs::read(&paths[0]).expect("read");
    fs::write(&paths[0], &swapped).expect("written");
    refused("swapped");
    fs::write(&paths[0], &original).expect("written");
    Log::open(directory.path()).expect("sound again").assert_holds_pattern(0);
}

#[test]
fn a_log_that_ends_before_a_leader_began_is_refused() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(100);
    let mut manifest = log.store.manifest().next();
    manifest.epochs[0].first_offset = Some(100);
    log.store.replace_manifest(manifest).expect("replaced");
    drop(log);
    let path = segments(directory.path()).remove(0);
    overwrite(&path, SEGMENT_HEADER_BYTES, &[0; 64]);
    assert!(matches!(Log::open(directory.path()), Err(OpenError::Damaged(_))));
    fs::remove_file(path).expect("removed");
    assert!(matches!(Log::open(directory.path()), Err(OpenError::Damaged(_))));
    fs::remove_file(directory.path().join("MANIFEST")).expect("removed");
    assert_eq!(Log::open(directory.path()).expect("an empty directory is a new shard").end, 0);
}
