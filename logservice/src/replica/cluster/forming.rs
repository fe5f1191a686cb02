//! Makes a cluster of the services that are configured: `LOG.CLUSTER INIT`.
//!
//! The service that is asked finds out who the others are, and then has each join, itself included, in the order of their names. So of two
//! that do this at a time, one comes too late at the first name, and has changed nothing. If it is cut off in the middle, it is repeated
//! at the same service: who has joined does so again without a change.
//!
//! At most one of the three has shards, which it has kept alone so far, and that is the one at which the cluster is made. It brings them:
//! `bringing.rs`.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::bringing::check_who_brings;
use super::copy_reports::Report;
use super::identity::{random_id, ClusterRecord, Identity, MemberRecord};
use super::Replicas;
use crate::replica::groups::ClusterError;

/// What one service asks another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Request {
    /// Who it is.
    Identify,
    /// That it joins.
    Join(ClusterRecord),
    /// That it takes a place in a cluster that there is.
    Admit(ClusterRecord),
    /// Which revision of the cluster's state is the newest.
    Newest,
    /// That the cluster drops a shard, whose log has that id. Of the service that decides over the cluster.
    Drop { shard: String, log_id: String },
    /// That the cluster expects shards that a member has kept alone: their names, and the ids of their logs. Of the service that decides over
    /// the cluster. These are the last ones if it `is_all`.
    Bring { member: u64, shards: Vec<(String, String)>, is_all: bool },
    /// Nothing; tells of the copies of who asks.
    Report(Report),
    /// That it hears what this service knows of shards.
    Hear(String),
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Reply {
    Identity {
        record: MemberRecord,
        cluster: Option<ClusterRecord>,
        /// Whether it has what no other service has: shards that it keeps alone, or whose only copy it has. None of an older version.
        #[serde(default)]
        has_shards: Option<bool>,
    },
    Joined,
    Newest {
        revision: u64,
    },
    Dropped,
    Brought,
    Noted,
    Heard,
    Refused(String),
}

pub(super) fn refused(text: impl Into<String>) -> ClusterError {
    ClusterError::Refused(text.into())
}

impl Replicas {
    /// Answers a peer. Blocks on I/O.
    pub fn request(&self, request: &[u8]) -> Vec<u8> {
        let reply = match serde_json::from_slice(request) {
            Ok(Request::Identify) => {
                let Identity { cluster, .. } = self.identity();
                match self.has_shards_of_its_own() {
                    Ok(has_shards) => {
                        Reply::Identity { record: self.own_record(), cluster, has_shards: Some(has_shards) }
                    }
                    Err(reason) => Reply::Refused(format!("which shards it keeps alone is not known: {reason}")),
                }
            }
            Ok(Request::Join(record)) => match self.join(record) {
                Ok(()) => Reply::Joined,
                Err(reason) => Reply::Refused(reason),
            },
            Ok(Request::Admit(record)) => match self.admit(record) {
                Ok(()) => Reply::Joined,
                Err(reason) => Reply::Refused(reason),
            },
            Ok(Request::Newest) => match self.newest_here() {
                Ok(revision) => Reply::Newest { revision },
                Err(reason) => Reply::Refused(reason),
            },
            Ok(Request::Drop { shard, log_id }) => match self.propose_drop(&shard, &log_id) {
                Ok(()) => Reply::Dropped,
                Err(error) => Reply::Refused(format!("{error}: ask again")),
            },
            Ok(Request::Bring { member, shards, is_all }) => match self.propose_brought(member, &shards, is_all) {
                Ok(()) => Reply::Brought,
                Err(error) => Reply::Refused(format!("{error}: ask again")),
            },
            Ok(Request::Report(report)) => {
                self.reports.take(report);
                Reply::Noted
            }
            Ok(Request::Hear(report)) => self.hear(&report),
            Err(error) => Reply::Refused(format!("not a request that this version knows: {error}")),
        };
        // A reply that cannot be written is none that the other one can read.
        serde_json::to_vec(&reply).unwrap_or_default()
    }

    /// Asks a peer.
    pub(super) async fn ask(&self, peer: &str, request: &Request) -> Result<Reply, ClusterError> {
        let request = serde_json::to_vec(request).map_err(|error| refused(error.to_string()))?;
        let reply = self.options.peering.ask(peer, request).await.map_err(refused)?;
        serde_json::from_slice(&reply).map_err(|error| refused(format!("service {peer} answered nonsense: {error}")))
    }

    async fn ask_to_form(&self, peer: &str, request: &Request) -> Result<Reply, ClusterError> {
        self.ask(peer, request).await.map_err(|error| match error {
            ClusterError::Refused(error) => refused(format!("{error}; all three have to run for LOG.CLUSTER INIT")),
            error => error,
        })
    }

    /// Makes a cluster of this service and those that it was configured with.
    pub(super) async fn form(&self) -> Result<(), ClusterError> {
        let _one_at_a_time = self.forming.lock().await;
        let (mut members, mut clusters) = (vec![self.own_record()], vec![self.identity().cluster]);
        let has_shards = self.check_own_shards().await?;
        for (name, address) in self.options.peers.iter().filter(|(name, _)| *name != self.options.name) {
            let (record, cluster, of_its_own) = match self.ask_to_form(name, &Request::Identify).await? {
                Reply::Identity { record, cluster, has_shards } => (record, cluster, has_shards),
                Reply::Refused(reason) => return Err(refused(format!("service {name}: {reason}"))),
                _ => return Err(refused(format!("service {name} did not say who it is"))),
            };
            if cluster.is_none() {
                check_who_brings(&self.options.name, has_shards, name, of_its_own).map_err(refused)?;
            }
            if record.name != *name {
                let text = format!("the service at {address} is named {}, not {name}: correct --peers", record.name);
                return Err(refused(text));
            }
            // This service's own word for where the peer is: that is where it is found.
            members.push(MemberRecord { address: address.clone(), ..record });
            clusters.push(cluster);
        }
        members.sort_by(|one, other| one.name.cmp(&other.name));
        let Some(record) = self.plan(&members, &clusters, has_shards)? else { return Ok(()) };
        for member in &record.members {
            if member.name == self.options.name {
                self.join_here(record.clone()).await.map_err(refused)?;
                continue;
            }
            match self.ask_to_form(&member.name, &Request::Join(record.clone())).await? {
                Reply::Joined => {}
                Reply::Refused(reason) => return Err(refused(reason)),
                Reply::Identity { .. }
                | Reply::Newest { .. }
                | Reply::Dropped
                | Reply::Brought
                | Reply::Noted
                | Reply::Heard => {
                    return Err(refused(format!("service {} did not say whether it joins", member.name)));
                }
            }
        }
        self.wait_for_leader().await
    }

    /// The cluster to be made; none if there is nothing left to do.
    fn plan(
        &self,
        members: &[MemberRecord],
        clusters: &[Option<ClusterRecord>],
        has_shards: bool,
    ) -> Result<Option<ClusterRecord>, ClusterError> {
        let own = self.identity();
        if !own.is_in(members) {
            return Err(refused("two services have the same id: one directory is a copy of the other's"));
        }
        let ids: BTreeSet<u64> = clusters.iter().flatten().map(|cluster| cluster.id).collect();
        let Some(begun) = clusters.iter().flatten().next() else {
            let id = random_id().map_err(|error| refused(error.to_string()))?;
            let (initiator, members) = (own.member, members.to_vec());
            let begun = ClusterRecord { id, initiator, members, is_formed: false, is_older: false, has_shards };
            return Ok(Some(begun));
        };
        if ids.len() > 1 {
            return Err(refused("the services are of different clusters: correct --peers, or --dir"));
        }
        if clusters.iter().all(|cluster| cluster.as_ref().is_some_and(|cluster| cluster.is_formed)) {
            return Ok(None);
        }
        if !self.is_of(&begun.members, members) {
            return Err(refused(self.of_others(begun, members, clusters)));
        }
        let initiator = members.iter().find(|record| record.member == begun.initiator);
        match initiator {
            Some(initiator) if initiator.member != own.member => Err(refused(format!(
                "service {} has begun to make a cluster: repeat LOG.CLUSTER INIT there",
                initiator.name
            ))),
            _ => Ok(Some(ClusterRecord { is_formed: false, ..begun.clone() })),
        }
    }

    /// What to do about services of which some are of a cluster of others.
    fn of_others(&self, begun: &ClusterRecord, members: &[MemberRecord], clusters: &[Option<ClusterRecord>]) -> String {
        let strangers: Vec<&str> = members
            .iter()
            .filter(|now| !begun.members.iter().any(|then| then.member == now.member && then.name == now.name))
            .map(|stranger| &*stranger.name)
            .collect();
        let strangers = strangers.join(", ");
        if clusters.iter().flatten().any(|cluster| cluster.is_formed) {
            return format!(
                "there is a cluster already, and it is not of these directories of {strangers}: start those services with the \
                 directories that they had, or have them replaced: LOG.CLUSTER REPLACE"
            );
        }
        format!(
            "a cluster was begun with other directories of {strangers}: start those services with them, or empty the directories of all \
             three"
        )
    }

    fn is_of(&self, begun: &[MemberRecord], now: &[MemberRecord]) -> bool {
        let ids = |records: &[MemberRecord]| -> BTreeSet<(u64, String)> {
            records.iter().map(|record| (record.member, record.name.clone())).collect()
        };
        ids(begun) == ids(now)
    }

    /// Joins a cluster, or does so again. Blocks on I/O.
    pub(super) fn join(&self, record: ClusterRecord) -> Result<(), String> {
        let mut identity = self.identity.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let own = &self.options.name;
        let is_configured = |member: &MemberRecord| self.options.peers.iter().any(|(name, _)| *name == member.name);
        if !identity.is_in(&record.members)
            || record.members.len() != self.options.peers.len()
            || !record.members.iter().all(is_configured)
        {
            return Err(format!("service {own} was configured with other peers: give all services the same --peers"));
        }
        match &identity.cluster {
            Some(cluster) if cluster.id != record.id && cluster.is_formed => {
                return Err(format!("service {own} is of another cluster already"));
            }
            Some(cluster) if cluster.id != record.id => {
                let by = cluster.members.iter().find(|member| member.member == cluster.initiator);
                let by = by.map_or("another service", |member| &member.name);
                return Err(format!(
                    "service {own} is joining another cluster, made by {by}: repeat LOG.CLUSTER INIT there"
                ));
            }
            Some(cluster) if !self.is_of(&cluster.members, &record.members) => {
                return Err(format!("service {own} has joined this cluster with other services"));
            }
            Some(_) => {}
            None if record.initiator != self.member && self.has_shards_of_its_own()? => {
                return Err(format!("service {own} has shards of its own: say LOG.CLUSTER INIT there"));
            }
            None => {
                // From here on none is made alone that the cluster does not hear of.
                let was_alone = self.is_alone.swap(false, Ordering::SeqCst);
                let next = Identity { cluster: Some(record), ..identity.clone() };
                next.store(&self.options.directory).map_err(|error| {
                    self.is_alone.store(was_alone, Ordering::SeqCst);
                    error.to_string()
                })?;
                *identity = next;
            }
        }
        self.finish_joining(&mut identity)
    }

    async fn join_here(&self, record: ClusterRecord) -> Result<(), String> {
        let this = self.this.upgrade().ok_or("the service is stopping")?;
        let joined = tokio::task::spawn_blocking(move || this.join(record)).await;
        joined.map_err(|error| error.to_string())?
    }
}
