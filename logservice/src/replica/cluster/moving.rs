//! Has another service decide over a shard's log: `LOG.CLUSTER MOVE`.

use std::time::Duration;

use super::forming::refused;
use super::{lock, Replicas};
use crate::replica::driver::TICK;
use crate::replica::groups::{ClusterError, Groups};
use crate::replica::handle::GroupHandle;

/// How long a handover may take: it is given up after an election time-out.
const WITHIN: Duration = Duration::from_secs(2);

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
        if view.leads_in.is_none() {
            return match view.leader {
                Some(leader) if leader == service.member => Ok(()),
                _ => Err(self.not_leader(&view)),
            };
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
}
