//! Making shards, and opening their copies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use durability_protocol::{is_valid_name, MAX_NAME_BYTES};
use tokio::sync::watch;
use tokio::time::timeout;

use super::own_log::is_damage;
use super::state::{ClusterState, ShardRecord, CLUSTER_GROUP};
use super::{lock, ClusterError, DrivenGroup, GroupError, GroupHandle, Replicas, DECISION_AT_MOST};
use crate::replica::copy::Install;
use crate::replica::driver::TICK;
use crate::replica::group::Event;
use crate::replica::group_name::shard_of;
use crate::replica::groups::Groups;
use crate::replica::handle::{GroupEvents, View};
use crate::store::OpenError;

/// The name under which disks keep the copy of the cluster's own log.
pub(super) const RESERVED_NAME: &str = "_cluster";
/// How long after a copy could not be used that is tried again: at first, and at most.
const RETRY_FROM: Duration = Duration::from_millis(500);
const RETRY_TO: Duration = Duration::from_secs(30);
/// Ticks for which the service at which a shard was made asks to decide over it: the others may make their copies a little later.
const CAMPAIGN_TICKS: u32 = 20;
/// Ticks from one attempt to be elected to the next: each begins anew, so votes on slow disks must have the time to come.
pub(super) const CAMPAIGN_EVERY_TICKS: u32 = 5;

/// Keeps what the cluster's own log says.
pub(super) struct StateListener {
    state: watch::Sender<Option<Arc<ClusterState>>>,
}

impl StateListener {
    pub fn new(state: watch::Sender<Option<Arc<ClusterState>>>) -> Self {
        StateListener { state }
    }

    /// Takes the state of a view, unless a newer one was heard of. A copy that is being fetched anew tells an old one.
    pub fn take(&self, view: &View) {
        if view.failed.is_some() {
            return;
        }
        match ClusterState::parse(&view.state) {
            Ok(state) => {
                let state = ClusterState { revision: view.revision, ..state };
                self.state.send_if_modified(|known| {
                    let is_newer = known.as_ref().is_none_or(|known| known.revision < state.revision);
                    if is_newer {
                        *known = Some(Arc::new(ClusterState { revision: view.revision, ..state }));
                    }
                    is_newer
                });
            }
            Err(error) => tracing::error!("{error}: upgrade logservice"),
        }
    }
}

impl GroupEvents for StateListener {
    fn happened(&self, event: &Event, view: &View) {
        if matches!(event, Event::StateReplaced { .. } | Event::Installed { .. }) {
            self.take(view);
        }
    }

    fn stopped(&self, reason: &str) {
        tracing::error!(
            "no shards are made here until the copy of the cluster's own log is mended: it has stopped: {reason}"
        );
    }
}

impl Replicas {
    /// Makes copies of shards that the cluster has and this service has not, whenever its state changes. What could not be made or opened is
    /// tried again after a while.
    pub(super) fn follow_state(&self, mut states: watch::Receiver<Option<Arc<ClusterState>>>) {
        let this = self.this.clone();
        tokio::spawn(async move {
            let mut wait = RETRY_FROM;
            loop {
                let Some(has_unused) = this.upgrade().map(|replicas| !lock(&replicas.unused).is_empty()) else {
                    return;
                };
                wait = if has_unused { (wait * 2).min(RETRY_TO) } else { RETRY_FROM };
                let changed = match has_unused {
                    // What is in the way of a copy may be gone by then: a full disk, say.
                    true => timeout(wait, states.changed()).await.unwrap_or(Ok(())),
                    false => states.changed().await,
                };
                let Some(replicas) = this.upgrade().filter(|_| changed.is_ok()) else { return };
                replicas.tell_peers();
                replicas.to_bring.send_replace(());
                let opened = tokio::task::spawn_blocking(move || {
                    replicas.remove_dropped();
                    replicas.open_shards();
                })
                .await;
                if let Err(error) = opened {
                    tracing::error!("opening shards did not finish: {error}");
                }
            }
        });
    }

    /// Opens the copies of all shards that are not open; makes those that are not there. Blocks on I/O.
    pub(super) fn open_shards(&self) {
        let _one_at_a_time = lock(&self.changing_copies);
        let Some(state) = self.state.borrow().clone() else { return };
        lock(&self.unused).retain(|name, _| state.shards.contains_key(name) && !lock(&self.shards).contains_key(name));
        for (name, record) in &state.shards {
            let is_open = lock(&self.shards).contains_key(name) || lock(&self.arriving).contains_key(name);
            let is_first = record.members.contains(&self.member);
            if is_open || !(is_first || state.has_member(self.member)) || self.is_to_bring(name, record) {
                continue;
            }
            if !self.may_make(&state, &record.group(name)) {
                continue;
            }
            match self.open_shard(name, record) {
                Ok((group, is_new)) => {
                    lock(&self.unused).remove(name);
                    match is_first || group.view().is_whole {
                        true => self.note_opened(name, record, group, is_new),
                        false => drop(lock(&self.arriving).insert(name.clone(), group)),
                    }
                }
                Err(reason) => {
                    // It is tried again and again, and said once.
                    if lock(&self.unused).insert(name.clone(), reason.clone()).as_ref() != Some(&reason) {
                        tracing::error!("the copy of shard '{name}' is not used: {reason}");
                    }
                }
            }
        }
    }

    /// Where this service's copy of a shard begins. Who has come later gets from the others what was there before.
    pub(super) fn beginning_of(&self, record: &ShardRecord) -> Result<Install, String> {
        match record.members.contains(&self.member) {
            true => record.beginning(),
            false => record.joining(),
        }
    }

    /// The copy of a shard is not used, for that reason: it is tried again.
    pub(super) fn note_unused(&self, shard: &str, reason: &str) {
        lock(&self.unused).insert(shard.to_owned(), reason.to_owned());
        tracing::error!("the copy of shard '{shard}' is not used: {reason}");
        self.state.send_modify(|_| {});
    }

    pub(super) fn open_shard(&self, name: &str, record: &ShardRecord) -> Result<(Arc<DrivenGroup>, bool), String> {
        let shard = name;
        let name = &*record.group(name);
        let is_new = !self.identity().copies_made.contains(name);
        if is_new {
            let beginning = self.beginning_of(record)?;
            // Changes nothing if there is one: a crash, or an error, may have come between the two.
            self.options.disks.create(name, &beginning).map_err(|error| error.to_string())?;
            // Before it votes for the first time.
            self.note_made(name)?;
        }
        let opened = self.driver.open(&*self.options.disks, name).map_err(|error: GroupError| {
            self.note_unopened(shard, name, &error);
            error.to_string()
        })?;
        opened.map(|group| (group, is_new)).ok_or_else(|| {
            "it is gone, and with it what this service has voted: put it back, or have the service replaced (LOG.CLUSTER REPLACE)"
                .to_owned()
        })
    }

    /// Remembers for good that the copy of a shard was made. Blocks on I/O.
    fn note_made(&self, name: &str) -> Result<(), String> {
        let mut identity = lock(&self.identity);
        if identity.copies_made.contains(name) {
            return Ok(());
        }
        let mut next = identity.clone();
        next.copies_made.insert(name.to_owned());
        next.store(&self.options.directory).map_err(|error| error.to_string())?;
        *identity = next;
        Ok(())
    }

    /// Shows the copies that have arrived to the rest of the service.
    pub(super) fn show_what_is_whole(&self) {
        let Some(state) = self.state.borrow().clone() else { return };
        let mut arriving = lock(&self.arriving);
        let whole: Vec<_> =
            arriving.iter().filter(|(_, group)| group.view().is_whole).map(|(name, _)| name.clone()).collect();
        let whole: Vec<_> = whole.into_iter().filter_map(|name| Some((arriving.remove(&name)?, name))).collect();
        drop(arriving);
        for (group, name) in whole {
            tracing::info!("'{name}': this service has a whole copy now");
            // It may have been dropped, and made again.
            let record = state.shards.get(&name).filter(|record| record.group(&name) == group.group());
            if let Some(record) = record {
                self.note_opened(&name, record, group, false);
            }
        }
    }

    /// Remembers that the copy of a shard cannot be used as it is damaged: it can be fetched anew.
    fn note_unopened(&self, shard: &str, group: &str, error: &GroupError) {
        if is_damage(error) {
            lock(&self.ailing).unopened.insert(group.to_owned(), error.to_string());
            self.note_appeared(shard);
        }
        if let GroupError::Copy(OpenError::Locked { .. }) = error {
            lock(&self.ailing).locked = Some(format!("the copy of shard '{shard}': {error}"));
        }
    }

    /// The shards whose copies here could not be opened, and why.
    pub(super) fn unopened(&self) -> BTreeMap<String, String> {
        let ailing = lock(&self.ailing);
        let shards = ailing.unopened.iter().filter(|(group, _)| *group != CLUSTER_GROUP);
        shards.map(|(group, reason)| (shard_of(group).to_owned(), reason.clone())).collect()
    }

    /// Tells who listens that there is a copy of the shard, or that it is another one now.
    pub(super) fn note_appeared(&self, shard: &str) {
        let listener = lock(&self.listener).clone();
        if let Some(listener) = listener {
            listener.appeared(shard);
        }
    }

    /// There is an open copy of the shard.
    pub(super) fn note_opened(&self, name: &str, record: &ShardRecord, group: Arc<DrivenGroup>, is_new: bool) {
        {
            let mut ailing = lock(&self.ailing);
            group.set_repairs(ailing.repairs.get(group.group()).copied().unwrap_or(0));
            if group.view().failed.is_some() {
                ailing.fetched.insert(group.group().to_owned());
            }
        }
        lock(&self.shards).insert(name.to_owned(), group.clone());
        self.note_appeared(name);
        self.arrived.send_replace(());
        if is_new && record.made_by == self.member {
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(lead_first(group));
            }
        }
    }

    /// Makes a shard at all services.
    pub(super) async fn make_shard(&self, shard: &str, first_state: Bytes) -> Result<(), ClusterError> {
        let refused = |text: &str| ClusterError::Refused(text.to_owned());
        if !is_valid_name(shard) || shard == RESERVED_NAME {
            return Err(ClusterError::Refused(format!("'{shard}' is no name of a shard of a cluster")));
        }
        let group = self.own_group()?;
        if let Some(elsewhere) = self.not_here_yet(shard) {
            return Err(elsewhere);
        }
        {
            let _one_at_a_time = self.creating.lock().await;
            while !self.is_made(shard) {
                self.propose_shard(&group, shard, &first_state).await?;
            }
        }
        let mut arrived = self.arrived.subscribe();
        let is_here = async {
            loop {
                arrived.mark_unchanged();
                if lock(&self.shards).contains_key(shard) || arrived.changed().await.is_err() {
                    return;
                }
            }
        };
        let is_here = timeout(DECISION_AT_MOST, is_here).await;
        is_here.map_err(|_| refused("the shard is made, but not here: see the log"))?;
        // Whoever asked for it finds out next who decides. If nobody does after all, that is what is answered.
        let group = lock(&self.shards).get(shard).cloned();
        let mut ticks = tokio::time::interval(TICK);
        for _ in 0..CAMPAIGN_TICKS {
            ticks.tick().await;
            if group.as_ref().is_none_or(|group| has_leader(&group.view())) {
                break;
            }
        }
        Ok(())
    }

    /// Where a shard is that this service has not got yet: it arrives, or another service brings it, or may do so.
    pub(super) fn not_here_yet(&self, shard: &str) -> Option<ClusterError> {
        let state = self.state.borrow().clone()?;
        if lock(&self.shards).contains_key(shard) {
            return None;
        }
        let arriving = lock(&self.arriving).get(shard).map(|group| group.view().leader);
        let brings = state.shards.get(shard).map_or(state.awaits, ShardRecord::brought_by);
        let brings = brings.filter(|&member| member != self.member);
        if arriving.is_none() && brings.is_none() {
            return None;
        }
        let groups: &dyn Groups = self;
        let address = arriving.flatten().or(brings).and_then(|member| groups.address_of(member));
        Some(ClusterError::NotLeader { address })
    }

    fn is_made(&self, shard: &str) -> bool {
        self.state.borrow().as_ref().is_some_and(|state| state.shards.contains_key(shard))
    }

    /// Proposes that there is a shard. If another change came first, nothing has happened.
    async fn propose_shard(&self, group: &DrivenGroup, shard: &str, first_state: &[u8]) -> Result<(), ClusterError> {
        let view = group.view();
        let Some(term) = view.leads_in else { return Err(self.not_leader(&view)) };
        let state = ClusterState::parse(&view.state).map_err(ClusterError::Refused)?;
        if state.shards.contains_key(shard) {
            // Heard of a moment later.
            tokio::task::yield_now().await;
            return Ok(());
        }
        if state.awaits.is_some() {
            let text = "the shards that this service brings are being told to the cluster, and until then it makes none: ask again";
            return Err(self.not_here_yet(shard).unwrap_or_else(|| ClusterError::Refused(text.to_owned())));
        }
        let next = state.with_shard(shard, self.member, first_state);
        let group_bytes = next.shards[shard].group(shard).len();
        if group_bytes > MAX_NAME_BYTES {
            let most = MAX_NAME_BYTES - (group_bytes - shard.len());
            let text = format!("shards were dropped in this cluster: names of new ones have {most} bytes at most");
            return Err(ClusterError::Refused(text));
        }
        let beginning = next.shards[shard].beginning();
        beginning.map_err(|reason| ClusterError::Refused(format!("not a manifest of shard '{shard}': {reason}")))?;
        self.propose_state(group, term, &view, &next, "the shard is made").await.map(|_| ())
    }
}

/// Has this service decide over a new shard's log: whoever had it made is connected here.
async fn lead_first(group: Arc<DrivenGroup>) {
    let mut ticks = tokio::time::interval(TICK);
    for tick in 0..CAMPAIGN_TICKS {
        ticks.tick().await;
        if has_leader(&group.view()) {
            return;
        }
        if tick % CAMPAIGN_EVERY_TICKS == 0 {
            group.campaign();
        }
    }
}

fn has_leader(view: &View) -> bool {
    view.leads_in.is_some() || view.leader.is_some()
}
