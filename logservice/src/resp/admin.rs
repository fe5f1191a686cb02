//! What an operator asks: `LOG.STATUS`, `LOG.SHARDS`, `LOG.DROP`, `LOG.DEBUG`, `INFO`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use durability_protocol::Refusal;

use super::arguments::text;
use super::commands::Entry;
use super::identity::Identity;
use super::node;
use super::reply::{self, failure, Reply};
use super::sentinel;
use crate::roles::Role;
use crate::service::Service;
use crate::shard::{AckMode, Shard, Status};
use crate::throttle::say;

/// Longest delay that `LOG.DEBUG DELAY-ACKS` takes, in milliseconds.
const MAX_DELAY_MS: f64 = 600_000.0;

/// `LOG.STATUS shard`: names and values in turn, all bulk strings. Says also where snapshots go, and from where the client is connected,
/// whose address and port are `peer`.
pub fn status(shard: &Shard, http_port: u16, peer: &str) -> Reply {
    let status = shard.status();
    let mut fields = fields(&status);
    fields.push(("http_port", http_port.to_string()));
    let client_ip = peer.parse::<SocketAddr>().map(|peer| peer.ip().to_canonical().to_string());
    fields.push(("client_ip", client_ip.unwrap_or_default()));
    let items = fields.into_iter().flat_map(|(name, value)| [reply::bulk(name), reply::bulk(value)]);
    reply::array(items.chain(node::fields_of_nodes(&status)).collect())
}

/// `LOG.SHARDS`: the names of the shards that this connection may see.
pub fn shards(service: &Service, identity: &Identity) -> Reply {
    let mut names = service.names();
    names.retain(|name| identity.may(name, Role::Observe));
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

/// `LOG.SNAPSHOT shard`: a snapshot made now; answers where it stands and its length.
pub async fn snapshot(service: &Service, shard: Arc<Shard>) -> Result<Reply, Refusal> {
    let record = service.make_snapshot(shard).await?;
    Ok(reply::array(vec![reply::integer(record.offset), reply::integer(record.bytes)]))
}

/// `INFO`: the server, and a line for each shard of which this connection may see the status.
pub fn info(service: &Service, identity: &Identity) -> Reply {
    let version = env!("CARGO_PKG_VERSION");
    let pid = std::process::id();
    // By the mode some clients tell what they talk to.
    let mut out = format!(
        "# Server\r\nlogservice_version:{version}\r\nserver_mode:sentinel\r\nredis_mode:sentinel\r\nprocess_id:{pid}\r\n\r\n\
         {}\r\n# Shards\r\n",
        sentinel::info(service, identity)
    );
    for status in service.statuses(|shard| identity.may(shard, Role::Observe)) {
        let values: Vec<_> = fields(&status)
            .into_iter()
            .skip(1)
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={}", value.replace([',', '\r', '\n'], " ")))
            .collect();
        out.push_str(&format!("{}:{}\r\n", status.shard, values.join(",")));
    }
    reply::bulk(out)
}

/// The shard's name and the mode that `LOG.DEBUG FREEZE-ACKS shard | RESUME-ACKS shard | DELAY-ACKS shard ms` asks for.
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

fn fields(status: &Status) -> Vec<(&'static str, String)> {
    vec![
        ("shard", status.shard.clone()),
        ("state", status.state.word().to_owned()),
        ("error", status.error.clone()),
        ("log_id", status.log_id.clone()),
        ("contradicted_by", status.contradicted_by.clone()),
        ("epoch", status.epoch.to_string()),
        ("leader", status.leader.clone()),
        ("leader_address", status.leader_address.clone()),
        ("leader_process", status.leader_process.clone()),
        ("lease_remaining_ms", status.lease_remaining_ms.to_string()),
        ("lease_ms", status.lease_ms.to_string()),
        ("version", status.version.to_string()),
        ("reserved_for", status.reserved_for.clone()),
        ("stream_epoch", status.stream_epoch.to_string()),
        ("replid", status.replid.clone()),
        ("base", status.base.to_string()),
        ("end", status.end.to_string()),
        ("durable_end", status.durable_end.to_string()),
        ("accepted_end", status.accepted_end.to_string()),
        ("seeded", status.seeded.to_string()),
        ("segments", status.segments.to_string()),
        ("log_bytes", status.log_bytes.to_string()),
        ("max_log_bytes", status.max_log_bytes.to_string()),
        ("unverified_bytes", status.unverified_bytes.to_string()),
        ("engine_version", status.engine_version.clone()),
        ("databases", status.databases.to_string()),
        ("snapshots", status.snapshots.to_string()),
        ("snapshot_offset", status.snapshot_offset.to_string()),
        ("snapshot_bytes", status.snapshot_bytes.to_string()),
        ("snapshot_time_ms", status.snapshot_time_ms.to_string()),
        ("snapshot_running", status.snapshot_running.to_string()),
        ("snapshot_error", status.snapshot_error.clone()),
        ("snapshot_failures", status.snapshot_failures.to_string()),
        ("snapshot_failing_since_ms", status.snapshot_failing_since_ms.to_string()),
        ("snapshot_module_types", status.snapshot_module_types.clone()),
        ("full_copy_error", status.full_copy_error.clone()),
        ("audit_state", status.audit.state.word().to_owned()),
        ("audit_time_ms", status.audit.time_ms.to_string()),
        ("audit_keys", status.audit.keys.to_string()),
        ("audit_differences", status.audit.differences.to_string()),
        ("audit_first_difference", status.audit.first_difference.clone()),
        ("audit_error", status.audit.error.clone()),
        ("replicas", status.replicas.to_string()),
        ("appends", status.appends.to_string()),
        ("fsyncs", status.fsyncs.to_string()),
        ("acks", status.acks.to_owned()),
    ]
}
