//! The service over its sockets.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod appending;
mod client;
mod replicas;
mod seeding;
mod tls;
mod tunnel;
