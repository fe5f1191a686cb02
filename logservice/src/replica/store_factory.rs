//! The stores of all shards whose logs several services keep, and of those that one of them keeps alone still.

use std::sync::Arc;

use super::groups::Groups;
use super::store::ReplicatedStore;
use crate::store::{
    Listed, Manifest, MediumError, OpenError, Opened, RemoveError, RemovedStore, StoreEvents, StoreFactory,
};

/// Opens stores over groups. It makes and removes none: all services do that together ([`Groups::create`]). What this service keeps alone
/// ([`super::bringing`]) it opens, makes and removes as a service without peers does.
pub struct ReplicatedStores {
    groups: Arc<dyn Groups>,
    alone: Option<Arc<dyn StoreFactory>>,
}

impl ReplicatedStores {
    /// Stores over `groups`.
    pub fn new(groups: Arc<dyn Groups>) -> Self {
        ReplicatedStores { groups, alone: None }
    }

    /// These, and those of `alone`.
    pub fn and_alone(self, alone: Option<Arc<dyn StoreFactory>>) -> Self {
        ReplicatedStores { alone, ..self }
    }

    /// The stores of what is kept alone, if the shard of that name is, or is to be made so.
    fn alone(&self, shard: &str) -> Option<&Arc<dyn StoreFactory>> {
        let (alone, bringing) = (self.alone.as_ref()?, self.groups.bringing()?);
        (bringing.is_alone() || bringing.keeps_alone(shard)).then_some(alone)
    }
}

impl StoreFactory for ReplicatedStores {
    fn list(&self) -> Result<Listed, MediumError> {
        let mut listed = Listed { shards: self.groups.names(), removed: self.groups.left_over()? };
        if let Some(alone) = &self.alone {
            let Listed { shards, removed } = alone.list()?;
            listed.shards.extend(shards.into_iter().filter(|shard| self.alone(shard).is_some()));
            listed.removed.extend(removed);
        }
        Ok(listed)
    }

    fn open(&self, shard: &str, events: Arc<dyn StoreEvents>) -> Result<Opened, OpenError> {
        if let Some(group) = self.groups.group(shard) {
            return ReplicatedStore::open(self.groups.clone(), group, events);
        }
        if let Some(alone) = self.alone(shard) {
            return alone.open(shard, events);
        }
        let reason = self.groups.why_not(shard);
        let reason = reason.unwrap_or_else(|| format!("there is no copy of shard {shard} here"));
        Err(MediumError::new(reason).into())
    }

    fn exists(&self, shard: &str) -> bool {
        self.groups.group(shard).is_some() || self.alone(shard).is_some_and(|alone| alone.exists(shard))
    }

    fn manifest(&self, shard: &str) -> Option<Manifest> {
        match self.groups.group(shard) {
            Some(group) => Manifest::parse(&group.view().state).ok(),
            None => self.alone(shard)?.manifest(shard),
        }
    }

    fn remove(&self, shard: &str) -> Result<Arc<dyn RemovedStore>, RemoveError> {
        if let Some(alone) = self.alone(shard) {
            return alone.remove(shard);
        }
        let text = format!("shard {shard} is kept by several services, which drop it together");
        Err(RemoveError::Unchanged(MediumError::new(text)))
    }
}
