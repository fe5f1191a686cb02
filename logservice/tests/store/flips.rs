//! Every bit of a small log turned over, and every file of it cut off at every length: found, or without effect.

use std::fs;
use std::path::{Path, PathBuf};

use logservice::store::file_store::check::check;
use logservice::store::file_store::format::{RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use logservice::store::file_store::look::Look;

use crate::common::{memory_directory, pattern};
use crate::harness::{record_bytes, segments, shrink, stored_bytes, Log};

/// Lengths of the records, for each segment.
const RECORDS: [&[usize]; 2] = [&[21, 8, 30], &[5, 17, 40]];
/// Room behind the last record, too little for another.
const SLACK_BYTES: u64 = 24;

/// So much of the header block is looked at: in an encrypted segment its key as well.
fn header_bytes() -> usize {
    if crate::keys().has_keys() {
        256
    } else {
        128
    }
}

/// A shard with two segments of some hundred bytes of records.
fn small_log() -> (tempfile::TempDir, [PathBuf; 2]) {
    let directory = memory_directory();
    for (number, records) in RECORDS.iter().enumerate() {
        let mut log = Log::open(directory.path()).expect("opens");
        for &bytes in *records {
            log.append(bytes);
        }
        drop(log);
        let used: usize = records.iter().map(|&bytes| record_bytes(bytes)).sum();
        shrink(&segments(directory.path())[number], SEGMENT_HEADER_BYTES + used as u64 + SLACK_BYTES);
    }
    let paths = segments(directory.path());
    assert_eq!(all(directory.path()), Ok(end(2)));
    (directory, paths.try_into().expect("two segments"))
}

/// The end of the log after so many segments.
fn end(segments: usize) -> u64 {
    RECORDS[..segments].iter().flat_map(|records| records.iter()).sum::<usize>() as u64
}

/// The end of the log, after everything in it was compared with what was written. The error is the log's.
fn all(directory: &Path) -> Result<u64, String> {
    let mut next = 0;
    let look = Look::open(directory, "s1", &crate::keys()).map_err(|error| error.to_string())?.expect("not empty");
    let read = look.for_each_record(|record| {
        assert_eq!(record.offset, next);
        assert_eq!((record.epoch, &record.payload[..]), (1, &pattern(next, record.payload.len())[..]));
        next += record.payload.len() as u64;
        true
    });
    read.map_err(|error| error.to_string())?;
    let found = check(directory, "s1", &crate::keys()).map_err(|error| error.to_string())?.expect("not empty");
    assert_eq!((found.manifest.base, found.end), (0, next));
    Ok(next)
}

/// Turns each bit of `path` over in turn: bytes that are `harmless` change nothing, those that `may_be_cut` may cost the last
/// record, and whatever the others do is refused.
fn turn_every_bit(directory: &Path, path: &Path, harmless: impl Fn(usize) -> bool, may_be_cut: impl Fn(usize) -> bool) {
    let sound = fs::read(path).expect("read");
    let last = *RECORDS[1].last().expect("records") as u64;
    for at in 0..sound.len() {
        for bit in 0..8 {
            let mut turned = sound.clone();
            turned[at] ^= 1 << bit;
            fs::write(path, &turned).expect("written");
            match all(directory) {
                Err(_) => assert!(!harmless(at), "byte {at}, bit {bit}: refused without need"),
                Ok(found) if found == end(2) => assert!(harmless(at), "byte {at}, bit {bit}: not found"),
                Ok(found) => assert!(found == end(2) - last && may_be_cut(at), "byte {at}, bit {bit}: end {found}"),
            }
        }
    }
    fs::write(path, &sound).expect("written");
    assert_eq!(all(directory), Ok(end(2)));
}

/// Which bytes of a segment nobody looks at: the rest of the header block, what fills records up, what lies behind them.
fn is_filling(records: &[usize], at: usize) -> bool {
    if at < SEGMENT_HEADER_BYTES as usize {
        return at >= header_bytes();
    }
    let mut position = SEGMENT_HEADER_BYTES as usize;
    for &bytes in records {
        let next = position + record_bytes(bytes);
        if at < next {
            return at >= position + RECORD_HEADER_BYTES + stored_bytes(bytes);
        }
        position = next;
    }
    true
}

#[test]
fn every_bit_turned_over_in_a_segment_is_found_or_without_effect() {
    let (directory, [first, _]) = small_log();
    turn_every_bit(directory.path(), &first, |at| is_filling(RECORDS[0], at), |_| false);
}

/// As above, but the log is served: opening does not read these records.
#[test]
fn every_bit_turned_over_in_an_older_segment_is_found_while_it_is_served_and_by_whoever_reads_it() {
    let (directory, [first, _]) = small_log();
    let sound = fs::read(&first).expect("read");
    // Of the header block the rest is looked at by nobody, as the test above shows.
    for at in (0..header_bytes()).chain(SEGMENT_HEADER_BYTES as usize..sound.len()) {
        for bit in 0..8 {
            let mut turned = sound.clone();
            turned[at] ^= 1 << bit;
            fs::write(&first, &turned).expect("written");
            let what = format!("byte {at}, bit {bit}");
            let Ok(log) = Log::open(directory.path()) else {
                assert!(at < header_bytes(), "{what}: read at once");
                continue;
            };
            assert!(at >= header_bytes() && log.end == end(2), "{what}: end {}", log.end);
            if is_filling(RECORDS[0], at) {
                log.assert_holds_pattern(0);
                assert_eq!(log.verdict(), Ok(()), "{what}");
            } else {
                assert!(log.read_all(0).is_err(), "{what}: read");
                let damage = log.verdict().expect_err(&what);
                assert!(damage.contains(&format!("{} at byte ", first.display())), "{what}: {damage}");
            }
        }
    }
}

/// The last record of the log cannot be told from one that a crash has torn.
#[test]
fn every_bit_turned_over_in_the_last_segment_is_found_or_cuts_only_the_last_record() {
    let (directory, [_, second]) = small_log();
    let before: usize = RECORDS[1][..2].iter().map(|&bytes| record_bytes(bytes)).sum();
    let last = SEGMENT_HEADER_BYTES as usize + before;
    turn_every_bit(directory.path(), &second, |at| is_filling(RECORDS[1], at), |at| at >= last);
}

#[test]
fn every_bit_turned_over_in_the_manifest_is_found() {
    let (directory, _) = small_log();
    turn_every_bit(directory.path(), &directory.path().join("MANIFEST"), |_| false, |_| false);
}

#[test]
fn every_file_cut_off_at_any_length_is_found() {
    let (directory, [first, second]) = small_log();
    for path in [first, second, directory.path().join("MANIFEST")] {
        let sound = fs::read(&path).expect("read");
        for length in 0..sound.len() {
            fs::write(&path, &sound[..length]).expect("written");
            assert!(all(directory.path()).is_err(), "{} cut off at {length}", path.display());
        }
        fs::write(&path, [&sound[..], b"\0"].concat()).expect("written");
        assert!(all(directory.path()).is_err(), "{} with a byte more", path.display());
        fs::write(&path, &sound).expect("written");
    }
    assert_eq!(all(directory.path()), Ok(end(2)));
}
