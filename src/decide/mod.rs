//! The decisions, in plain Rust: no server, no socket and no clock. Time, limits and facts are passed in, so each decision is tested
//! without a server. Nearly all of it belongs to the main thread; `valve.rs` and `push_messages.rs` also run on the I/O thread that
//! writes to a connection.
//!
//! Read `dependency.rs` first: what a command dirties, and what its reply waits for. Then by subject:
//!
//! - Which replies wait for which writes: `gate.rs` (groups of writes, and who waits for them), `valve.rs` (which bytes of one
//!   connection may leave), `bus_link.rs` (the same for messages to other nodes of a cluster), `dirty_keys.rs`, `watched_keys.rs`, `push_messages.rs`, `client_lookup.rs`; `command_properties.rs` says what
//!   follows from a command's name and flags.
//! - What waiting replies cost: `taken_replies.rs`, `held_memory.rs`, `reply_timeouts.rs`.
//! - What the stream must hold: `omitted_effects.rs`, `command_arguments.rs`, `silent_writes.rs`, `unlogged.rs`.
//! - How far the log may be behind: `write_limit.rs`, `queued_writes.rs`, `lag_history.rs`, and `lag.rs` one folder up. How writers are slowed
//!   down before that: `throttle.rs`, `gate_throttle.rs`. How long the log takes to acknowledge: `ack_times.rs`.
//! - What the log has, and is: `unacked.rs`, `known_log.rs`. Which service decides over it: `service_choice.rs`, and how long one may take to
//!   answer: `answer_time.rs`. When a leader that its cluster does not see hands over: `minority.rs`. How the users of two nodes are compared: `user_rules.rs`.
//! - Which slots of a cluster move: `slot_exports.rs`, `slot_imports.rs`, `slot_steps.rs`. Commands of a cluster: `cluster_commands.rs`,
//!   `cluster_claim.rs`.

pub mod ack_times;
pub mod answer_time;
pub mod bus_link;
pub mod client_lookup;
pub mod cluster_claim;
pub mod cluster_commands;
pub mod command_arguments;
pub mod command_properties;
pub mod dependency;
pub mod dirty_keys;
pub mod gate;
pub mod held_memory;
pub mod known_log;
pub mod lag_history;
pub mod minority;
pub mod omitted_effects;
pub mod push_messages;
pub mod queued_writes;
pub mod reply_timeouts;
pub mod service_choice;
pub mod silent_writes;
pub mod slot_exports;
pub mod slot_imports;
pub mod slot_steps;
pub mod taken_replies;
pub mod throttle;
pub mod unacked;
pub mod unlogged;
pub mod user_rules;
pub mod valve;
pub mod watched_keys;
pub mod write_limit;
