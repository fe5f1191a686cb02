//! Has each log kept by the services that are to keep it: the members of every group follow what the cluster's state says.
//!
//! The service that decides over a log takes one step after the other (`group/members.rs`). Its word has to be the newest: a service that has
//! not heard of the last replacement could make one a member again that was replaced, and has forgotten what it had promised. So it asks who
//! decides over the cluster, once in each term in which it decides over the log, and after it began to. Whoever has acted on a later word
//! since was elected in a later term of that log, and what is proposed in an earlier one is never committed then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::sync_channel;
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::ConfState;

use super::forming::{Reply, Request};
use super::holding::Holdings;
use super::state::{ClusterState, CLUSTER_GROUP};
use super::{lock, Replicas};
use crate::replica::driver::DrivenGroup;
use crate::replica::group::{is_member, MembersStep};
use crate::replica::handle::GroupHandle;

/// How often the members of all logs are looked at.
const EVERY: Duration = Duration::from_millis(200);
/// How long a service waits to be confirmed as the only one that decides over the cluster.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);

/// What is known of the groups over which this service decides.
#[derive(Default)]
struct Known {
    /// The terms in which the newest word was asked for, by group.
    asked_in: BTreeMap<String, u64>,
    /// Services that come to be members store the snapshots first.
    holdings: Holdings,
    /// The groups whose members were those that are wanted, in which term, by which revision of the cluster's state.
    settled: BTreeMap<String, (u64, u64)>,
}

impl Replicas {
    /// Looks after the members of all groups from now on. Must run within the runtime.
    pub(super) fn keep_members(&self) {
        let this = self.this.clone();
        tokio::spawn(async move {
            let (mut known, mut turns) = (Known::default(), tokio::time::interval(EVERY));
            turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                let Some(replicas) = this.upgrade() else { return };
                replicas.look_after_members(&mut known).await;
            }
        });
    }

    async fn look_after_members(&self, known: &mut Known) {
        let Some(state) = self.state.borrow().clone() else { return };
        self.show_what_is_whole();
        let groups = self.all_groups();
        let leads = groups.iter().filter_map(|(name, group)| Some((name, group, group.view().leads_in?)));
        let leads: Vec<_> =
            leads.filter(|(name, _, term)| known.settled.get(*name) != Some(&(*term, state.revision))).collect();
        let is_unasked = |name: &str, term: u64| name != CLUSTER_GROUP && known.asked_in.get(name) != Some(&term);
        if leads.iter().any(|(name, _, term)| is_unasked(name, *term)) {
            match self.newest_revision().await {
                Ok(revision) if revision <= state.revision => {
                    known.asked_in.extend(leads.iter().map(|(name, _, term)| ((*name).clone(), *term)));
                }
                // This service will hear of it.
                Ok(_) => {}
                Err(reason) => tracing::debug!("not known which services are to keep the logs: {reason}"),
            }
        }
        let wanted = state.members();
        for (name, group, term) in leads {
            if name != CLUSTER_GROUP && known.asked_in.get(name) != Some(&term) {
                continue;
            }
            if name != CLUSTER_GROUP && !self.may_vote(&mut known.holdings, group, term, &wanted).await {
                continue;
            }
            match step(group.clone(), term, wanted.clone()).await {
                MembersStep::Done => drop(known.settled.insert(name.clone(), (term, state.revision))),
                MembersStep::Proposed => tracing::info!("'{name}': the services that keep it are changed"),
                MembersStep::HandsOver => tracing::info!("'{name}': this service is to leave it, and hands over"),
                MembersStep::Waits | MembersStep::NotLeader => {}
            }
        }
        self.note_gone(&state, groups).await;
    }

    /// Whether the next step may make members vote.
    async fn may_vote(
        &self,
        holdings: &mut Holdings,
        group: &Arc<DrivenGroup>,
        term: u64,
        wanted: &BTreeSet<u64>,
    ) -> bool {
        let of = group.clone();
        let status = tokio::task::spawn_blocking(move || of.status()).await.ok().flatten();
        let Some(status) = status else { return true };
        let ConfState { voters, learners, voters_outgoing, .. } = &status.members;
        let are_all_members = wanted.iter().all(|member| voters.contains(member) || learners.contains(member));
        if !are_all_members || !voters_outgoing.is_empty() {
            return true;
        }
        holdings.are_stored(self, group, (term, &status), wanted).await
    }

    /// All groups of which this service has a copy, by name.
    pub(super) fn all_groups(&self) -> Vec<(String, Arc<DrivenGroup>)> {
        let own = lock(&self.cluster_group).clone().map(|group| (CLUSTER_GROUP.to_owned(), group));
        let mut groups: Vec<_> = own.into_iter().collect();
        for groups_of_shards in [&self.shards, &self.arriving] {
            groups.extend(lock(groups_of_shards).values().map(|group| (group.group().to_owned(), group.clone())));
        }
        groups
    }

    /// The newest revision of the cluster's state, at some moment after this call.
    async fn newest_revision(&self) -> Result<u64, String> {
        let group = lock(&self.cluster_group).clone().ok_or("this service is of no cluster")?;
        let view = group.view();
        if view.leads_in.is_some() {
            let this = self.this.upgrade().ok_or("the service is stopping")?;
            return tokio::task::spawn_blocking(move || this.newest_here()).await.map_err(|error| error.to_string())?;
        }
        let services = crate::replica::groups::Groups::services(self);
        let leader = services.into_iter().find(|service| view.leader == Some(service.member));
        let leader = leader.ok_or("no service decides over the cluster")?;
        match self.ask(&leader.name, &Request::Newest).await {
            Ok(Reply::Newest { revision }) => Ok(revision),
            Ok(Reply::Refused(reason)) => Err(reason),
            Ok(_) => Err(format!("service {} answered something else", leader.name)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The newest revision of the cluster's state, if this service decides over the cluster. Blocks.
    pub(super) fn newest_here(&self) -> Result<u64, String> {
        let group = lock(&self.cluster_group).clone().ok_or("this service is of no cluster")?;
        let term = group.view().leads_in.ok_or("another service decides over the cluster")?;
        let (answer, confirmed) = sync_channel(1);
        let done = move |is_sole| {
            // Whoever has asked may have given up.
            let _ = answer.send(is_sole);
        };
        group.confirm(term, Box::new(done));
        if confirmed.recv_timeout(CONFIRMED_WITHIN) != Ok(true) {
            return Err("not confirmed that this service decides over the cluster".to_owned());
        }
        let status = group.status().ok_or("the copy of the cluster's own log has stopped")?;
        // Two others may have committed what is not on this service's disk yet.
        match status.applied.index >= status.committed {
            true => Ok(group.view().revision),
            false => Err("the newest state of the cluster is not stored here yet".to_owned()),
        }
    }

    /// Lets those in no more that were replaced, once no log here needs them.
    async fn note_gone(&self, state: &ClusterState, groups: Vec<(String, Arc<DrivenGroup>)>) {
        let gone = lock(&self.gone).clone();
        let left: BTreeSet<u64> = state.retired.iter().map(|service| service.member).collect();
        let left: Vec<u64> = left.difference(&gone).copied().collect();
        if left.is_empty() {
            return;
        }
        let counted = tokio::task::spawn_blocking(move || {
            let members: Vec<_> = groups.iter().filter_map(|(_, group)| Some(group.status()?.members)).collect();
            left.into_iter().filter(|&left| !members.iter().any(|members| is_member(members, left))).collect::<Vec<_>>()
        });
        let Ok(gone) = counted.await else { return };
        if !gone.is_empty() {
            lock(&self.gone).extend(gone);
            self.tell_peers();
        }
    }
}

async fn step(group: Arc<DrivenGroup>, term: u64, wanted: BTreeSet<u64>) -> MembersStep {
    let step = tokio::task::spawn_blocking(move || group.step_members(term, &wanted)).await;
    // An error is a panic, which has been reported.
    step.unwrap_or(MembersStep::NotLeader)
}
