//! A slot that moves between two shards of a cluster, each of which has a log service of its own, so that nothing is written in both logs
//! at once. Leaders are followed by others at any step, and those that were deposed go on without knowing it; messages are late, lost,
//! sent again and in any order.
//!
//! That at most one node of a shard answers is taken for granted here, as [`crate::Shard`] shows it: from the moment at which a log service
//! has a newer epoch, the leader of the older one answers nobody and its appends are refused. It still sends what it would send.
//!
//! The log service's part is the module [`record`], a leader's is [`leader`] and [`standing`], and [`search`] says what must hold.

mod leader;
mod message;
mod record;
pub mod search;
mod standing;
mod world;

#[cfg(test)]
mod checks;
