//! Bounds, refusals and what follows them.

use super::harness::{Log, MIB};
use super::{Make, Subject, BOUND_BYTES};
use crate::store::Manifest;

/// Appends until one is refused, which is taken back.
fn fill(log: &mut Log, subject: &(impl Subject + ?Sized)) {
    let before = log.events.seen().refused.len();
    let most = 2 * BOUND_BYTES / MIB as u64;
    for _ in 0..most {
        log.submit(MIB);
        let end = log.end;
        let seen = log.wait(subject, |seen| seen.durable.last() == Some(&end) || seen.refused.len() > before);
        if seen.refused.len() > before {
            log.end -= MIB as u64;
            assert_eq!(seen.refused.last(), Some(&log.end), "the end of what is durable");
            assert!(log.end > 0 && seen.failed.is_none(), "{seen:?}");
            return;
        }
    }
    panic!("the log takes {most} MiB, and may take {BOUND_BYTES} bytes");
}

fn make_room(log: &Log) {
    log.set_base(log.end);
    log.store.trim(log.end).expect("trimmed");
    assert!(!log.store.usage().is_full, "{:?}", log.store.usage());
}

/// So that nothing is in the log behind a gap.
pub fn a_full_log_refuses_and_drops_what_was_submitted_behind(make: Make) {
    let subject = make(Some(BOUND_BYTES));
    let mut log = Log::open(&*subject);
    fill(&mut log, &*subject);
    assert!(log.store.usage().is_full, "{:?}", log.store.usage());
    let end = log.end;
    for bytes in [MIB, 10, 10] {
        log.submit(bytes);
    }
    let seen = log.wait(&*subject, |seen| seen.refused.len() >= 2);
    assert_eq!((seen.refused, seen.durable.last()), (vec![end, end], Some(&end)));
    log.end = end;
    make_room(&log);
    log.append(&*subject, MIB);
    let seen = log.events.seen();
    assert_eq!((seen.refused.len(), seen.durable.last()), (2, Some(&(end + MIB as u64))));
    log.assert_holds_pattern(end);
}

/// By itself, as soon as something was dropped.
pub fn a_refused_append_is_accepted_again_once_there_is_space(make: Make) {
    let mut subject = make(Some(BOUND_BYTES));
    let mut log = Log::open(&*subject);
    for _ in 0..3 {
        fill(&mut log, &*subject);
        make_room(&log);
        log.append(&*subject, MIB);
        log.assert_holds_pattern(log.end - MIB as u64);
    }
    let end = log.end;
    subject.crash();
    let log = Log::open(&*subject);
    assert_eq!(log.end, end);
    log.assert_holds_pattern(end - MIB as u64);
}

/// What is needed to make room.
pub fn a_full_log_is_read_and_its_manifest_is_replaced(make: Make) {
    let subject = make(Some(BOUND_BYTES));
    let mut log = Log::open(&*subject);
    fill(&mut log, &*subject);
    log.assert_holds_pattern(0);
    let next = Manifest { seeded: true, ..log.store.manifest().next() };
    log.store.replace_manifest(next.clone()).expect("replaced");
    let end = log.end;
    log.store.close();
    let log = Log::open(&*subject);
    assert_eq!((log.end, log.store.manifest()), (end, next));
    assert!(log.store.usage().is_full);
    log.assert_holds_pattern(0);
}
