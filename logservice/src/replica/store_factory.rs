//! The stores of all shards whose logs several services keep.

use std::sync::Arc;

use super::groups::Groups;
use super::store::ReplicatedStore;
use crate::store::{
    Listed, Manifest, MediumError, OpenError, Opened, RemoveError, RemovedStore, StoreEvents, StoreFactory,
};

/// Opens stores over groups. It makes and removes none: all services do that together ([`Groups::create`]).
pub struct ReplicatedStores {
    groups: Arc<dyn Groups>,
}

impl ReplicatedStores {
    /// Stores over `groups`.
    pub fn new(groups: Arc<dyn Groups>) -> Self {
        ReplicatedStores { groups }
    }
}

impl StoreFactory for ReplicatedStores {
    fn list(&self) -> Result<Listed, MediumError> {
        Ok(Listed { shards: self.groups.names(), removed: self.groups.left_over()? })
    }

    fn open(&self, shard: &str, events: Arc<dyn StoreEvents>) -> Result<Opened, OpenError> {
        let Some(group) = self.groups.group(shard) else {
            let reason = self.groups.why_not(shard);
            let reason = reason.unwrap_or_else(|| format!("there is no copy of shard {shard} here"));
            return Err(MediumError::new(reason).into());
        };
        ReplicatedStore::open(self.groups.clone(), group, events)
    }

    fn exists(&self, shard: &str) -> bool {
        self.groups.group(shard).is_some()
    }

    fn manifest(&self, shard: &str) -> Option<Manifest> {
        Manifest::parse(&self.groups.group(shard)?.view().state).ok()
    }

    fn remove(&self, shard: &str) -> Result<Arc<dyn RemovedStore>, RemoveError> {
        let text = format!("shard {shard} is kept by several services, which drop it together");
        Err(RemoveError::Unchanged(MediumError::new(text)))
    }
}
