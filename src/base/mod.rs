//! Leaves: what every room may use, and what uses no other room. Any thread.
//!
//! `panic_guard.rs` keeps panics out of the server; each callback of the server goes through it. `time_limit.rs` bounds everything that
//! waits for the log. `process_identity.rs` and `host_name.rs` say which process this is, and what the node is called by default.

pub mod backoff;
pub mod host_name;
pub mod locks;
pub mod panic_guard;
pub mod process_identity;
pub mod time_limit;
