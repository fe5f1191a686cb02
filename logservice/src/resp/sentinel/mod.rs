//! The part of the Sentinel protocol that clients use to find the leader of a shard, as they find the primary of servers that Sentinels
//! watch. The shard's name is the primary's name. A service alone is the only Sentinel; if several services keep the logs, each is one.

mod address;
mod instance;
mod subscriptions;

pub use subscriptions::{Missed, Subscriptions};

use bytes::Bytes;
use durability_protocol::Refusal;

use self::address::Address;
use self::instance::{sentinel, Monitored};
use super::arguments::text;
use super::identity::Identity;
use super::reply::{self, failure, Reply};
use crate::access::roles::TokenRole;
use crate::replica::groups::ServiceStatus;
use crate::service::Service;
use crate::shard::{Roles, DECIDER_SILENT_AFTER};

/// The answer to `SENTINEL CKQUORUM` while nobody is granted a lease: the log has failed, or too few services are connected.
const NO_QUORUM: &str =
    "NOQUORUM 0 usable Sentinels. Not enough available Sentinels to reach the specified quorum for this master";

/// `SENTINEL subcommand …`, from a client that has proved `identity`. A shard that the client may not see does not exist for it.
pub fn answer(service: &Service, identity: &Identity, arguments: &[Bytes]) -> Result<Reply, Refusal> {
    let view = View { service, identity };
    let Some(subcommand) = arguments.get(1) else {
        return Err(failure("wrong number of arguments for 'sentinel' command"));
    };
    let subcommand = text(subcommand)?.to_ascii_lowercase();
    let arity = || failure(format!("wrong number of arguments for 'sentinel|{subcommand}' command"));
    let name = || match arguments {
        [_, _, name] => text(name),
        _ => Err(arity()),
    };
    match subcommand.as_str() {
        "get-primary-addr-by-name" | "get-master-addr-by-name" => Ok(view.address(name()?)),
        "primary" | "master" => view.monitored(name()?, |shard| shard.show(view.others(shard.name()).len())),
        "replicas" | "slaves" => view.monitored(name()?, |shard| shard.show_replicas()),
        "sentinels" => view
            .monitored(name()?, |shard| reply::array(view.others(shard.name()).iter().filter_map(sentinel).collect())),
        "ckquorum" => view.check_quorum(name()?),
        "primaries" | "masters" if arguments.len() == 2 => {
            let all = view.all();
            let show = |shard: Monitored<'_>| shard.show(view.others(shard.name()).len());
            Ok(reply::array(all.iter().filter_map(Monitored::new).map(show).collect()))
        }
        "primaries" | "masters" => Err(arity()),
        _ => {
            let shown: String = subcommand.chars().take(64).collect();
            Err(failure(format!("unknown subcommand '{shown}' of SENTINEL")))
        }
    }
}

/// `ROLE`.
pub fn role(service: &Service, identity: &Identity) -> Reply {
    let all = View { service, identity }.all();
    let names = all.iter().filter_map(Monitored::new).map(|shard| reply::bulk(shard.name())).collect();
    reply::array(vec![reply::bulk("sentinel"), reply::array(names)])
}

/// The section of `INFO` in which a Sentinel shows what it watches.
pub fn info(service: &Service, identity: &Identity) -> String {
    let view = View { service, identity };
    let all = view.all();
    let monitored: Vec<_> = all.iter().filter_map(Monitored::new).collect();
    let mut out = format!(
        "# Sentinel\r\nsentinel_masters:{}\r\nsentinel_tilt:0\r\nsentinel_tilt_since_seconds:-1\r\nsentinel_total_tilt:0\r\n\
         sentinel_running_scripts:0\r\nsentinel_scripts_queue_length:0\r\nsentinel_simulate_failure_flags:0\r\n",
        monitored.len()
    );
    for (at, shard) in monitored.iter().enumerate() {
        let status = if shard.is_down() { "odown" } else { "ok" };
        let (name, address, replicas) = (shard.name(), shard.address, shard.replicas().count());
        let sentinels = view.others(name).len() + 1;
        let line = format!(
            "master{at}:name={name},status={status},address={address},slaves={replicas},sentinels={sentinels}\r\n"
        );
        out.push_str(&line);
    }
    out
}

/// The shards that one client may see.
struct View<'a> {
    service: &'a Service,
    identity: &'a Identity,
}

impl View<'_> {
    /// The other services that keep the log of a shard.
    fn others(&self, name: &str) -> Vec<ServiceStatus> {
        let is_alone = self.service.served_shard(name).is_some_and(|shard| !shard.is_replicated());
        let Some(groups) = self.service.groups().filter(|_| !is_alone) else { return Vec::new() };
        let (own, mut services) = (groups.member(), groups.services());
        services.retain(|service| service.member != own);
        services
    }

    fn sees(&self, name: &str) -> bool {
        self.identity.may(name, TokenRole::Discover)
    }

    fn all(&self) -> Vec<Roles> {
        let shards = self.service.open_shards_if(|name| self.sees(name));
        shards.iter().filter_map(|shard| shard.roles()).collect()
    }

    /// The address of the primary. While nobody leads, that of the last one, as with Sentinel.
    fn address(&self, name: &str) -> Reply {
        let shard = self.service.served_shard(name).filter(|_| self.sees(name));
        let primary = shard.and_then(|shard| shard.primary());
        let address = primary.as_ref().and_then(|primary| Address::parse(&primary.address));
        match address {
            Some(address) => reply::array(vec![reply::bulk(address.host), reply::bulk(address.port.to_string())]),
            None => Reply::NullArray,
        }
    }

    fn monitored(&self, name: &str, show: impl FnOnce(&Monitored<'_>) -> Reply) -> Result<Reply, Refusal> {
        let roles = self.service.served_shard(name).filter(|_| self.sees(name)).and_then(|shard| shard.roles());
        let monitored = roles.as_ref().and_then(Monitored::new);
        monitored.map(|shard| show(&shard)).ok_or_else(|| failure("No such master with that name"))
    }

    /// Whether leadership can pass to another node, as far as that depends on this service.
    fn check_quorum(&self, name: &str) -> Result<Reply, Refusal> {
        let shard = self.service.served_shard(name);
        let is_served = shard
            .is_some_and(|shard| shard.check_not_failed().is_ok() && shard.decider_silent() < DECIDER_SILENT_AFTER);
        let others = self.others(name);
        let usable = 1 + others.iter().filter(|service| service.is_connected).count();
        let can_pass = is_served && usable > others.len().div_ceil(2);
        self.monitored(name, |_| match usable {
            _ if !can_pass => Reply::Error(NO_QUORUM.to_owned()),
            1 => reply::simple("OK 1 usable Sentinels. Quorum and failover authorization can be reached"),
            2 => reply::simple("OK 2 usable Sentinels. Quorum and failover authorization can be reached"),
            _ => reply::simple("OK 3 usable Sentinels. Quorum and failover authorization can be reached"),
        })
    }
}
