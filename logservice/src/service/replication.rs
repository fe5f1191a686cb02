//! Shards that several services keep: opened anew when who decides over the log changes, made by all services together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use durability_protocol::{Code, Refusal};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::{snapshot_files, Service, Slot};
use crate::replica::group::GroupStatus;
use crate::replica::groups::{Answer, ClusterError, Groups, GroupsChanged, ServiceStatus};
use crate::replica::handle::GroupHandle;
use crate::shard::{not_leader, Shard};
use crate::snapshots::OtherServices;
use crate::store::{Manifest, RemovedStore};

/// How long whoever makes a shard waits at most until it is here.
const MADE_AT_MOST: Duration = Duration::from_secs(5);
/// How often it is looked who decides after a handover.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often a shard is opened again that could not be, although its copy is well.
const OPEN_AGAIN_EVERY: Duration = Duration::from_secs(1);
/// How long a stop waits at most until other services decide.
const HAND_OVER_AT_MOST: Duration = Duration::from_secs(2);

/// A copy of a shard's log, as the service that decides over it knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStatus {
    /// Whose it is.
    pub service: ServiceStatus,
    /// Whether that one decides over the log.
    pub decides: bool,
    /// Whether it counts for what is acknowledged, and may decide: not while a new service gets the log.
    pub votes: bool,
    /// The index of the last entry that it is known to have.
    pub matched: u64,
    /// How many entries it is behind.
    pub lag: u64,
    /// Whether it was heard of a moment ago.
    pub is_heard: bool,
}

/// Tells a service of shards that come and go.
struct Appearing {
    service: Weak<Service>,
    runtime: Handle,
    /// Shards that have disappeared, and whose copies are not removed yet: somebody may use them still.
    disappeared: Mutex<BTreeMap<String, Weak<Shard>>>,
}

impl Appearing {
    fn lock_disappeared(&self) -> MutexGuard<'_, BTreeMap<String, Weak<Shard>>> {
        self.disappeared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Opens shards again that could not be opened, for as long as the service is there: the copy may have been another one then, which was being
/// given up, or a directory may not have been there. Whoever does not serve a shard is not to decide over its log meanwhile.
async fn open_again(groups: Arc<dyn Groups>, appearing: Arc<Appearing>) {
    let mut looks = tokio::time::interval(OPEN_AGAIN_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(unserved) = appearing.service.upgrade().map(|service| service.unserved(&groups)) else { return };
        for group in unserved {
            appearing.appeared(group.name());
            if group.view().leads_in.is_none() {
                continue;
            }
            let (copy, own) = (group.clone(), groups.member());
            let status = tokio::task::spawn_blocking(move || copy.status()).await.ok().flatten();
            let best = status.and_then(|status| status.successors(own).max_by_key(|&(_, matched)| matched));
            if let Some((member, _)) = best {
                tracing::warn!(
                    "shard {}: another service is to decide over its log, as it is not served here",
                    group.name()
                );
                group.transfer_to(member);
            }
        }
    }
}

impl GroupsChanged for Appearing {
    fn appeared(&self, shard: &str) {
        let Some(service) = self.service.upgrade() else { return };
        let slot = {
            let mut slots = service.lock();
            let slot = slots.entry(shard.to_owned()).or_default();
            match slot.get() {
                None => {}
                // It was not served. It is tried again.
                Some(Err(_)) => *slot = Arc::default(),
                // It has failed with the copy that there was, and is opened anew.
                Some(Ok(open)) if open.check_not_failed().is_err() && !open.has_ended() => {
                    open.notifier().set_superseded(None);
                    return;
                }
                Some(Ok(_)) => {}
            }
            slot.clone()
        };
        service.appeared.send_modify(|_| {});
        let name = shard.to_owned();
        self.runtime.spawn(async move {
            // The reason has been logged, and is the answer to every command on the shard.
            let _ = service.opened(&name, slot).await;
        });
    }

    fn disappeared(&self, shard: &str) {
        let Some(service) = self.service.upgrade() else { return };
        let slot = service.lock().remove(shard);
        service.switches.forget(shard);
        service.forget_placement(shard);
        if let Some(Ok(opened)) = slot.as_ref().and_then(|slot| slot.get()) {
            opened.notifier().set_dropped(&format!("shard '{shard}' was dropped"));
            self.lock_disappeared().insert(shard.to_owned(), Arc::downgrade(opened));
        }
    }

    fn joined(&self) {
        let Some(service) = self.service.upgrade() else { return };
        service.share_snapshots();
    }

    fn have_held<'a>(&'a self, shard: &'a str, by: &'a str) -> Answer<'a, Result<(), String>> {
        Box::pin(async move {
            let service = self.service.upgrade().ok_or("the service is stopping")?;
            service.have_snapshots_held(shard, by).await
        })
    }

    fn removed(&self, shard: &str, removed: Arc<dyn RemovedStore>) {
        let Some(service) = self.service.upgrade() else { return };
        let users = self.lock_disappeared().remove(shard).unwrap_or_default();
        let _runtime = self.runtime.enter();
        service.finish_drop(removed, users);
    }
}

impl Service {
    /// The groups, if several services keep the logs.
    pub fn groups(&self) -> Option<&Arc<dyn Groups>> {
        self.options.groups.as_ref()
    }

    /// Hears of shards from now on, and of those that are there and that are not known. Must run within the runtime.
    pub(super) fn hear_of_groups(&self) {
        let Some(groups) = self.groups() else { return };
        let (service, runtime) = (self.this.clone(), Handle::current());
        let appearing = Arc::new(Appearing { service, runtime, disappeared: Mutex::default() });
        groups.on_groups(appearing.clone());
        if groups.cluster().is_some() {
            self.share_snapshots();
        }
        let known = self.names();
        groups.names().iter().filter(|name| !known.contains(name)).for_each(|name| appearing.appeared(name));
        tokio::spawn(open_again(groups.clone(), appearing));
    }

    /// Shards that are not served, although the copy of each is well.
    fn unserved(&self, groups: &Arc<dyn Groups>) -> Vec<Arc<dyn GroupHandle>> {
        let slots = self.lock();
        let unserved = slots.iter().filter(|(_, slot)| matches!(slot.get(), Some(Err(_))));
        let copies = unserved.filter_map(|(name, _)| groups.group(name));
        copies.filter(|group| group.view().failed.is_none()).collect()
    }

    /// Keeps snapshots together with the other services from now on, each in its own directory.
    fn share_snapshots(&self) {
        if let Some(files) = self.files() {
            self.options.snapshots.share_with(&(files.clone() as Arc<dyn OtherServices>));
        }
    }

    /// Opens the shard anew when who decides over its log changes, and drops log that the service that decides needs no more. Must run
    /// within the runtime.
    pub(super) fn watch_standing(&self, shard: &Arc<Shard>) {
        if self.groups().is_none() {
            return;
        }
        let (service, shard) = (self.this.clone(), shard.clone());
        tokio::spawn(async move {
            let follow = snapshot_files::follow(&shard);
            tokio::select! {
                biased;
                _ = shard.notifier().ended() => {}
                () = follow => {}
            }
            let Some(service) = service.upgrade().filter(|_| shard.notifier().is_superseded()) else { return };
            let reopened = tokio::task::spawn_blocking(move || service.reopen(&shard)).await;
            if let Err(error) = reopened {
                tracing::error!("opening a shard anew did not finish: {error}");
            }
        });
    }

    /// Opens `old` anew. Until that is done, commands find the one before, which refuses what only the service that decides may do. Blocks on
    /// I/O.
    pub(super) fn reopen(&self, old: &Arc<Shard>) {
        let _one_at_a_time = self.reopening.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let name = old.name();
        let is_old = |slot: &Arc<Slot>| matches!(slot.get(), Some(Ok(current)) if Arc::ptr_eq(current, old));
        if !self.lock().get(name).is_some_and(is_old) {
            return;
        }
        old.store().close();
        self.finish_bringing(old);
        let slot = Arc::new(Slot::new());
        // The reason of an error has been logged, and is the answer to every command on the shard.
        if let Ok(shard) = self.open_slot(name, &slot) {
            shard.continue_from(old);
        }
        {
            let mut shards = self.lock();
            if shards.get(name).is_some_and(is_old) {
                shards.insert(name.to_owned(), slot);
            }
        }
        self.report_soon();
    }

    /// Has all services make a shard, and waits until it is here.
    pub(super) async fn create(&self, groups: &Arc<dyn Groups>, name: &str) -> Result<Arc<Slot>, Refusal> {
        let mut appeared = self.appeared.subscribe();
        groups.create(name, first_state(name)?).await.map_err(refusal)?;
        let is_here = async {
            loop {
                // First, so that none goes unnoticed after the look.
                appeared.mark_unchanged();
                if let Some(slot) = self.lock().get(name).cloned() {
                    return Some(slot);
                }
                appeared.changed().await.ok()?;
            }
        };
        let here = timeout(MADE_AT_MOST, is_here).await.ok().flatten();
        here.ok_or_else(|| Refusal::new(Code::Err, format!("shard '{name}' is being made: ask again")))
    }

    /// The copies of a shard's log, if this service decides over it.
    pub async fn copies(&self, shard: &Shard) -> Vec<CopyStatus> {
        let Some((groups, status)) = self.group_status(shard.name()).await.filter(|(_, status)| status.is_leader)
        else {
            return Vec::new();
        };
        let services = groups.services();
        let copy = |(member, matched, is_heard): &(u64, u64, bool)| {
            let known = services.iter().find(|service| service.member == *member).cloned();
            CopyStatus {
                service: known.unwrap_or_else(|| ServiceStatus { member: *member, ..ServiceStatus::default() }),
                decides: *member == groups.member(),
                votes: status.members.voters.contains(member),
                matched: *matched,
                lag: status.last.saturating_sub(*matched),
                is_heard: *is_heard || *member == groups.member(),
            }
        };
        status.copies.iter().map(copy).collect()
    }

    /// What there is to tell of the group of a shard.
    pub async fn group_status(&self, shard: &str) -> Option<(Arc<dyn Groups>, GroupStatus)> {
        let groups = self.groups()?.clone();
        let group = groups.group(shard)?;
        let status = tokio::task::spawn_blocking(move || group.status()).await.ok().flatten()?;
        Some((groups, status))
    }

    /// Has other services decide over the logs over which this one does, before it stops. Waits for that for two seconds at most.
    pub async fn hand_over(&self) {
        let Some(groups) = self.groups().cloned() else { return };
        let began = Instant::now();
        // That of the cluster as well: until another service decides over it, no shard is made.
        let all = async { tokio::join!(self.hand_over_all(groups.clone()), groups.hand_over_cluster()).0 };
        match timeout(HAND_OVER_AT_MOST, all).await {
            Ok(0) => {}
            Ok(count) => tracing::info!("{count} shards were handed over in {} ms", began.elapsed().as_millis()),
            Err(_) => {
                let is_left = |shard: &&Arc<Shard>| shard.decides() && shard.is_replicated();
                let left = self.open_shards().iter().filter(is_left).count();
                tracing::warn!("{left} shards were not handed over within {} s", HAND_OVER_AT_MOST.as_secs());
            }
        }
    }

    /// Returns how many shards were handed over.
    async fn hand_over_all(&self, groups: Arc<dyn Groups>) -> usize {
        let mut handed_over = Vec::new();
        let deciding = self.open_shards().into_iter().filter(|shard| shard.decides() && shard.is_replicated());
        for shard in deciding {
            let others = self.copies(&shard).await.into_iter();
            let others =
                others.filter(|copy| !copy.decides && copy.votes && copy.is_heard && copy.service.is_connected);
            let best = others.max_by_key(|copy| copy.matched);
            match (best, groups.group(shard.name())) {
                (Some(best), Some(group)) => {
                    shard.hand_over_to(best.service.address);
                    group.transfer_to(best.service.member);
                    handed_over.push(shard);
                }
                _ => tracing::warn!("shard {}: no other service can decide over its log now", shard.name()),
            }
        }
        for shard in &handed_over {
            shard.notifier().ended().await;
            // Nodes that ask here are told where to go.
            let Some(group) = groups.group(shard.name()) else { continue };
            let mut looks = tokio::time::interval(LOOK_EVERY);
            while group.view().leader.is_none() && group.view().leads_in.is_none() {
                looks.tick().await;
            }
        }
        handed_over.len()
    }
}

/// The state of a shard that was never written.
fn first_state(shard: &str) -> Result<Bytes, Refusal> {
    let failed = |error: String| Refusal::new(Code::Err, format!("shard '{shard}' is not made: {error}"));
    let mut random = [0; 28];
    getrandom::fill(&mut random).map_err(|error| failed(format!("no random number: {error}")))?;
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let manifest = Manifest::new(shard, digits(&random[..20]), digits(&random[20..]));
    serde_json::to_vec(&manifest).map(Bytes::from).map_err(|error| failed(error.to_string()))
}

/// What is answered to who wanted something of the cluster that was not done.
pub fn refusal(error: ClusterError) -> Refusal {
    match error {
        ClusterError::NotLeader { address } => not_leader(address.as_deref()),
        ClusterError::Refused(reason) => Refusal::new(Code::Err, reason),
    }
}

#[cfg(test)]
#[path = "replication_tests.rs"]
mod tests;
