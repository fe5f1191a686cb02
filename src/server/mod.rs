//! The server, as far as the `valkey-module` crate does not wrap it: its module API, its internals, its connections. Nearly all `unsafe` is here.

pub mod api;
pub mod client_layout;
pub mod command_names;
pub mod command_table;
pub mod config_apply;
pub mod connections;
pub mod data_types;
pub mod debug_command;
pub mod follow_settings;
pub mod half_closed;
pub mod handed_over;
pub mod held_table;
pub mod internals;
pub mod keys;
pub mod late_holds;
pub mod named_link;
pub mod propagation;
pub mod read_pause;
pub mod replaced_commands;
pub mod running_client;
pub mod write_path;
