//! The log server of durable Valkey.
//!
//! A shard's log is the byte stream that a Valkey primary sends to its replicas, addressed by replication offset.
//! The service stores it, acknowledges what is durable, lets one leader at a time append, and replays it to anyone
//! who asks with Valkey's own `PSYNC`.
//!
//! From the bottom up: [`store`] keeps bytes (files here, another engine later), [`shard`] gives them their meaning
//! (epochs, leases, conditional append, "tell me when this is durable"), [`service`] holds the shards of one
//! directory, and [`resp`] and [`http`] translate two protocols into calls on a shard.

mod accept;
pub mod audit;
pub mod config;
mod cutter;
pub mod encryption;
pub mod engine;
mod guesses;
pub mod http;
#[cfg(test)]
mod http_fuzz;
mod http_places;
pub mod http_port;
pub mod inspect;
pub mod limits;
mod lingering;
mod network;
mod pass;
mod places;
pub mod printable;
pub mod private;
pub mod resp;
pub mod restore;
pub mod roles;
pub mod server;
pub mod service;
pub mod shard;
pub mod snapshots;
pub mod snapshotter;
pub mod store;
mod strangers;
mod throttle;
pub mod tls;
pub mod tokens;
mod turns;
mod uploads;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;
