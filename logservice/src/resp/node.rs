//! `LOG.NODE`: a node reports its state and waits for leadership to change.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use durability_protocol::{
    is_valid_name, NodeFigures, NodeSettings, Refusal, FIGURES, MAX_POLL_WAIT_MS, MAX_PRIORITY, SETTINGS,
    TAKES_FIGURES, TAKES_SETTINGS, ZONE,
};

use super::arguments::{number, text};
use super::leadership_commands;
use super::reply::{self, failure, Reply};
use crate::service::status_fields::for_nodes;
use crate::shard::{Heard, NodeStatus, Poll, Role, Shard, Status};

const USAGE: &str = "usage: LOG.NODE shard node-id address role priority applied-offset version wait-ms [ZONE zone] \
                     [FIGURES figures] [SETTINGS settings]";
const NAME_RULE: &str = "1 to 64 of A-Z a-z 0-9 . _ : -, not beginning with a dot";

/// `LOG.NODE shard node-id address role priority applied-offset version wait-ms [ZONE zone] [FIGURES figures]
/// [SETTINGS settings]`. The reply is given when the poll is due.
pub fn poll(shard: &Arc<Shard>, arguments: &[Bytes]) -> Result<Poll, Refusal> {
    let usage = || failure(USAGE);
    let [_, _, node_id, address, role, priority, applied, version, wait_ms, options @ ..] = arguments else {
        return Err(usage());
    };
    let (mut zone, mut figures, mut settings) = ("", None, None);
    for option in options.chunks(2) {
        match option {
            [name, value] if name.eq_ignore_ascii_case(ZONE.as_bytes()) => zone = text(value)?,
            [name, value] if name.eq_ignore_ascii_case(FIGURES.as_bytes()) => {
                figures = Some(NodeFigures::parse(text(value)?).map_err(failure)?);
            }
            [name, value] if name.eq_ignore_ascii_case(SETTINGS.as_bytes()) => {
                settings = Some(Arc::new(NodeSettings::parse(text(value)?).map_err(failure)?));
            }
            _ => return Err(usage()),
        }
    }
    if !zone.is_empty() && !is_valid_name(zone) {
        return Err(failure(format!("not a valid zone: {NAME_RULE}")));
    }
    let (node_id, address) = (leadership_commands::node_id(node_id)?, leadership_commands::address(address)?);
    let role = Role::from_word(text(role)?).ok_or_else(|| failure("role must be leader, follower or attaching"))?;
    let priority = number(priority, "priority")?;
    let priority = u16::try_from(priority).ok().filter(|priority| *priority <= MAX_PRIORITY);
    let priority = priority.ok_or_else(|| failure(format!("priority must be 0 to {MAX_PRIORITY}")))?;
    let applied = number(applied, "applied-offset")?;
    let version = number(version, "version")?;
    let wait = Duration::from_millis(number(wait_ms, "wait-ms")?.min(MAX_POLL_WAIT_MS));
    shard.poll(Heard { node_id, address, role, priority, applied, wait, zone, figures, settings }, version)
}

/// The reply to a poll, by the shard's state now.
///
/// # Errors
/// The shard has ended meanwhile.
pub fn answer(poll: &Poll) -> Result<Reply, Refusal> {
    poll.shard().check_not_ended()?;
    let status = poll.shard().status();
    let audit = poll.shard().wanted_audit().map(|order| ("audit", order.to_string()));
    let fields = for_nodes(&status).map(|(name, value)| (name, value.to_string()));
    let takes = [TAKES_FIGURES, TAKES_SETTINGS].map(|field| (field, "1".to_owned()));
    let items = fields.chain(takes).chain(audit).flat_map(|(name, value)| [reply::bulk(name), reply::bulk(value)]);
    Ok(reply::array(items.chain(fields_of_nodes(&status)).collect()))
}

/// Names and values of the nodes: `node0`, `node1` …
pub fn fields_of_nodes(status: &Status) -> impl Iterator<Item = Reply> + '_ {
    let nodes = status.nodes.iter().enumerate();
    nodes.flat_map(|(at, node)| [reply::bulk(format!("node{at}")), reply::bulk(line(node))])
}

fn line(node: &NodeStatus) -> String {
    let NodeStatus { id, address, role, priority, applied, lag_bytes, lag_ms, contact_ms, zone, figures, .. } = node;
    let role = role.word();
    let sees = figures.and_then(|figures| figures.sees_majority());
    let sees = sees.map_or_else(String::new, |sees| format!(",sees_majority={}", u8::from(sees)));
    format!(
        "id={id},address={address},role={role},priority={priority},applied={applied},\
         lag_bytes={lag_bytes},lag_ms={lag_ms},contact_ms={contact_ms},zone={zone}{sees}"
    )
}
