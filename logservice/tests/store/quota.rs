//! What a log may take of the disk.

use std::path::Path;

use logservice::store::file_store::{FileStoreOptions, Threads, MIN_SEGMENT_BYTES};

use crate::harness::{segments, trim, Log};

const MIB: usize = 1 << 20;

fn open(directory: &Path) -> Log {
    let options = FileStoreOptions {
        segment_bytes: MIN_SEGMENT_BYTES,
        max_log_bytes: Some(2 * MIN_SEGMENT_BYTES),
        threads: Threads::start().expect("threads"),
        keys: crate::keys(),
    };
    Log::open_bounded(directory, options).expect("opens")
}

/// It could be dropped only once there is another, and would keep that from being made.
#[test]
fn a_last_segment_as_long_as_the_quota_leaves_room_for_a_shorter_one() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open_with(directory.path(), 2 * MIN_SEGMENT_BYTES).expect("opens");
    for _ in 0..3 {
        log.append(MIB);
    }
    assert_eq!(segments(directory.path()).len(), 1);
    drop(log);
    let mut log = open(directory.path());
    assert!(!log.store.usage().is_full);
    log.append(MIB);
    let usage = log.store.usage();
    assert_eq!((usage.parts, usage.log_bytes, usage.is_full), (2, 3 * MIN_SEGMENT_BYTES, true));
    // With two, the quota is what it says.
    log.submit(MIB);
    let refusal = log.events.wait(|seen| seen.refused.is_some()).refusal.expect("says why");
    assert!(refusal.contains("--max-log-mb 4 allows no further segment"), "{refusal}");
    log.end -= MIB as u64;
    trim(&log, log.end);
    assert!(!log.store.usage().is_full);
    log.append(MIB);
    log.assert_holds_pattern(3 * MIB as u64);
}
