//! Commands of operators: `LOG.STATUS`, `LOG.SHARDS`, `LOG.SNAPSHOT`, `LOG.DROP`, `LOG.DEBUG`, `INFO`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use durability_protocol::Refusal;

use super::arguments::text;
use super::cluster;
use super::command_roles::Entry;
use super::identity::Identity;
use super::node;
use super::reply::{self, failure, Reply};
use super::sentinel;
use crate::access::roles::TokenRole;
use crate::base::log_throttle::say;
use crate::service::status_fields::FIELDS;
use crate::service::Service;
use crate::shard::{AckMode, Shard};

/// Longest delay that `LOG.DEBUG DELAY-ACKS` takes, in milliseconds.
const MAX_DELAY_MS: f64 = 600_000.0;

/// `LOG.STATUS shard`: names and values in turn, all bulk strings. Besides the [`FIELDS`] of the shard there are the port to which snapshots
/// are uploaded, the address of the client, whose address and port are `peer`, and the copies of the log if several services keep it.
pub async fn status(service: &Service, shard: &Shard, peer: &str) -> Reply {
    let (copies, status, http_port) = (service.copies(shard).await, shard.status(), service.http_port());
    let client_ip = peer.parse::<SocketAddr>().map(|peer| peer.ip().to_canonical().to_string());
    let of_connection = [("http_port", http_port.to_string()), ("client_ip", client_ip.unwrap_or_default())];
    let fields = FIELDS.iter().map(|field| (field.name, field.value(&status).to_string())).chain(of_connection);
    let items = fields.flat_map(|(name, value)| [reply::bulk(name), reply::bulk(value)]);
    let items = items.chain(node::fields_of_nodes(&status));
    reply::array(items.chain(cluster::fields_of_copies(&copies)).collect())
}

/// `LOG.SHARDS`: the names of the shards that this connection may see.
pub fn shards(service: &Service, identity: &Identity) -> Reply {
    let mut names = service.names();
    names.retain(|name| identity.may(name, TokenRole::Observe));
    reply::array(names.into_iter().map(reply::bulk).collect())
}

/// `LOG.DROP shard log-id [FORCE]`, if `identity` allows `command`.
pub async fn drop_shard(
    service: &Arc<Service>,
    identity: &Identity,
    command: &Entry,
    arguments: &[Bytes],
) -> Result<Reply, Refusal> {
    let usage = || failure("usage: LOG.DROP shard log-id [FORCE]");
    let [_, shard, log_id, options @ ..] = arguments else { return Err(usage()) };
    let force = match options {
        [] => false,
        [force] if force.eq_ignore_ascii_case(b"FORCE") => true,
        _ => return Err(usage()),
    };
    let shard = text(shard)?;
    identity.check(command, shard)?;
    service.drop_shard(shard, text(log_id)?, force).await?;
    Ok(reply::ok())
}

/// `LOG.SNAPSHOT shard`: makes a snapshot. The reply is its offset and length.
pub async fn snapshot(service: &Service, shard: Arc<Shard>) -> Result<Reply, Refusal> {
    let record = service.make_snapshot(shard).await?;
    Ok(reply::array(vec![reply::integer(record.offset), reply::integer(record.bytes)]))
}

/// `INFO`: the server, and a line for each shard whose status this connection may see.
pub fn info(service: &Service, identity: &Identity) -> Reply {
    let version = env!("CARGO_PKG_VERSION");
    let pid = std::process::id();
    // Some clients recognise a Sentinel by its mode.
    let mut out = format!(
        "# Server\r\nlogservice_version:{version}\r\nserver_mode:sentinel\r\nredis_mode:sentinel\r\nprocess_id:{pid}\r\n\r\n\
         {}\r\n# Shards\r\n",
        sentinel::info(service, identity)
    );
    for status in service.statuses(|shard| identity.may(shard, TokenRole::Observe)) {
        let values = FIELDS.iter().skip(1).map(|field| (field.name, field.value(&status).to_string()));
        let values: Vec<_> = values
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={}", value.replace([',', '\r', '\n'], " ")))
            .collect();
        out.push_str(&format!("{}:{}\r\n", status.shard, values.join(",")));
    }
    reply::bulk(out)
}

/// Reads `LOG.DEBUG FREEZE-ACKS shard | RESUME-ACKS shard | DELAY-ACKS shard ms`. Returns the shard's name and the mode.
pub fn parse_debug<'a>(service: &Service, arguments: &'a [Bytes]) -> Result<(&'a str, AckMode), Refusal> {
    if !service.debug_command() {
        return Err(failure("LOG.DEBUG is off: start logservice with --enable-debug-command"));
    }
    let usage = || failure("usage: LOG.DEBUG FREEZE-ACKS shard | RESUME-ACKS shard | DELAY-ACKS shard ms");
    let (action, shard) = match arguments {
        [_, action, shard, ..] => (text(action)?.to_ascii_uppercase(), text(shard)?),
        _ => return Err(usage()),
    };
    let mode = match (action.as_str(), &arguments[3..]) {
        ("FREEZE-ACKS", []) => AckMode::Frozen,
        ("RESUME-ACKS", []) => AckMode::Running,
        ("DELAY-ACKS", [delay_ms]) => {
            let delay_ms: f64 = text(delay_ms)?.parse().map_err(|_| failure("ms is not a number"))?;
            if !(0.0..=MAX_DELAY_MS).contains(&delay_ms) {
                return Err(failure(format!("ms must be 0 to {MAX_DELAY_MS}")));
            }
            match Duration::from_secs_f64(delay_ms / 1000.0) {
                Duration::ZERO => AckMode::Running,
                delay => AckMode::Delayed(delay),
            }
        }
        _ => return Err(usage()),
    };
    Ok((shard, mode))
}

/// Runs `LOG.DEBUG`.
pub fn debug(shard: &Arc<Shard>, mode: AckMode) -> Result<Reply, Refusal> {
    let set = shard.notifier().set_ack_mode(mode);
    set.map_err(|error| failure(format!("cannot start the thread that delays: {error}")))?;
    say!(shard.lines(), info, "shard {}: acknowledgements are now {mode:?}", shard.name());
    Ok(reply::ok())
}
