//! What happens to a log while its older segments are being verified. The failpoint `verify` holds that after a read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, sync_channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fail::FailScenario;
use logservice::store::file_store::format::SEGMENT_HEADER_BYTES;
use logservice::store::file_store::MIN_SEGMENT_BYTES;
use logservice::store::ReadError;

use crate::harness::{overwrite, place, segments, trim, Log};

const MIB: u64 = 1 << 20;
const SEGMENTS: u64 = 5;

/// A directory with a log of segments with a large record each, and some small ones in the first.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    for bytes in [1, 300_000, 70, 300_000] {
        log.append(bytes);
    }
    while segments(directory.path()).len() < SEGMENTS as usize {
        log.append(MIB as usize);
    }
    directory
}

/// Holds the verification after its first read, until this is dropped.
struct Hold {
    reached: Receiver<()>,
    _release: Sender<()>,
}

impl Hold {
    fn new() -> Self {
        let (has_reached, reached) = sync_channel(1);
        let (_release, released) = channel();
        let released = Mutex::new(released);
        fail::cfg_callback("verify", move || {
            let _ = has_reached.try_send(());
            // Once it was let go nothing holds it again. The bound is for a test that fails.
            let _ = released.lock().expect("lock").recv_timeout(Duration::from_secs(20));
        })
        .expect("configured");
        Hold { reached, _release }
    }

    /// Waits until the verification is there.
    fn wait(&self) {
        self.reached.recv_timeout(Duration::from_secs(20)).expect("the verification begins");
    }
}

/// Waits until nothing is verified any more. Of segments that the log does not need nobody is told otherwise.
fn wait_until_over(log: &Log) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while log.threads.is_verifying() {
        assert!(Instant::now() < deadline, "the verification does not end");
        std::thread::yield_now();
    }
}

#[test]
fn a_log_is_read_and_written_before_its_older_segments_are_verified() {
    let _scenario = FailScenario::setup();
    let directory = directory();
    let hold = Hold::new();
    let mut log = Log::open(directory.path()).expect("opens");
    hold.wait();
    let unverified = (SEGMENTS - 1) * MIN_SEGMENT_BYTES;
    assert_eq!(log.store.usage().unverified_bytes, unverified);
    for from in [0, 1, 5, 300_000, 300_001, 300_071, 600_070, MIB + 600_071, log.end - 1] {
        log.assert_holds_pattern(from);
    }
    log.append(MIB as usize);
    log.append(MIB as usize);
    log.assert_holds_pattern(0);
    assert_eq!(log.store.usage().unverified_bytes, unverified, "what is written needs no verification");
    drop(hold);
    assert_eq!(log.verdict(), Ok(()));
    log.assert_holds_pattern(0);
}

#[test]
fn who_reads_damage_before_it_is_found_gets_an_error() {
    let _scenario = FailScenario::setup();
    let directory = directory();
    let path = segments(directory.path()).remove(2);
    overwrite(&path, SEGMENT_HEADER_BYTES + 1000, b"gone");
    let hold = Hold::new();
    let mut log = Log::open(directory.path()).expect("opens");
    hold.wait();
    match log.read_all(0) {
        Err(ReadError::Damaged(damage)) => assert_eq!(damage.place, place(&path, SEGMENT_HEADER_BYTES)),
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
    // The leader goes on, and what is acknowledged is kept.
    log.append(1000);
    drop(hold);
    let damage = log.verdict().expect_err("damaged");
    assert!(damage.starts_with(&format!("{} at byte {SEGMENT_HEADER_BYTES}: ", path.display())), "{damage}");
    let end = log.end;
    drop(log);
    assert_eq!(Log::open(directory.path()).expect("opens").end, end);
}

#[test]
fn segments_that_are_dropped_while_they_are_verified_do_no_harm() {
    for is_damaged in [false, true] {
        let _scenario = FailScenario::setup();
        let directory = directory();
        if is_damaged {
            for path in &segments(directory.path())[..2] {
                overwrite(path, MIB, b"gone");
            }
        }
        let hold = Hold::new();
        let mut log = Log::open(directory.path()).expect("opens");
        hold.wait();
        let base = 2 * MIB + 600_071;
        trim(&log, base);
        assert_eq!(segments(directory.path()).len(), 3);
        assert_eq!(log.store.usage().unverified_bytes, 2 * MIN_SEGMENT_BYTES);
        log.append(MIB as usize);
        drop(hold);
        wait_until_over(&log);
        assert_eq!(log.verdict(), Ok(()));
        log.append(MIB as usize);
        log.assert_holds_pattern(base);
        drop(log);
        let log = Log::open(directory.path()).expect("reopens");
        assert_eq!(log.verdict(), Ok(()));
        log.assert_holds_pattern(base);
    }
}

#[test]
fn a_log_that_is_begun_anew_while_the_old_one_is_verified_does_not_hear_of_its_damage() {
    let _scenario = FailScenario::setup();
    let directory = directory();
    overwrite(&segments(directory.path())[0], MIB, b"gone");
    let hold = Hold::new();
    let mut log = Log::open(directory.path()).expect("opens");
    hold.wait();
    let mut manifest = log.store.manifest().next();
    manifest.base = log.end + 100;
    log.end = manifest.base;
    log.store.restart(manifest).expect("restarted");
    drop(hold);
    wait_until_over(&log);
    assert_eq!(log.verdict(), Ok(()));
    let base = log.end;
    log.append(1000);
    log.assert_holds_pattern(base);
}

#[test]
fn a_segment_that_cannot_be_read_is_told_with_its_place() {
    let _scenario = FailScenario::setup();
    let directory = directory();
    fail::cfg("verify", "2*off->1*return->off").expect("configured");
    let log = Log::open(directory.path()).expect("opens");
    let damage = log.verdict().expect_err("unreadable");
    let path = segments(directory.path()).remove(0);
    assert!(damage.starts_with(&format!("cannot read {}: at byte ", path.display())), "{damage}");
    assert!(damage.contains("Input/output error"), "{damage}");
}

#[test]
fn closing_does_not_wait_for_the_verification() {
    let _scenario = FailScenario::setup();
    let directory = directory();
    let reads = |pause: Duration| {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = reads.clone();
        let count = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(pause);
        };
        fail::cfg_callback("verify", count).expect("configured");
        reads
    };
    let all = reads(Duration::ZERO);
    assert_eq!(Log::open(directory.path()).expect("opens").verdict(), Ok(()));
    let all = all.load(Ordering::SeqCst);
    assert!(all >= 20, "{all} reads");
    // Slow enough that all of it would take seconds.
    let some = reads(Duration::from_millis(200));
    let log = Log::open(directory.path()).expect("opens");
    drop(log);
    let some = some.load(Ordering::SeqCst);
    assert!(some < all / 2, "{some} reads of {all}");
}

#[test]
fn closing_does_not_wait_for_its_turn_to_verify() {
    let _scenario = FailScenario::setup();
    let directories: Vec<_> = (0..5).map(|_| directory()).collect();
    let hold = Hold::new();
    let mut logs = vec![Log::open(directories[0].path()).expect("opens")];
    for directory in &directories[1..] {
        let threads = logs[0].threads.clone();
        logs.push(Log::open_on(directory.path(), MIN_SEGMENT_BYTES, threads).expect("opens"));
    }
    hold.wait();
    // Four are verified at a time.
    let waiting = logs.pop().expect("the fifth");
    let (has_closed, closed) = channel();
    let closing = std::thread::spawn(move || {
        drop(waiting);
        let _ = has_closed.send(());
    });
    let outcome = closed.recv_timeout(Duration::from_secs(15));
    drop(hold);
    closing.join().expect("closed");
    outcome.expect("closed while others are verified");
}
