//! Explores what the nodes of a shard and the log service do together when messages are lost, late, doubled and out of
//! order, clocks run apart, and processes stand still, die and come back.
//!
//! The decisions are not written down again here: nodes run `durability_leadership`'s `Lease` and `Election`, and the log
//! service runs its own `Epochs`. The model adds what is between them. Each [`Rules`] flag takes one rule away, and the
//! checks show that the search then finds what the rule is there for.
//!
//! A second model beside it, [`moving`], has two shards of a cluster and a slot that moves between them.

mod ledger;
mod log_leader;
pub mod moving;
mod network;
mod node;
pub mod search;
mod time;
mod world;

#[cfg(test)]
mod checks;
#[cfg(test)]
mod log_leader_checks;

pub use search::{Bounds, Rules, Shard};
pub use world::World;
