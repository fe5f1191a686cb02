//! The groups of a service in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::MemoryGroup;
use crate::replica::groups::{Answer, ClusterError, Groups, GroupsChanged, HearsReports, ServiceStatus};
use crate::replica::handle::GroupHandle;
use crate::store::Manifest;

/// The groups of a service with the id 1, of a cluster with two others.
#[derive(Default)]
pub struct MemoryGroups {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    groups: BTreeMap<String, Arc<MemoryGroup>>,
    listener: Option<Arc<dyn GroupsChanged>>,
    /// Why no shard and no cluster is made.
    refuses: Option<ClusterError>,
    cluster: Option<u64>,
    made: u64,
    /// What groups show as the most that a log may take. Nothing keeps to it.
    max_log_bytes: Option<u64>,
    /// What was reported to which service.
    reports: Vec<(String, String)>,
    hearer: Option<Arc<dyn HearsReports>>,
    /// How often the decision over the cluster was to be handed over.
    handed_over: usize,
}

impl MemoryGroups {
    /// The group of `shard`, made if there is none.
    pub fn get_or_make(&self, shard: &str) -> Arc<MemoryGroup> {
        let mut inner = self.lock();
        if let Some(group) = inner.groups.get(shard) {
            return group.clone();
        }
        inner.made += 1;
        let manifest = match inner.made {
            1 => Manifest::new(shard, "a".repeat(40), format!("id-of-{shard}")),
            made => Manifest::new(shard, format!("{made:040x}"), format!("id-of-{shard}")),
        };
        let group = MemoryGroup::new(shard, &manifest);
        group.show_bound(inner.max_log_bytes);
        inner.groups.insert(shard.to_owned(), group.clone());
        group
    }

    /// Groups whose logs show that bound.
    pub fn bounded(max_log_bytes: Option<u64>) -> Self {
        MemoryGroups { inner: Mutex::new(Inner { max_log_bytes, ..Inner::default() }) }
    }

    /// The groups as another process finds them.
    pub fn reopened(&self) -> Self {
        let before = self.lock();
        let groups = before.groups.iter().map(|(name, group)| (name.clone(), group.reopened())).collect();
        let (max_log_bytes, made) = (before.max_log_bytes, before.made);
        MemoryGroups { inner: Mutex::new(Inner { groups, max_log_bytes, made, ..Inner::default() }) }
    }

    /// From now on nothing is made, for that reason.
    pub fn refuse(&self, reason: ClusterError) {
        self.lock().refuses = Some(reason);
    }

    /// What was reported to which service since this was last asked.
    pub fn reports(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.lock().reports)
    }

    /// Another service reports that.
    pub fn hear(&self, report: &str) {
        let hearer = self.lock().hearer.clone();
        hearer.iter().for_each(|hearer| hearer.heard(report));
    }

    /// How often the decision over the cluster was to be handed over.
    pub fn handed_over(&self) -> usize {
        self.lock().handed_over
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Groups for MemoryGroups {
    fn group(&self, shard: &str) -> Option<Arc<dyn GroupHandle>> {
        self.lock().groups.get(shard).map(|group| group.clone() as Arc<dyn GroupHandle>)
    }

    fn names(&self) -> Vec<String> {
        self.lock().groups.keys().cloned().collect()
    }

    fn on_groups(&self, events: Arc<dyn GroupsChanged>) {
        self.lock().listener = Some(events);
    }

    fn create<'a>(&'a self, shard: &'a str, first_state: Bytes) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            let refused = |reason: &str| ClusterError::Refused(reason.to_owned());
            let manifest = Manifest::parse(&first_state).map_err(|reason| refused(&reason))?;
            let listener = {
                let mut inner = self.lock();
                if let Some(reason) = &inner.refuses {
                    return Err(reason.clone());
                }
                let made = || MemoryGroup::new(shard, &manifest);
                inner.groups.entry(shard.to_owned()).or_insert_with(made);
                inner.listener.clone()
            };
            listener.iter().for_each(|listener| listener.appeared(shard));
            Ok(())
        })
    }

    fn drop_shard<'a>(&'a self, shard: &'a str, _log_id: &'a str) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            let listener = {
                let mut inner = self.lock();
                if let Some(reason) = &inner.refuses {
                    return Err(reason.clone());
                }
                inner.groups.remove(shard);
                inner.listener.clone()
            };
            listener.iter().for_each(|listener| listener.disappeared(shard));
            Ok(())
        })
    }

    fn init(&self) -> Answer<'_, Result<(), ClusterError>> {
        Box::pin(async move {
            let mut inner = self.lock();
            if let Some(reason) = &inner.refuses {
                return Err(reason.clone());
            }
            inner.cluster = Some(77);
            Ok(())
        })
    }

    fn services(&self) -> Vec<ServiceStatus> {
        let service = |(member, name): (u64, &str)| ServiceStatus {
            member,
            name: name.to_owned(),
            zone: format!("zone-{name}"),
            address: format!("10.0.0.{member}:7379"),
            http_address: format!("10.0.0.{member}:7380"),
            is_connected: member != 3,
        };
        [(1, "a"), (2, "b"), (3, "c")].into_iter().map(service).collect()
    }

    fn cluster(&self) -> Option<u64> {
        self.lock().cluster
    }

    fn member(&self) -> u64 {
        1
    }

    fn hand_over_cluster(&self) -> Answer<'_, ()> {
        Box::pin(async { self.lock().handed_over += 1 })
    }

    fn report<'a>(&'a self, service: &'a str, report: String) -> Answer<'a, Result<(), String>> {
        Box::pin(async move {
            self.lock().reports.push((service.to_owned(), report));
            Ok(())
        })
    }

    fn on_reports(&self, hearer: Arc<dyn HearsReports>) {
        self.lock().hearer = Some(hearer);
    }
}
