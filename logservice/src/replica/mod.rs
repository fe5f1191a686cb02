//! A shard's log on several services: each has a copy, and the consensus crate (`raft`) keeps them equal.
//!
//! The copies of one log are a *group*. One of its members leads: its service *decides over the log*, which is what a service without
//! peers always does. An entry of the group's log is either bytes of the shard's log or the next state (for a shard, its manifest), so the
//! group's log *is* the shard's log.
//!
//! | file | |
//! |---|---|
//! | `entry.rs` | what an entry says |
//! | `copy.rs` | what a group needs of a disk |
//! | `copy_files/` | copies in segment files |
//! | `group/` | one copy: plain logic over the consensus crate |
//! | `handle.rs` | how the rest of the service reaches a group |
//! | `driver/` | the thread that drives all groups |
//! | `cluster/` | the services of a cluster, and the shards that they keep together |
//! | `memory_copy/` | for tests: copies in memory |
//! | `bringing.rs` | shards that a service has kept alone before |
//! | `group_name.rs` | what groups are called |
//! | `groups.rs` | what the rest of the service needs of all groups |
//! | `store.rs`, `store_factory.rs` | a shard's store over its group, or kept alone still |
//! | `hearing.rs` | what it hears of its group |
//! | `persisted_reader.rs` | its readers, which wait for this service's own disk |
//! | `memory_group/` | for tests: groups whose other members are played by the test |
//! | `files/` | snapshots that travel between services |
//! | `peers/` | connections between services |
//! | `wire/` | what they say, as bytes |

pub mod bringing;
pub mod cluster;
pub mod copy;
pub mod copy_files;
pub mod driver;
pub mod entry;
pub mod files;
pub mod group;
pub mod group_name;
pub mod groups;
pub mod handle;
mod hearing;
#[cfg(any(test, feature = "testing"))]
pub mod memory_copy;
#[cfg(any(test, feature = "testing"))]
pub mod memory_group;
pub mod peers;
mod persisted_reader;
pub mod store;
pub mod store_factory;
pub mod wire;
