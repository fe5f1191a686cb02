//! Several stores of one factory, and removing them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::harness::{Log, Recorder, SHARD};
use super::{Make, Subject};
use crate::store::{Listed, RemovedStore};

fn listed(subject: &(impl Subject + ?Sized)) -> (Vec<String>, Vec<Arc<dyn RemovedStore>>) {
    let Listed { mut shards, removed } = subject.stores().list().expect("listed");
    shards.sort();
    (shards, removed)
}

/// Whatever a valid name is made of.
pub fn shards_are_listed_and_have_ids_of_their_own(make: Make) {
    let mut subject = make(None);
    let long = "x".repeat(64);
    let names = ["A.b:c_D-9", "a", "s1", &long];
    let mut ids = BTreeSet::new();
    for name in names {
        let manifest = Log::try_open(&*subject, name).expect("opens").store.manifest();
        assert_eq!(manifest.shard, name);
        ids.extend([manifest.id, manifest.epochs[0].replid.clone().expect("an id")]);
    }
    assert_eq!(ids.len(), 2 * names.len());
    assert_eq!(listed(&*subject).0, names);
    subject.crash();
    assert_eq!(listed(&*subject).0, names);
    for name in names {
        assert!(ids.contains(&Log::try_open(&*subject, name).expect("opens").store.manifest().id));
    }
}

/// Nor each other's failures.
pub fn shards_do_not_see_each_others_bytes(make: Make) {
    let mut subject = make(None);
    let mut first = Log::try_open(&*subject, SHARD).expect("opens");
    let mut second = Log::try_open(&*subject, "s2").expect("opens");
    for _ in 0..3 {
        first.append(&*subject, 1000);
        second.append(&*subject, 77);
    }
    let mut next = second.store.manifest().next();
    next.base = 77;
    second.store.replace_manifest(next).expect("replaced");
    subject.fail_writes(SHARD, true);
    first.submit(10);
    first.wait(&*subject, |seen| seen.failed.is_some());
    second.append(&*subject, 77);
    second.assert_holds_pattern(77);
    assert_eq!(first.store.manifest().base, 0);
    subject.crash();
    let second = Log::try_open(&*subject, "s2").expect("opens");
    assert_eq!((second.end, second.store.manifest().base), (308, 77));
    second.assert_holds_pattern(77);
    let first = Log::try_open(&*subject, SHARD).expect("opens");
    assert!(first.end >= 3000);
    first.assert_holds_pattern(0);
}

/// As a service does when it starts.
pub fn shards_are_opened_by_several_threads_at_once(make: Make) {
    let subject = make(None);
    let names: Vec<_> = (10..26).map(|number| format!("s{number}")).collect();
    for end in [0, 10] {
        let stores = subject.stores();
        std::thread::scope(|scope| {
            for name in &names {
                let stores = stores.clone();
                scope.spawn(move || {
                    let opened = stores.open(name, Arc::new(Recorder::default())).expect("opens");
                    assert_eq!(opened.end, end);
                    opened.store.close();
                });
            }
        });
        assert_eq!(listed(&*subject).0, names);
        for name in &names {
            let mut log = Log::try_open(&*subject, name).expect("opens");
            log.append(&*subject, 10);
            log.store.close();
        }
    }
}

/// At once. What it held is none of the next store's.
pub fn a_removed_store_is_gone_and_its_name_free(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 1000);
    let before = log.store.manifest();
    log.store.close();
    let removed = subject.stores().remove(SHARD).expect("removed");
    assert!(!subject.stores().exists(SHARD) && subject.stores().manifest(SHARD).is_none());
    assert!(listed(&*subject).0.is_empty());
    let mut log = Log::open(&*subject);
    assert_eq!(log.end, 0);
    assert_ne!(log.store.manifest().id, before.id);
    assert_ne!(log.store.manifest().epochs, before.epochs);
    log.append(&*subject, 10);
    removed.remove_log().expect("removed");
    removed.finish().expect("removed");
    log.append(&*subject, 10);
    log.store.close();
    let log = Log::open(&*subject);
    assert_eq!(log.end, 20);
    log.assert_holds_pattern(0);
}

/// With its manifest, by which its snapshots are found.
pub fn what_was_removed_is_listed_until_its_end(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 1000);
    let manifest = log.store.manifest();
    log.store.close();
    let place = subject.stores().remove(SHARD).expect("removed").to_string();
    for _ in 0..2 {
        let (_, removed) = listed(&*subject);
        assert_eq!(removed.iter().map(ToString::to_string).collect::<Vec<_>>(), [&place[..]]);
        assert_eq!(removed[0].manifest().expect("read"), Some(Ok(manifest.clone())));
        removed[0].remove_log().expect("removed");
    }
    let removed = listed(&*subject).1.remove(0);
    for _ in 0..2 {
        removed.finish().expect("removed");
        assert!(listed(&*subject).1.is_empty());
        assert_eq!(removed.manifest().expect("read"), None);
    }
}

/// In each of its steps.
pub fn removing_survives_a_crash(make: Make) {
    let mut subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 1000);
    let manifest = log.store.manifest();
    log.store.close();
    subject.stores().remove(SHARD).expect("removed");
    for _ in 0..2 {
        subject.crash();
        let (shards, removed) = listed(&*subject);
        assert_eq!((shards.len(), removed.len()), (0, 1));
        assert_eq!(removed[0].manifest().expect("read"), Some(Ok(manifest.clone())));
        removed[0].remove_log().expect("removed");
    }
    listed(&*subject).1[0].finish().expect("removed");
    subject.crash();
    let (shards, removed) = listed(&*subject);
    assert!(shards.is_empty() && removed.is_empty());
}

/// Somebody may have removed it by hand.
pub fn removing_what_is_not_there_does_no_harm(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 10);
    let removed = subject.stores().remove("s2").expect("nothing to do");
    assert_eq!(removed.manifest().expect("read"), None);
    removed.remove_log().expect("nothing to do");
    removed.finish().expect("nothing to do");
    log.append(&*subject, 10);
    assert_eq!(listed(&*subject).0, [SHARD]);
    log.assert_holds_pattern(0);
}

/// As that of a shard that cannot be served.
pub fn the_manifest_of_a_store_that_is_not_open_can_be_read(make: Make) {
    let mut subject = make(None);
    let log = Log::open(&*subject);
    let mut next = log.store.manifest().next();
    next.seeded = true;
    log.store.replace_manifest(next.clone()).expect("replaced");
    log.store.close();
    assert_eq!(subject.stores().manifest(SHARD), Some(next.clone()));
    subject.crash();
    assert_eq!(subject.stores().manifest(SHARD), Some(next));
    assert_eq!(subject.stores().manifest("s2"), None);
}
