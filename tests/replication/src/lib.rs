//! A deterministic simulation of a replicated log. Three real copies (`Group` of the log service, over the consensus crate) run over
//! simulated disks and a simulated network. One thread drives everything, and a seed draws each step: whose time passes, which message
//! arrives, what reaches a disk, what crashes. Nothing waits for real time, so a seed gives the same steps each time.
//!
//! On each copy that leads there is a [`client`], which does what the store of a shard does: it appends at the end, replaces the state,
//! and asks whether its service is the only one that decides.
//!
//! After every step the invariants of docs/design/replication.md are checked ([`promises`]). [`seed::play`] plays one seed;
//! `durability_simulation::runner` plays many.

pub mod client;
pub mod disk;
#[cfg(feature = "files")]
mod disk_on_files;
#[cfg(feature = "files")]
pub mod files;
#[cfg(feature = "files")]
pub mod files_seed;
pub mod medium;
pub mod member;
pub mod network;
pub mod profile;
pub mod promises;
pub mod replacing;
pub mod rules;
pub mod seed;
pub mod seen;
#[cfg(feature = "self-check")]
pub mod self_check;
#[cfg(feature = "files")]
pub mod shards;
mod steps;
#[cfg(test)]
mod tests;
pub mod truth;
pub mod voters;
mod well;
pub mod world;
