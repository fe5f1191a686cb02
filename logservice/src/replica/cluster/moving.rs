//! Has another service decide: over a shard's log (`LOG.CLUSTER MOVE`), and over the cluster, before this one stops.

use std::time::Duration;

use super::forming::refused;
use super::{lock, Replicas};
use crate::replica::driver::TICK;
use crate::replica::groups::{ClusterError, Groups};
use crate::replica::handle::GroupHandle;

/// How long a handover may take: it is given up after an election time-out.
const WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether another service decides over the cluster.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Replicas {
    /// Hands the decision over a shard's log to the service of that name or id.
    pub(super) async fn move_shard(&self, shard: &str, to: &str) -> Result<(), ClusterError> {
        let group = lock(&self.shards).get(shard).cloned();
        let group = group.ok_or_else(|| refused(format!("there is no shard '{shard}' here")))?;
        let services = self.services();
        let is_meant = |service: &&crate::replica::groups::ServiceStatus| {
            service.name == to || to == format!("{:016x}", service.member)
        };
        let service = services.iter().find(is_meant);
        let service = service.ok_or_else(|| {
            refused(format!("no service of the cluster is called '{to}': LOG.CLUSTER STATUS lists them"))
        })?;
        let view = group.view();
        // Also if it is the one that decides: it has to hear that it was chosen.
        if view.leads_in.is_none() {
            return Err(self.not_leader(&view));
        }
        if service.member == self.member {
            return Ok(());
        }
        let asked = group.clone();
        let status = tokio::task::spawn_blocking(move || asked.status()).await.ok().flatten();
        let status = status.ok_or_else(|| refused(format!("the copy of shard '{shard}' here has stopped")))?;
        if !status.successors(self.member).any(|(member, _)| member == service.member) {
            let text = format!("service {} is away, or has no whole copy of shard '{shard}'", service.name);
            return Err(refused(text));
        }
        group.transfer_to(service.member);
        let decides = async {
            let mut ticks = tokio::time::interval(TICK / 5);
            while group.view().leader != Some(service.member) {
                ticks.tick().await;
            }
        };
        tokio::time::timeout(WITHIN, decides).await.map_err(|_| {
            let seconds = WITHIN.as_secs();
            refused(format!("service {} did not take over within {seconds} s: its copy may be behind", service.name))
        })
    }

    /// Has the service decide over the cluster that has most of its log, of those that were heard a moment ago.
    pub(super) async fn hand_over_own_group(&self) {
        let Some(group) = lock(&self.cluster_group).clone() else { return };
        if group.view().leads_in.is_none() {
            return;
        }
        let asked = group.clone();
        let status = tokio::task::spawn_blocking(move || asked.status()).await.ok().flatten();
        let Some(status) = status else { return };
        let others = status.successors(self.member).filter(|&(member, _)| self.options.peering.is_connected(member));
        let Some((best, _)) = others.max_by_key(|&(_, matched)| matched) else {
            tracing::warn!("no other service can decide over the cluster now");
            return;
        };
        group.transfer_to(best);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while group.view().leads_in.is_some() {
            looks.tick().await;
        }
    }
}
