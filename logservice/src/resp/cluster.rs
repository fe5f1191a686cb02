//! `LOG.CLUSTER`: the services that keep the logs together.

use std::sync::Arc;

use bytes::Bytes;
use durability_protocol::{Code, Refusal};
use raft::eraftpb::ConfState;

use super::arguments::text;
use super::command_roles::Entry;
use super::identity::Identity;
use super::reply::{self, failure, Reply};
use crate::access::roles::TokenRole;
use crate::replica::group::{are_members, GroupStatus};
use crate::replica::groups::{Groups, ServiceStatus};
use crate::service::bringing::AloneStatus;
use crate::service::replication::{refusal, CopyStatus};
use crate::service::Service;

/// Entries that are on their way to a copy that has all of the log, under load.
const WHOLE_WITHIN_ENTRIES: u64 = 64;
/// The name of no shard: what may be done with it may be done with all.
const ALL_SHARDS: &str = "";

/// `LOG.CLUSTER INIT | STATUS | REPLACE old new | MOVE shard service | FORCE service ACCEPT-LOSS`.
pub async fn run(
    service: &Arc<Service>,
    identity: &Identity,
    command: &Entry,
    arguments: &[Bytes],
) -> Result<Reply, Refusal> {
    let usage = || {
        failure("usage: LOG.CLUSTER INIT | STATUS | REPLACE old-service new-service | MOVE shard service | FORCE service ACCEPT-LOSS")
    };
    let [_, action, rest @ ..] = arguments else { return Err(usage()) };
    let action = text(action)?.to_ascii_uppercase();
    let action = match (action.as_str(), rest) {
        ("INIT", []) => Action::Init,
        ("STATUS", []) => Action::Status,
        ("REPLACE", [old, new]) => Action::Replace { old: text(old)?, new: text(new)? },
        ("MOVE", [shard, to]) => Action::Move { shard: text(shard)?, to: text(to)? },
        ("FORCE", [name, word]) => Action::Force { name: text(name)?, word: text(word)? },
        _ => return Err(usage()),
    };
    if let Some(word) = action.needs_operator() {
        if !identity.may(ALL_SHARDS, TokenRole::Operate) {
            let (operate, node) = (TokenRole::Operate.word(), TokenRole::Node.word());
            let text =
                format!("{} {word} needs a token for all shards (*) with the role {operate} (or {node})", command.name);
            return Err(Refusal::new(Code::NoPerm, text));
        }
    }
    let Some(groups) = service.groups() else {
        return Err(failure("this log service is alone: it was started without --peers"));
    };
    let done = match action {
        Action::Init => return service.init_cluster().await.map(|()| reply::ok()),
        Action::Replace { old, new } => groups.replace(old, new).await,
        Action::Move { shard, to } => service.move_decision(groups, shard, to).await,
        Action::Force { name, word } => groups.force(name, word).await,
        Action::Status => return Ok(status(service, identity, groups).await),
    };
    done.map(|()| reply::ok()).map_err(refusal)
}

/// What is asked for.
enum Action<'a> {
    Init,
    Status,
    Replace { old: &'a str, new: &'a str },
    Move { shard: &'a str, to: &'a str },
    Force { name: &'a str, word: &'a str },
}

impl Action<'_> {
    /// Its word, if it takes more than to look.
    fn needs_operator(&self) -> Option<&'static str> {
        match self {
            Action::Init => Some("INIT"),
            Action::Replace { .. } => Some("REPLACE"),
            Action::Move { .. } => Some("MOVE"),
            Action::Force { .. } => Some("FORCE"),
            Action::Status => None,
        }
    }
}

async fn status(service: &Service, identity: &Identity, groups: &Arc<dyn Groups>) -> Reply {
    let cluster = groups.cluster().map_or_else(String::new, |id| format!("{id:016x}"));
    let mut fields = vec![("cluster".to_owned(), cluster), ("member".to_owned(), format!("{:016x}", groups.member()))];
    let services = groups.services();
    fields.extend(services.iter().enumerate().map(|(at, service)| (format!("service{at}"), line(service))));
    let own = groups.cluster_group();
    let own = tokio::task::spawn_blocking(move || own?.status()).await.ok().flatten();
    fields.push(("cluster_log".to_owned(), group_line("", own.as_ref(), &services)));
    let seen = service.names().into_iter().filter(|name| identity.may(name, TokenRole::Observe));
    for (at, name) in seen.enumerate() {
        let line = match service.alone_status(&name) {
            Some(alone) => alone_line(&name, groups.member(), alone, &services),
            None => {
                let status = service.group_status(&name).await.map(|(_, status)| status);
                group_line(&name, status.as_ref(), &services)
            }
        };
        fields.push((format!("shard{at}"), line));
    }
    reply::array(fields.into_iter().flat_map(|(name, value)| [reply::bulk(name), reply::bulk(value)]).collect())
}

fn line(service: &ServiceStatus) -> String {
    let ServiceStatus { member, name, zone, address, http_address, is_connected } = service;
    let connected = u8::from(*is_connected);
    format!(
        "id={member:016x},name={name},zone={zone},address={address},http_address={http_address},connected={connected}"
    )
}

/// Who keeps a log. It is `whole` if those are the services of the cluster, and this one decides over it and knows that each has all of it.
fn group_line(name: &str, status: Option<&GroupStatus>, services: &[ServiceStatus]) -> String {
    let Some(status) = status else {
        return format!("name={name},decider=,term=0,end=0,members=,learners=,leaving=,whole=0");
    };
    let name_of = |member: &u64| match services.iter().find(|service| service.member == *member) {
        Some(service) => service.name.clone(),
        None => format!("{member:016x}"),
    };
    let names = |members: &[u64]| members.iter().map(name_of).collect::<Vec<_>>().join("/");
    let ConfState { voters, learners, voters_outgoing, .. } = &status.members;
    let leaving: Vec<u64> = voters_outgoing.iter().filter(|member| !voters.contains(member)).copied().collect();
    let wanted = services.iter().map(|service| service.member).collect();
    let has_all = |&(member, matched, is_heard): &(u64, u64, bool)| {
        (is_heard || status.leader == Some(member)) && matched + WHOLE_WITHIN_ENTRIES >= status.last
    };
    let is_whole =
        are_members(&status.members, &wanted) && status.are_members_settled && status.copies.iter().all(has_all);
    let decider = status.leader.map(|leader| name_of(&leader)).unwrap_or_default();
    format!(
        "name={name},decider={decider},term={},end={},members={},learners={},leaving={},whole={}",
        status.term,
        status.applied.end,
        names(voters),
        names(learners),
        names(&leaving),
        u8::from(is_whole)
    )
}

/// A shard that this service keeps alone.
fn alone_line(name: &str, own: u64, alone: AloneStatus, services: &[ServiceStatus]) -> String {
    let own = services.iter().find(|service| service.member == own).map(|own| own.name.as_str()).unwrap_or_default();
    let AloneStatus { end, left_bytes } = alone;
    format!(
        "name={name},decider={own},term=0,end={end},members={own},learners=,leaving=,whole=0,alone=1,left_bytes={left_bytes}"
    )
}

/// Names and values of a shard's copies: `copy0`, `copy1` …
pub fn fields_of_copies(copies: &[CopyStatus]) -> impl Iterator<Item = Reply> + '_ {
    let line = |copy: &CopyStatus| {
        let CopyStatus { service: ServiceStatus { member, name, zone, .. }, decides, votes, matched, lag, is_heard } =
            copy;
        let (decides, votes, heard) = (u8::from(*decides), u8::from(*votes), u8::from(*is_heard));
        format!("id={member:016x},name={name},zone={zone},decides={decides},votes={votes},matched={matched},lag={lag},heard={heard}")
    };
    let copies = copies.iter().enumerate();
    copies.flat_map(move |(at, copy)| [reply::bulk(format!("copy{at}")), reply::bulk(line(copy))])
}
