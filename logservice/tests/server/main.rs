//! The service over its sockets.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod appending;
mod client;
mod crowds;
mod encryption;
mod hostile;
mod hostile_http;
mod identity;
mod leases;
mod leftovers;
mod monitoring;
mod nodes;
mod process;
mod replicas;
mod roles;
mod seeding;
mod sentinel;
mod shards;
mod slots;
mod strangers;
mod tls;
mod tunnel;
mod withdrawn;
mod witness;
