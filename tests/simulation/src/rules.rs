//! The rules of nodes, and of their connections, that the self-check takes out. Those of the shard are its own.

/// A rule that a node or its connections keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeRule {
    /// The lease counts from when its request was sent, not from when the answer came.
    CountsFromSending,
    /// Only the answer to the last request for the lease counts.
    TakesLastAnswer,
    /// Who hands over stops answering before it says so.
    GivesUpBeforeResigning,
    /// On one connection neither requests nor answers overtake each other.
    KeepsOrder,
}
