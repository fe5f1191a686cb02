//! What opening leaves for later: the records of all segments but the last.

use std::fs;
use std::path::{Path, PathBuf};

use logservice::shard::{LogState, Shard, Switches};
use logservice::snapshots::SnapshotStore;
use logservice::store::file_store::check::check;
use logservice::store::file_store::format::{RecordHeader, SegmentHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use logservice::store::file_store::{self, FileStoreOptions, Threads, MIN_SEGMENT_BYTES};
use logservice::store::{Append, ReadError, SubmitError};

use crate::common::{memory_directory, pattern};
use crate::harness::{overwrite, place, read_at, record_bytes, segments, shrink, Log};

const MIB: u64 = 1 << 20;
/// Records of each segment of a small log, and the length of each.
const RECORDS: u64 = 3;
const RECORD_BYTES: u64 = 40;

/// A log of segments with a record each.
fn large_records(directory: &Path, segments: u64) {
    let mut log = Log::open(directory).expect("opens");
    for _ in 0..segments {
        log.append(MIB as usize);
    }
}

/// A log of segments that have no room for more than their records.
fn small_segments(directory: &Path, count: usize) -> Vec<PathBuf> {
    for number in 0..count {
        let mut log = Log::open(directory).expect("opens");
        for _ in 0..RECORDS {
            log.append(RECORD_BYTES as usize);
        }
        drop(log);
        shrink(&segments(directory)[number], position(RECORDS));
    }
    segments(directory)
}

/// Where the record of that number stands in a small segment.
fn position(number: u64) -> u64 {
    SEGMENT_HEADER_BYTES + number * record_bytes(RECORD_BYTES as usize) as u64
}

/// Expects that the log opens, and then turns out to be damaged there.
fn assert_found_later(directory: &Path, path: &Path, position: u64) -> Log {
    let log = Log::open(directory).expect("opens");
    let damage = log.verdict().expect_err("damaged");
    assert!(damage.starts_with(&format!("{} at byte {position}: ", path.display())), "{damage}");
    // Whoever verifies all at once is told the same.
    assert_eq!(check(directory, "s1", &crate::keys()).expect_err("damaged").to_string(), damage);
    let append = Append { epoch: 1, offset: log.end, payload: "x".into() };
    assert!(matches!(log.store.submit(append), Err(SubmitError::Closed)));
    log
}

#[test]
fn damage_in_an_older_segment_keeps_no_log_from_opening_and_stops_it_then() {
    let directory = tempfile::tempdir().expect("tempdir");
    large_records(directory.path(), 6);
    let paths = segments(directory.path());
    for damaged in [1, 0] {
        overwrite(&paths[damaged], SEGMENT_HEADER_BYTES + 1000, b"gone");
        let log = assert_found_later(directory.path(), &paths[damaged], SEGMENT_HEADER_BYTES);
        assert_eq!(log.end, 6 * MIB);
        // What is sound is read as before.
        log.assert_holds_pattern(2 * MIB + 5);
        let mut reader = log.store.reader(damaged as u64 * MIB + 7).expect("opened");
        match reader.read(log.end, 10) {
            Err(ReadError::Damaged(damage)) => {
                assert_eq!(damage.place, place(&paths[damaged], SEGMENT_HEADER_BYTES));
            }
            other => panic!("{other:?}"),
        }
    }
    overwrite(&paths[3], 20, b"gone");
    assert!(Log::open(directory.path()).is_err(), "headers are verified at once");
}

#[test]
fn a_reader_that_reaches_damage_gets_what_is_sound_before_it() {
    let directory = memory_directory();
    let paths = small_segments(directory.path(), 3);
    overwrite(&paths[1], position(1) + RECORD_HEADER_BYTES as u64, b"gone");
    let log = Log::open(directory.path()).expect("opens");
    let mut reader = log.store.reader(7).expect("opened");
    let mut read = Vec::new();
    let error = loop {
        match reader.read(log.end, 1000) {
            Ok(bytes) => read.extend_from_slice(&bytes),
            Err(error) => break error,
        }
    };
    assert!(read == pattern(7, ((RECORDS + 1) * RECORD_BYTES - 7) as usize));
    let place = format!("{} at byte {}: ", paths[1].display(), position(1));
    assert!(error.to_string().starts_with(&place), "{error}");
    assert!(log.verdict().is_err());
}

#[test]
fn records_that_are_missing_between_two_segments_are_found() {
    let directory = memory_directory();
    let paths = small_segments(directory.path(), 3);
    let sound: Vec<_> = paths.iter().map(|path| fs::read(path).expect("read")).collect();
    // A record, and the last of a segment, as if it had never been written.
    for number in 0..RECORDS {
        overwrite(&paths[1], position(number), &[0; RECORD_HEADER_BYTES]);
        assert_found_later(directory.path(), &paths[1], position(number));
        fs::write(&paths[1], &sound[1]).expect("written");
    }
    // A segment. There would be room in the one before for all that it held.
    fs::remove_file(&paths[1]).expect("removed");
    let log = assert_found_later(directory.path(), &paths[0], position(RECORDS));
    assert!(log.read_all(0).is_err());
    drop(log);
    fs::write(&paths[1], &sound[1]).expect("written");
    let log = Log::open(directory.path()).expect("opens");
    log.assert_holds_pattern(0);
    assert_eq!(log.verdict(), Ok(()));
}

/// As a disk would that loses a write into a place that was written before: each checksum of its own holds.
#[test]
fn a_record_that_does_not_follow_the_one_before_it_is_found_by_readers_as_well() {
    let directory = memory_directory();
    let paths = small_segments(directory.path(), 2);
    let header = SegmentHeader::decode(&read_at(&paths[0], 0, SEGMENT_HEADER_BYTES as usize)).expect("sound");
    for number in 0..RECORDS {
        let sound = read_at(&paths[0], position(number), record_bytes(RECORD_BYTES as usize));
        let offset = number * RECORD_BYTES;
        let payload = pattern(offset, RECORD_BYTES as usize);
        let foreign = RecordHeader::following(0xbad, RECORD_BYTES as u32, 1, offset, 0, crc32c::crc32c(&payload));
        overwrite(&paths[0], position(number), &foreign.encode(header.salt));
        let log = assert_found_later(directory.path(), &paths[0], position(number));
        let error = log.read_all(0).expect_err("damaged");
        assert!(error.to_string().contains(&format!("at byte {}: ", position(number))), "{error}");
        drop(log);
        overwrite(&paths[0], position(number), &sound);
    }
    // The last record of a segment, with all that belongs to it but the segment that follows.
    let number = RECORDS - 1;
    let before = RecordHeader::decode(&read_at(&paths[0], position(number - 1), RECORD_HEADER_BYTES), header.salt);
    let before = before.expect("sound").running_checksum;
    let offset = number * RECORD_BYTES;
    let payload = pattern(offset, RECORD_BYTES as usize);
    let other = RecordHeader::following(before, RECORD_BYTES as u32, 9, offset, 0, crc32c::crc32c(&payload));
    overwrite(&paths[0], position(number), &other.encode(header.salt));
    // If records are encrypted, it is none.
    let found_at = if crate::keys().has_keys() { number } else { RECORDS };
    let log = assert_found_later(directory.path(), &paths[0], position(found_at));
    assert!(log.read_all(0).is_err());
}

/// A crash right after a segment was begun leaves this.
#[test]
fn a_last_segment_without_a_record_says_where_the_log_ends() {
    let directory = memory_directory();
    let paths = small_segments(directory.path(), 2);
    let sound = fs::read(&paths[1]).expect("read");
    let mut empty = sound.clone();
    empty[SEGMENT_HEADER_BYTES as usize..].fill(0);
    fs::write(&paths[1], &empty).expect("written");
    let end = RECORDS * RECORD_BYTES;
    let mut log = Log::open(directory.path()).expect("opens");
    assert_eq!((log.end, log.verdict()), (end, Ok(())));
    log.append(RECORD_BYTES as usize);
    log.assert_holds_pattern(0);
    drop(log);
    fs::write(&paths[1], &empty).expect("written");
    overwrite(&paths[0], position(RECORDS - 1) + 70, b"gone");
    assert_found_later(directory.path(), &paths[0], position(RECORDS - 1));
}

#[test]
fn damage_that_is_found_before_anybody_listens_is_told_all_the_same() {
    let directory = tempfile::tempdir().expect("tempdir");
    let snapshots = SnapshotStore::open(None, directory.path()).expect("a directory");
    let options = FileStoreOptions {
        segment_bytes: MIN_SEGMENT_BYTES,
        max_log_bytes: None,
        threads: Threads::start().expect("threads"),
        keys: crate::keys(),
    };
    let shard = Shard::open("s1", snapshots.into(), Switches::new(1), |events| {
        let opened = file_store::open(directory.path(), "s1", &options, events.clone());
        events.damaged("a file at byte 1: gone");
        opened
    });
    let status = shard.expect("opens").status();
    assert_eq!((status.state, &status.error[..]), (LogState::Damaged, "a file at byte 1: gone"));
}
