//! What is under way. Messages are a set that is delivered from in any order, at any time, or never.

use crate::time::Ticks;

/// Index of a node.
pub type NodeId = u8;

/// Who asks, and to whom an answer goes: a process that was started anew does not get answers to its earlier life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Which node.
    pub node: NodeId,
    /// How often it was started anew.
    pub life: u8,
}

/// A request to the log service, or its answer. Requests carry when they were sent by the clock of the sender, and
/// answers bring that back, as a node knows which request an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// `LOG.ACQUIRE`, the process's `number`th.
    Acquire { from: Process, number: u8, expected_end: u8, sent: Ticks },
    /// The lease is granted.
    Acquired { to: Process, number: u8, epoch: u8, end: u8, sent: Ticks },
    /// `LOG.RENEW`
    Renew { from: Process, epoch: u8, sent: Ticks },
    /// The lease counts anew.
    Renewed { to: Process, epoch: u8, sent: Ticks },
    /// `LOG.APPEND` of one entry.
    Append { from: Process, epoch: u8, offset: u8 },
    /// The log holds everything below `durable`.
    Appended { to: Process, epoch: u8, durable: u8 },
    /// The lease is being taken away.
    Fenced { to: Process, epoch: u8 },
    /// `LOG.RESIGN`, whose answer nobody waits for.
    Release { epoch: u8 },
}

impl Message {
    /// Whether it goes to a log service.
    pub fn is_request(&self) -> bool {
        use Message::{Acquire, Append, Release, Renew};
        matches!(self, Acquire { .. } | Renew { .. } | Append { .. } | Release { .. })
    }
}
