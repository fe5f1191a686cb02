//! What an operator touches: loading the module, its configs, commands and figures.

pub mod command_docs;
pub mod commands;
pub mod entry;
pub mod failover_command;
pub mod info;
pub mod start;
