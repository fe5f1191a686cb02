//! What an operator touches: loading the module, its configs, commands and figures. Main thread.
//!
//! Read `entry.rs` first: what the server gets when it loads the library. `start.rs` loads and unloads the module. `commands.rs` and
//! `failover_command.rs` are the `DURABILITY.*` commands, `command_docs.rs` their texts, and `info.rs` the figures of `INFO durability`
//! and `DURABILITY.STATUS`.

pub mod command_docs;
pub mod commands;
pub mod config_registration;
pub mod entry;
pub mod failover_command;
pub mod info;
pub mod reset;
pub mod slots_command;
pub mod start;
