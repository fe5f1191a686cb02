//! All that monitoring shows of a service: itself, its shards, their nodes, and the copies of their logs.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::ser::{SerializeMap, SerializeStruct, Serializer};
use serde::Serialize;

use super::problems::{self, Circumstances, Problem};
use super::replication::CopyStatus;
use super::status_fields::StatusAsJson;
use super::Service;
use crate::base::latency::LatencyCounts;
use crate::replica::groups::ServiceStatus;
use crate::shard::Status;

/// What there is to see at one moment.
#[derive(Debug, Default)]
pub struct Overview {
    /// When the service started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// Why the service is not ready; none if it is.
    pub not_ready: Option<String>,
    /// The services of the cluster, this one included; none if it is alone.
    pub services: Vec<ServiceStatus>,
    /// The id of this one among them; 0 if it is alone.
    pub member: u64,
    /// What is wrong with the service itself.
    pub problems: Vec<Problem>,
    /// The shards, in order of their names.
    pub shards: Vec<ShardOverview>,
}

/// A shard at one moment.
#[derive(Debug, Default)]
pub struct ShardOverview {
    /// Its figures, and its nodes.
    pub status: Status,
    /// The copies of its log, if this service is one of several and decides over it.
    pub copies: Vec<CopyStatus>,
    /// How long appends took; none if the shard is not served.
    pub appends: Option<LatencyCounts>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl Service {
    /// What there is to see of the service and of the shards whose names `may_see` allows.
    pub async fn overview(&self, may_see: impl Fn(&str) -> bool) -> Overview {
        let (now_ms, not_ready) = (unix_ms(SystemTime::now()), self.why_not_ready());
        let services = self.groups().map(|groups| groups.services()).unwrap_or_default();
        let member = self.groups().map_or(0, |groups| groups.member());
        let own = services.iter().find(|service| service.member == member);
        let own_name = own.map_or("this service", |own| &own.name);
        let around = Circumstances { own_name, now_ms, snapshot_log_bytes: self.options.snapshot_log_bytes };
        let mut shards = Vec::new();
        for (name, slot) in self.slots(may_see) {
            match slot.get() {
                Some(Ok(shard)) => {
                    let copies = if shard.is_replicated() { self.copies(shard).await } else { Vec::new() };
                    let appends = Some(shard.append_latency().counts());
                    let status = shard.status();
                    let problems = problems::of_shard(&status, &copies, around);
                    shards.push(ShardOverview { status, copies, appends, problems });
                }
                Some(Err(unserved)) => {
                    let status = unserved.clone().status(name);
                    let problems = problems::of_shard(&status, &[], around);
                    shards.push(ShardOverview { status, problems, ..ShardOverview::default() });
                }
                // It is being opened.
                None => {}
            }
        }
        Overview {
            started_ms: unix_ms(self.started),
            now_ms,
            problems: problems::of_service(own_name, not_ready.as_deref(), &services),
            not_ready,
            services,
            member,
            shards,
        }
    }

    /// Why nodes had better use another service for the moment; none if this one is ready. It says nothing of single shards.
    pub fn why_not_ready(&self) -> Option<String> {
        let groups = self.groups()?;
        if groups.cluster().is_none() {
            return Some("this service is not in a cluster yet: LOG.CLUSTER INIT makes one".to_owned());
        }
        let services = groups.services();
        let connected = services.iter().filter(|service| service.is_connected).count();
        let is_majority = connected * 2 > services.len();
        (!is_majority)
            .then(|| format!("{connected} of {} services are connected here, this one included", services.len()))
    }
}

impl Overview {
    /// Time that the service has run, in milliseconds.
    pub fn uptime_ms(&self) -> u64 {
        self.now_ms.saturating_sub(self.started_ms)
    }
}

impl Serialize for Overview {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Overview", 9)?;
        fields.serialize_field("version", env!("CARGO_PKG_VERSION"))?;
        fields.serialize_field("time_ms", &self.now_ms)?;
        fields.serialize_field("uptime_ms", &self.uptime_ms())?;
        fields.serialize_field("ready", &self.not_ready.is_none())?;
        fields.serialize_field("not_ready", self.not_ready.as_deref().unwrap_or_default())?;
        fields.serialize_field("problems", &self.problems)?;
        fields.serialize_field("id", &member_text(self.member))?;
        fields.serialize_field("services", &self.services.iter().map(ServiceAsJson).collect::<Vec<_>>())?;
        fields.serialize_field("shards", &self.shards)?;
        fields.end()
    }
}

impl Serialize for ShardOverview {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // All that `GET /shards` shows, and what is wrong, and the copies.
        let mut fields = serializer.serialize_map(None)?;
        StatusAsJson(&self.status).serialize_into(&mut fields)?;
        fields.serialize_entry("problems", &self.problems)?;
        fields.serialize_entry("copies", &self.copies.iter().map(CopyAsJson).collect::<Vec<_>>())?;
        fields.end()
    }
}

struct ServiceAsJson<'a>(&'a ServiceStatus);

impl Serialize for ServiceAsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ServiceStatus { member, name, zone, address, http_address, is_connected } = self.0;
        let mut fields = serializer.serialize_struct("Service", 6)?;
        fields.serialize_field("id", &member_text(*member))?;
        fields.serialize_field("name", name)?;
        fields.serialize_field("zone", zone)?;
        fields.serialize_field("address", address)?;
        fields.serialize_field("http_address", http_address)?;
        fields.serialize_field("connected", is_connected)?;
        fields.end()
    }
}

struct CopyAsJson<'a>(&'a CopyStatus);

impl Serialize for CopyAsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let CopyStatus { service, decides, votes, matched, lag, is_heard } = self.0;
        let mut fields = serializer.serialize_struct("Copy", 8)?;
        fields.serialize_field("id", &member_text(service.member))?;
        fields.serialize_field("name", &service.name)?;
        fields.serialize_field("zone", &service.zone)?;
        fields.serialize_field("decides", decides)?;
        fields.serialize_field("votes", votes)?;
        fields.serialize_field("matched", matched)?;
        fields.serialize_field("lag", lag)?;
        fields.serialize_field("heard", is_heard)?;
        fields.end()
    }
}

/// The id of a service as it is shown.
fn member_text(member: u64) -> String {
    format!("{member:016x}")
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
