//! This service's copy of the cluster's own log: opened when the service starts, and looked after as those of shards are (`keeping.rs`).
//!
//! A copy that is found damaged when the service starts is fetched anew while it runs. Until then the service knows of no shard, and so opens
//! none of its copies. What is said to be the cluster's state counts again when the copy has all that it may have acknowledged: it begins with
//! the cluster's first state, which names services that were replaced since.

use std::sync::Arc;

use super::forming::refused;
use super::identity::ClusterRecord;
use super::keeping::{Care, Patient};
use super::shards::StateListener;
use super::state::{ClusterState, CLUSTER_GROUP};
use super::{lock, ClusterError, Replicas};
use crate::replica::copy::Install;
use crate::replica::driver::{DrivenGroup, GroupError};
use crate::replica::handle::GroupHandle;
use crate::store::OpenError;

impl Replicas {
    /// Opens it, if it is not open. One that is damaged is fetched anew later. Blocks on I/O.
    pub(super) fn open_own_log(&self) -> Result<(), String> {
        if lock(&self.cluster_group).is_some() {
            return Ok(());
        }
        match self.driver.open(&*self.options.disks, CLUSTER_GROUP) {
            Ok(Some(group)) => self.use_own_log(group),
            Ok(None) => {
                return Err(
                    "it is gone, and with it what this service has voted: put it back, or have the service replaced \
                            (LOG.CLUSTER REPLACE)"
                        .to_owned(),
                )
            }
            Err(error) if is_damage(&error) => {
                tracing::error!(
                    "this service's copy of the cluster's own log is damaged, and no shard is served here until it is fetched anew from the \
                     other services, which both have to use theirs: {error}"
                );
                lock(&self.ailing).unopened.insert(CLUSTER_GROUP.to_owned(), error.to_string());
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// Hears what the cluster's own log says from this copy from now on.
    pub(super) fn use_own_log(&self, group: Arc<DrivenGroup>) {
        // What is committed meanwhile is heard, or in the view.
        let listener = Arc::new(StateListener::new(self.state.clone()));
        let view = group.listen(listener.clone());
        listener.take(&view);
        if view.failed.is_some() {
            lock(&self.ailing).fetched.insert(CLUSTER_GROUP.to_owned());
        }
        *lock(&self.cluster_group) = Some(group);
    }

    /// Opens it again, or has it fetched anew, if that is what it needs. Blocks on I/O.
    pub(super) fn mend_own_log(&self) {
        let open = lock(&self.cluster_group).clone();
        let beginning = || self.identity().cluster.ok_or("this service is of no cluster")?.beginning();
        let patient =
            Patient { title: "the cluster's own log", name: CLUSTER_GROUP, open: open.clone(), beginning: &beginning };
        match (self.mend(&patient), open) {
            (Care::Opened(group), _) => self.use_own_log(group),
            (Care::Whole, Some(group)) => StateListener::new(self.state.clone()).take(&group.view()),
            (Care::Whole | Care::Nothing, _) => {}
        }
    }

    /// Its group.
    ///
    /// # Errors
    /// There is none: no cluster, or no copy that can be used.
    pub(super) fn own_group(&self) -> Result<Arc<DrivenGroup>, ClusterError> {
        let group = lock(&self.cluster_group).clone();
        group.ok_or_else(|| {
            let is_damaged = lock(&self.ailing).unopened.contains_key(CLUSTER_GROUP);
            refused(match (self.identity().cluster, is_damaged) {
                (None, _) => "this service is of no cluster yet: LOG.CLUSTER INIT makes one",
                (Some(_), true) => {
                    "this service's copy of the cluster's own log is damaged: it is fetched anew when both other services use theirs"
                }
                (Some(_), false) => "this service's copy of the cluster's own log is being opened: ask again",
            })
        })
    }
}

impl ClusterRecord {
    /// Where this service's copy of the cluster's own log begins.
    pub(super) fn beginning(&self) -> Result<Install, String> {
        let first = ClusterState::new(self.id, self.members.clone());
        let first = ClusterState { awaits: self.has_shards.then_some(self.initiator), ..first };
        if self.is_older {
            first.joining()
        } else {
            first.beginning()
        }
    }
}

/// Whether a copy cannot be opened as it is damaged: then it can be fetched anew.
pub(super) fn is_damage(error: &GroupError) -> bool {
    matches!(error, GroupError::Copy(OpenError::Damaged(_) | OpenError::Manifest { .. }) | GroupError::Contradiction(_))
}
