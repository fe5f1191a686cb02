//! A shard's log is read record by record, and its directory set aside, when several services keep the shard from then on.

use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;

use super::fuzz::directory;
use super::look::Look;
use super::{FileStoreOptions, FileStores, Threads, MIN_SEGMENT_BYTES};
use crate::encryption::KeyRing;
use crate::store::{Append, ReadError, Record, StoreEvents, StoreFactory};

#[derive(Default)]
struct Durable(Mutex<u64>, Condvar);

impl Durable {
    fn wait_for(&self, end: u64) {
        drop(self.1.wait_while(self.0.lock().expect("lock"), |durable| *durable < end).expect("lock"));
    }
}

impl StoreEvents for Durable {
    fn durable(&self, end: u64) {
        *self.0.lock().expect("lock") = end;
        self.1.notify_all();
    }

    fn refused(&self, _end: u64, reason: &str) {
        panic!("refused: {reason}");
    }

    fn failed(&self, reason: &str) {
        panic!("failed: {reason}");
    }

    fn damaged(&self, reason: &str) {
        panic!("damaged: {reason}");
    }
}

fn payload(offset: u64, bytes: usize) -> Bytes {
    (0..bytes as u64).map(|at| ((offset + at) % 251) as u8).collect::<Vec<_>>().into()
}

#[test]
fn records_are_read_while_they_are_written_and_after_the_store_is_closed() {
    let (directory, keys) = (directory(), Arc::<KeyRing>::default());
    let threads = Threads::start().expect("threads");
    let options =
        FileStoreOptions { segment_bytes: MIN_SEGMENT_BYTES, max_log_bytes: None, threads, keys: keys.clone() };
    let stores = FileStores::new(&directory.path().join("shards"), options);
    StoreFactory::list(&stores).expect("listed");
    let events = Arc::new(Durable::default());
    let store = stores.open("s1", events.clone()).expect("opened").store;
    let mut end = 0;
    let mut write = |epoch: u64, bytes: usize| {
        store.submit(Append { epoch, offset: end, payload: payload(end, bytes) }).expect("taken");
        end += bytes as u64;
        events.wait_for(end);
        end
    };
    // Small records, which are read together, and large ones, over several segments.
    let mut ends: Vec<u64> = (0..20).map(|_| write(1, 100)).collect();
    let first_end = ends[19];
    let mut records = store.records(50).expect("a reader");
    let mut found: Vec<Record> = Vec::new();
    while records.offset() < first_end {
        found.push(records.next(first_end).expect("sound"));
    }
    assert_eq!((found[0].offset, found[0].payload.len()), (50, 50), "of the first one only what was asked for");
    ends.extend((0..4).map(|_| write(2, 900_000)));
    let last_end = ends[23];
    store.close();
    while records.offset() < last_end {
        found.push(records.next(last_end).expect("sound"));
    }
    assert_eq!(found.iter().map(|record| record.epoch).collect::<Vec<_>>(), [vec![1; 20], vec![2; 4]].concat());
    for (record, end) in found.iter().zip(&ends) {
        assert_eq!(record.payload, payload(record.offset, (end - record.offset) as usize));
    }
    let look = Look::open(&directory.path().join("shards/s1"), "s1", &keys).expect("opened").expect("a shard");
    let mut looked_at = Vec::new();
    look.for_each_record(|record| {
        looked_at.push(record);
        true
    })
    .expect("read");
    assert_eq!(found[1..], looked_at[1..], "as the tools read them");
    assert_eq!(found[0].time_ms, looked_at[0].time_ms);
    assert!(matches!(store.records(0).map(drop), Ok(())));
    drop(store);

    let place = stores.set_aside("s1").expect("set aside").expect("there was one");
    assert_eq!(place, directory.path().join("before-cluster/s1").display().to_string());
    assert!(!stores.exists("s1") && StoreFactory::list(&stores).expect("listed").shards.is_empty());
    assert!(Look::open(place.as_ref(), "s1", &keys).expect("opened").is_some(), "it is there for people");
    assert_eq!(stores.set_aside("s1").expect("done"), None);
    // Another one of that name does not take its place.
    drop(stores.open("s1", Arc::new(Durable::default())).expect("made"));
    let other = stores.set_aside("s1").expect("set aside").expect("there was one");
    assert!(other.starts_with(&place) && other != place, "{other}");
}

#[test]
fn there_are_no_records_below_what_was_dropped() {
    let (directory, keys) = (directory(), Arc::<KeyRing>::default());
    let threads = Threads::start().expect("threads");
    let options = FileStoreOptions { segment_bytes: MIN_SEGMENT_BYTES, max_log_bytes: None, threads, keys };
    let stores = FileStores::new(&directory.path().join("shards"), options);
    StoreFactory::list(&stores).expect("listed");
    let store = stores.open("s1", Arc::new(Durable::default())).expect("opened").store;
    assert!(matches!(store.records(0).map(drop), Err(ReadError::Trimmed { offset: 0 })), "nothing was ever written");
}
