//! The stores of the first service, for the suite.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use bytes::Bytes;

use super::super::lock;
use super::process::{until, Process};
use crate::replica::copy::CopyDisks;
use crate::replica::groups::Groups;
use crate::replica::handle::GroupHandle;
use crate::replica::memory_copy::Nothing;
use crate::store::{
    Append, Listed, LogReader, Manifest, ManifestError, MediumError, OnConfirmed, OpenError, Opened, ReadError,
    RemoveError, RemovedStore, Standing, Store, StoreEvents, StoreFactory, SubmitError, TrimError, Usage,
};

/// Makes the shards that are opened, and removes them, as the service above does.
pub struct Stores(pub Arc<Process>);

impl StoreFactory for Stores {
    fn list(&self) -> Result<Listed, MediumError> {
        self.0.stores().list()
    }

    fn open(&self, shard: &str, events: Arc<dyn StoreEvents>) -> Result<Opened, OpenError> {
        let process = &self.0;
        if std::mem::take(&mut *lock(&process.is_damaged)) {
            process.restart_first();
            let is_anew = || process.group(0, shard).is_some_and(|group| group.usage().repairs > 0);
            until("the damaged copy is given up", is_anew);
        }
        if !self.exists(shard) {
            let drawn = getrandom::u64().expect("a number");
            let manifest = Manifest::new(shard, format!("{drawn:040x}"), format!("log-{drawn:x}"));
            let state = Bytes::from(serde_json::to_vec(&manifest).expect("encoded"));
            let first = process.service(0);
            process.change("the shard is made", || first.create(shard, state.clone()));
        }
        process.lead(|service| lock(&service.shards).get(shard).cloned());
        let (is_failing, is_disturbed) = (process.is_failing.clone(), process.is_disturbed.clone());
        let events = Arc::new(Watching { events, is_failing, is_disturbed });
        let Opened { store, end } = process.stores().open(shard, events.clone())?;
        if store.standing() != Standing::Decides {
            events.note_disturbed();
        }
        Ok(Opened { store: Arc::new(InEpoch(store)), end })
    }

    fn exists(&self, shard: &str) -> bool {
        self.0.stores().exists(shard)
    }

    fn manifest(&self, shard: &str) -> Option<Manifest> {
        self.0.stores().manifest(shard)
    }

    fn remove(&self, shard: &str) -> Result<Arc<dyn RemovedStore>, RemoveError> {
        let Some(manifest) = self.manifest(shard) else { return Ok(Arc::new(Nothing("nowhere"))) };
        let process = &self.0;
        let places = || -> Vec<_> {
            let left_over = lock(&process.machines)[0].disks.left_over().expect("listed");
            left_over.into_iter().map(|removed| removed.to_string()).collect()
        };
        let before = places();
        let first = process.service(0);
        process.change("the shard is dropped", || first.drop_shard(shard, &manifest.id));
        until("its copy is set aside", || places().len() > before.len());
        let mut left_over = first.left_over().expect("listed");
        left_over.retain(|removed| !before.contains(&removed.to_string()));
        Ok(left_over.remove(0))
    }
}

/// Passes on what a store reports, and notes when another service decides by itself: one whose writes fail hands over.
struct Watching {
    events: Arc<dyn StoreEvents>,
    is_failing: Arc<AtomicBool>,
    is_disturbed: Arc<AtomicBool>,
}

impl Watching {
    fn note_disturbed(&self) {
        if !self.is_failing.load(Ordering::Relaxed) {
            self.is_disturbed.store(true, Ordering::Relaxed);
        }
    }
}

impl StoreEvents for Watching {
    fn durable(&self, end: u64) {
        self.events.durable(end);
    }
    fn refused(&self, end: u64, reason: &str) {
        self.events.refused(end, reason);
    }
    fn failed(&self, reason: &str) {
        self.events.failed(reason);
    }
    fn damaged(&self, reason: &str) {
        self.events.damaged(reason);
    }
    fn superseded(&self) {
        self.note_disturbed();
        self.events.superseded();
    }
    fn replaced(&self, manifest: &Manifest, begins_at: Option<u64>) {
        self.events.replaced(manifest, begins_at);
    }
}

/// A store whose appends are of the epoch that its manifest names. The suite knows no epochs, and a shard appends in no other.
struct InEpoch(Arc<dyn Store>);

impl Store for InEpoch {
    fn submit(&self, append: Append) -> Result<(), SubmitError> {
        let epoch = self.0.manifest().epochs.last().map_or(0, |newest| newest.epoch);
        self.0.submit(Append { epoch, ..append })
    }
    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        self.0.reader(offset)
    }
    fn manifest(&self) -> Manifest {
        self.0.manifest()
    }
    fn replace_manifest(&self, next: Manifest) -> Result<(), ManifestError> {
        self.0.replace_manifest(next)
    }
    fn restart(&self, next: Manifest) -> Result<(), ManifestError> {
        self.0.restart(next)
    }
    fn trim(&self, offset: u64) -> Result<(), TrimError> {
        self.0.trim(offset)
    }
    fn key_ids(&self) -> BTreeSet<String> {
        self.0.key_ids()
    }
    fn usage(&self) -> Usage {
        self.0.usage()
    }
    fn standing(&self) -> Standing {
        self.0.standing()
    }
    fn confirm(&self, done: OnConfirmed) {
        self.0.confirm(done);
    }
    fn close(&self) {
        self.0.close();
    }
}
