//! What the log service says of a shard's leadership and of its nodes.

use std::time::{Duration, Instant};

use durability_leadership::Peer;
use redis_protocol::resp2::types::OwnedFrame;

use crate::log_reply::fields;

/// Whether anybody leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaseState {
    /// Nobody does, or the lease has passed.
    #[default]
    Free,
    /// Somebody does, with a lease that lasts at least so long, or does not expire.
    Held(Option<Duration>),
}

/// A node of the shard, as the log service knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// As the service shows it, for people: `id=n1,address=...`.
    pub text: String,
    /// Its name.
    pub id: String,
    /// Where clients reach it.
    pub address: String,
    /// Among those that can take over, the highest does; 0: never.
    pub priority: u32,
    /// What it has applied (exclusive end).
    pub applied: u64,
    /// How long ago it was heard of.
    pub contact: Duration,
}

/// The answer to `LOG.NODE`.
#[derive(Debug, Clone)]
pub struct View {
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
    /// Which process it is; empty if that is not known. See `process.rs`.
    pub leader_process: String,
    /// Whether it still does.
    pub lease: LeaseState,
    /// For whom the lease is kept; empty if for nobody.
    pub reserved_for: String,
    /// The log's end (exclusive).
    pub end: u64,
    /// All nodes that are known.
    pub nodes: Vec<NodeView>,
}

impl View {
    /// The nodes, as decisions look at them.
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
    /// It is no such answer.
    pub fn read(reply: &OwnedFrame) -> Result<Self, String> {
        let mut view = View {
            at: Instant::now(),
            version: 0,
            epoch: 0,
            leader: String::new(),
            leader_address: String::new(),
            leader_process: String::new(),
            lease: LeaseState::Free,
            reserved_for: String::new(),
            end: 0,
            nodes: Vec::new(),
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
                "lease_remaining_ms" => view.lease = lease(&value)?,
                "reserved_for" => view.reserved_for = value,
                "end" => (view.end, has_end) = (number()?, true),
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

/// `LOG.NODE` tells 0 for one that has passed, -1 for none, -2 for one that does not expire.
fn lease(remaining_ms: &str) -> Result<LeaseState, String> {
    match remaining_ms.parse::<i64>() {
        Ok(0 | -1) => Ok(LeaseState::Free),
        Ok(-2) => Ok(LeaseState::Held(None)),
        Ok(left @ 1..) => Ok(LeaseState::Held(Some(Duration::from_millis(left.unsigned_abs())))),
        _ => Err(format!("LOG.NODE says that the lease lasts {remaining_ms} ms")),
    }
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
        let view = View::read(&reply(&fields)).expect("a view");
        assert_eq!((view.version, view.end, view.leader.as_str()), (7, 123, "n2"));
        assert_eq!(view.lease, LeaseState::Held(Some(Duration::from_millis(1500))));
        let expected = NodeView {
            text: node.to_owned(),
            id: "n1".to_owned(),
            address: "10.0.0.5:6379".to_owned(),
            priority: 100,
            applied: 123,
            contact: Duration::from_millis(12),
        };
        assert_eq!(view.nodes, [expected]);
    }

    #[test]
    fn a_lease_that_nobody_holds_is_free() {
        for (text, state) in [("0", LeaseState::Free), ("-1", LeaseState::Free), ("-2", LeaseState::Held(None))] {
            assert_eq!(lease(text), Ok(state));
        }
        assert!(lease("-3").is_err() && lease("soon").is_err());
    }

    #[test]
    fn an_answer_without_an_end_is_none() {
        assert!(View::read(&reply(&[("version", "1")])).is_err());
        assert!(View::read(&reply(&[("version", "1"), ("end", "-1")])).is_err());
        assert!(View::read(&OwnedFrame::Integer(1)).is_err());
    }
}
