//! The services of a cluster: who they are, and which shards they keep together.
//!
//! The cluster has a log of its own, kept by a group as a shard's is ([`state::CLUSTER_GROUP`]). Its state says which services and which
//! shards there are. A service makes its copy of a shard when it has read there that the shard was made.
//!
//! | file | |
//! |---|---|
//! | `mod.rs`, `groups.rs` | all groups of a service, and what the rest of it asks of them |
//! | `identity.rs` | who a service is: `DIR/SERVICE` |
//! | `forming.rs`, `bringing.rs` | `LOG.CLUSTER INIT`, and what a service has kept alone before |
//! | `keeping.rs`, `copy_reports.rs` | copies that are full, damaged or different from others |
//! | `state.rs`, `own_log.rs` | what the cluster's own log says, where groups begin, and this service's copy of that log |
//! | `proposing.rs` | changes of what the cluster's own log says |
//! | `shards.rs`, `dropping.rs` | making shards, opening their copies, and dropping them |
//! | `replacing.rs` | `LOG.CLUSTER REPLACE` |
//! | `reconciling.rs`, `holding.rs` | the members of all groups follow the cluster's state, and have the snapshots first |
//! | `moving.rs` | `LOG.CLUSTER MOVE`, and handing over the decision over the cluster |
//! | `forcing.rs` | `LOG.CLUSTER FORCE` |
//! | `telling.rs` | what services tell each other beside the logs |
//! | `peering.rs`, `connections.rs` | what is needed of the connections to peers, and those that do it |
//!
//! # Rules
//!
//! 1. An empty directory never joins by itself: a service joins when it is asked to, and only a cluster of the services that it was
//!    configured with. One that was started with `--join` takes a place in a cluster that there is, when that one's services have it so.
//! 2. The copy of the cluster's own log is made once. If it is gone later, the service does not start, as it may have voted.
//! 3. A service that was replaced never counts again, whatever is left of its directory.

mod bringing;
#[cfg(test)]
mod bringing_tests;
#[cfg(test)]
mod conformance_tests;
mod connections;
mod copy_reports;
mod dropping;
mod forcing;
mod forming;
mod groups;
mod holding;
mod identity;
mod keeping;
#[cfg(test)]
mod keeping_tests;
#[cfg(test)]
mod loopback_tests;
mod moving;
mod own_log;
mod peering;
mod proposing;
mod reconciling;
mod replacing;
#[cfg(test)]
mod replacing_tests;
mod shards;
mod state;
mod telling;
#[cfg(test)]
mod telling_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::watch;

pub use self::connections::PeerConnections;
use self::copy_reports::Reports;
use self::identity::take_directory;
pub use self::identity::{check_alone, IdentityError, MemberRecord};
use self::identity::{ClusterRecord, Identity};
use self::keeping::Ailing;
pub use self::peering::{PeerInfo, Peering};
use self::state::{ClusterState, CLUSTER_GROUP};
use super::copy::CopyDisks;
use super::driver::{DrivenGroup, Driver, GroupError};
use super::groups::{ClusterError, GroupsChanged, HearsReports};
use super::handle::GroupHandle;
use crate::encryption::KeyUse;
use crate::store::{MediumError, RemovedStore, StoreFactory};

/// How many services keep a log.
const SERVICES: usize = 3;
/// How long whoever waits for a decision of the cluster waits at most.
const DECISION_AT_MOST: Duration = Duration::from_secs(10);

/// How a service is one of a cluster.
pub struct ReplicasOptions {
    /// Its directory.
    pub directory: PathBuf,
    /// Its name.
    pub name: String,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// All services, this one included: their names, and where their peers reach them.
    pub peers: Vec<(String, String)>,
    /// Where clients reach it.
    pub client_address: String,
    /// Where its HTTP port is reached.
    pub http_address: String,
    /// Whether it may be given the place of a service that is lost.
    pub joins: bool,
    /// Where its copies are.
    pub disks: Arc<dyn CopyDisks>,
    /// What it keeps alone, if it ever did.
    pub alone: Option<Arc<dyn StoreFactory>>,
    /// The connections to the others.
    pub peering: Arc<dyn Peering>,
}

/// Why a service of a cluster does not start.
#[derive(Debug, thiserror::Error)]
pub enum ReplicasError {
    /// The directory is not its own.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What it keeps alone, or kept, cannot be read or set aside.
    #[error("{0}")]
    Alone(String),
    /// Its copy of the cluster's own log cannot be used.
    #[error("this service's copy of the cluster's own log cannot be used: {0}")]
    ClusterCopy(String),
    /// A copy is encrypted with a key that is missing.
    #[error("{0}; a service of a cluster does not start without a key that it needs: put that line back into the file of keys")]
    Locked(String),
    /// The system has no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// All groups of a service.
pub struct Replicas {
    options: ReplicasOptions,
    member: u64,
    identity: Mutex<Identity>,
    driver: Driver,
    cluster_group: Mutex<Option<Arc<DrivenGroup>>>,
    shards: Mutex<BTreeMap<String, Arc<DrivenGroup>>>,
    /// Copies that began with nothing and are not whole yet: the rest of the service does not know them.
    arriving: Mutex<BTreeMap<String, Arc<DrivenGroup>>>,
    /// Members that were replaced, and that no group here needs any more.
    gone: Mutex<BTreeSet<u64>>,
    /// Changes when a shard has come.
    arrived: watch::Sender<()>,
    listener: Mutex<Option<Arc<dyn GroupsChanged>>>,
    /// Copies of dropped shards that were set aside before anybody listened.
    removed: Mutex<Vec<Arc<dyn RemovedStore>>>,
    /// What other services have told of their copies.
    reports: Reports,
    /// Copies that are not as they should be.
    ailing: Mutex<Ailing>,
    /// Held while copies are opened, closed, given up or set aside: one thread at a time does any of it.
    changing_copies: Mutex<()>,
    /// The shards whose copies could not be used when that was last tried, and why.
    unused: Mutex<BTreeMap<String, String>>,
    hearer: Mutex<Option<Arc<dyn HearsReports>>>,
    /// What the cluster's own log says, as far as it is committed.
    state: watch::Sender<Option<Arc<ClusterState>>>,
    /// It keeps shards alone, and is of no cluster: it may make some.
    is_alone: AtomicBool,
    /// Changes when there may be something to bring.
    to_bring: watch::Sender<()>,
    /// Held while a cluster is made.
    forming: tokio::sync::Mutex<()>,
    /// Held while a shard is made.
    creating: tokio::sync::Mutex<()>,
    this: Weak<Replicas>,
    /// The lock on the directory.
    _directory: File,
}

impl Replicas {
    /// The member id of the service in a directory, which is made if there is none, and its cluster. Blocks on I/O.
    ///
    /// # Errors
    /// The directory is not that of this service.
    pub fn identify(directory: &std::path::Path, name: &str) -> Result<(u64, Option<u64>), IdentityError> {
        let _directory = take_directory(directory)?;
        let identity = Identity::open(directory, name)?;
        Ok((identity.member, identity.cluster.map(|cluster| cluster.id)))
    }

    /// Opens all copies and drives their groups. Messages of peers have to come from now on. Must run within the runtime, and blocks on I/O.
    ///
    /// # Errors
    /// This service cannot be one of a cluster in this directory.
    pub fn start(options: ReplicasOptions) -> Result<Arc<Self>, ReplicasError> {
        let directory = take_directory(&options.directory)?;
        let identity = Identity::open(&options.directory, &options.name)?;
        let network = Arc::new(PeerNetwork(options.peering.clone()));
        let (member, driver) = (identity.member, Driver::start(identity.member, network)?);
        let replicas = Arc::new_cyclic(|this| Replicas {
            options,
            member,
            identity: Mutex::new(identity),
            driver,
            cluster_group: Mutex::default(),
            shards: Mutex::default(),
            arriving: Mutex::default(),
            gone: Mutex::default(),
            arrived: watch::Sender::new(()),
            listener: Mutex::default(),
            removed: Mutex::default(),
            reports: Reports::default(),
            ailing: Mutex::default(),
            changing_copies: Mutex::default(),
            unused: Mutex::default(),
            hearer: Mutex::default(),
            state: watch::Sender::new(None),
            is_alone: AtomicBool::new(false),
            to_bring: watch::Sender::new(()),
            forming: tokio::sync::Mutex::default(),
            creating: tokio::sync::Mutex::default(),
            this: this.clone(),
            _directory: directory,
        });
        {
            let mut identity = lock(&replicas.identity);
            match identity.cluster {
                Some(_) => replicas.finish_joining(&mut identity).map_err(ReplicasError::ClusterCopy)?,
                None => replicas.begin_alone()?,
            }
        }
        replicas.set_brought_aside().map_err(ReplicasError::Alone)?;
        // What changes while shards are opened is not missed.
        let states = replicas.state.subscribe();
        replicas.remove_dropped();
        replicas.open_shards();
        let locked = lock(&replicas.ailing).locked.take();
        if let Some(locked) = locked {
            replicas.stop();
            return Err(ReplicasError::Locked(locked));
        }
        replicas.follow_state(states);
        replicas.keep_members();
        replicas.keep_copies();
        Ok(replicas)
    }

    /// Serves the shards that are kept alone, if there are some, until a cluster is made.
    fn begin_alone(&self) -> Result<(), ReplicasError> {
        let has_shards = !self.kept_alone().map_err(|error| ReplicasError::Alone(error.to_string()))?.is_empty();
        if has_shards && self.options.joins {
            return Err(IdentityError::HasShards(self.options.directory.clone()).into());
        }
        self.is_alone.store(has_shards, Ordering::SeqCst);
        Ok(())
    }

    /// Opens the copy of the cluster's own log; makes it if the service was cut off before it did so.
    fn finish_joining(&self, identity: &mut Identity) -> Result<(), String> {
        let Some(cluster) = &identity.cluster else { return Ok(()) };
        let (id, is_formed) = (cluster.id, cluster.is_formed);
        if !is_formed {
            let beginning = cluster.beginning()?;
            self.options.disks.create(CLUSTER_GROUP, &beginning).map_err(|error: MediumError| error.to_string())?;
            let formed = ClusterRecord { is_formed: true, ..cluster.clone() };
            let next = Identity { cluster: Some(formed), ..identity.clone() };
            next.store(&self.options.directory).map_err(|error| error.to_string())?;
            *identity = next;
        }
        self.open_own_log()?;
        self.options.peering.set_cluster(id);
        let listener = lock(&self.listener).clone();
        if let Some(listener) = listener {
            listener.joined();
        }
        Ok(())
    }

    /// A message of `from` has come. Does not block.
    pub fn message(&self, from: u64, group: &str, message: raft::eraftpb::Message) {
        self.driver.message(from, group, message);
    }

    /// As [`Replicas::message`], for who calls [`Replicas::go_on`] next.
    pub fn message_and_go_on(&self, from: u64, group: &str, message: raft::eraftpb::Message) {
        self.driver.message_and_go_on(from, group, message);
    }

    /// Does what is to be done after messages that have come. Returns soon.
    pub fn go_on(&self) {
        self.driver.go_on();
    }

    /// Messages to `member` were lost.
    pub fn unreachable(&self, member: u64) {
        self.driver.unreachable(member);
    }

    /// With which keys the copies are encrypted.
    pub fn key_uses(&self) -> Vec<KeyUse> {
        let mut groups: Vec<Arc<DrivenGroup>> = lock(&self.shards).values().cloned().collect();
        groups.extend(lock(&self.cluster_group).clone());
        let uses = |group: &Arc<DrivenGroup>| {
            let used_by = match group.group() {
                CLUSTER_GROUP => "the cluster's own log".to_owned(),
                _ => format!("log of shard {}", group.name()),
            };
            group.key_ids().into_iter().map(move |id| KeyUse { id, used_by: used_by.clone() }).collect::<Vec<_>>()
        };
        groups.iter().flat_map(uses).collect()
    }

    /// Drives no groups any more, and closes their copies. Blocks on I/O.
    pub fn stop(&self) {
        self.driver.stop();
        lock(&self.shards).values().for_each(|group| group.close_disk());
        lock(&self.arriving).values().for_each(|group| group.close_disk());
        lock(&self.cluster_group).iter().for_each(|group| group.close_disk());
    }

    fn identity(&self) -> Identity {
        lock(&self.identity).clone()
    }

    fn own_record(&self) -> MemberRecord {
        let ReplicasOptions { name, zone, peers, .. } = &self.options;
        let address = peers.iter().find(|(peer, _)| peer == name).map(|(_, address)| address.clone());
        let address = address.unwrap_or_default();
        MemberRecord { member: self.member, name: name.clone(), zone: zone.clone(), address }
    }

    /// The services that this one is connected to, and itself: their names, and where their peers reach them. Those of the cluster; before
    /// there is one, those that were configured. Those that were replaced are among them for as long as a log needs them.
    fn peers(&self) -> Vec<(String, String)> {
        let Some(state) = self.state.borrow().clone() else { return self.options.peers.clone() };
        let gone = lock(&self.gone);
        let mut peers: Vec<(String, String)> = Vec::new();
        let left = state.retired.iter().rev().filter(|service| !gone.contains(&service.member));
        for service in state.services.iter().chain(left) {
            if !peers.iter().any(|(name, _)| *name == service.name) {
                peers.push((service.name.clone(), service.address.clone()));
            }
        }
        peers
    }

    /// Has connections made to the services of the cluster. Must run within the runtime.
    pub fn tell_peers(&self) {
        if let Err(error) = self.options.peering.set_peers(&self.peers()) {
            tracing::error!("connections to the services of the cluster stay as they were: {error}");
        }
        self.options.peering.retire(lock(&self.gone).clone());
    }

    /// Waits until a service decides over the cluster.
    async fn wait_for_leader(&self) -> Result<(), ClusterError> {
        let has_leader = async {
            let mut ticks = tokio::time::interval(super::driver::TICK);
            for tick in 0_u32.. {
                ticks.tick().await;
                let group = lock(&self.cluster_group).clone();
                let Some(group) = group else { continue };
                let view = group.view();
                if view.leads_in.is_some() || view.leader.is_some() {
                    return;
                }
                if tick % shards::CAMPAIGN_EVERY_TICKS == 0 {
                    group.campaign();
                }
            }
        };
        tokio::time::timeout(DECISION_AT_MOST, has_leader).await.map_err(|_| {
            ClusterError::Refused(
                "the cluster is made, but its services do not reach each other: see their logs".into(),
            )
        })
    }
}

/// The connections to peers, as the driver uses them.
struct PeerNetwork(Arc<dyn Peering>);

impl super::driver::Network for PeerNetwork {
    fn send(&self, group: &str, message: raft::eraftpb::Message) {
        self.0.send(group, message);
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
