//! The stores of all shards of a service.

use std::fmt::Display;
use std::sync::Arc;

use super::{Manifest, MediumError, OpenError, Opened, RemoveError, StoreEvents};

/// Opens, lists and removes the stores of a service's shards. Any thread may call it. Calls block on I/O.
///
/// The caller keeps what belongs together in order: one service at a time uses a factory's medium, opens a shard once at a time, and
/// closes a shard's store before it removes it.
pub trait StoreFactory: Send + Sync {
    /// What the medium holds. Called before any other function, once the service has the medium to itself; makes the place where stores
    /// are kept if it is missing.
    fn list(&self) -> Result<Listed, MediumError>;

    /// Opens the store of `shard`, a valid name, and creates it if it is missing. What is known to `events` when this returns is
    /// everything that is durable: [`Opened::end`] is not reported again.
    fn open(&self, shard: &str, events: Arc<dyn StoreEvents>) -> Result<Opened, OpenError>;

    /// Whether there is a store of that shard, be it sound or not. False if that cannot be told.
    fn exists(&self, shard: &str) -> bool;

    /// The manifest of a shard whose store could not be opened; none if it is missing or cannot be used. Changes nothing.
    fn manifest(&self, shard: &str) -> Option<Manifest>;

    /// Removes the store of `shard`: when this returns, it is gone, also after a crash, and its name is free. What it held is still on the
    /// medium, and listed, until [`RemovedStore::finish`]. Removing a store that is missing succeeds.
    fn remove(&self, shard: &str) -> Result<Arc<dyn RemovedStore>, RemoveError>;

    /// Sets the store of `shard` aside, as it is kept otherwise from now on: when this returns, it is none any more, also after a crash. What it
    /// held is kept for people, at the place that is returned, and nothing removes it. `None` if there is no such store.
    ///
    /// # Errors
    /// It is as it was, or that is not known.
    fn set_aside(&self, shard: &str) -> Result<Option<String>, RemoveError> {
        Err(RemoveError::Unchanged(MediumError::new(format!("the store of shard {shard} cannot be set aside"))))
    }
}

/// What a factory's medium holds.
#[derive(Default)]
pub struct Listed {
    /// The shards that have a store, in no order.
    pub shards: Vec<String>,
    /// Stores that were removed, and whose contents are not.
    pub removed: Vec<Arc<dyn RemovedStore>>,
}

/// What is left of a store that was removed. It is displayed as its place on the medium. Calls block on I/O and may be repeated after an
/// error or a crash.
pub trait RemovedStore: Display + Send + Sync {
    /// Removes the log. The manifest stays, as it names the shard's snapshots, which are to be removed before it.
    fn remove_log(&self) -> Result<(), MediumError>;

    /// The manifest, or why it cannot be used; none if it is gone.
    fn manifest(&self) -> Result<Option<Result<Manifest, String>>, MediumError>;

    /// Removes the rest. From then on it is not listed.
    fn finish(&self) -> Result<(), MediumError>;
}
