//! What services tell each other beside the logs, and handing over the decision over the cluster.

use std::sync::Arc;
use std::time::Duration;

use super::forming::{Reply, Request};
use super::{lock, GroupHandle, Replicas};
use crate::replica::groups::HearsReports;

/// How often it is looked whether another service decides.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Replicas {
    pub(super) async fn send_report(&self, service: &str, report: String) -> Result<(), String> {
        match self.ask(service, &Request::Hear(report)).await.map_err(|error| error.to_string())? {
            Reply::Heard => Ok(()),
            Reply::Refused(reason) => Err(reason),
            _ => Err(format!("service {service} did not say whether it heard")),
        }
    }

    /// Passes on what a peer reports. Blocks for as long as who hears it does.
    pub(super) fn hear(&self, report: &str) -> Reply {
        let hearer: Option<Arc<dyn HearsReports>> = lock(&self.hearer).clone();
        match hearer {
            Some(hearer) => {
                hearer.heard(report);
                Reply::Heard
            }
            None => Reply::Refused("the service is starting".to_owned()),
        }
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
