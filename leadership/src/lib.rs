//! Who leads a shard, as a node decides it: plain logic, without sockets, threads or a clock of its own.
//!
//! The log service decides who *may* lead: it grants a lease to one node at a time, at the log's end. What is here is the
//! other half. A leader must know when to stop ([`Lease`]), a follower when to try ([`Election`]), and a leader that is to
//! hand over must do so in an order in which nothing is lost ([`Handover`]). `tests/leadership` explores what both halves
//! do together when messages, clocks and processes misbehave.

mod election;
mod handover;
mod lease;
mod moment;
mod peer;

pub use election::{Decision, Election, Holder, Pacing, Standing, View};
pub use handover::{Aborted, Handover, Observed, Step};
pub use lease::Lease;
pub use moment::Moment;
pub use peer::Peer;
