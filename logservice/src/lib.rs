//! The log server of durable Valkey.
//!
//! A shard's log is the byte stream that a Valkey primary sends to its replicas, addressed by replication offset.
//! The service stores it, acknowledges what is durable, lets one leader at a time append, and replays it to anyone
//! who asks with Valkey's own `PSYNC`.
//!
//! The rooms, from the top down. Each uses only the ones below it, which `tests/layers.py` checks:
//!
//! | room | what is in it |
//! |---|---|
//! | [`program`] | command line, start, reload and stop |
//! | [`tools`] | `check`, `dump` and `restore` |
//! | [`resp`], [`http`] | two protocols, translated into calls on a shard |
//! | [`snapshotter`], [`archiver`] | when snapshots and audits run, and how a snapshot is made; logs on their way into archives |
//! | [`service`] | the shards of one directory: opened, looked up, dropped |
//! | [`audit`] | compares keys of a leader with the log |
//! | [`shard`] | what the bytes mean: epochs, leases, conditional append, durability |
//! | [`engine`] | valkey-servers that apply a log for snapshots, audits and restores |
//! | [`replica`] | a log on several services, kept equal by consensus |
//! | [`archive`] | log and snapshots that are kept for a time |
//! | [`snapshots`] | where snapshots are kept |
//! | [`store`] | where logs and manifests are kept |
//! | [`encryption`] | keys, and the frames in which encrypted data is stored |
//! | [`access`] | tokens, roles, logins, wrong guesses |
//! | [`connections`] | accepting, TLS, limits |
//! | [`base`] | leaves |

pub mod access;
pub mod archive;
pub mod archiver;
pub mod audit;
pub mod base;
pub mod connections;
pub mod encryption;
pub mod engine;
pub mod http;
pub mod program;
pub mod replica;
pub mod resp;
pub mod service;
pub mod shard;
pub mod snapshots;
pub mod snapshotter;
pub mod store;
pub mod tools;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;
