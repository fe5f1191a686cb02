use std::time::Duration;

use bytes::Bytes;
use fail::{FailGuard, FailScenario};
use logservice::store::file_store::files::Step;
use logservice::store::Append;

use crate::client::{Reply, Service};
use crate::common::pattern;
use crate::harness::Log;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn configure(step: Step, action: &str) {
    fail::cfg(step.name(), action).expect("configured");
}

/// Every step that takes space.
const TAKING_SPACE: [Step; 4] = [Step::SpareCreate, Step::SpareWrite, Step::SegmentAllocate, Step::SegmentHeaderWrite];

#[test]
fn appends_that_queue_while_the_disk_is_busy_share_a_sync() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let (reached, is_reached) = std::sync::mpsc::sync_channel(1);
    let mut log = Log::open(directory.path()).expect("opens");
    fail::cfg_callback(Step::RecordWrite.name(), move || {
        let _ = reached.try_send(());
    })
    .expect("configured");
    let held = FailGuard::new(Step::RecordSync.name(), "pause").expect("configured");
    log.submit(10);
    is_reached.recv_timeout(Duration::from_secs(10)).expect("written");
    for _ in 0..100 {
        log.submit(10);
    }
    assert_eq!(log.events.wait(|_| true).durable, 0, "nothing is durable before its sync");
    drop(held);
    log.events.wait(|seen| seen.durable == 1010);
    assert_eq!(log.store.usage().commits, 2);
    assert_eq!(log.store.usage().appends, 101);
    log.assert_holds_pattern(0);
}

#[test]
fn a_full_disk_refuses_reads_go_on_and_it_recovers_by_itself() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(1 << 20);
    let kept = log.end;
    for step in TAKING_SPACE {
        configure(step, "return(enospc)");
    }
    // This one needs another segment.
    log.submit(1 << 20);
    let seen = log.events.wait(|seen| seen.refused.is_some());
    assert_eq!((seen.refused, seen.failed), (Some(kept), None));
    assert!(seen.refusal.expect("a reason").contains("No space left on device"));
    log.end = kept;
    log.assert_holds_pattern(0);
    // There is room left in the segment for this one.
    log.append(1000);
    for step in TAKING_SPACE {
        fail::remove(step.name());
    }
    log.append(1 << 20);
    log.append(200);
    log.assert_holds_pattern(0);
    let end = log.end;
    drop(log);
    assert_eq!(Log::open(directory.path()).expect("reopens").end, end);
}

#[test]
fn after_a_failed_write_or_sync_nothing_is_acknowledged() {
    for failing in [Step::RecordWrite, Step::RecordSync] {
        let _scenario = FailScenario::setup();
        let directory = tempfile::tempdir().expect("tempdir");
        let mut log = Log::open(directory.path()).expect("opens");
        log.append(100);
        // Also a full disk: once the record may have been written in part, it is a failure like any other.
        configure(failing, "return(enospc)");
        log.submit(50);
        log.events.wait(|seen| seen.failed.is_some());
        fail::remove(failing.name());
        let again = Append { epoch: 1, offset: 100, payload: Bytes::from_static(b"x") };
        assert!(log.store.submit(again).is_err(), "{failing:?}");
        let seen = log.events.wait(|_| true);
        assert_eq!((seen.durable, seen.refused), (100, None), "{failing:?}");
        drop(log);
        let end = Log::open(directory.path()).expect("reopens").end;
        assert!(end == 100 || end == 150 && failing == Step::RecordSync, "{failing:?}: {end}");
    }
}

#[test]
fn a_full_disk_and_a_failed_sync_as_a_client_sees_them() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    configure(Step::SegmentHeaderWrite, "return(enospc)");
    for offset in [0, 10, 20] {
        leader.send_append("s1", epoch, offset, &pattern(offset, 10));
    }
    let refusals: Vec<_> = (0..3).map(|_| leader.reply()).collect();
    let is = |reply: &Reply, word: &str| matches!(reply, Reply::Error(text) if text.starts_with(word));
    assert!(is(&refusals[0], "NOSPACE "), "{refusals:?}");
    assert!(refusals[1..].iter().all(|reply| is(reply, "NOSPACE ") || is(reply, "GAP 0 ")), "{refusals:?}");
    assert_eq!((leader.status("s1", "state"), leader.status("s1", "accepted_end")), ("nospace".into(), "0".into()));
    fail::remove(Step::SegmentHeaderWrite.name());
    assert_eq!(leader.append("s1", epoch, 0, &pattern(0, 30)), Reply::Integer(30));
    assert_eq!(leader.status("s1", "state"), "ok");
    configure(Step::RecordSync, "return(eio)");
    assert!(is(&leader.append("s1", epoch, 30, b"x"), "LOGFAILED "));
    fail::remove(Step::RecordSync.name());
    assert!(is(&leader.append("s1", epoch, 30, b"x"), "LOGFAILED "));
    assert!(is(&leader.append("s1", epoch, 0, &pattern(0, 30)), "LOGFAILED "), "not even what was durable");
    assert!(leader.acquire("s1", "n1", 30, 0).expect_err("failed").starts_with("LOGFAILED "));
    assert_eq!(leader.status("s1", "state"), "failed");
    assert!(leader.status("s1", "error").contains("Input/output error"));
    let (_other, epoch, _) = service.lead("s2", "n1", A);
    assert_eq!(epoch, 1, "other shards go on");
    service.stop();
}

/// Whatever step of a seed's manifest fails, what a restart finds names a snapshot that is there.
#[test]
fn a_seed_whose_manifest_fails_leaves_a_log_with_its_snapshot() {
    for failing in [
        Step::ManifestCreate,
        Step::ManifestWrite,
        Step::ManifestSync,
        Step::ManifestRename,
        Step::ManifestDirectorySync,
    ] {
        let _scenario = FailScenario::setup();
        let directory = tempfile::tempdir().expect("tempdir");
        let service = Service::start(directory.path(), &[]).expect("starts");
        let (_leader, epoch, _) = service.lead("s1", "n1", A);
        let seed = |offset: u64| format!("PUT /shards/s1/snapshot?epoch={epoch}&offset={offset}&replid={A} HTTP/1.1");
        let (first, second) = (pattern(1, 1000), pattern(2, 2000));
        assert_eq!(service.http(&seed(100), &first).0, 200);
        configure(failing, "return(eio)");
        let (status, text) = service.http(&seed(200), &second);
        assert!(status != 200, "{failing:?}: {text}");
        fail::remove(failing.name());
        service.stop();
        let service = Service::start(directory.path(), &[]).expect("starts again");
        let mut replica = service.connect();
        let answer = replica.psync("s1", "?", -1);
        let (offset, rdb) = if answer.ends_with(" 100") { (100, &first) } else { (200, &second) };
        assert_eq!(answer, format!("+FULLRESYNC {A} {offset}"), "{failing:?}");
        assert_eq!(replica.line(), format!("${}", rdb.len()));
        assert!(replica.bytes(rdb.len()) == **rdb, "{failing:?}");
        service.stop();
    }
}
