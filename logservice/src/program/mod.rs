//! The program around the service: its command line, and how the service starts, reloads and stops.

pub mod command_line;
pub mod config;
pub mod lifecycle;
