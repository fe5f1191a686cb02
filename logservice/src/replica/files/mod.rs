//! Snapshots travel between services, and one has another make them.
//!
//! Each service keeps the RDB files of its shards in a directory of its own, unless all reach one object store. A service that lacks a file
//! that a shard's state names fetches it, part by part, from one that has it. No state names a file that is at one service only: who stores
//! one has another service fetch it first ([`SnapshotFiles::spread`]).
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | what runs, for whom |
//! | `fetch.rs` | takes a file from another service |
//! | `ask.rs` | has another service keep a file, or make a snapshot |
//! | `answer.rs` | does what others ask for |
//! | `request.rs` | what is asked and answered, as bytes |
//!
//! What takes long is asked for again and again: each answer says how far it is. So nobody waits for an answer for long, and a connection that
//! was lost, or a service that was restarted, is nothing special.

mod answer;
mod ask;
mod fetch;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use self::answer::Jobs;
pub use self::ask::MadeElsewhere;
use super::groups::Answer;
use crate::snapshots::{Asked, OtherServices, SnapshotStore};
use crate::store::SnapshotRecord;

/// Files that are fetched at a time because a state names them.
const FETCHED_AT_A_TIME: usize = 2;
/// Files that are fetched at a time because another service waits for that: a node may wait for it.
const HELD_AT_A_TIME: usize = 4;

/// The connections to other services, as far as files need them.
pub trait FilePeers: Send + Sync {
    /// Asks the service of that name. The error is a text for people.
    fn ask<'a>(&'a self, peer: &'a str, request: Vec<u8>) -> Answer<'a, Result<Vec<u8>, String>>;

    /// The names of the other services, those that are connected first.
    fn names(&self) -> Vec<String>;
}

/// Why a service has made no snapshot for another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotMade {
    /// Why.
    pub reason: String,
    /// Whether it would be the same at any service.
    pub is_final: bool,
}

/// A snapshot that was made and stored, and that no state names yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// What is to be recorded.
    pub record: SnapshotRecord,
    /// The generation of the log that it was made of.
    pub generation: u64,
}

/// Makes snapshots for the service that decides over a log. Any thread may call it.
pub trait MakesSnapshots: Send + Sync {
    /// Makes and stores a snapshot of `shard`, of its log up to `least_end` (exclusive) or further.
    fn make<'a>(&'a self, shard: &'a str, least_end: u64) -> Answer<'a, Result<Made, NotMade>>;
}

/// The files of a service, for itself and for others.
pub struct SnapshotFiles {
    store: Arc<SnapshotStore>,
    peers: Arc<dyn FilePeers>,
    maker: OnceLock<Weak<dyn MakesSnapshots>>,
    /// One lock for each file that is being fetched, so that none is fetched twice at a time.
    fetching: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    places: Semaphore,
    places_to_hold: Semaphore,
    jobs: Jobs,
    runtime: Handle,
    this: Weak<SnapshotFiles>,
}

impl SnapshotFiles {
    /// Those in `store`. Must be called within the runtime.
    pub fn new(store: Arc<SnapshotStore>, peers: Arc<dyn FilePeers>) -> Arc<Self> {
        Arc::new_cyclic(|this| SnapshotFiles {
            store,
            peers,
            maker: OnceLock::new(),
            fetching: Mutex::default(),
            places: Semaphore::new(FETCHED_AT_A_TIME),
            places_to_hold: Semaphore::new(HELD_AT_A_TIME),
            jobs: Jobs::default(),
            runtime: Handle::current(),
            this: this.clone(),
        })
    }

    /// `maker` makes the snapshots that other services ask for from now on. Until then none are made.
    pub fn made_by(&self, maker: &Arc<dyn MakesSnapshots>) {
        // Set once, when the service has started.
        let _ = self.maker.set(Arc::downgrade(maker));
    }
}

impl OtherServices for SnapshotFiles {
    fn fetch<'a>(&'a self, record: &'a SnapshotRecord, is_damaged: bool) -> Asked<'a> {
        Box::pin(async move {
            // Never closed.
            let _place = self.places.acquire().await;
            self.fetch_from(record, self.peers.names(), is_damaged, |_| {}).await
        })
    }

    fn spread<'a>(&'a self, record: &'a SnapshotRecord) -> Asked<'a> {
        Box::pin(self.have_one_hold(record))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
