//! Leaves: what everything else may use and what uses nothing of this crate.
//!
//! - [`background`]: threads that give way to the ones that acknowledge appends.
//! - [`command_input`]: commands as they arrive on a connection.
//! - [`file_error`]: file operations whose errors name the file.
//! - [`latency`]: how long things took, counted by how long.
//! - [`log_throttle`]: log lines that clients can cause as often as they like.
//! - [`printable`]: text of others on its way to a terminal.
//! - [`private`]: files and directories that only their owner may read.
//! - [`rule_switches`]: rules that tests can take out.

pub mod background;
pub mod command_input;
pub mod file_error;
pub mod latency;
pub(crate) mod log_throttle;
pub mod printable;
pub mod private;
pub(crate) mod rule_switches;
