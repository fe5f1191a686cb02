//! The figures that `DURABILITY.STATUS` and `INFO durability` show.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::decide::taken_replies;
use crate::decide::write_limit::Verdict;
use crate::exchange::{lease_clock, Link};
use crate::node::command_filter::REFUSED_COMMANDS;
use crate::node::{Module, Role};
use crate::server::api;
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

/// All figures, in the order in which they are shown.
pub fn figures(module: &mut Module) -> Vec<(&'static str, Figure)> {
    let behind = module.behind();
    let now = Instant::now();
    let shared = &module.shared;
    let current = api::replication_offset(&module.ctx);
    let is_leader = matches!(module.role, Role::Leader | Role::Suspended);
    let durable = if is_leader { shared.durable().unwrap_or(0) } else { 0 };
    let gate = module.gate.as_ref();
    let link = match shared.link() {
        Link::Up => "up",
        Link::Down => "down",
    };
    let self_test = match &module.self_test {
        None => "not run".to_owned(),
        Some(Ok(())) => "passed".to_owned(),
        Some(Err(why)) => format!("failed: {why}"),
    };
    let error = match &module.role {
        Role::Refused(why) => why.clone(),
        _ => shared.last_error(),
    };
    let view = shared.view();
    let epoch = match (shared.epoch.load(Ordering::Relaxed), &view) {
        (0, Some(view)) if module.role == Role::Follower => view.epoch,
        (epoch, _) => epoch,
    };
    let mut figures = vec![
        ("mode", module.mode.name().into()),
        ("role", module.role.name().into()),
        ("shard", settings::SHARD.value().into()),
        ("node_id", shared.node_id.get().cloned().unwrap_or_else(|| settings::NODE_ID.value()).into()),
        ("log", settings::LOG.value().into()),
        ("link", link.into()),
        ("log_id", shared.known().map_or_else(String::new, |known| known.log).into()),
        ("log_contradiction", shared.contradiction().map_or_else(String::new, |it| it.detail).into()),
        ("leader", view.as_ref().map_or_else(String::new, |view| view.leader.clone()).into()),
        ("leader_address", view.as_ref().map_or_else(String::new, |view| view.leader_address.clone()).into()),
        ("epoch", epoch.into()),
        ("current_offset", current.into()),
        ("durable_offset", durable.into()),
        ("lag_ms", (behind.lag.as_millis() as u64).into()),
        ("pending_bytes", behind.pending_bytes.into()),
        ("held_clients", gate.map_or(0, |gate| gate.held_clients()).into()),
        ("half_closed_clients", gate.map_or(0, |gate| gate.connections.half_closed.borrow().len()).into()),
        ("held_bytes", taken_replies::total().into()),
        ("held_clients_closed", module.held_bound.closed.into()),
        ("dirty_keys", gate.map_or(0, |gate| gate.dirty_keys()).into()),
        ("waiting_groups", gate.map_or(0, |gate| gate.waiting_groups()).into()),
        ("refusing_writes", u64::from(module.bound.verdict() == Verdict::Refused).into()),
        ("refusals", module.bound.refusals().into()),
        ("refused_time_ms", (module.bound.refused_for(now).as_millis() as u64).into()),
        ("refused_commands", REFUSED_COMMANDS.load(Ordering::Relaxed).into()),
        ("sync_timeouts", module.timed_out_clients.into()),
        ("unlogged_from_ms", module.unlogged.from_ms.into()),
        ("unlogged_until_ms", module.unlogged.until_ms.into()),
        ("unlogged_writes", module.unlogged_writes.count.into()),
        ("last_unlogged_command", module.unlogged_writes.last_command.as_str().into()),
        ("log_reconnects", shared.log_reconnects.load(Ordering::Relaxed).into()),
        ("tap_reconnects", shared.tap_reconnects.load(Ordering::Relaxed).into()),
        ("seeds", shared.seeds.load(Ordering::Relaxed).into()),
        ("lease_left_ms", lease_clock::left_ms().into()),
        ("suspensions", shared.suspensions.load(Ordering::Relaxed).into()),
        ("depositions", shared.depositions.load(Ordering::Relaxed).into()),
        ("discarded_bytes", shared.discarded_bytes.load(Ordering::Relaxed).into()),
        ("lease_error", shared.keeper_error().into()),
        ("failover_error", shared.failover_error().into()),
        ("self_test", self_test.into()),
        ("last_error", error.into()),
    ];
    if let Some(view) = view {
        let age_ms = view.at.elapsed().as_millis() as u64;
        figures.push(("nodes_heard_ms", age_ms.into()));
        for (name, node) in NODES.into_iter().zip(&view.nodes) {
            figures.push((name, node.text.as_str().into()));
        }
    }
    figures
}

/// Names of the figures that show nodes. A shard may have more; `LOG.STATUS` shows them all.
const NODES: [&str; 8] = ["node0", "node1", "node2", "node3", "node4", "node5", "node6", "node7"];
