//! The module's state on the server's main thread, and how it changes.
//!
//! From the bottom up; a file imports those above it in this table.
//!
//! | file | |
//! |---|---|
//! | `role.rs` | what a node is to its shard |
//! | `limits.rs` | writes that are refused and clients that are closed because the log is slow |
//! | `unlogged_writes.rs` | what is written and not in the log |
//! | `read_pauses.rs` | times in which clients wait instead of being refused |
//! | `left_log.rs` | where a node left its log |
//! | `agent_handle.rs` | the main thread's end of the agent |
//! | `redirect.rs` | clients that are sent to the leader |
//! | `remembered.rs` | what `stream_commands.rs` remembers |
//! | `claims.rs` | what a leader is in its cluster, and what of that its log has stored |
//! | `slot_moves/` | slots of the cluster that move |
//! | `module.rs` | the module: all of that, and where it is kept |
//! | `monitoring.rs` | what the node reports of itself |
//! | `listening.rs` | which events of commands the server sends |
//! | `role_changes.rs` | how the role changes |
//! | `leading.rs` | how a node leads |
//! | `hand_over.rs` | planned failovers that somebody asks for |
//! | `minority.rs` | a leader that the majority of its cluster does not see |
//! | `mode_change.rs` | how the mode changes |
//! | `ran_commands.rs` | what a command that ran dirties and waits for |
//! | `event_loop.rs` | what happens in each round of the event loop |
//! | `stream_errors.rs` | what a node had to pass over in the stream that it follows |
//! | `stream_commands.rs` | which commands of the stream run |
//! | `command_filter/` | which commands are refused before they run |
//! | `login_check.rs` | logins of the module's own connections |
//! | `audit_reads.rs` | reads keys for an audit |
//! | `tasks/` | what the agent asks of the main thread |
//! | `../hooks.rs` | the server's callbacks |

mod agent_handle;
pub mod audit_reads;
pub mod claims;
pub mod command_filter;
pub mod event_loop;
pub mod hand_over;
mod leading;
pub mod left_log;
pub mod limits;
pub mod listening;
pub mod login_check;
mod minority;
pub mod mode_change;
pub mod module;
mod monitoring;
pub mod ran_commands;
pub mod read_pauses;
mod redirect;
mod remembered;
mod role;
pub mod role_changes;
pub mod slot_moves;
mod stream_commands;
pub mod stream_errors;
pub mod tasks;
mod unlogged_writes;

pub use crate::node::module::{is_in_use, loaded, must, unloaded, with, Module, Parts};
pub use crate::node::role::Role;
