//! Drops a shard at all services: the cluster's own log says that it is gone, and each service removes its copy.
//!
//! A shard that is made again under a name that was in use is another group ([`ShardRecord::group`]): a service that was away with a copy of
//! the old one never takes part in the new one. A copy that the cluster's state does not name is removed if it was made before a drop that
//! the state knows of. A state from before the shard was made knows of none, so a service that is behind removes nothing too early.
//!
//! The copy's directory is set aside by one rename. The name leaves the list of copies that were made only then: after a crash between the
//! two it is found dropped again. After a crash the cluster's state is that of the last checkpoint until somebody decides, and may be older than
//! the drop: a state that knows of fewer drops than there were when a name left the list makes no copy ([`Replicas::may_make`]).

use std::sync::Arc;

use tokio::time::timeout;

use super::forming::{Reply, Request};
use super::state::{ClusterState, ShardRecord, CLUSTER_GROUP};
use super::{lock, ClusterError, DrivenGroup, GroupHandle, Replicas, DECISION_AT_MOST};
use crate::replica::group::Event;
use crate::replica::group_name::{made_after, shard_of};
use crate::replica::groups::Groups;
use crate::replica::handle::{GroupEvents, View};

fn refused(text: impl Into<String>) -> ClusterError {
    ClusterError::Refused(text.into())
}

const UNKNOWN: &str = "not known whether the shard is dropped, as too few services answer: ask again";

impl Replicas {
    /// Has the cluster drop the shard whose log has that id, and waits until it is gone here.
    pub(super) async fn drop_everywhere(&self, shard: &str, log_id: &str) -> Result<(), ClusterError> {
        let mut states = self.state.subscribe();
        let (this, of, id) = (self.this.upgrade(), shard.to_owned(), log_id.to_owned());
        let this = this.ok_or_else(|| refused("the service is stopping"))?;
        let proposed = tokio::task::spawn_blocking(move || this.propose_drop(&of, &id)).await;
        match proposed.map_err(|error| refused(error.to_string()))? {
            Err(ClusterError::NotLeader { .. }) => self.ask_to_drop(shard, log_id).await?,
            proposed => proposed?,
        }
        let is_gone = |state: &Option<Arc<ClusterState>>| {
            state.as_ref().is_none_or(|state| state.shards.get(shard).is_none_or(|record| record.log_id() != log_id))
        };
        // It is dropped whether or not this service hears of it in time.
        let _ = timeout(DECISION_AT_MOST, states.wait_for(is_gone)).await;
        Ok(())
    }

    /// Asks the service that decides over the cluster.
    async fn ask_to_drop(&self, shard: &str, log_id: &str) -> Result<(), ClusterError> {
        let leader = lock(&self.cluster_group).as_ref().and_then(|group| group.view().leader);
        let services = self.services();
        let leader = services.iter().find(|service| Some(service.member) == leader);
        let Some(leader) = leader else {
            return Err(refused("no service decides over the cluster now: ask again when two of the services run"));
        };
        let request = Request::Drop { shard: shard.to_owned(), log_id: log_id.to_owned() };
        match self.ask(&leader.name, &request).await? {
            Reply::Dropped => Ok(()),
            Reply::Refused(reason) => Err(refused(reason)),
            _ => Err(refused(UNKNOWN)),
        }
    }

    /// Proposes that there is no such shard any more, if this service decides over the cluster. Succeeds if there is none. Blocks.
    pub(super) fn propose_drop(&self, shard: &str, log_id: &str) -> Result<(), ClusterError> {
        let group = self.own_group()?;
        self.change_state(&group, UNKNOWN, |state| match state.shards.get(shard) {
            None => Ok(None),
            Some(record) if record.log_id() != log_id => {
                Err(refused(format!("{log_id} is not the id of the log of shard '{shard}'")))
            }
            Some(_) => Ok(Some(state.without_shard(shard))),
        })
    }

    /// Removes the copies of shards that were dropped. Blocks on I/O.
    pub(super) fn remove_dropped(&self) {
        let _one_at_a_time = lock(&self.changing_copies);
        let Some(state) = self.state.borrow().clone() else { return };
        let open: Vec<(String, Arc<DrivenGroup>)> =
            lock(&self.shards).iter().map(|(name, group)| (name.clone(), group.clone())).collect();
        for (shard, group) in open {
            if !state.has_dropped(group.group()) {
                continue;
            }
            lock(&self.shards).remove(&shard);
            self.note_disappeared(&shard);
            // Whoever listens has heard that it is gone, and need not hear that it has stopped.
            group.listen(Arc::new(Nobody));
            self.driver.close(&group);
        }
        let is_dropped = |group: &DrivenGroup| state.has_dropped(group.group());
        let arriving: Vec<Arc<DrivenGroup>> = {
            let mut arriving = lock(&self.arriving);
            let names: Vec<_> =
                arriving.iter().filter(|(_, group)| is_dropped(group)).map(|(name, _)| name.clone()).collect();
            names.iter().filter_map(|name| arriving.remove(name)).collect()
        };
        arriving.iter().for_each(|group| self.driver.close(group));
        let unopened: Vec<String> = lock(&self.ailing).unopened.keys().cloned().collect();
        for group in unopened.iter().filter(|group| state.has_dropped(group)) {
            lock(&self.ailing).unopened.remove(group);
            self.note_disappeared(shard_of(group));
        }
        let copies = match self.options.disks.list() {
            Ok(copies) => copies,
            Err(error) => return tracing::error!("copies of dropped shards are not looked for: {error}"),
        };
        for group in copies.iter().filter(|group| state.has_dropped(group)) {
            // Without a copy, it would be the shard again.
            if let Err(reason) = self.set_brought_aside() {
                tracing::error!("'{group}' was dropped, and its copy stays until the next start: {reason}");
                continue;
            }
            match self.options.disks.set_aside(group) {
                Ok(removed) => {
                    tracing::warn!("'{group}' was dropped: its copy is removed");
                    let listener = lock(&self.listener).clone();
                    match listener {
                        Some(listener) => listener.removed(shard_of(group), removed),
                        None => lock(&self.removed).push(removed),
                    }
                }
                Err(error) => {
                    tracing::error!("'{group}' was dropped, and its copy stays until the next start: {error}")
                }
            }
        }
        if let Err(reason) = self.forget_dropped(&state) {
            tracing::error!("which copies were made is not brought up to date: {reason}");
        }
    }

    fn note_disappeared(&self, shard: &str) {
        let listener = lock(&self.listener).clone();
        if let Some(listener) = listener {
            listener.disappeared(shard);
        }
    }

    /// Whether this service may make a copy that was not made, of a shard of that state. One that was dropped since would be there again, with
    /// nothing, and without what was promised in it.
    pub(super) fn may_make(&self, state: &ClusterState, group: &str) -> bool {
        let identity = lock(&self.identity);
        identity.copies_made.contains(group) || identity.drops <= state.drops
    }

    /// The names of dropped copies are forgotten once they are gone from the disk.
    fn forget_dropped(&self, state: &ClusterState) -> Result<(), String> {
        let kept = self.options.disks.list().map_err(|error| error.to_string())?;
        let mut identity = lock(&self.identity);
        let mut next = identity.clone();
        next.copies_made.retain(|group| kept.contains(group) || !state.has_dropped(group));
        if next.copies_made.len() < identity.copies_made.len() {
            next.drops = next.drops.max(state.drops);
            next.store(&self.options.directory).map_err(|error| error.to_string())?;
            *identity = next;
        }
        Ok(())
    }
}

/// Hears of a group that nobody needs any more.
struct Nobody;

impl GroupEvents for Nobody {
    fn happened(&self, _event: &Event, _view: &View) {}

    fn stopped(&self, _reason: &str) {}
}

impl ClusterState {
    /// This state, without a shard.
    pub fn without_shard(&self, shard: &str) -> Self {
        let mut next = self.clone();
        if next.shards.remove(shard).is_some() {
            next.drops += 1;
        }
        next
    }

    /// Whether a group was that of a shard, and is so no more.
    pub fn has_dropped(&self, group: &str) -> bool {
        let was_before_a_drop = made_after(group).is_some_and(|made_after| made_after < self.drops);
        group != CLUSTER_GROUP && was_before_a_drop && !self.shards.iter().any(|(name, of)| of.group(name) == group)
    }
}

impl ShardRecord {
    /// The id of its log; empty if its first state is none.
    pub fn log_id(&self) -> String {
        self.manifest().map(|manifest| manifest.id).unwrap_or_default()
    }
}
