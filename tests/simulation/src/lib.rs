//! A deterministic simulation of a shard. The real `Shard` of the log service runs over a simulated disk, between simulated nodes that
//! decide with the real `Lease` and `Election`. One thread drives everything, and a seed draws each step: which command goes on, which
//! write reaches the disk, which message arrives, how far time moves, what crashes. Nothing waits for real time, so a seed gives
//! the same steps each time.
//!
//! After every step the invariants of ARCHITECTURE.md are checked ([`promises`]). [`seed::play`] plays one seed; [`runner`] plays many.

pub mod connection;
mod delivery;
pub mod disk;
pub mod draw;
pub mod environment;
pub mod leader;
pub mod message;
pub mod node;
pub mod profile;
pub mod promises;
pub mod replica;
pub mod rules;
pub mod runner;
pub mod seed;
#[cfg(feature = "self-check")]
pub mod self_check;
pub mod service;
pub mod slots;
mod steps;
pub mod store;
#[cfg(test)]
mod tests;
pub mod world;
