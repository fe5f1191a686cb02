//! Connections to the log service, and what it says.

pub mod address;
pub mod append_link;
pub mod control;
pub mod reply;
pub mod shard_view;
pub mod socket;
#[cfg(test)]
pub mod socket_tests;
