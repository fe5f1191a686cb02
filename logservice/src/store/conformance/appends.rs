//! Order, contiguity, outcomes.

use super::harness::{Log, MIB, SHARD};
use super::Make;

/// Also that its manifest is that of a new shard.
pub fn a_new_store_is_empty_and_listed(make: Make) {
    let subject = make(None);
    assert!(subject.stores().list().expect("listed").shards.is_empty());
    let log = Log::open(&*subject);
    let manifest = log.store.manifest();
    assert_eq!((log.end, manifest.base, manifest.revision, manifest.seeded), (0, 0, 0, false));
    assert_eq!((&manifest.shard[..], manifest.epochs.len(), manifest.leader.is_none()), (SHARD, 1, true));
    assert!(durability_protocol::is_valid_replid(manifest.epochs[0].replid.as_deref().expect("an id")));
    assert!(!manifest.id.is_empty());
    assert_eq!(log.events.seen(), Default::default());
    assert_eq!(subject.stores().list().expect("listed").shards, [SHARD]);
    assert!(subject.stores().exists(SHARD) && !subject.stores().exists("s2"));
}

/// Whatever is grouped with what.
pub fn appends_become_durable_in_the_order_in_which_they_were_submitted(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    let mut ends = vec![0];
    for number in 0..2000 {
        log.submit([1, 7, 8, 100, 4096][number % 5]);
        ends.push(log.end);
        if number % 300 == 0 {
            log.settle(&*subject);
        }
    }
    let seen = log.settle(&*subject);
    assert!(seen.durable.iter().all(|end| ends.contains(end)), "an end in the middle of an append");
    assert!(seen.refused.is_empty() && seen.failed.is_none(), "{seen:?}");
    log.assert_holds_pattern(0);
}

/// The caller holds locks then.
pub fn nothing_is_reported_from_within_submit(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for _ in 0..50 {
        log.append(&*subject, 100);
    }
    assert!(log.events.seen().broken.is_empty());
}

/// So does one that repeats what was submitted.
pub fn an_append_that_leaves_a_gap_is_dropped_in_silence(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 100);
    for offset in [101, 200, 99, 0] {
        log.try_submit(1, offset, 50).expect("taken");
    }
    log.append(&*subject, 30);
    let seen = log.events.seen();
    assert_eq!((seen.durable, seen.refused, seen.failed), (vec![100, 130], vec![], None));
    log.assert_holds_pattern(0);
}

/// In whatever order their numbers are.
pub fn appends_of_several_epochs_are_one_log(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for epoch in [1, 2, 2, 7, 3] {
        log.try_submit(epoch, log.end, 1000).expect("submitted");
        log.end += 1000;
    }
    log.settle(&*subject);
    log.assert_holds_pattern(0);
}

/// Figures that any store can give.
pub fn figures_count_what_was_done(make: Make) {
    let subject = make(Some(super::BOUND_BYTES));
    let mut log = Log::open(&*subject);
    let usage = log.store.usage();
    assert_eq!((usage.appends, usage.commits, usage.parts, usage.log_bytes), (0, 0, 0, 0));
    assert_eq!((usage.max_log_bytes, usage.is_full), (Some(super::BOUND_BYTES), false));
    for number in 1..=3 {
        log.append(&*subject, 1000);
        let usage = log.store.usage();
        assert_eq!((usage.appends, usage.commits), (number, number));
        assert!(usage.parts > 0 && usage.log_bytes >= 1000 * number, "{usage:?}");
    }
    for _ in 0..100 {
        log.submit(10);
    }
    log.settle(&*subject);
    let usage = log.store.usage();
    assert!(usage.appends == 103 && (4..=103).contains(&usage.commits), "{usage:?}");
    assert!(!usage.is_full && usage.log_bytes < super::BOUND_BYTES + MIB as u64, "{usage:?}");
}
