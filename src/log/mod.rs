//! Connections to the log service, and what it answers. Agent and lease keeper; nothing here knows the server, and nothing waits
//! longer than a limit that its caller gives.
//!
//! - `append_link`: the shipper's connection, on which appends and acknowledgements never wait
//! - `control`, `control_commands`, `slot_commands`: a connection for single questions, and the questions
//! - `services`: which of several log services is in use
//! - `connect`, `address`, `socket`: how both reach the service: its addresses, and TLS
//! - `request`, `reply`, `shard_view`, `error`: what is sent, and what is answered
//! - `local_node`: what a connection needs to know of this node

pub mod address;
pub mod append_link;
pub mod connect;
pub mod control;
pub mod control_commands;
pub mod error;
pub mod local_node;
pub mod reply;
pub mod request;
pub mod services;
pub mod shard_view;
pub mod slot_commands;
pub mod socket;
#[cfg(test)]
pub mod socket_tests;
