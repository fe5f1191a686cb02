//! Leaves: what every room may use, and what uses none of them.

pub mod host_name;
pub mod panic_guard;
pub mod process_identity;
pub mod time_limit;
