//! `LOG.CLUSTER`: the services that keep the logs together.

use bytes::Bytes;
use durability_protocol::{Code, Refusal};

use super::arguments::text;
use super::command_roles::Entry;
use super::identity::Identity;
use super::reply::{self, failure, Reply};
use crate::access::roles::TokenRole;
use crate::replica::groups::ServiceStatus;
use crate::service::replication::{refusal, CopyStatus};
use crate::service::Service;

/// The name of no shard: what may be done with it may be done with all.
const ALL_SHARDS: &str = "";

/// `LOG.CLUSTER INIT | STATUS`.
pub async fn run(
    service: &Service,
    identity: &Identity,
    command: &Entry,
    arguments: &[Bytes],
) -> Result<Reply, Refusal> {
    let usage = || failure("usage: LOG.CLUSTER INIT | STATUS");
    let [_, action] = arguments else { return Err(usage()) };
    let action = text(action)?.to_ascii_uppercase();
    if !["INIT", "STATUS"].contains(&action.as_str()) {
        return Err(usage());
    }
    if action == "INIT" && !identity.may(ALL_SHARDS, TokenRole::Operate) {
        let (operate, node) = (TokenRole::Operate.word(), TokenRole::Node.word());
        let text =
            format!("{} INIT needs a token for all shards (*) with the role {operate} (or {node})", command.name);
        return Err(Refusal::new(Code::NoPerm, text));
    }
    let Some(groups) = service.groups() else {
        return Err(failure("this log service is alone: it was started without --peers"));
    };
    if action == "INIT" {
        groups.init().await.map_err(refusal)?;
        return Ok(reply::ok());
    }
    let cluster = groups.cluster().map_or_else(String::new, |id| format!("{id:016x}"));
    let mut fields = vec![("cluster".to_owned(), cluster), ("member".to_owned(), format!("{:016x}", groups.member()))];
    let services = groups.services();
    fields.extend(services.iter().enumerate().map(|(at, service)| (format!("service{at}"), line(service))));
    let seen = service.names().into_iter().filter(|name| identity.may(name, TokenRole::Observe));
    for (at, name) in seen.enumerate() {
        fields.push((format!("shard{at}"), shard_line(service, &services, &name).await));
    }
    Ok(reply::array(fields.into_iter().flat_map(|(name, value)| [reply::bulk(name), reply::bulk(value)]).collect()))
}

fn line(service: &ServiceStatus) -> String {
    let ServiceStatus { member, name, zone, address, http_address, is_connected } = service;
    let connected = u8::from(*is_connected);
    format!(
        "id={member:016x},name={name},zone={zone},address={address},http_address={http_address},connected={connected}"
    )
}

async fn shard_line(service: &Service, services: &[ServiceStatus], name: &str) -> String {
    let Some((_, status)) = service.group_status(name).await else {
        return format!("name={name},decider=,term=0,end=0");
    };
    let decider = services.iter().find(|service| status.leader == Some(service.member));
    let decider = decider.map_or("", |service| service.name.as_str());
    format!("name={name},decider={decider},term={},end={}", status.term, status.applied.end)
}

/// Names and values of a shard's copies: `copy0`, `copy1` …
pub fn fields_of_copies(copies: &[CopyStatus]) -> impl Iterator<Item = Reply> + '_ {
    let line = |copy: &CopyStatus| {
        let CopyStatus { service: ServiceStatus { member, name, zone, .. }, decides, matched, lag, is_heard } = copy;
        let (decides, heard) = (u8::from(*decides), u8::from(*is_heard));
        format!("id={member:016x},name={name},zone={zone},decides={decides},matched={matched},lag={lag},heard={heard}")
    };
    let copies = copies.iter().enumerate();
    copies.flat_map(move |(at, copy)| [reply::bulk(format!("copy{at}")), reply::bulk(line(copy))])
}
