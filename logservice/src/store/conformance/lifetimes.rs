//! Closing, crashes, failures, opening again.

use std::collections::BTreeSet;

use super::harness::{pattern, Log, MIB, SHARD};
use super::{Faulty, Make};
use crate::store::{ManifestError, OpenError, SubmitError};

/// And reports it, before it returns.
pub fn closing_writes_what_was_submitted(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for number in 0..100 {
        log.submit(1 + number * 37);
    }
    log.store.close();
    let seen = log.events.seen();
    assert_eq!((seen.durable.last(), seen.failed), (Some(&log.end), None));
    let again = Log::open(&*subject);
    assert_eq!(again.end, log.end);
    again.assert_holds_pattern(0);
}

/// Each refusal is determinate.
pub fn a_closed_store_takes_nothing_and_is_still_read(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 1000);
    let mut reader = log.store.reader(10).expect("opened");
    assert_eq!(reader.read(1000, 90).expect("read").len(), 90);
    log.store.close();
    assert!(matches!(log.try_submit(1, 1000, 10), Err(SubmitError::Closed)));
    let manifest = log.store.manifest();
    assert!(matches!(log.store.replace_manifest(manifest.next()), Err(ManifestError::Closed)));
    assert!(matches!(log.store.restart(manifest.next()), Err(ManifestError::Closed)));
    assert_eq!(log.store.manifest(), manifest);
    let mut read = Vec::new();
    while reader.offset() < 1000 {
        read.extend_from_slice(&reader.read(1000, 100).expect("goes on"));
    }
    assert!(read == pattern(100, 900));
    log.store.close();
    assert_eq!(log.events.seen().durable, [1000]);
}

/// Whatever is still called of it, and when it is freed.
pub fn a_closed_store_does_not_touch_the_one_that_is_opened_after_it(make: Make) {
    let mut subject = make(None);
    let mut first = Log::open(&*subject);
    first.append(&*subject, 1000);
    first.store.close();
    let mut second = Log::open(&*subject);
    second.append(&*subject, 1000);
    let next = second.store.manifest().next();
    second.store.replace_manifest(next.clone()).expect("replaced");
    assert!(first.store.replace_manifest(first.store.manifest().next()).is_err());
    assert!(first.store.restart(first.store.manifest().next()).is_err());
    assert!(first.try_submit(1, 2000, 10).is_err());
    drop(first);
    second.append(&*subject, 1000);
    second.assert_holds_pattern(0);
    subject.crash();
    let third = Log::open(&*subject);
    assert_eq!((third.end, third.store.manifest()), (3000, next));
    third.assert_holds_pattern(0);
}

/// What was submitted and is not durable may survive: the beginning of it.
pub fn every_durable_byte_survives_a_crash(make: Make) {
    let mut subject = make(None);
    let (mut before, mut end) = (None, 0);
    for round in 0..8 {
        let mut log = Log::open(&*subject);
        let lasts = log.end;
        assert!(lasts >= end, "ends at {lasts}, and {end} was durable");
        assert!(before.is_none_or(|submitted| lasts <= submitted), "ends at {lasts} of {before:?}");
        log.assert_holds_pattern(0);
        for _ in 0..3 {
            log.append(&*subject, 1 + round * 1000);
        }
        end = log.end;
        for _ in 0..5 {
            log.submit(500);
        }
        before = Some(log.end);
        subject.crash();
    }
    let submitted = Log::open(&*subject);
    assert!(submitted.end >= end);
    submitted.assert_holds_pattern(0);
}

fn fail(subject: &dyn Faulty) -> Log {
    let mut log = Log::open(subject);
    log.append(subject, 100);
    subject.fail_writes(SHARD, true);
    log.submit(50);
    let _ = log.try_submit(1, log.end, 50);
    log
}

/// Not even what could be written.
pub fn after_a_failed_write_nothing_is_accepted(make: Make) {
    let subject = make(None);
    let mut log = fail(&*subject);
    log.wait(&*subject, |seen| seen.failed.is_some());
    for offset in [100, 150, 200] {
        assert!(matches!(log.try_submit(1, offset, 10), Err(SubmitError::Closed)), "at {offset}");
    }
    subject.run(SHARD);
    let seen = log.events.seen();
    assert_eq!((seen.durable, seen.refused), (vec![100], vec![]));
    log.end = 100;
    log.assert_holds_pattern(0);
    log.store.close();
    assert_eq!(log.events.seen().durable, [100]);
}

/// Of what failed any beginning may be there.
pub fn a_store_that_failed_is_opened_again_with_every_durable_byte(make: Make) {
    for crashes in [false, true] {
        let mut subject = make(None);
        let log = fail(&*subject);
        log.wait(&*subject, |seen| seen.failed.is_some());
        if crashes {
            subject.crash();
        } else {
            log.store.close();
        }
        subject.fail_writes(SHARD, false);
        let mut log = Log::open(&*subject);
        assert!((100..=200).contains(&log.end), "ends at {}", log.end);
        log.append(&*subject, 50);
        log.assert_holds_pattern(0);
        let end = log.end;
        log.store.close();
        assert_eq!(Log::open(&*subject).end, end);
    }
}

/// In the part that is written last, and in one before. Or it is mended.
pub fn damage_is_reported_when_the_store_is_opened_or_soon_after(make: Make) {
    for damaged in [10, 3 * MIB as u64 + 10] {
        let subject = make(None);
        let mut log = Log::open(&*subject);
        for bytes in [MIB, MIB, MIB, 100, 100] {
            log.append(&*subject, bytes);
            // What is written together may be torn together.
            subject.wait_for_medium(SHARD);
        }
        let end = log.end;
        log.store.close();
        subject.damage(SHARD, damaged);
        if subject.mends_damage() {
            let log = Log::open(&*subject);
            assert_eq!((log.end, log.store.usage().repairs), (end, 1));
            log.assert_holds_pattern(0);
            continue;
        }
        match Log::try_open(&*subject, SHARD) {
            Err(OpenError::Damaged(damage)) => assert!(!damage.place.is_empty() && !damage.reason.is_empty()),
            Err(error) => panic!("{error}"),
            Ok(log) => {
                assert_eq!(log.end, end);
                let seen = log.wait_verified(&*subject);
                assert!(seen.damaged.is_some(), "damage at {damaged} is not reported");
                assert!(matches!(log.try_submit(1, end, 10), Err(SubmitError::Closed)));
            }
        }
    }
}

/// So nobody takes one away that is needed.
pub fn keys_are_named_once_the_log_uses_them(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    assert!(log.store.key_ids().is_empty());
    log.append(&*subject, 100);
    let expected: BTreeSet<_> = subject.key_id().into_iter().map(str::to_owned).collect();
    assert_eq!(log.store.key_ids(), expected);
    log.store.close();
    assert_eq!(Log::open(&*subject).store.key_ids(), expected);
}
