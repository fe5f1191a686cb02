//! What is the memory store's own: steps by hand, crashes between them, faults.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Faults, ManifestFault, MemoryOptions, MemoryStore, MemoryStores, RemoveFault, Step, WriteFault, Writes};
use crate::store::{
    Append, Manifest, ManifestError, OpenError, Opened, ReadError, RemoveError, Store, StoreEvents, StoreFactory,
    SubmitError,
};

/// What a store reports, as text.
#[derive(Default)]
struct Reports(Mutex<Vec<String>>);

impl Reports {
    fn push(&self, report: String) {
        self.0.lock().expect("lock").push(report);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("lock"))
    }
}

impl StoreEvents for Reports {
    fn durable(&self, end: u64) {
        self.push(format!("durable {end}"));
    }

    fn refused(&self, end: u64, _reason: &str) {
        self.push(format!("refused {end}"));
    }

    fn failed(&self, _reason: &str) {
        self.push("failed".to_owned());
    }

    fn damaged(&self, _reason: &str) {
        self.push("damaged".to_owned());
    }
}

fn open(stores: &MemoryStores) -> (Arc<MemoryStore>, Arc<Reports>, u64) {
    let reports = Arc::new(Reports::default());
    let Opened { end, store: _store } = stores.open("s1", reports.clone()).expect("opens");
    (stores.store("s1").expect("open"), reports, end)
}

fn by_hand() -> MemoryStores {
    MemoryStores::new(MemoryOptions::default())
}

fn submit(store: &MemoryStore, offset: u64, bytes: &'static str) -> Result<(), SubmitError> {
    store.submit(Append { epoch: 1, offset, payload: Bytes::from_static(bytes.as_bytes()) })
}

fn read(store: &MemoryStore, from: u64, to: u64) -> Result<String, ReadError> {
    let mut reader = store.reader(from)?;
    let mut out = Vec::new();
    while reader.offset() < to {
        out.extend_from_slice(&reader.read(to, 100)?);
    }
    Ok(String::from_utf8(out).expect("text"))
}

#[test]
fn nothing_happens_until_a_step_is_taken_and_each_does_one_thing() {
    let stores = by_hand();
    let (store, reports, _) = open(&stores);
    assert!(store.is_idle() && store.step().is_none());
    for (offset, bytes) in [(0, "ab"), (2, "cd"), (9, "gap"), (4, "e")] {
        submit(&store, offset, bytes).expect("taken");
    }
    assert!(!store.is_idle());
    let steps = [Step::Written, Step::Synced, Step::Reported, Step::Dropped, Step::Written, Step::Synced];
    for (at, step) in steps.into_iter().enumerate() {
        assert_eq!(store.step(), Some(step), "step {at}");
        assert_eq!(reports.take(), if at == 2 { vec!["durable 4"] } else { vec![] }, "step {at}");
    }
    assert!(!store.is_idle());
    assert_eq!((store.step(), store.step()), (Some(Step::Reported), None));
    assert_eq!(reports.take(), ["durable 5"]);
    assert_eq!(read(&store, 1, 5).expect("read"), "bcde");
}

#[test]
fn a_crash_keeps_what_was_synced_and_as_much_of_the_rest_as_it_is_told_to() {
    for (steps, surviving, ends_at) in [(0, 9, 2), (1, 0, 2), (1, 2, 4), (1, 9, 5), (2, 0, 5)] {
        let stores = by_hand();
        let (store, reports, _) = open(&stores);
        submit(&store, 0, "ab").expect("taken");
        while store.step().is_some() {}
        submit(&store, 2, "cd").expect("taken");
        submit(&store, 4, "e").expect("taken");
        (0..steps).for_each(|at| assert!(store.step().is_some(), "step {at}"));
        reports.take();
        let mut asked = Vec::new();
        stores.crash(|shard, unsynced| {
            asked.push((shard.to_owned(), unsynced));
            surviving
        });
        assert_eq!(asked, [("s1".to_owned(), if steps == 1 { 3 } else { 0 })]);
        // The process is dead.
        assert!(matches!(submit(&store, 2, "x"), Err(SubmitError::Closed)));
        assert!(matches!(store.replace_manifest(store.manifest().next()), Err(ManifestError::Closed)));
        store.close();
        assert_eq!((store.step(), reports.take()), (None, vec![]));
        let (next, _, end) = open(&stores);
        assert_eq!(end, ends_at, "{steps} steps, {surviving} bytes survive");
        assert_eq!(read(&next, 0, end).expect("read"), "abcde"[..end as usize]);
    }
}

#[test]
fn writes_fail_on_demand() {
    for (fault, step, report, ends) in [
        (WriteFault::NoSpace, Step::Refused, "refused 2", 2..=2),
        (WriteFault::Write { written_bytes: 1 }, Step::Failed, "failed", 3..=3),
        (WriteFault::Write { written_bytes: 99 }, Step::Failed, "failed", 5..=5),
        (WriteFault::Sync, Step::Failed, "failed", 5..=5),
    ] {
        let stores = by_hand();
        let (store, reports, _) = open(&stores);
        submit(&store, 0, "ab").expect("taken");
        while store.step().is_some() {}
        stores.set_faults("s1", Faults { write: Some(fault), ..Faults::default() });
        submit(&store, 2, "cde").expect("taken");
        reports.take();
        let steps: Vec<_> = std::iter::from_fn(|| store.step()).collect();
        assert_eq!((steps.last(), reports.take()), (Some(&step), vec![report.to_owned()]), "{fault:?}");
        assert_eq!(submit(&store, 2, "cde").is_ok(), fault == WriteFault::NoSpace);
        stores.set_faults("s1", Faults::default());
        store.shut();
        let (_, _, end) = open(&stores);
        assert!(ends.contains(&end), "{fault:?}: {end}");
    }
}

#[test]
fn manifests_removals_reads_and_trims_fail_on_demand() {
    let stores = by_hand();
    let (store, _, _) = open(&stores);
    submit(&store, 0, "ab").expect("taken");
    while store.step().is_some() {}
    let next = Manifest { base: 1, ..store.manifest().next() };
    let manifest = |manifest| Faults { manifest: Some(manifest), ..Faults::default() };
    stores.set_faults("s1", manifest(ManifestFault::NoSpace));
    assert!(matches!(store.replace_manifest(next.clone()), Err(ManifestError::NoSpace(_))));
    stores.set_faults("s1", manifest(ManifestFault::Unknown { is_stored: true }));
    assert!(matches!(store.replace_manifest(next.clone()), Err(ManifestError::Unknown(_))));
    assert_eq!(store.manifest().base, 0);
    stores.set_faults("s1", Faults { trims_fail: true, reads_fail: true, ..Faults::default() });
    assert!(store.trim(0).is_err());
    assert!(matches!(read(&store, 0, 2), Err(ReadError::Medium(_))));
    assert!(matches!(stores.open("s1", Arc::new(Reports::default())), Err(OpenError::Medium(_))));
    stores.set_faults("s1", Faults { remove: Some(RemoveFault::Unchanged), ..Faults::default() });
    assert!(matches!(stores.remove("s1"), Err(RemoveError::Unchanged(_))) && stores.exists("s1"));
    stores.crash(|_, unsynced| unsynced);
    assert_eq!(open(&stores).0.manifest(), next);
    for is_removed in [false, true] {
        stores.set_faults("s1", Faults { remove: Some(RemoveFault::Unknown { is_removed }), ..Faults::default() });
        assert!(stores.remove("s1").is_err_and(|error| !error.is_determinate()));
        assert_eq!(stores.exists("s1"), !is_removed);
    }
}

#[test]
fn a_log_that_ends_before_a_leader_began_is_damaged() {
    let stores = by_hand();
    let (store, _, _) = open(&stores);
    submit(&store, 0, "ab").expect("taken");
    while store.step().is_some() {}
    let mut next = store.manifest().next();
    next.epochs[0].first_offset = Some(3);
    store.replace_manifest(next).expect("replaced");
    store.close();
    assert!(matches!(stores.open("s1", Arc::new(Reports::default())), Err(OpenError::Damaged(_))));
}

#[test]
fn too_many_bytes_that_wait_are_refused_at_once() {
    let stores = MemoryStores::new(MemoryOptions { max_waiting_bytes: 4, max_batch_appends: 1, ..Default::default() });
    let (store, _, _) = open(&stores);
    submit(&store, 0, "ab").expect("taken");
    submit(&store, 2, "cd").expect("taken");
    assert!(matches!(submit(&store, 4, "e"), Err(SubmitError::Busy { waiting_bytes: 4 })));
    assert_eq!(store.step(), Some(Step::Written));
    submit(&store, 4, "e").expect("there is room again");
    store.close();
    let usage = store.usage();
    assert_eq!((usage.appends, usage.commits, usage.log_bytes), (3, 3, 5));
}

#[test]
fn ids_come_from_the_seed() {
    let ids = |seed| {
        let stores = MemoryStores::new(MemoryOptions { seed, ..Default::default() });
        ["a", "b"].map(|shard| stores.open(shard, Arc::new(Reports::default())).expect("opens").store.manifest().id)
    };
    assert_eq!(ids(1), ids(1));
    assert!(ids(1).iter().all(|id| !ids(2).contains(id)));
}

#[test]
fn a_thread_ends_with_its_store() {
    let stores = MemoryStores::new(MemoryOptions { writes: Writes::ByThread, ..Default::default() });
    let (store, reports, _) = open(&stores);
    submit(&store, 0, "ab").expect("taken");
    store.close();
    assert_eq!(reports.take(), ["durable 2"]);
    let dropped = Arc::downgrade(&open(&stores).0);
    for (weak, others) in [(Arc::downgrade(&store), 1), (dropped, 0)] {
        let deadline = Instant::now() + Duration::from_secs(20);
        while weak.strong_count() > others {
            assert!(Instant::now() < deadline, "the thread goes on");
            std::thread::yield_now();
        }
    }
}
