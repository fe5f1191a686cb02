//! The decisions, in plain Rust: no server, no socket and no clock, so each is tested without one.

pub mod client_lookup;
pub mod dirty_keys;
pub mod gate;
pub mod held_memory;
pub mod known_log;
pub mod lag_history;
pub mod push_messages;
pub mod queued_writes;
pub mod reply_timeouts;
pub mod silent_writes;
pub mod taken_replies;
pub mod unacked;
pub mod unlogged;
pub mod valve;
pub mod watched_keys;
pub mod write_limit;
