//! The server, as far as the `valkey-module` crate does not wrap it. Nearly all `unsafe` is here.
//!
//! - What the server offers: `api/` (the module API), `events/` (what it calls the module for), `keys`, `config_apply`, `command_docs`,
//!   `module_load`, `forks`.
//! - What it does not offer to modules: `internals` (functions that it exports by accident), `structs` and `command_result` (structs that it
//!   passes), `leaving_slots` (what of the module's goes to another shard), `client_layout` and `stream_queue` (places that are found in its memory by `foreign_memory`).
//! - Its connections: `connection_functions` (functions of the module's in place of its own), `intercepted_writes` (what may leave), `read_pause` (what is
//!   read), `named_link` (the link to the log) with `loaded_objects`, `hidden_replica` (the tap among the replicas); `connections`, `held_table`, `groups`, `late_holds`, `handed_over`, `half_closed/`,
//!   `diversion`, `vectors`, `main_thread`.
//! - Its commands and its stream: `command_table`, `command_names`, `data_types`, `running_client`, `propagation`, `replaced_commands`,
//!   `stream`, `debug_command`, `follow_settings`.
//! - A Valkey cluster that it is a node of: `cluster/`.

pub mod api;
pub mod client_layout;
pub mod cluster;
pub mod command_docs;
pub mod command_names;
pub mod command_result;
pub mod command_table;
pub mod config_apply;
pub mod connection_functions;
pub mod connections;
pub mod data_types;
pub mod debug_command;
pub mod diversion;
pub mod events;
pub mod follow_settings;
pub mod foreign_memory;
pub mod forks;
pub mod groups;
pub mod half_closed;
pub mod handed_over;
pub mod held_table;
pub mod hidden_replica;
pub mod intercepted_writes;
pub mod internals;
pub mod keys;
pub mod late_holds;
pub mod layout_check;
pub mod leaving_slots;
mod loaded_objects;
pub mod main_thread;
pub mod module_load;
pub mod module_options;
pub mod named_link;
pub mod propagation;
pub mod read_pause;
pub mod replaced_commands;
pub mod running_client;
pub mod stream;
pub mod stream_queue;
pub mod stream_settings;
pub mod structs;
pub mod support;
pub mod vectors;
pub mod version;
