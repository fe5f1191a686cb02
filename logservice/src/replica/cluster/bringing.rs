//! A service that has kept shards alone makes a cluster, and brings them: `LOG.CLUSTER INIT` at a service with data.
//!
//! 1. The cluster's first state says that it awaits the shards of the service at which it was made. Until that one has told which there are,
//!    nobody makes any: a name must not be given twice.
//! 2. The state names the shards. The other services make copies that begin with nothing, and know that the one that brings a shard has it.
//! 3. The one that brings a shard goes on to serve what it keeps alone, while it makes the copy of the shard's group out of it
//!    (`replica/bringing.rs`). When little is missing, the shard takes nothing for a moment, and the rest is copied. The copy gets its name by
//!    one rename: before that the shard is what was kept alone, and from then on it is the copy. What was kept alone is set aside.
//! 4. That service is the group's only member, and makes the others members as it does with the successor of a service.
//!
//! Which of the two a shard is tells the disk alone, whatever this service knows of the cluster's state: if there is a copy, it is that. A copy
//! of a shard that was brought is not removed before what was kept alone is set aside.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use tokio::sync::watch;

use super::forming::{refused, Reply, Request};
use super::shards::RESERVED_NAME;
use super::state::{ClusterState, ShardRecord};
use super::{lock, Replicas};
use crate::replica::bringing::{Bringing, Brought};
use crate::replica::group::Event;
use crate::replica::group_name::shard_of;
use crate::replica::groups::{Answer, ClusterError, Groups};
use crate::replica::handle::{GroupEvents, GroupHandle, View};
use crate::store::{Manifest, MediumError};

/// Shards that are told of in one request: well below what a request may have.
const TOLD_AT_ONCE: usize = 1000;
/// How long a service that is the only member of a group waits at most until it decides. What takes longer goes on by itself.
const DECIDES_WITHIN: Duration = Duration::from_secs(2);

impl Replicas {
    /// The shards that this service keeps alone. Blocks on I/O.
    pub(super) fn kept_alone(&self) -> Result<BTreeSet<String>, MediumError> {
        let Some(alone) = &self.options.alone else { return Ok(BTreeSet::new()) };
        let copies = self.options.disks.list()?;
        let has_copy = |shard: &String| copies.iter().any(|group| shard_of(group) == shard);
        Ok(alone.list()?.shards.into_iter().filter(|shard| !has_copy(shard)).collect())
    }

    /// Whether this service has what no other one has: shards that it keeps alone, or of which it has the only copy. Blocks on I/O.
    pub(super) fn has_shards_of_its_own(&self) -> Result<bool, String> {
        if !self.kept_alone().map_err(|error| error.to_string())?.is_empty() {
            return Ok(true);
        }
        let groups: Vec<_> = lock(&self.shards).values().cloned().collect();
        let is_only = |status: crate::replica::group::GroupStatus| status.members.voters == [self.member];
        Ok(groups.iter().any(|group| group.status().is_some_and(is_only)))
    }

    /// Whether this service brings shards to a cluster that it makes.
    ///
    /// # Errors
    /// It cannot bring them.
    pub(super) async fn check_own_shards(&self) -> Result<bool, ClusterError> {
        let this = self.this.upgrade().ok_or_else(|| refused("the service is stopping"))?;
        let kept = tokio::task::spawn_blocking(move || this.kept_alone()).await;
        let kept = kept.map_err(|error| refused(error.to_string()))?.map_err(|error| refused(error.to_string()))?;
        if kept.contains(RESERVED_NAME) {
            return Err(refused(format!(
                "'{RESERVED_NAME}' is no name of a shard of a cluster: drop that shard first"
            )));
        }
        Ok(!kept.is_empty())
    }

    /// Has the cluster expect shards that `member` brings, if this service decides over the cluster. Blocks.
    pub(super) fn propose_brought(
        &self,
        member: u64,
        shards: &[(String, String)],
        is_all: bool,
    ) -> Result<(), ClusterError> {
        let group = lock(&self.cluster_group).clone().ok_or_else(|| refused("this service is of no cluster"))?;
        let unknown = "not known whether the cluster expects the shards, as too few services answer";
        self.change_state(&group, unknown, |state| {
            if state.awaits != Some(member) {
                return Ok(None);
            }
            state.with_brought(member, shards, is_all).map(Some).map_err(refused)
        })
    }

    async fn announce_some(&self, shards: &[(String, String)], is_all: bool) -> Result<(), ClusterError> {
        let (this, of) = (self.this.upgrade(), shards.to_vec());
        let this = this.ok_or_else(|| refused("the service is stopping"))?;
        let member = self.member;
        let proposed = tokio::task::spawn_blocking(move || this.propose_brought(member, &of, is_all)).await;
        match proposed.map_err(|error| refused(error.to_string()))? {
            Err(ClusterError::NotLeader { .. }) => {}
            proposed => return proposed,
        }
        let leader = lock(&self.cluster_group).as_ref().and_then(|group| group.view().leader);
        let leader = self.services().into_iter().find(|service| Some(service.member) == leader);
        let leader = leader.ok_or_else(|| refused("no service decides over the cluster now"))?;
        match self.ask(&leader.name, &Request::Bring { member, shards: shards.to_vec(), is_all }).await? {
            Reply::Brought => Ok(()),
            Reply::Refused(reason) => Err(refused(reason)),
            _ => Err(refused(format!("service {} did not say whether it expects the shards", leader.name))),
        }
    }

    /// Sets aside what was kept alone of shards of which there are copies. Blocks on I/O.
    ///
    /// # Errors
    /// Something stays where it was.
    pub(super) fn set_brought_aside(&self) -> Result<(), String> {
        let Some(alone) = &self.options.alone else { return Ok(()) };
        let copies = self.options.disks.list().map_err(|error| error.to_string())?;
        let listed = alone.list().map_err(|error| error.to_string())?;
        let mut brought = listed.shards.iter().filter(|shard| copies.iter().any(|group| shard_of(group) == *shard));
        brought.try_for_each(|shard| self.set_aside(shard))
    }

    fn set_aside(&self, shard: &str) -> Result<(), String> {
        let Some(alone) = &self.options.alone else { return Ok(()) };
        match alone.set_aside(shard) {
            Ok(Some(place)) => {
                tracing::info!(
                    "shard '{shard}': what this service had kept alone is in {place}; it is not needed any more once LOG.CLUSTER STATUS \
                     has shown whole=1 for the shard, and nothing removes it"
                );
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(format!("what was kept alone of shard '{shard}' is not set aside: {error}")),
        }
    }

    /// The record of a shard that this service is to bring and still keeps alone.
    fn expected_record(&self, shard: &str) -> Option<ShardRecord> {
        let state = self.state.borrow().clone()?;
        state.shards.get(shard).filter(|record| record.brought_by() == Some(self.member)).cloned()
    }

    /// Whether this service is to make its copy of a shard of what it keeps alone, and has not done so.
    pub(super) fn is_to_bring(&self, shard: &str, record: &ShardRecord) -> bool {
        record.brought_by() == Some(self.member) && self.keeps_alone(shard)
    }
}

impl Bringing for Replicas {
    fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::SeqCst)
    }

    fn keeps_alone(&self, shard: &str) -> bool {
        let has_copy = |groups: Vec<String>| groups.iter().any(|group| shard_of(group) == shard);
        // What cannot be found out is not served: it might be what was kept alone of a shard that goes on elsewhere.
        self.options.alone.as_ref().is_some_and(|alone| alone.exists(shard))
            && self.options.disks.list().is_ok_and(|groups| !has_copy(groups))
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.to_bring.subscribe()
    }

    fn is_awaited(&self) -> bool {
        self.state.borrow().as_ref().is_some_and(|state| state.awaits == Some(self.member))
    }

    fn announce<'a>(&'a self, shards: &'a [(String, String)]) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            let mut rest = shards;
            loop {
                let (some, others) = rest.split_at(rest.len().min(TOLD_AT_ONCE));
                self.announce_some(some, others.is_empty()).await?;
                if others.is_empty() {
                    return Ok(());
                }
                rest = others;
            }
        })
    }

    fn expected(&self) -> Result<Vec<String>, MediumError> {
        let Some(state) = self.state.borrow().clone() else { return Ok(Vec::new()) };
        let kept = self.kept_alone()?;
        let is_expected =
            |shard: &String| state.shards.get(shard).is_some_and(|record| record.brought_by() == Some(self.member));
        Ok(kept.into_iter().filter(is_expected).collect())
    }

    fn begin(&self, shard: &str, base: u64) -> Result<Brought, MediumError> {
        let record = self.expected_record(shard);
        let record = record.ok_or_else(|| MediumError::new(format!("the cluster does not expect shard '{shard}'")))?;
        Brought::begin(&*self.options.disks, &record.group(shard), self.member, base)
    }

    fn finish(&self, shard: &str, brought: Brought, manifest: &Manifest) -> Result<(), String> {
        let group = {
            let _one_at_a_time = lock(&self.changing_copies);
            let record = self.expected_record(shard).ok_or("the cluster does not expect the shard any more")?;
            let name = record.group(shard);
            if let Err(error) = brought.finish(manifest) {
                let copies = self.options.disks.list();
                if !copies.is_ok_and(|copies| copies.contains(&name)) {
                    return Err(error.to_string());
                }
                // It has its name, and opening it makes that durable.
                tracing::warn!("the copy of shard '{shard}': {error}");
            }
            // It is the copy from here on. What fails now is tried again with all other copies.
            if let Err(reason) = self.set_aside(shard) {
                tracing::error!("{reason}; it is tried again at the next start");
            }
            let opened = self.open_shard(shard, &record);
            let (group, _) = opened.inspect_err(|reason| self.note_unused(shard, reason))?;
            self.note_opened(shard, &record, group.clone(), false);
            group
        };
        let deciding = Arc::new(Deciding::default());
        deciding.note(&group.listen(deciding.clone()));
        group.campaign();
        match deciding.wait() {
            true => Ok(()),
            false => Err(format!("shard '{shard}' is brought, and nobody decides over its log yet")),
        }
    }
}

/// Waits until this service decides over a log.
#[derive(Default)]
struct Deciding {
    /// Whether it does; none while that is open.
    decides: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Deciding {
    fn note(&self, view: &View) {
        if view.leads_in.is_some() || view.failed.is_some() {
            self.end(view.failed.is_none());
        }
    }

    fn end(&self, decides: bool) {
        *lock(&self.decides) = Some(decides);
        self.changed.notify_all();
    }

    fn wait(&self) -> bool {
        let waited = self.changed.wait_timeout_while(lock(&self.decides), DECIDES_WITHIN, |decides| decides.is_none());
        waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0.unwrap_or(false)
    }
}

impl GroupEvents for Deciding {
    fn happened(&self, _event: &Event, view: &View) {
        self.note(view);
    }

    fn stopped(&self, _reason: &str) {
        self.end(false);
    }
}

impl ClusterState {
    /// This state, and shards that `member` has kept alone, of these names and with logs of these ids. If they are all of them, none is awaited
    /// any more.
    pub(super) fn with_brought(&self, member: u64, shards: &[(String, String)], is_all: bool) -> Result<Self, String> {
        let mut next = self.clone();
        for (shard, log_id) in shards {
            // Nothing of it counts but the id: who has no copy gets all else with the log.
            let manifest = Manifest::new(shard, String::new(), log_id.clone());
            let first_state = STANDARD.encode(serde_json::to_vec(&manifest).map_err(|error| error.to_string())?);
            let (members, made_after) = (Vec::new(), self.drops);
            let record = ShardRecord { members, made_by: member, first_state, made_after };
            record.joining().map_err(|reason| format!("shard '{shard}' cannot be brought: {reason}"))?;
            next.shards.insert(shard.clone(), record);
        }
        if is_all {
            next.awaits = None;
        }
        Ok(next)
    }
}

/// Whether shards can be brought to a new cluster of service `own` and another one, of which each may have some of its own. `None`: that one is
/// of a version that does not know.
pub(super) fn check_who_brings(own: &str, has_shards: bool, other: &str, others: Option<bool>) -> Result<(), String> {
    match (has_shards, others) {
        (true, Some(true)) => Err(format!(
            "services {own} and {other} both have shards of their own, and only one service can bring some: start the other one with an empty \
             --dir"
        )),
        (false, Some(true)) => Err(format!("service {other} has shards of its own: say LOG.CLUSTER INIT there")),
        (true, None) => Err(format!("service {other} is of an older version: upgrade it first")),
        (_, Some(false)) | (false, None) => Ok(()),
    }
}
