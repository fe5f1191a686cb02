//! What the service needs of all groups that it has copies of: [`Groups`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::bringing::Bringing;
use super::handle::GroupHandle;
use crate::store::{MediumError, RemovedStore};

/// An answer that may have to come from other services.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The groups of a service, for any thread. A group has the name of its shard.
pub trait Groups: Send + Sync {
    /// The group of that shard, if this service has a copy.
    fn group(&self, shard: &str) -> Option<Arc<dyn GroupHandle>>;

    /// The shards, in no order.
    fn names(&self) -> Vec<String>;

    /// Why the copy of that shard is not used, if there is one here.
    fn why_not(&self, _shard: &str) -> Option<String> {
        None
    }

    /// Whoever `events` is hears of each shard that comes or goes from now on. It takes the place of who heard it before.
    fn on_groups(&self, events: Arc<dyn GroupsChanged>);

    /// Makes a shard, whose state is `first_state`, at all services. Making one that exists already succeeds and changes nothing.
    fn create<'a>(&'a self, shard: &'a str, first_state: Bytes) -> Answer<'a, Result<(), ClusterError>>;

    /// Drops the shard whose log has that id, at all services. Dropping one that is gone succeeds. A service that is away removes its copy when
    /// it is back.
    fn drop_shard<'a>(&'a self, shard: &'a str, log_id: &'a str) -> Answer<'a, Result<(), ClusterError>>;

    /// What is left on the disk of shards that were dropped, and that nobody has been told of ([`GroupsChanged::removed`]). Blocks on I/O.
    ///
    /// # Errors
    /// The disk cannot be read.
    fn left_over(&self) -> Result<Vec<Arc<dyn RemovedStore>>, MediumError> {
        Ok(Vec::new())
    }

    /// Where the copy of a shard is that the cluster has, and that this service is to keep and has not got yet: [`ClusterError::NotLeader`] with
    /// the service to go to, if that is known.
    fn elsewhere(&self, _shard: &str) -> Option<ClusterError> {
        None
    }

    /// Whether a shard is one that another service was to bring, and that one is not connected.
    fn is_lost(&self, _shard: &str) -> bool {
        false
    }

    /// How this service brings shards that it has kept alone; none if services like this one never have any.
    fn bringing(&self) -> Option<&dyn Bringing> {
        None
    }

    /// Makes a cluster of this service and those that it was configured with. Repeating that succeeds and changes nothing.
    fn init(&self) -> Answer<'_, Result<(), ClusterError>>;

    /// Puts a service that was started to join in the place of another. Each is told by its name, or its id in hexadecimal. Repeating that
    /// succeeds and changes nothing.
    fn replace<'a>(&'a self, _old: &'a str, _new: &'a str) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(async { Err(ClusterError::Refused("these services cannot be replaced".to_owned())) })
    }

    /// Has the service `to`, by name or id, decide over a shard's log.
    fn move_decision<'a>(&'a self, _shard: &'a str, _to: &'a str) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(async { Err(ClusterError::Refused("who decides over these logs cannot be chosen".to_owned())) })
    }

    /// Has this service, which has to be called `name`, go on without the others, whose disks are lost; `word` confirms it.
    fn force<'a>(&'a self, _name: &'a str, _word: &'a str) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(async { Err(ClusterError::Refused("this service cannot go on alone".to_owned())) })
    }

    /// The group of the cluster's own log; none before there is a cluster.
    fn cluster_group(&self) -> Option<Arc<dyn GroupHandle>> {
        None
    }

    /// The services of the cluster, this one included; before there is a cluster, those that this one was configured with.
    fn services(&self) -> Vec<ServiceStatus>;

    /// The id of the cluster; none before there is one.
    fn cluster(&self) -> Option<u64>;

    /// The id of this service.
    fn member(&self) -> u64;
    /// Has another service decide over the cluster, if this one does. Returns when another one does, or none can.
    fn hand_over_cluster(&self) -> Answer<'_, ()>;
    /// Tells a service of the cluster what its [`HearsReports`] hears. The error is a text for people.
    fn report<'a>(&'a self, service: &'a str, report: String) -> Answer<'a, Result<(), String>>;
    /// Whoever `hearer` is hears what other services report from now on. It takes the place of who heard it before.
    fn on_reports(&self, hearer: Arc<dyn HearsReports>);
}

/// Hears what other services report. What it is, is for whoever sends it to say.
pub trait HearsReports: Send + Sync {
    /// Another service has reported that. May block.
    fn heard(&self, report: &str);
}

/// Hears of shards. An implementation must return soon.
pub trait GroupsChanged: Send + Sync {
    /// There is a copy of the shard now.
    fn appeared(&self, shard: &str);
    /// There is none any more.
    fn disappeared(&self, shard: &str);
    /// This service has become one of a cluster.
    fn joined(&self) {}
    /// Has the service called `by` store what the state of `shard` names besides the log. Durable there when it succeeds; the error is a text for
    /// people. Asked where the log is decided over.
    fn have_held<'a>(&'a self, _shard: &'a str, _by: &'a str) -> Answer<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
    /// The copy of a shard that was dropped is set aside, after it has disappeared: what it held is to be removed.
    fn removed(&self, _shard: &str, _removed: Arc<dyn RemovedStore>) {}
}

/// A service of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceStatus {
    /// Its id; 0 if it is not known yet.
    pub member: u64,
    /// Its name.
    pub name: String,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// Where clients reach it; empty if it is not known yet.
    pub address: String,
    /// Where uploads go; empty if it is not known yet.
    pub http_address: String,
    /// Whether it is connected. Always so of this one.
    pub is_connected: bool,
}

/// Why a cluster or a shard was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// Another service decides over the cluster.
    #[error("another service decides over the cluster")]
    NotLeader {
        /// Where clients reach it, if it is known.
        address: Option<String>,
    },
    /// It cannot be made; the text says why, and what to do.
    #[error("{0}")]
    Refused(String),
}

impl dyn Groups + '_ {
    /// Where clients reach the service of `member`, if that is known.
    pub fn address_of(&self, member: u64) -> Option<String> {
        let service = self.services().into_iter().find(|service| service.member == member)?;
        Some(service.address).filter(|address| !address.is_empty())
    }
}
