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
//! | `peers/` | connections between services |
//! | `wire/` | what they say, as bytes |

pub mod copy;
pub mod copy_files;
pub mod entry;
pub mod group;
pub mod handle;
pub mod peers;
pub mod wire;
