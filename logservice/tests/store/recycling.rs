use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use logservice::store::file_store::check::check;
use logservice::store::file_store::format::{RecordHeader, SegmentHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use logservice::store::file_store::look::Look;
use logservice::store::file_store::MIN_SEGMENT_BYTES;
use logservice::store::{OpenError, Record};

use crate::common::{memory_directory, pattern};
use crate::harness::{overwrite, read_at, segments, shrink, trim, Log};

const MIB: usize = 1 << 20;

/// Keeps all segments open: what a file was that is gone is not what a new one is.
fn hold(directory: &Path) -> Vec<fs::File> {
    segments(directory).iter().map(|path| fs::File::open(path).expect("opened")).collect()
}

/// What a file is, whatever its name.
fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("is there").ino()
}

fn spares(directory: &Path) -> usize {
    let names = fs::read_dir(directory.join("log")).expect("listed").map(|entry| entry.expect("entry").file_name());
    names.filter(|name| name.to_string_lossy().starts_with("spare-")).count()
}

#[test]
fn dropped_segments_are_written_again_and_few_are_kept_for_that() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    for _ in 0..8 {
        log.append(MIB);
    }
    let _held = hold(directory.path());
    let dropped: BTreeSet<u64> = segments(directory.path())[..7].iter().map(|path| inode(path)).collect();
    trim(&log, log.end - 5);
    assert_eq!(segments(directory.path()).len(), 1);
    assert!((1..=2).contains(&spares(directory.path())));
    let base = log.end - 5;
    for _ in 0..3 {
        log.append(MIB);
    }
    let again = segments(directory.path()).iter().filter(|path| dropped.contains(&inode(path))).count();
    assert!(again >= 1, "none was written again");
    log.assert_holds_pattern(base);
    drop(log);
    let log = Log::open(directory.path()).expect("reopens");
    log.assert_holds_pattern(base);
}

#[test]
fn a_segment_that_is_being_read_is_not_written_again() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    for _ in 0..3 {
        log.append(MIB);
    }
    let read = inode(&segments(directory.path())[0]);
    let _held = hold(directory.path());
    let mut reader = log.store.reader(0).expect("opened");
    trim(&log, 2 * MIB as u64);
    for _ in 0..6 {
        log.append(MIB);
    }
    assert!(segments(directory.path()).iter().all(|path| inode(path) != read));
    let mut bytes = Vec::new();
    while bytes.len() < MIB {
        bytes.extend_from_slice(&reader.read(MIB as u64, MIB).expect("its file is still open"));
    }
    assert!(bytes == pattern(0, MIB));
}

#[test]
fn segments_of_another_length_are_not_written_again() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    for _ in 0..3 {
        log.append(MIB);
    }
    drop(log);
    let dropped: BTreeSet<u64> = segments(directory.path()).iter().map(|path| inode(path)).collect();
    let _held = hold(directory.path());
    let mut log = Log::open_with(directory.path(), 2 * MIN_SEGMENT_BYTES).expect("opens");
    log.append(MIB);
    log.append(MIB);
    trim(&log, log.end - 5);
    assert_eq!(segments(directory.path()).len(), 1);
    for _ in 0..3 {
        log.append(MIB);
    }
    assert!(segments(directory.path()).iter().all(|path| !dropped.contains(&inode(path))));
}

/// A log whose last segment was written before, with some small records in it and large old ones behind them.
fn recycled(directory: &Path) -> Log {
    let mut log = Log::open(directory).expect("opens");
    // Old records wherever a new one may end.
    while segments(directory).len() < 3 {
        log.append(40);
        log.append(300_000);
    }
    let dropped = segments(directory)[..2].iter().map(|path| inode(path)).collect::<Vec<_>>();
    trim(&log, log.end);
    while segments(directory).len() < 2 {
        log.append(300_000);
    }
    assert!(dropped.contains(&inode(&segments(directory)[1])));
    log
}

#[test]
fn old_records_behind_the_end_are_neither_records_nor_torn() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = recycled(directory.path());
    for bytes in [40, 1, 7, 300] {
        log.append(bytes);
        let found = check(directory.path(), "s1", &crate::keys()).expect("sound").expect("not empty");
        assert_eq!((found.end, found.torn_bytes), (log.end, 0));
    }
    let (base, end) = (log.store.manifest().base, log.end);
    drop(log);
    let path = segments(directory.path()).pop().expect("a segment");
    let header = SegmentHeader::decode(&read_at(&path, 0, SEGMENT_HEADER_BYTES as usize)).expect("sound");
    let used = SEGMENT_HEADER_BYTES as usize + (end - header.first_offset) as usize + 8 * RECORD_HEADER_BYTES;
    let behind = read_at(&path, used as u64, MIN_SEGMENT_BYTES as usize - used);
    assert!(behind.iter().any(|&byte| byte != 0), "there is nothing old behind the end");
    let mut log = Log::open(directory.path()).expect("reopens");
    assert_eq!(log.end, end);
    log.append(10);
    log.assert_holds_pattern(base);
}

#[test]
fn a_record_torn_over_old_ones_is_cut() {
    let directory = memory_directory();
    let mut log = recycled(directory.path());
    let path = segments(directory.path()).pop().expect("a segment");
    log.append(1000);
    let kept = log.end;
    let before = fs::read(&path).expect("read");
    log.append(5000);
    let base = log.store.manifest().base;
    drop(log);
    let after = fs::read(&path).expect("read");
    let differs: Vec<usize> = (0..after.len()).filter(|&at| before[at] != after[at]).collect();
    let (first, last) = (differs[0], differs[differs.len() - 1]);
    shrink(&path, last as u64 + 20_000);
    // Up to there the new bytes, and the old ones behind; and the reverse.
    for torn_at in (first + 1..last).step_by(509).chain(first + 1..first + RECORD_HEADER_BYTES) {
        for (begin, behind) in [(&after, &before), (&before, &after)] {
            overwrite(&path, first as u64, &[&begin[first..torn_at], &behind[torn_at..=last]].concat());
            let log = Log::open(directory.path()).unwrap_or_else(|error| panic!("{torn_at}: {error}"));
            assert_eq!(log.end, kept, "torn at {torn_at}");
            drop(log);
            let found = check(directory.path(), "s1", &crate::keys()).expect("sound").expect("not empty");
            assert_eq!((found.end, found.torn_bytes), (kept, 0), "torn at {torn_at}");
        }
    }
    let mut log = Log::open(directory.path()).expect("reopens");
    log.append(20);
    log.assert_holds_pattern(base);
}

#[test]
fn a_record_of_another_life_of_the_file_is_no_record() {
    let directory = tempfile::tempdir().expect("tempdir");
    let log = recycled(directory.path());
    let path = segments(directory.path()).pop().expect("a segment");
    let header = SegmentHeader::decode(&read_at(&path, 0, SEGMENT_HEADER_BYTES as usize)).expect("sound");
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(record) = RecordHeader::decode(&read_at(&path, at, RECORD_HEADER_BYTES), header.salt) {
        at += record.file_bytes() as u64;
    }
    // As it would be if the disk had swapped them: the position continues, all checksums hold, the salt is another.
    let last = check(directory.path(), "s1", &crate::keys()).expect("sound").expect("not empty");
    let foreign = RecordHeader::following(last.running_checksum, 8, 1, log.end, 0, crc32c::crc32c(b"stranger"));
    let end = log.end;
    drop(log);
    overwrite(&path, at, &[&foreign.encode(header.salt ^ 0x8000_0000)[..], b"stranger"].concat());
    assert_eq!(Log::open(directory.path()).expect("opens").end, end);
    overwrite(&path, at, &[&foreign.encode(header.salt)[..], b"stranger"].concat());
    // If records are encrypted, one that is not is none.
    let end = if crate::keys().has_keys() { end } else { end + 8 };
    assert_eq!(Log::open(directory.path()).expect("opens").end, end, "the same with its own salt is one");
}

#[test]
fn whoever_looks_while_the_log_is_trimmed_sees_true_records_or_an_error() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(MIB);
    let (is_over, sound) = (AtomicBool::new(false), AtomicUsize::new(0));
    let seen = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut seen = 0;
            while !is_over.load(Ordering::SeqCst) {
                let each = |record: Record| {
                    assert!(record.payload == pattern(record.offset, record.payload.len()), "at {}", record.offset);
                    seen += 1;
                    true
                };
                let looked = Look::open(directory.path(), "s1", &crate::keys()).map(|look| look.expect("not empty"));
                match looked.and_then(|look| look.for_each_record(each)) {
                    Ok(()) => {
                        sound.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(OpenError::Medium(_) | OpenError::Damaged(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            seen
        });
        for round in 1..=120 {
            log.append(MIB);
            trim(&log, log.end.saturating_sub(5 * MIB as u64));
            // Nothing changes until a look has come through, and one that began while it changed may be among those.
            let before = sound.load(Ordering::SeqCst);
            let deadline = Instant::now() + Duration::from_secs(20);
            while round % 40 == 0 && sound.load(Ordering::SeqCst) == before && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
        is_over.store(true, Ordering::SeqCst);
        looking.join().expect("only true records")
    });
    assert!(sound.into_inner() >= 3 && seen > 0, "too few looks to tell: {seen} records");
}
