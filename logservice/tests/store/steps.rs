use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use logservice::store::file_store::files::{FaultHook, Step};
use logservice::store::{Append, ManifestError, OpenError, ReadError};

use crate::harness::{copy_directory, segments, Log};

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
fn appends_that_queue_while_the_disk_is_busy_share_a_sync() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (open, syncs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (may_sync, counted) = (open.clone(), syncs.clone());
    let faults = FaultHook::new(move |step| {
        if step == Step::RecordSync {
            counted.fetch_add(1, Ordering::SeqCst);
            while !may_sync.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    });
    let mut log = Log::open_with(directory.path(), faults).expect("opens");
    log.submit(10);
    while syncs.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..100 {
        log.submit(10);
    }
    assert_eq!(log.events.wait(|_| true).durable, 0, "nothing is durable before its sync");
    open.store(true, Ordering::SeqCst);
    log.events.wait(|seen| seen.durable == 1010);
    assert_eq!(log.store.usage().fsyncs, 2);
    assert_eq!(log.store.usage().appends, 101);
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
    let text = fs::read_to_string(&manifest).expect("read").replace("\"format\": 1", "\"format\": 2");
    fs::write(&manifest, text).expect("written");
    assert!(matches!(Log::open(directory.path()), Err(OpenError::Manifest { .. })));
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    let directory = tempfile::tempdir().expect("tempdir");
    let full = Arc::new(AtomicBool::new(true));
    let is_full = full.clone();
    let faults = FaultHook::new(move |step| match step {
        Step::Allocate | Step::SegmentHeader if is_full.load(Ordering::SeqCst) => {
            Err(io::ErrorKind::StorageFull.into())
        }
        _ => Ok(()),
    });
    let mut log = Log::open_with(directory.path(), faults).expect("opens");
    log.submit(100);
    assert_eq!(log.events.wait(|seen| seen.refused.is_some()).refused, Some(0));
    log.submit(50);
    full.store(false, Ordering::SeqCst);
    log.end = 0;
    log.append(100);
    log.append(200);
    log.assert_holds_pattern(0);
    drop(log);
    assert_eq!(Log::open(directory.path()).expect("reopens").end, 300);
}

#[test]
fn after_a_failed_write_or_sync_nothing_is_acknowledged() {
    for failing in [Step::RecordWrite, Step::RecordSync] {
        let directory = tempfile::tempdir().expect("tempdir");
        let fails = Arc::new(AtomicBool::new(false));
        let now_fails = fails.clone();
        let faults = FaultHook::new(move |step| match step {
            // Also a full disk: once the record may have been written in part, it is a failure like any other.
            step if step == failing && now_fails.load(Ordering::SeqCst) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        });
        let mut log = Log::open_with(directory.path(), faults).expect("opens");
        log.append(100);
        fails.store(true, Ordering::SeqCst);
        log.submit(50);
        log.events.wait(|seen| seen.failed.is_some());
        fails.store(false, Ordering::SeqCst);
        let again = Append { epoch: 1, offset: 100, payload: Bytes::from_static(b"x") };
        assert!(log.store.submit(again).is_err(), "{failing:?}");
        let seen = log.events.wait(|_| true);
        assert_eq!((seen.durable, seen.refused), (100, None), "{failing:?}");
        drop(log);
        let end = Log::open(directory.path()).expect("reopens").end;
        assert!(end == 100 || end == 150 && failing == Step::RecordSync, "{failing:?}: {end}");
    }
}

/// Stops at each step of a segment roll, a manifest change, a seed and a trim as a crash would, and opens what is left.
#[test]
fn a_crash_at_any_step_leaves_a_directory_that_opens() {
    use Step::*;
    for crash_at in [Allocate, SegmentHeader, SegmentRename, ManifestWrite, ManifestRename, ManifestSync, DeleteOld] {
        let directory = tempfile::tempdir().expect("tempdir");
        let crashed = tempfile::tempdir().expect("tempdir");
        let armed = Arc::new(AtomicBool::new(false));
        let (is_armed, live, image) = (armed.clone(), directory.path().to_owned(), crashed.path().to_owned());
        let faults = FaultHook::new(move |step| {
            if step == crash_at && is_armed.swap(false, Ordering::SeqCst) {
                copy_directory(&live, &image);
            }
            Ok(())
        });
        let mut log = Log::open_with(directory.path(), faults).expect("opens");
        log.append(100);
        armed.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            log.append(1 << 20);
        }
        let seed_at = log.end + 1000;
        let mut manifest = log.store.manifest().next();
        manifest.base = seed_at;
        log.store.restart(manifest).expect("restarted");
        log.end = seed_at;
        log.append(77);
        log.assert_holds_pattern(seed_at);
        assert_eq!(segments(directory.path()).len(), 1, "{crash_at:?}");
        if crash_at == Allocate && armed.load(Ordering::SeqCst) {
            continue; // Every segment came from a spare.
        }
        assert!(!armed.load(Ordering::SeqCst), "{crash_at:?} was never reached");
        let mut log = Log::open(crashed.path()).unwrap_or_else(|error| panic!("{crash_at:?}: {error}"));
        let base = log.store.manifest().base;
        assert!(base == 0 && log.end >= 100 || base == seed_at && log.end == seed_at, "{crash_at:?}");
        log.append(10);
        log.assert_holds_pattern(base);
    }
}

#[test]
fn left_overs_are_removed_when_a_shard_is_opened() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(10);
    drop(log);
    let left_overs = ["log/spare", "log/unnamed"];
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
