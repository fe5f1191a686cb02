//! What the log service says of a shard's leadership and of its nodes.

use std::time::{Duration, Instant};

use durability_leadership::Peer;
use durability_protocol::audit::AuditOrder;
use durability_protocol::{TAKES_FIGURES, TAKES_SETTINGS};
use redis_protocol::resp2::types::OwnedFrame;

use crate::log::reply::fields;

/// Whether anybody leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaseState {
    /// Nobody leads, or the lease has passed.
    #[default]
    Free,
    /// A node leads. Its lease lasts at least that long, or does not expire.
    Held(Option<Duration>),
}

impl LeaseState {
    /// Reads `lease_remaining_ms` of `LOG.NODE` and `LOG.STATUS`: 0 if the lease has passed, -1 if there is none, -2 if it does not expire.
    ///
    /// # Errors
    /// The text is no such number.
    pub fn parse(remaining_ms: &str) -> Result<Self, String> {
        match remaining_ms.parse::<i64>() {
            Ok(0 | -1) => Ok(LeaseState::Free),
            Ok(-2) => Ok(LeaseState::Held(None)),
            Ok(left @ 1..) => Ok(LeaseState::Held(Some(Duration::from_millis(left.unsigned_abs())))),
            _ => Err(format!("the log service says that the lease lasts {remaining_ms} ms")),
        }
    }
}

/// A node of the shard, as the log service sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// As the service shows it, for people: `id=n1,address=...`.
    pub text: String,
    /// Its name.
    pub id: String,
    /// Where clients reach it.
    pub address: String,
    /// Of the nodes that can take over, the one with the highest priority does. 0: this one never does.
    pub priority: u32,
    /// What it has applied (exclusive end).
    pub applied: u64,
    /// How long ago the log service heard from it.
    pub contact: Duration,
    /// Whether it sees the majority of its cluster's primaries; none if it is in no cluster, or that is not known.
    pub sees_majority: Option<bool>,
}

/// The answer to `LOG.NODE`.
#[derive(Debug, Clone)]
pub struct ShardView {
    /// When it came.
    pub at: Instant,
    /// Grows with each change of leadership.
    pub version: u64,
    /// The newest epoch.
    pub epoch: u64,
    /// Who leads, or led last; empty if nobody did.
    pub leader: String,
    /// Where clients reach it.
    pub leader_address: String,
    /// Which process it is; empty if that is not known. See `base/process_identity.rs`.
    pub leader_process: String,
    /// Whether it still leads.
    pub lease: LeaseState,
    /// The node that the lease is reserved for; empty if it is reserved for none.
    pub reserved_for: String,
    /// The epoch of the leader that last began to write.
    pub stream_epoch: u64,
    /// The replication id under which that leader writes.
    pub replid: String,
    /// The log's end (exclusive).
    pub end: u64,
    /// The audit that the log service wants; `None` if it wants none.
    pub audit: Option<AuditOrder>,
    /// Whether the log service takes figures for monitoring.
    pub takes_figures: bool,
    /// Whether it takes settings, to compare them with those of other nodes.
    pub takes_settings: bool,
    /// Of which users and settings the nodes have different ones, with commas between the names; empty if they are alike.
    pub differing_settings: String,
    /// All nodes that the log service knows.
    pub nodes: Vec<NodeView>,
    /// When the log service answered again after an [`OUTAGE`]; `None` if there was none.
    pub heard_again: Option<Instant>,
}

/// If two answers are further apart than this, the log service was away, or this process stood still.
const OUTAGE: Duration = Duration::from_millis(500);
/// For this long after an outage, the previous leader goes first. It has all that was written, and asks for its lease again within this
/// time. The lease may have passed only because it could not be renewed.
const OLD_LEADER_FIRST: Duration = Duration::from_secs(1);

impl ShardView {
    /// This view comes after the view `before`.
    pub fn follow(&mut self, before: &ShardView) {
        let was_away = self.at.saturating_duration_since(before.at) > OUTAGE;
        let is_as_before = (self.epoch, self.lease) == (before.epoch, before.lease) && self.leader == before.leader;
        // The previous leader gets this time once for each time that the lease is free, however bad the connection is.
        let is_waited_for = before.heard_again.is_some() && self.lease == LeaseState::Free && is_as_before;
        self.heard_again = if was_away && !is_waited_for { Some(self.at) } else { before.heard_again };
    }

    /// How much longer to leave a free lease to its previous holder; `None` if there is no such node, or it is `node_id`.
    pub fn left_to_old_leader(&self, node_id: &str, now: Instant) -> Option<Duration> {
        let is_for_it = self.leader.is_empty() || self.leader == node_id || self.reserved_for == node_id;
        let heard_again = self.heard_again.filter(|_| self.lease == LeaseState::Free && !is_for_it)?;
        OLD_LEADER_FIRST.checked_sub(now.saturating_duration_since(heard_again)).filter(|left| !left.is_zero())
    }

    /// The nodes, as the election sees them.
    pub fn peers(&self) -> Vec<Peer<'_>> {
        let age = self.at.elapsed();
        let peer = |node| {
            let NodeView { id, priority, applied, contact, .. }: &NodeView = node;
            Peer { node_id: id, priority: *priority, applied: *applied, silent_for: contact.saturating_add(age) }
        };
        self.nodes.iter().map(peer).collect()
    }

    /// Reads the answer: names and values in turn.
    ///
    /// # Errors
    /// The reply is no such answer.
    pub fn read(reply: &OwnedFrame) -> Result<Self, String> {
        let mut view = ShardView {
            at: Instant::now(),
            version: 0,
            epoch: 0,
            leader: String::new(),
            leader_address: String::new(),
            leader_process: String::new(),
            lease: LeaseState::Free,
            reserved_for: String::new(),
            stream_epoch: 0,
            replid: String::new(),
            end: 0,
            audit: None,
            takes_figures: false,
            takes_settings: false,
            differing_settings: String::new(),
            nodes: Vec::new(),
            heard_again: None,
        };
        let mut has_end = false;
        for (name, value) in fields("LOG.NODE", reply)? {
            let number = || value.parse::<u64>().map_err(|_| format!("LOG.NODE says that {name} is '{value}'"));
            match name.as_str() {
                "version" => view.version = number()?,
                "epoch" => view.epoch = number()?,
                "leader" => view.leader = value,
                "leader_address" => view.leader_address = value,
                "leader_process" => view.leader_process = value,
                "lease_remaining_ms" => view.lease = LeaseState::parse(&value)?,
                "reserved_for" => view.reserved_for = value,
                "stream_epoch" => view.stream_epoch = number()?,
                "replid" => view.replid = value,
                "end" => (view.end, has_end) = (number()?, true),
                "audit" => view.audit = AuditOrder::parse(&value),
                TAKES_FIGURES => view.takes_figures = value == "1",
                TAKES_SETTINGS => view.takes_settings = value == "1",
                "differing_settings" => view.differing_settings = value,
                _ if is_node(&name) => view.nodes.push(NodeView::read(value)),
                _ => {}
            }
        }
        if has_end {
            Ok(view)
        } else {
            Err("LOG.NODE does not say where the log ends".to_owned())
        }
    }
}

fn is_node(name: &str) -> bool {
    name.strip_prefix("node")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

impl NodeView {
    fn read(text: String) -> Self {
        let mut node = NodeView::default();
        for (name, value) in text.split(',').filter_map(|field| field.split_once('=')) {
            match name {
                "id" => value.clone_into(&mut node.id),
                "address" => value.clone_into(&mut node.address),
                "priority" => node.priority = value.parse().unwrap_or(0),
                "applied" => node.applied = value.parse().unwrap_or(0),
                "contact_ms" => node.contact = Duration::from_millis(value.parse().unwrap_or(u64::MAX)),
                "sees_majority" => node.sees_majority = Some(value == "1"),
                _ => {}
            }
        }
        NodeView { text, ..node }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(fields: &[(&str, &str)]) -> OwnedFrame {
        let text = |text: &str| OwnedFrame::BulkString(text.as_bytes().to_vec());
        OwnedFrame::Array(fields.iter().flat_map(|(name, value)| [text(name), text(value)]).collect())
    }

    #[test]
    fn leader_lease_and_nodes_are_read() {
        let node =
            "id=n1,address=10.0.0.5:6379,role=follower,priority=100,applied=123,lag_bytes=0,lag_ms=0,contact_ms=12";
        let fields =
            [("version", "7"), ("leader", "n2"), ("lease_remaining_ms", "1500"), ("end", "123"), ("node0", node)];
        let view = ShardView::read(&reply(&fields)).expect("a view");
        assert_eq!((view.version, view.end, view.leader.as_str()), (7, 123, "n2"));
        assert_eq!(view.lease, LeaseState::Held(Some(Duration::from_millis(1500))));
        let expected = NodeView {
            text: node.to_owned(),
            id: "n1".to_owned(),
            address: "10.0.0.5:6379".to_owned(),
            priority: 100,
            applied: 123,
            contact: Duration::from_millis(12),
            sees_majority: None,
        };
        assert_eq!(view.nodes, [expected]);
        for (value, sees_majority) in [("0", false), ("1", true)] {
            let text = format!("{node},zone=,sees_majority={value}");
            let view = ShardView::read(&reply(&[("end", "123"), ("node0", &text)])).expect("a view");
            assert_eq!(view.nodes[0].sees_majority, Some(sees_majority));
        }
    }

    #[test]
    fn a_lease_that_nobody_holds_is_free() {
        for (text, state) in [("0", LeaseState::Free), ("-1", LeaseState::Free), ("-2", LeaseState::Held(None))] {
            assert_eq!(LeaseState::parse(text), Ok(state));
        }
        assert!(LeaseState::parse("-3").is_err() && LeaseState::parse("soon").is_err());
    }

    #[test]
    fn after_an_outage_the_lease_is_left_to_who_held_it_for_a_while() {
        let fields = [("leader", "n2"), ("lease_remaining_ms", "0"), ("end", "123")];
        let first = ShardView::read(&reply(&fields)).expect("a view");
        let later = |ms| first.at + Duration::from_millis(ms);
        let next = |before: &ShardView, ms| {
            let mut view = ShardView { at: later(ms), ..first.clone() };
            view.follow(before);
            view
        };
        let second = next(&first, 400);
        assert_eq!(second.left_to_old_leader("n1", later(400)), None, "it was not away");
        let third = next(&second, 2000);
        let fourth = next(&third, 2300);
        let fifth = next(&fourth, 4000);
        assert_eq!(fifth.left_to_old_leader("n1", later(4000)), None, "nobody came, however bad the connection is");
        for view in [&third, &fourth] {
            assert_eq!(view.left_to_old_leader("n1", later(2400)), Some(Duration::from_millis(600)));
            assert_eq!(view.left_to_old_leader("n1", later(3000)), None);
            assert_eq!(view.left_to_old_leader("n2", later(2400)), None, "this is the one that held it");
        }
        for view in [
            ShardView { leader: String::new(), ..third.clone() },
            ShardView { reserved_for: "n1".to_owned(), ..third.clone() },
            ShardView { lease: LeaseState::Held(None), ..third.clone() },
        ] {
            assert_eq!(view.left_to_old_leader("n1", later(2400)), None);
        }
    }

    #[test]
    fn an_answer_without_an_end_is_none() {
        assert!(ShardView::read(&reply(&[("version", "1")])).is_err());
        assert!(ShardView::read(&reply(&[("version", "1"), ("end", "-1")])).is_err());
        assert!(ShardView::read(&OwnedFrame::Integer(1)).is_err());
    }
}
