//! What is wrong with a service and its shards at one moment, for people who look at it: each problem has the name and the words of an alert
//! of `deploy/prometheus/durability.rules.yml`, which `docs/alerts.md` explains. Plain logic over an [`Overview`](super::overview::Overview).
//!
//! Alerts wait for a while before they wake anybody, and some of them look at how a figure has grown. Here a problem is told as soon as it is
//! there, so what only shows over time is not among them.

use std::time::Duration;

use durability_protocol::NodeFigures;
use humantime::format_duration;
use serde::Serialize;

use super::replication::CopyStatus;
use crate::replica::groups::ServiceStatus;
use crate::shard::{AuditState, Difference, LogState, NodeStatus, Role, Status, DECIDER_SILENT_AFTER};

/// What a node told is not used any more when it was not heard of for so long, in milliseconds.
const NODE_AWAY_MS: u64 = 30_000;
/// A node that applies the log so late is behind, in milliseconds.
const NODE_BEHIND_MS: u64 = 10_000;
/// A wait for the log that is too long for one write in a hundred, in microseconds.
const SLOW_ACK_US: u64 = 100_000;
/// Entries of the log that a copy is behind when it does not keep up.
const COPY_BEHIND_ENTRIES: u64 = 1000;
/// Snapshots that have failed for so long are a red problem, in milliseconds.
const SNAPSHOTS_FAIL_MS: u64 = 900_000;
/// The newest snapshot is overdue when there is so many times as much log behind it as should be between two snapshots.
const OVERDUE_TIMES: u64 = 4;
/// What should be between two snapshots where they are made on request only.
const DEFAULT_SNAPSHOT_LOG_BYTES: u64 = 256 << 20;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// To be looked at: it may become worse.
    Amber,
    /// Applications are refused or wait, or one more fault could lose something or stop everything.
    Red,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The alert that tells the same.
    pub alert: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What it is, in a sentence, and why if that is known.
    pub text: String,
}

/// What is looked at besides a shard.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The name of this service, or what stands for it.
    pub own_name: &'a str,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// Bytes of log after which a snapshot is made; 0 only on request.
    pub snapshot_log_bytes: u64,
}

/// What is wrong with the service itself. `not_ready` is why it is not.
pub fn of_service(own_name: &str, not_ready: Option<&str>, services: &[ServiceStatus]) -> Vec<Problem> {
    let mut found = Found::default();
    if let Some(why) = not_ready {
        let text = format!("The log service {own_name} runs and cannot be used. {}", reason(why));
        found.red("LogServiceNotReady", text);
    }
    for ServiceStatus { name, .. } in services.iter().filter(|service| !service.is_connected) {
        let text = format!(
            "The log service {own_name} is not connected with {name}. Another service must not be lost until it is back, or replaced."
        );
        found.red("LogServicePeerAway", text);
    }
    found.worst_first()
}

/// What is wrong with a shard, the worst first.
pub fn of_shard(status: &Status, copies: &[CopyStatus], around: Circumstances<'_>) -> Vec<Problem> {
    let mut found = Found::default();
    found.log(status, around.own_name);
    found.copies(&status.shard, copies);
    for node in &status.nodes {
        found.node(status, node);
    }
    found.snapshots(status, around);
    found.worst_first()
}

#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    fn red(&mut self, alert: &'static str, text: String) {
        self.0.push(Problem { alert, level: Level::Red, text });
    }

    fn amber(&mut self, alert: &'static str, text: String) {
        self.0.push(Problem { alert, level: Level::Amber, text });
    }

    fn worst_first(mut self) -> Vec<Problem> {
        self.0.sort_by_key(|problem| std::cmp::Reverse(problem.level));
        self.0
    }

    fn log(&mut self, status: &Status, own_name: &str) {
        let Status { shard, state, error, standing, decider_silent_ms, .. } = status;
        if *state != LogState::Ok {
            let state = state.word();
            let text = format!("The log of {shard} at {own_name} is {state}. {}", reason(error));
            self.red("ShardLogNotServed", text);
        }
        match *standing {
            // -1: nobody leads; 0: the lease has passed. Only a service that decides knows.
            "alone" | "decides" if matches!(status.lease_remaining_ms, -1 | 0) => {
                self.red("ShardWithoutLeader", format!("No node leads {shard}. Its applications can write nothing."));
            }
            "follows" if *decider_silent_ms >= DECIDER_SILENT_AFTER.as_millis() as u64 => {
                let silent = ms(*decider_silent_ms);
                let text = format!(
                    "No log service decides over the log of {shard}, as far as {own_name} knows: it has heard of none for {silent}."
                );
                self.red("ShardWithoutDecider", text);
            }
            _ => {}
        }
        if !status.contradicted_by.is_empty() {
            let text = format!(
                "A node refuses the log of {shard}. It knows otherwise than this log is: {}.",
                status.contradicted_by
            );
            self.red("ShardLogContradicted", text);
        }
        if !matches!(status.acks, "" | "running") {
            self.amber("ShardAcknowledgementsHeld", format!("LOG.DEBUG holds the acknowledgements of {shard} back."));
        }
        if !status.full_copy_error.is_empty() {
            let why = reason(&status.full_copy_error);
            let text = format!("A node of {shard} waits for a full copy that cannot be given. {why}");
            self.red("FullCopyWaits", text);
        }
        if status.audit.differences > 0 && status.audit.state == AuditState::Done {
            let differences = status.audit.differences;
            let text = format!("An audit found {differences} differences between the leader of {shard} and its log.");
            self.red("AuditFoundDifferences", text);
        }
        // Without --max-log-mb, nothing is near the limit.
        if status.max_log_bytes > 0 && status.log_bytes.saturating_mul(10) > status.max_log_bytes.saturating_mul(8) {
            let share = percent(status.log_bytes, status.max_log_bytes);
            self.amber("LogNearItsLimit", format!("The log of {shard} at {own_name} takes {share} of --max-log-mb."));
        }
    }

    fn copies(&mut self, shard: &str, copies: &[CopyStatus]) {
        for CopyStatus { service, lag, is_heard, .. } in copies {
            let name = &service.name;
            if !is_heard {
                let text = format!(
                    "The copy of {shard} at the log service {name} is away. Another one must not be lost until this one is back, or replaced."
                );
                self.red("CopyAway", text);
            } else if *lag > COPY_BEHIND_ENTRIES {
                let text = format!("The copy of {shard} at the log service {name} is {lag} entries behind.");
                self.amber("CopyBehind", text);
            }
        }
    }

    fn node(&mut self, Status { shard, leader, .. }: &Status, node: &NodeStatus) {
        let NodeStatus { id, contact_ms, lag_ms, role, figures, differences, .. } = node;
        if *contact_ms > NODE_AWAY_MS {
            let text = format!("The node {id} of {shard} was last heard of {} ago.", ms(*contact_ms));
            match id == leader {
                true => self.red("NodeAway", text),
                false => self.amber("NodeAway", text),
            }
            return;
        }
        if *role != Role::Leader && *lag_ms > NODE_BEHIND_MS {
            self.amber("NodeBehind", format!("The node {id} of {shard} is {} behind the log.", ms(*lag_ms)));
        }
        if let Some(first) = differences.first() {
            let (other, in_what): (_, Vec<_>) = (&first.other_node, differences.iter().map(Difference::text).collect());
            let text = format!(
                "The node {id} of {shard} is set up differently from {other}: {}. Clients would notice if it took over.",
                in_what.join(", ")
            );
            self.amber("NodeSettingsDiffer", text);
        }
        let Some(NodeFigures { lag_ms, max_lag_ms, refusing_writes, acks, ack_p99_us, mode, .. }) = *figures else {
            return;
        };
        if refusing_writes > 0 {
            let text = format!(
                "The node {id} of {shard} refuses writes. Its log is further behind than durability.max-lag-ms or \
                 durability.max-pending-bytes allows."
            );
            self.red("WritesRefused", text);
        } else if lag_ms > max_lag_ms / 2 && max_lag_ms > 0 {
            let share = percent(lag_ms, max_lag_ms);
            let text = format!("The log of {shard} is behind by {share} of what the node {id} allows.");
            self.amber("LagNearLimit", text);
        }
        if acks > 0 && ack_p99_us > SLOW_ACK_US {
            let text = format!("Writes to {shard} wait up to {} for the log (99 %).", ms(ack_p99_us / 1000));
            self.amber("AcknowledgementsSlow", text);
        }
        if mode == durability_protocol::NodeMode::Off {
            self.amber("DurabilityOff", format!("The node {id} of {shard} runs in mode off."));
        }
    }

    fn snapshots(&mut self, status: &Status, around: Circumstances<'_>) {
        let Status { shard, snapshot_failing_since_ms: since, snapshot_error, .. } = status;
        if *since > 0 {
            let failing_ms = around.now_ms.saturating_sub(*since);
            let (here, lasts, why) = (around.own_name, ms(failing_ms), reason(snapshot_error));
            let text = format!("Snapshots of {shard} at {here} have failed for {lasts}. {why}");
            match failing_ms > SNAPSHOTS_FAIL_MS {
                true => self.red("SnapshotsFail", text),
                false => self.amber("SnapshotsFail", text),
            }
        }
        let wanted = match around.snapshot_log_bytes {
            0 => DEFAULT_SNAPSHOT_LOG_BYTES,
            wanted => wanted,
        };
        let behind = status.behind_snapshot_bytes();
        if behind > wanted.max(status.snapshot_bytes).saturating_mul(OVERDUE_TIMES) {
            let none = if status.snapshots == 0 { ": there is none yet" } else { "" };
            let text = format!(
                "The newest snapshot of {shard} is {} of log old{none}. A node that recovers has to replay all of it.",
                bytes(behind)
            );
            self.red("SnapshotOverdue", text);
        }
    }
}

/// Why, as a sentence. Errors end as they like.
fn reason(why: &str) -> String {
    match why.trim_end_matches(|end: char| end.is_whitespace() || ".:".contains(end)) {
        "" => "The reason is not known.".to_owned(),
        why => format!("The reason: {why}."),
    }
}

/// A duration for people, in whole seconds if it is long enough.
fn ms(ms: u64) -> String {
    let whole = if ms < 2000 { ms } else { ms / 1000 * 1000 };
    format_duration(Duration::from_millis(whole)).to_string()
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.0} %", part as f64 / whole as f64 * 100.0)
}

fn bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, shift)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(name, shift)| format!("{:.1} {name}", bytes as f64 / (1u64 << shift) as f64),
    )
}

#[cfg(test)]
#[path = "problems_tests.rs"]
mod tests;
