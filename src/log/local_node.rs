//! This node, as its connections to the log service introduce it.

use durability_protocol::Known;

use crate::base::time_limit::EndTime;
use crate::log::services::Services;

/// What a connection needs to know of this node. It asks when it needs the answer, as answers change while it waits. Any thread.
pub trait LocalNode: Send + Sync {
    /// The name of this node; empty before it is known.
    fn node_id(&self) -> String;

    /// Where clients reach this node.
    fn address(&self) -> String;

    /// What this node knows of its log; `None` if it has seen none.
    fn known(&self) -> Option<Known>;

    /// The log services, and which of them is in use.
    fn services(&self) -> &Services;

    /// By when this node ends, or leaves its log: a connection waits no longer.
    fn end(&self) -> &EndTime;
}

/// This node's name and address at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// Its name.
    pub id: &'a str,
    /// Where clients reach it.
    pub address: &'a str,
}
