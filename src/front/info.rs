//! The fields that `DURABILITY.STATUS` and `INFO durability` show, each declared once. Main thread only.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::decide::ack_times::Acks;
use crate::decide::taken_replies;
use crate::decide::write_limit::{Behind, Verdict};
use crate::exchange::lease_clock;
use crate::exchange::link::LinkStatus;
use crate::node::command_filter::refusal::REFUSED_COMMANDS;
use crate::node::{Module, Role};
use crate::server::cluster::bus_messages;
use crate::server::{api, support};
use crate::settings;

/// A value as it is shown.
pub enum Figure {
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
}

impl From<i64> for Figure {
    fn from(number: i64) -> Self {
        Figure::Number(number)
    }
}

impl From<u64> for Figure {
    fn from(number: u64) -> Self {
        Figure::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Figure {
    fn from(number: usize) -> Self {
        Figure::from(number as u64)
    }
}

impl From<String> for Figure {
    fn from(text: String) -> Self {
        Figure::Text(text)
    }
}

impl From<&str> for Figure {
    fn from(text: &str) -> Self {
        Figure::Text(text.to_owned())
    }
}

/// What fields are computed from: the module, and what several fields share, so that all of them belong to one moment.
struct Source<'a> {
    module: &'a Module,
    now: Instant,
    behind: Behind,
    is_leader: bool,
    /// The epoch that the log service reports; none if it has not reported any.
    reported_epoch: Option<u64>,
    /// Name and address of the leader; empty if they are not known.
    leader: (String, String),
    differing_settings: String,
    /// Acknowledgements since the module was loaded.
    acks: Acks,
    /// Those of the last minute.
    minute_acks: Acks,
}

/// A field that is always shown.
struct Field {
    name: &'static str,
    value: fn(&Source<'_>) -> Figure,
    /// What it means, as the comment above its declaration says.
    #[cfg(test)]
    meaning: &'static str,
}

/// Declares fields. The comment above each says what it means to an operator.
macro_rules! fields {
    ($($(#[doc = $meaning:literal])+ $name:ident: |$it:ident| $value:expr;)+) => {
        /// All fields that are always shown, in the order in which they are shown.
        static FIELDS: &[Field] = &[$(Field {
            name: stringify!($name),
            value: |$it| Figure::from($value),
            #[cfg(test)]
            meaning: concat!($($meaning),+),
        }),+];
    };
}

fields! {
    /// The mode in force: sync, async or off.
    mode: |it| it.module.mode.name();
    /// What this node is to its shard: off, attaching, follower, leader, suspended, replica or refused.
    role: |it| it.module.role.name();
    /// The shard of the log service that this node belongs to.
    shard: |_it| settings::SHARD.value();
    /// The name of this node among those of its shard.
    node_id: |it| it.module.shared.node_id.get().cloned().unwrap_or_else(|| settings::NODE_ID.value());
    /// The configured address of the log service, or those of all of them.
    log: |_it| settings::LOG.value();
    /// The address of the log service in use, of those that are configured.
    log_service: |it| it.module.shared.services.in_use().address.as_str();
    /// Whether the connection to the log is up or down.
    link: |it| link(it.module.shared.link.status());
    /// The id of the log that this node knows; empty if it knows none.
    log_id: |it| it.module.shared.known().map_or_else(String::new, |known| known.log);
    /// How the log contradicts what this node knows; empty if it does not.
    log_contradiction: |it| it.module.shared.contradiction().map_or_else(String::new, |it| it.detail);
    /// The name of the node that leads; empty if it is not known.
    leader: |it| it.leader.0.as_str();
    /// Where clients reach the node that leads; empty if it is not known.
    leader_address: |it| it.leader.1.as_str();
    /// The epoch that this node leads, or that it follows; 0 if there is none.
    epoch: |it| epoch(it);
    /// The end of the replication stream, exclusive.
    current_offset: |it| api::replication_offset(&it.module.ctx);
    /// The end of what the log has acknowledged, exclusive; 0 unless this node leads.
    durable_offset: |it| if it.is_leader { it.module.shared.durable().unwrap_or(0) } else { 0 };
    /// Age in milliseconds of the oldest write that the log has not acknowledged; 0 if there is none.
    lag_ms: |it| it.behind.lag.as_millis() as u64;
    /// Bytes of the stream that the log has not acknowledged.
    pending_bytes: |it| it.behind.pending_bytes;
    /// Acknowledgements by the log: groups of writes that were found durable together.
    acks: |it| it.acks.count;
    /// Median time in microseconds from the writes of a group to the moment that this node found them durable; 0 without any.
    ack_p50_us: |it| it.acks.p50_us;
    /// The time in microseconds that 99 % of them took at most.
    ack_p99_us: |it| it.acks.p99_us;
    /// The longest of them, in microseconds.
    ack_max_us: |it| it.acks.max_us;
    /// Acknowledgements of the last minute, and of up to ten seconds before it.
    minute_acks: |it| it.minute_acks.count;
    /// The median time of these, in microseconds.
    minute_ack_p50_us: |it| it.minute_acks.p50_us;
    /// The time in microseconds that 99 % of these took at most.
    minute_ack_p99_us: |it| it.minute_acks.p99_us;
    /// The longest of these, in microseconds.
    minute_ack_max_us: |it| it.minute_acks.max_us;
    /// Clients whose replies wait for the log.
    held_clients: |it| it.module.gate.as_ref().map_or(0, |gate| gate.held_clients());
    /// Clients that have ended their sending and still get what waits for the log.
    half_closed_clients: |it| it.module.gate.as_ref().map_or(0, |gate| gate.connections.half_closed.borrow().len());
    /// Bytes of replies and of messages to other nodes of the cluster that wait in the module's memory.
    held_bytes: |_it| taken_replies::total() + bus_messages::waiting().1 as u64;
    /// Messages to other nodes of the cluster that wait for the log. Each counts once for each node that it goes to.
    held_messages: |_it| bus_messages::waiting().0;
    /// Such messages that were lost because they would have taken more than durability.max-held-bytes.
    lost_messages: |_it| bus_messages::lost();
    /// Clients that were closed for the memory that their replies took.
    held_clients_closed: |it| it.module.limits.held_memory.closed;
    /// Keys that were written and that the log has not acknowledged.
    dirty_keys: |it| it.module.gate.as_ref().map_or(0, |gate| gate.dirty_keys());
    /// Groups of writes that the log has not acknowledged.
    waiting_groups: |it| it.module.gate.as_ref().map_or(0, |gate| gate.waiting_groups());
    /// 1 while writes are refused because the log is too far behind, else 0.
    refusing_writes: |it| u64::from(it.module.limits.writes.verdict() == Verdict::Refused);
    /// Times that writes began to be refused because the log was too far behind.
    refusals: |it| it.module.limits.writes.refusals();
    /// Total time in milliseconds for which writes were refused, including a refusal still in progress.
    refused_time_ms: |it| it.module.limits.writes.refused_for(it.now).as_millis() as u64;
    /// How long in milliseconds the log will take for what it lacks, at its pace of late; never less than lag_ms.
    expected_lag_ms: |it| it.module.limits.writes.throttle.expected_lag(it.now, &it.behind).as_millis() as u64;
    /// 1 while writers are slowed down to the log's pace (durability.throttle), else 0.
    throttling: |it| u64::from(it.module.limits.writes.throttle.is_on());
    /// Clients whose replies wait because of that now; held_clients counts them as well.
    throttled_clients: |it| it.module.gate.as_ref().map_or(0, |gate| gate.throttled_clients());
    /// Writes whose replies waited because of that.
    throttled_writes: |it| it.module.limits.writes.throttle.writes;
    /// Times that writers began to be slowed down.
    throttles: |it| it.module.limits.writes.throttle.count();
    /// Total time in milliseconds for which writers were slowed down, including one still in progress.
    throttled_time_ms: |it| it.module.limits.writes.throttle.time(it.now).as_millis() as u64;
    /// Commands that were refused, for any reason.
    refused_commands: |_it| REFUSED_COMMANDS.load(Ordering::Relaxed);
    /// Clients that were closed because their replies waited longer than durability.sync-timeout-ms.
    sync_timeouts: |it| it.module.limits.timed_out_clients;
    /// When writes were last not sent to the log, in milliseconds since 1970: the beginning of that time; 0 if there was none.
    unlogged_from_ms: |it| it.module.unlogged.time.from_ms;
    /// The end of that time; 0 while it goes on.
    unlogged_until_ms: |it| it.module.unlogged.time.until_ms;
    /// Writes that were found not to be in the replication stream.
    unlogged_writes: |it| it.module.unlogged.writes.count;
    /// The command that made the last of these writes; empty if no command did.
    last_unlogged_command: |it| it.module.unlogged.writes.last_command.as_str();
    /// Times that the connection to the log was made anew.
    log_reconnects: |it| it.module.shared.log_reconnects.load(Ordering::Relaxed);
    /// Times that the module's own replication connection to the server was made anew.
    tap_reconnects: |it| it.module.shared.tap_reconnects.load(Ordering::Relaxed);
    /// Times that the log was started anew from a snapshot of this node.
    seeds: |it| it.module.shared.initial_snapshots.load(Ordering::Relaxed);
    /// Milliseconds until the lease passes; 0 once it has, -1 if this node needs none or has one that does not expire.
    lease_left_ms: |_it| lease_clock::left_ms();
    /// Times that the lease passed without being renewed, so that all clients were closed.
    suspensions: |it| it.module.shared.suspensions.load(Ordering::Relaxed);
    /// Times that another node took over from this one.
    depositions: |it| it.module.shared.depositions.load(Ordering::Relaxed);
    /// The most bytes that this node may have written and given up because another node took over.
    discarded_bytes: |it| it.module.shared.discarded_bytes.load(Ordering::Relaxed);
    /// What keeps the lease from being renewed; empty if nothing does.
    lease_error: |it| it.module.shared.lease_error();
    /// Why the last planned failover did not take place; empty if it did, or none was asked for.
    failover_error: |it| it.module.shared.failover_error();
    /// Of which users (acl) and settings the nodes of the shard have different ones; empty if they are alike, or it is not known.
    differing_settings: |it| it.differing_settings.as_str();
    /// Whether holding replies works in this server: not run (and why, if it cannot), passed, or failed and why.
    self_test: |it| self_test(it.module.self_test.as_ref(), support::why_sync_is_impossible());
    /// Why this node refuses clients, or else the last thing that went wrong; empty if nothing has since all was well.
    last_error: |it| last_error(it.module);
}

/// Milliseconds since the log service last reported the shard's nodes. Shown once it has.
const NODES_HEARD_MS: &str = "nodes_heard_ms";

/// The shard's nodes as the log service reports them, one each. Shown as far as there are nodes; a shard may have more, and `LOG.STATUS`
/// shows them all.
const NODES: [&str; 8] = ["node0", "node1", "node2", "node3", "node4", "node5", "node6", "node7"];

/// All fields with their values, in the order in which they are shown.
pub fn figures(module: &mut Module) -> Vec<(&'static str, Figure)> {
    let (behind, now) = (module.behind(), Instant::now());
    let (acks, minute_acks) = (module.limits.writes.ack_times.ever(), module.limits.writes.ack_times.last_minute(now));
    let view = module.shared.view();
    let source = Source {
        module,
        now,
        behind,
        is_leader: module.role.leads(),
        reported_epoch: view.as_ref().map(|view| view.epoch),
        acks,
        minute_acks,
        differing_settings: view.as_ref().map_or_else(String::new, |view| view.differing_settings.clone()),
        leader: view.as_ref().map(|view| (view.leader.clone(), view.leader_address.clone())).unwrap_or_default(),
    };
    let mut figures: Vec<_> = FIELDS.iter().map(|field| (field.name, (field.value)(&source))).collect();
    if let Some(view) = view {
        let age_ms = view.at.elapsed().as_millis() as u64;
        figures.push((NODES_HEARD_MS, age_ms.into()));
        figures.extend(NODES.into_iter().zip(&view.nodes).map(|(name, node)| (name, node.text.as_str().into())));
    }
    figures
}

fn link(link: LinkStatus) -> &'static str {
    match link {
        LinkStatus::Up => "up",
        LinkStatus::Down => "down",
    }
}

/// Its own while this node leads; as a follower, the one that the log service reports.
fn epoch(it: &Source<'_>) -> u64 {
    match (it.module.shared.epoch.load(Ordering::Relaxed), it.reported_epoch) {
        (0, Some(reported)) if it.module.role == Role::Follower => reported,
        (epoch, _) => epoch,
    }
}

fn self_test(result: Option<&Result<(), String>>, impossible: Option<String>) -> String {
    match result {
        None => impossible.map_or_else(|| "not run".to_owned(), |why| format!("not run: {why}")),
        Some(Ok(())) => "passed".to_owned(),
        Some(Err(why)) => format!("failed: {why}"),
    }
}

fn last_error(module: &Module) -> String {
    match &module.role {
        Role::Refused(why) => why.clone(),
        _ => module.shared.last_error(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_field_has_one_name_and_a_meaning() {
        let mut names: HashSet<_> = NODES.into_iter().chain([NODES_HEARD_MS]).collect();
        for field in FIELDS {
            assert!(names.insert(field.name), "{} is declared twice", field.name);
            assert!(field.meaning.trim().ends_with('.'), "{}: {}", field.name, field.meaning);
        }
        assert_eq!(names.len(), FIELDS.len() + NODES.len() + 1);
    }
}
