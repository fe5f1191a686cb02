//! The groups of a cluster, for the rest of the service.

use std::sync::Arc;

use bytes::Bytes;

use super::peering::PeerInfo;
use super::{lock, Replicas, ReplicasOptions};
use crate::replica::bringing::Bringing;
use crate::replica::groups::{Answer, ClusterError, Groups, GroupsChanged, HearsReports, ServiceStatus};
use crate::replica::handle::GroupHandle;
use crate::store::{MediumError, RemovedStore};

impl Groups for Replicas {
    fn group(&self, shard: &str) -> Option<Arc<dyn GroupHandle>> {
        lock(&self.shards).get(shard).map(|group| group.clone() as Arc<dyn GroupHandle>)
    }

    fn names(&self) -> Vec<String> {
        let unopened = self.unopened();
        lock(&self.shards).keys().cloned().chain(unopened.into_keys()).collect()
    }

    fn why_not(&self, shard: &str) -> Option<String> {
        self.unopened().remove(shard)
    }

    fn on_groups(&self, events: Arc<dyn GroupsChanged>) {
        *lock(&self.listener) = Some(events);
    }

    fn elsewhere(&self, shard: &str) -> Option<ClusterError> {
        self.not_here_yet(shard)
    }

    fn is_lost(&self, shard: &str) -> bool {
        let state = self.state.borrow().clone();
        let brings = state.and_then(|state| state.shards.get(shard)?.brought_by());
        let brings = brings.filter(|&member| member != self.member);
        brings.is_some_and(|member| !self.options.peering.is_connected(member))
    }

    fn bringing(&self) -> Option<&dyn Bringing> {
        Some(self)
    }

    fn create<'a>(&'a self, shard: &'a str, first_state: Bytes) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(self.make_shard(shard, first_state))
    }

    fn drop_shard<'a>(&'a self, shard: &'a str, log_id: &'a str) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(self.drop_everywhere(shard, log_id))
    }

    fn left_over(&self) -> Result<Vec<Arc<dyn RemovedStore>>, MediumError> {
        let mut removed = self.options.disks.left_over()?;
        let set_aside = std::mem::take(&mut *lock(&self.removed));
        removed.extend(
            set_aside
                .into_iter()
                .filter(|new| !removed.iter().any(|old| old.to_string() == new.to_string()))
                .collect::<Vec<_>>(),
        );
        Ok(removed)
    }

    fn init(&self) -> Answer<'_, Result<(), ClusterError>> {
        Box::pin(self.form())
    }

    fn replace<'a>(&'a self, old: &'a str, new: &'a str) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(self.replace_service(old, new))
    }

    fn move_decision<'a>(&'a self, shard: &'a str, to: &'a str) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(self.move_shard(shard, to))
    }

    fn force<'a>(&'a self, name: &'a str, word: &'a str) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(self.force_alone(name, word))
    }

    fn cluster_group(&self) -> Option<Arc<dyn GroupHandle>> {
        lock(&self.cluster_group).clone().map(|group| group as Arc<dyn GroupHandle>)
    }

    fn services(&self) -> Vec<ServiceStatus> {
        let known = self.options.peering.known();
        let members = self.state.borrow().as_ref().map(|state| state.services.clone()).unwrap_or_default();
        let names = match members.is_empty() {
            true => self.options.peers.iter().map(|(name, _)| name.clone()).collect(),
            false => members.iter().map(|service| service.name.clone()).collect::<Vec<_>>(),
        };
        let service = |name: &String| {
            let ReplicasOptions { zone, client_address, http_address, .. } = &self.options;
            let recorded = members.iter().find(|record| record.name == *name);
            if *name == self.options.name && recorded.is_none_or(|record| record.member == self.member) {
                return ServiceStatus {
                    member: self.member,
                    name: name.clone(),
                    zone: zone.clone(),
                    address: client_address.clone(),
                    http_address: http_address.clone(),
                    is_connected: true,
                };
            }
            let is_it =
                |peer: &&PeerInfo| peer.name == *name && recorded.is_none_or(|record| record.member == peer.member);
            let (told, zone) = match known.iter().find(is_it) {
                Some(peer) => (peer.clone(), peer.zone.clone()),
                None => (PeerInfo::default(), recorded.map(|record| record.zone.clone()).unwrap_or_default()),
            };
            let member = recorded.map_or(told.member, |record| record.member);
            ServiceStatus {
                member,
                name: name.clone(),
                zone,
                address: told.client_address,
                http_address: told.http_address,
                is_connected: self.options.peering.is_connected(member),
            }
        };
        names.iter().map(service).collect()
    }

    fn cluster(&self) -> Option<u64> {
        self.identity().cluster.map(|cluster| cluster.id)
    }

    fn member(&self) -> u64 {
        self.member
    }

    fn hand_over_cluster(&self) -> Answer<'_, ()> {
        Box::pin(self.hand_over_own_group())
    }

    fn report<'a>(&'a self, service: &'a str, report: String) -> Answer<'a, Result<(), String>> {
        Box::pin(self.send_report(service, report))
    }

    fn on_reports(&self, hearer: Arc<dyn HearsReports>) {
        *lock(&self.hearer) = Some(hearer);
    }
}
