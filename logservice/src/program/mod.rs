//! The program around the service: its command line, and how the service starts, reloads and stops.

pub mod cluster_flags;
pub mod command_line;
pub mod config;
pub mod lifecycle;
pub mod replication;
mod run;

pub use run::run;
